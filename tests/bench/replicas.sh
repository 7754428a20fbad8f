#!/usr/bin/env bash
# replicas.sh [MOST] [SECONDS] [ROUNDS]: requests a second through HAProxy against the number of replicas behind it.
#
# A request is a picture of 3,072 bytes; 32 connections send them; a replica has one worker. Rounds are interleaved, the
# table has medians. Needs root, haproxy and wrk, which it installs. HALUT_BUILD is the folder that make filled.
set -euo pipefail
cd "$(dirname "$0")/../.."
. tests/deploy/lib.sh
. tests/deploy/replicas.sh
deploy/packages.sh haproxy wrk
if [ "${HALUT_NAMESPACE:-}" != inside ]; then
  export MOST=${1:-4} SECS=${2:-3} ROUNDS=${3:-3}
fi
enter_namespace "the bench of replicas"

tail -c 3072 models/photo/cat.jpg >"$top/picture" # as many bytes, no JPEG header: raw pixels
cat >"$top/post.lua" <<END
local file = io.open("$top/picture", "rb")
wrk.method, wrk.body = "POST", file:read("*a")
END
for n in $(seq "$MOST"); do start "$n"; done
for round in $(seq "$ROUNDS"); do
  for n in $(seq "$MOST"); do
    # shellcheck disable=SC2046 # one word a replica
    balance $(seq "$n") >/dev/null 2>&1
    wrk -t 1 -c 32 -d "${SECS}s" -s "$top/post.lua" http://127.0.0.1:8080/v1/classify >"$top/wrk"
    ! grep -E 'Non-2xx|Socket errors' "$top/wrk" || exit 1
    echo "$n $(awk '/^Requests.sec/ { print $2 }' "$top/wrk")" >>"$top/rates"
    kill "$balancer"
    wait "$balancer" 2>/dev/null || true # ended by a signal
    balancer=
  done
  echo "round $round of $ROUNDS done" >&2
done
echo "$(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1), $(nproc) processors, shared with HAProxy and wrk"
echo
echo "| replicas | requests/s |"
echo "| ---: | ---: |"
for n in $(seq "$MOST"); do
  awk -v n="$n" '$1 == n { print $2 }' "$top/rates" | sort -n |
    awk -v n="$n" '{ v[NR] = $1 } END { printf "| %d | %d |\n", n, v[int((NR + 1) / 2)] }'
done
