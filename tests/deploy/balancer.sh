#!/usr/bin/env bash
# test: behind deploy/haproxy.cfg no request fails while daemons are killed, drained and added
# tier: full
# timeout: 180
set -u
. tests/deploy/lib.sh
. tests/deploy/replicas.sh
command -v haproxy >/dev/null || { echo "skip: the balancer: haproxy is not installed"; exit 77; }
enter_namespace "the balancer"

start_three() {
  start 1 && start 2 && start 3
}
# A daemon beside the balancer sees its address, which is this machine's, where admin paths need no key.
strangers_are_no_operators() {
  sed -e '/^  server replica1 /s/ 10[^ ]*/ 127.0.0.1:8081/' -e '/^  server replica[2-9] /d' \
    -e 's/bind 127.0.0.1:8080/bind :8090/' "$top/haproxy.cfg" >"$top/beside.cfg"
  "$HALUT_BUILD/halutd" --listen 127.0.0.1:8081 --models models --workers 1 >"$top/beside.log" 2>&1 &
  daemons[9]=$!
  haproxy -f "$top/beside.cfg" >>"$top/beside.log" 2>&1 &
  local proxy=$! direct through
  for _ in $(seq 100); do
    curl -sf http://127.0.0.1:8090/healthz >/dev/null && break
    sleep 0.1
  done
  direct=$(curl -s -o /dev/null -w '%{http_code}' -X POST http://127.0.0.1:8081/v1/reload)
  through=$(curl -s -o /dev/null -w '%{http_code}' -X POST http://127.0.0.1:8090/v1/reload)
  kill -9 "$proxy" "${daemons[9]}"
  echo "$direct for an operator, $through through the balancer"
  [ "$direct $through" = "200 403" ] || { cat "$top/beside.log"; return 1; }
}
changes_under_load() {
  /usr/bin/python3 tests/deploy/load.py http://127.0.0.1:8080 12 4 >"$top/load.log" 2>&1 &
  local load=$!
  sleep 2
  kill -9 "${daemons[1]}" # dies
  sleep 2
  kill -TERM "${daemons[2]}" # drains
  wait "${daemons[2]}" || { echo "the drained daemon ended with $?"; return 1; }
  start 4 || return # is added
  sleep 1
  start 1 || return # comes back
  wait "$load"
  local code=$?
  cat "$top/load.log"
  return "$code"
}
# A kill in every third of a second: a request is lost only where it dies half way, so that has to happen often.
kills_under_load() {
  /usr/bin/python3 tests/deploy/load.py http://127.0.0.1:8080 20 8 >"$top/load.log" 2>&1 &
  local load=$! n
  while kill -0 "$load" 2>/dev/null; do
    for n in 1 3 4; do
      kill -9 "${daemons[$n]}"
      wait "${daemons[$n]}"
      start "$n" || return
      sleep 0.15
    done
  done
  wait "$load"
  local code=$?
  cat "$top/load.log"
  [ "$code" -eq 0 ] || grep ' 50[0-9] ' "$top/haproxy.log"
  return "$code"
}
# Each daemon reads its models again, then each is restarted, one after the other.
rolls_under_load() {
  /usr/bin/python3 tests/deploy/load.py http://127.0.0.1:8080 8 4 10000 >"$top/load.log" 2>&1 &
  local load=$! n
  for n in 1 3 4; do
    sleep 0.5
    kill -HUP "${daemons[$n]}"
  done
  for n in 1 3 4; do
    sleep 0.5
    kill -TERM "${daemons[$n]}"
    wait "${daemons[$n]}" || { echo "a drained daemon ended with $?"; return 1; }
    start "$n" || return
  done
  wait "$load"
  local code=$?
  cat "$top/load.log"
  return "$code"
}

try "three daemons start" start_three
[ "$failed" -eq 0 ] || finish
try "HAProxy stands in front of them" balance 1 2 3 4
[ "$failed" -eq 0 ] || finish
try "who comes through it is no operator of this machine" strangers_are_no_operators
try "no request fails while one is killed, one drained, one added, one restarted" changes_under_load
tail -n 1 "$top/load.log"
try "none fails while daemons are killed in turn all the time" kills_under_load
tail -n 1 "$top/load.log"
try "none of 10,000 fails across a rolling reload and a rolling restart" rolls_under_load
tail -n 1 "$top/load.log"
finish
