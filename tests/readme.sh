#!/usr/bin/env bash
# test: every command of README.md works as it is written, and answers as it is shown
# tier: full
# timeout: 600
#
# The `sh` blocks of the page are run in their order, in a copy of this checkout. A block with `make run` is left
# running, as a reader would. A `json` block that follows commands shows the last one's answer: it must have the same
# keys and words, numbers may differ. A block after a comment `<!-- elsewhere: WHERE -->` is run by WHERE instead.
set -u
. tests/deploy/lib.sh

# The page uses port 8080 of the loopback: in a network of our own it is always free.
if [ "${1:-}" != inside ]; then
  if unshare -rn true 2>/dev/null && [ "$(id -u)" -ne 0 ]; then
    exec unshare -rn "$0" inside
  elif unshare -n true 2>/dev/null; then
    exec unshare -n bash "$0" inside
  fi
  echo "skip: the commands of README.md: no network namespace of our own to run them in"
  exit 77
fi
ip link set lo up

top=$(mktemp -d)
server=
end() {
  [ -z "$server" ] || kill -TERM -- "-$server" 2>/dev/null
  rm -rf "$top"
}
trap end EXIT
mkdir "$top/halutd" && git ls-files -z --cached --others --exclude-standard | xargs -0 cp -p --parents -t "$top/halutd"
cp README.md "$top/README.md"
cd "$top/halutd" || exit 2
rm -rf build && ln -s "$HALUT_BUILD" build

# Cut the page into files NN.sh, NN.json and NN.skip (what is run elsewhere).
awk -v top="$top" '
  /^<!-- elsewhere: / { where = $0; gsub(/^<!-- elsewhere: | -->$/, "", where) }
  /^```(sh|json)$/ && !inside {
    kind = substr($0, 4); inside = 1
    if (kind == "sh" && where != "") kind = "skip"
    file = sprintf("%s/%02d.%s", top, ++n, kind); printf "" >file
    if (kind == "skip") print "# " where >file
    next }
  /^```/ { if (inside) { inside = 0; where = ""; close(file) } else other = !other; next }
  inside { print >file }' "$top/README.md"

# A JSON text with every number replaced by 0: what may not differ from the page.
shape() {
  jq -S 'walk(if type == "number" then 0 else . end)' "$1"
}
serve() {
  setsid bash -euo pipefail "$1" >"$top/server.log" 2>&1 &
  server=$!
  for _ in $(seq 600); do
    curl -sf http://127.0.0.1:8080/healthz >/dev/null && return
    kill -0 "$server" 2>/dev/null || break
    sleep 0.5
  done
  cat "$top/server.log"
  return 1
}
answers_as_shown() {
  shape "$1" >"$top/shown" && shape "$top/answer" >"$top/given" && diff "$top/shown" "$top/given"
}
run_block() {
  if ! bash -euo pipefail "$1" >"$top/answer" 2>"$top/errors" || grep -q '{"error":' "$top/answer"; then
    cat "$top/answer" "$top/errors"
    return 1
  fi
}

for block in "$top"/[0-9]*; do
  first=$(grep -vE '^ *(#|$)' "$block" | head -n 1)
  case $block in
    *.skip) skip "$first: run by $(sed -n '1s/^# //p' "$block")" ;;
    *.json) try "the answer shown after that" answers_as_shown "$block" ;;
    *) if grep -qx 'make run' "$block"; then
      try "$first" serve "$block"
    else
      try "$first" run_block "$block"
    fi ;;
  esac
done
finish
