#!/usr/bin/env bash
# test: behind deploy/haproxy.cfg no request fails while daemons are killed, drained and added
# tier: full
# timeout: 180
set -u
. tests/deploy/lib.sh
command -v haproxy >/dev/null || { echo "skip: the balancer: haproxy is not installed"; exit 77; }

top=$(mktemp -d)
declare -A daemons=()
balancer=
end() {
  kill -9 "${daemons[@]}" ${balancer:+"$balancer"} 2>/dev/null
  rm -rf "$top"
}
trap end EXIT

# free: a port that nothing listens on now.
free() {
  /usr/bin/python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}
# start PORT: a daemon on that port, once it is ready.
start() {
  "$HALUT_BUILD/halutd" --listen "127.0.0.1:$1" --models models --workers 1 \
    --connections-per-address-max 0 >>"$top/$1.log" 2>&1 &
  daemons[$1]=$!
  for _ in $(seq 100); do
    curl -sf "http://127.0.0.1:$1/healthz" >/dev/null && return
    sleep 0.1
  done
  cat "$top/$1.log"
  return 1
}
ports=("$(free)" "$(free)" "$(free)" "$(free)")
front=$(free)

# The shipped configuration, with addresses of this machine in the place of Docker's names.
configure() {
  awk -v front="$front" -v list="${ports[*]}" '
    /^[a-z]/ { skip = /^resolvers|^frontend status/ }
    skip { next }
    /server-template/ {
      n = split(list, port, " ")
      for (i = 1; i <= n; i++) print "  server d" i " 127.0.0.1:" port[i]
      next }
    { sub(/bind :8080/, "bind 127.0.0.1:" front); sub(/ resolvers docker init-addr none/, ""); print }
  ' deploy/haproxy.cfg >"$top/haproxy.cfg"
  haproxy -c -f "$top/haproxy.cfg"
}
balance() {
  configure || return
  haproxy -f "$top/haproxy.cfg" >"$top/haproxy.log" 2>&1 &
  balancer=$!
  for _ in $(seq 50); do
    curl -sf "http://127.0.0.1:$front/healthz" >/dev/null && return
    sleep 0.1
  done
  cat "$top/haproxy.log"
  return 1
}
changes_under_load() {
  /usr/bin/python3 tests/deploy/load.py "http://127.0.0.1:$front" 12 4 >"$top/load.log" 2>&1 &
  local load=$!
  sleep 2
  kill -9 "${daemons[${ports[0]}]}" # dies
  sleep 2
  kill -TERM "${daemons[${ports[1]}]}" # drains
  wait "${daemons[${ports[1]}]}" || { echo "the drained daemon ended with $?"; return 1; }
  start "${ports[3]}" || return # is added
  sleep 1
  start "${ports[0]}" || return # comes back
  wait "$load"
  local code=$?
  cat "$top/load.log"
  return "$code"
}

start_three() {
  start "${ports[0]}" && start "${ports[1]}" && start "${ports[2]}"
}

try "three daemons start" start_three
[ "$failed" -eq 0 ] || finish
try "HAProxy stands in front of them" balance
[ "$failed" -eq 0 ] || finish
try "no request fails while one is killed, one drained, one added, one restarted" changes_under_load
tail -n 1 "$top/load.log"
finish
