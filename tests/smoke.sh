#!/usr/bin/env bash
# test: what `make install` puts in place works from there: daemon, command line, models, manuals
# tier: full
# timeout: 300
set -u
. tests/deploy/lib.sh
top=$(mktemp -d)
prefix=$top/usr
daemon=
end() {
  [ -z "$daemon" ] || kill -9 "$daemon" 2>/dev/null
  rm -rf "$top"
}
trap end EXIT

installs() {
  make --no-print-directory BUILD="$HALUT_BUILD" PREFIX=/usr DESTDIR="$top" install || return
  local file
  for file in bin/halut sbin/halutd share/man/man1/halut.1 share/man/man8/halutd.8 \
    share/bash-completion/completions/halut lib/systemd/system/halutd.service; do
    [ -s "$prefix/$file" ] || { echo "no $file"; return 1; }
  done
  ! grep -n '@' "$prefix/lib/systemd/system/halutd.service" | grep -v SystemCallFilter &&
    grep -q '^ExecStart=/usr/sbin/halutd --config /etc/halutd.conf$' "$prefix/lib/systemd/system/halutd.service"
}
keeps_the_configuration() {
  echo "# mine" >>"$top/etc/halutd.conf"
  make --no-print-directory BUILD="$HALUT_BUILD" PREFIX=/usr DESTDIR="$top" install &&
    tail -n 1 "$top/etc/halutd.conf" | grep -qx '# mine'
}
models_are_valid() {
  "$prefix/bin/halut" check "$prefix"/share/halut/models/*.safetensors
}
# Sets `url` from the ready line.
starts() {
  sed "s,^models = .*,models = $prefix/share/halut/models," "$top/etc/halutd.conf" >"$top/halutd.conf"
  "$prefix/sbin/halutd" --config "$top/halutd.conf" --listen 127.0.0.1:0 >"$top/log" 2>&1 &
  daemon=$!
  for _ in $(seq 200); do
    url=$(grep -oE 'http://127\.0\.0\.1:[0-9]+' "$top/log" | head -n 1)
    [ -n "$url" ] && curl -sf "$url/healthz" && return
    kill -0 "$daemon" 2>/dev/null || break
    sleep 0.1
  done
  cat "$top/log"
  return 1
}
is_healthy() {
  "$prefix/sbin/halutd" --health "$url/healthz" && ! "$prefix/sbin/halutd" --health "$url/nowhere"
}
classifies() {
  curl -sf -T models/photo/cat.jpg "$url/v1/classify" | jq -e '.top[0].label == "cat"'
}
has_clean_metrics() {
  curl -sf "$url/metrics" | promtool check metrics
}
stops() {
  kill -TERM "$daemon"
  wait "$daemon"
  local code=$?
  daemon=
  [ "$code" -eq 0 ] || { cat "$top/log"; return 1; }
}

try "make install puts everything in place" installs
try "a second make install keeps the configuration" keeps_the_configuration
try "the installed models are valid" models_are_valid
try "the installed daemon starts and is ready" starts
if [ "$failed" -eq 0 ]; then
  try "it can be asked for its health" is_healthy
  try "it classifies the photo" classifies
  check promtool "its metrics are clean" has_clean_metrics
  try "SIGTERM ends it with 0" stops
fi
finish
