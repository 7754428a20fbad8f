# shellcheck shell=bash
# replicas.sh: daemons, each in a network namespace of its own, behind HAProxy with deploy/haproxy.cfg; for scripts that
# source it from the top folder, after `enter_namespace`.
#
# Replica N is 10.77.N.2:8080, at the other end of a wire from this namespace, where the balancer is 127.0.0.1:8080.
top=
declare -A networks=() daemons=()
balancer=

# enter_namespace WHAT: run this script again in a network namespace, or skip WHAT.
enter_namespace() {
  if [ "${HALUT_NAMESPACE:-}" != inside ]; then
    if [ "$(id -u)" -ne 0 ] || ! unshare -n ip link add try type veth peer name other 2>/dev/null; then
      echo "skip: $1: no network namespaces can be made here"
      exit 77
    fi
    rm -f "${said:?}" # of lib.sh, which begins again
    HALUT_NAMESPACE=inside exec unshare -n bash "$0"
  fi
  ip link set lo up
  top=$(mktemp -d)
  trap end_replicas EXIT
}
end_replicas() {
  kill -9 "${daemons[@]}" "${networks[@]}" ${balancer:+"$balancer"} 2>/dev/null
  rm -rf "$top"
}

# connect N: the namespace of replica N, kept by a process that sleeps in it.
connect() {
  [ -z "${networks[$1]:-}" ] || return 0
  unshare -n sleep infinity &
  networks[$1]=$!
  disown # its end is no news
  local inside=(nsenter -t "${networks[$1]}" -n ip)
  until [ "$(readlink "/proc/${networks[$1]}/ns/net")" != "$(readlink /proc/self/ns/net)" ]; do sleep 0.01; done
  ip link add "replica$1" type veth peer name eth0 netns "${networks[$1]}" &&
    ip addr add "10.77.$1.1/30" dev "replica$1" && ip link set "replica$1" up &&
    "${inside[@]}" addr add "10.77.$1.2/30" dev eth0 && "${inside[@]}" link set eth0 up
}
# start N: a daemon with one worker in that namespace, once it is ready.
start() {
  connect "$1" || return
  nsenter -t "${networks[$1]}" -n "$HALUT_BUILD/halutd" --listen "10.77.$1.2:8080" --models models --workers 1 \
    --connections-per-address-max 0 >>"$top/$1.log" 2>&1 &
  daemons[$1]=$!
  for _ in $(seq 100); do
    curl -sf "http://10.77.$1.2:8080/healthz" >/dev/null && return
    sleep 0.1
  done
  cat "$top/$1.log"
  return 1
}

# balance N...: HAProxy in front of these replicas, by the shipped configuration with addresses in the place of
# Docker's names.
balance() {
  awk -v list="$*" '
    /^[a-z]/ { skip = /^resolvers|^frontend status/ }
    skip { next }
    /server-template/ {
      n = split(list, number, " ")
      for (i = 1; i <= n; i++) print "  server replica" number[i] " 10.77." number[i] ".2:8080"
      next }
    { sub(/bind :8080/, "bind 127.0.0.1:8080"); sub(/ resolvers docker init-addr none/, ""); print }
  ' deploy/haproxy.cfg >"$top/haproxy.cfg"
  haproxy -c -f "$top/haproxy.cfg" || return
  haproxy -f "$top/haproxy.cfg" >"$top/haproxy.log" 2>&1 &
  balancer=$!
  for _ in $(seq 50); do
    curl -sf http://127.0.0.1:8080/healthz >/dev/null && return
    sleep 0.1
  done
  cat "$top/haproxy.log"
  return 1
}
