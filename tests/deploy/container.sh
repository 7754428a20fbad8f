#!/usr/bin/env bash
# test: the container image builds, and the daemon in it works with everything taken away from it
# tier: full
# timeout: 1500
# sanitizers: none, the image builds its own
#
# Needs root, podman and runc (`make deps-deploy`). Images are kept in BUILD/container, apart from the
# machine's own. Where no registry is reached, the base image is made from Debian's packages.
set -u
. tests/deploy/lib.sh

if [ "$(id -u)" -ne 0 ]; then
  echo "skip: the container image: not run as root"
  exit 77
fi
for tool in podman runc mmdebstrap jq curl openssl; do
  command -v "$tool" >/dev/null || { echo "skip: the container image: $tool is not installed"; exit 77; }
done

store=$HALUT_BUILD/container
image=localhost/halutd:test
name=halutd-test-$$
mkdir -p "$store"
cat >"$store/storage.conf" <<END
[storage]
driver = "${HALUT_STORAGE_DRIVER:-overlay}"
graphroot = "$store/images"
runroot = "$store/run"
END
# runc, since crun refuses hybrid cgroups; limits that root may set even without CAP_SYS_RESOURCE.
cat >"$store/containers.conf" <<END
[containers]
default_ulimits = ["nofile=8192:8192", "nproc=8192:8192"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
[network]
network_backend = "netavark"
END
export CONTAINERS_CONF=$store/containers.conf CONTAINERS_STORAGE_CONF=$store/storage.conf
end() {
  podman rm -f -t 0 "$name" "$name-2" "$name-3" "$name-4" >/dev/null 2>&1
}
trap end EXIT

# Some machines are containers themselves and may start none.
if ! why=$(deploy/base-image.sh podman "$store/root.tar" 2>&1 && podman run --rm debian:bookworm-slim true 2>&1); then
  echo "skip: the container image: no container runs here: $(tail -n 1 <<<"$why")"
  exit 77
fi

image_bytes() {
  podman image inspect --format '{{.Size}}' "$1"
}
# Where on the host the daemon in container $1 is reached.
address() {
  podman port "$1" 8080/tcp | head -n 1
}
# code WANTED CURL-ARGUMENT...: the status of the answer.
code() {
  local wanted=$1 got
  shift
  got=$(curl -s -o "$store/answer" -w '%{http_code}' "$@")
  [ "$got" = "$wanted" ] || { echo "$got, not $wanted: $(cat "$store/answer")"; return 1; }
}
# status KEY: a line of the daemon's own /proc/1/status.
status() {
  podman exec "$name" sed -n "s/^$1:[[:space:]]*//p" /proc/1/status
}
start() {
  local container=$1 scheme=http
  shift
  [[ $* == *TLS_CERT* ]] && scheme=https
  podman run -d --name "$container" -p 127.0.0.1::8080 --read-only --cap-drop ALL \
    --security-opt no-new-privileges --memory 256m --pids-limit 64 "$@" >/dev/null || return
  for _ in $(seq 100); do
    curl -skf "$scheme://$(address "$container")/healthz" >/dev/null && return
    sleep 0.1
  done
  podman logs "$container"
  return 1
}
build() {
  podman build --format docker -t "$image" . >"$store/build.log" 2>&1 && return
  tail -n 30 "$store/build.log"
  return 1
}
is_small() {
  local more=$((($(image_bytes "$image") - $(image_bytes debian:bookworm-slim)) / 1000000))
  echo "$more MB above its base"
  [ "$more" -lt 40 ]
}
is_described() {
  podman image inspect "$image" | jq -e '.[0] | .Config.Labels["org.opencontainers.image.title"] == "halutd"
    and ((.Config.Healthcheck // .Healthcheck).Test | length) > 1 and .Config.User == "10001:10001"' &&
    podman run --rm --entrypoint cat "$image" /usr/share/halut/sbom.spdx.json |
    jq -e '.packages | length > 50 and any(.name == "libmicrohttpd12")'
}
is_confined() {
  [ "$(status Uid | cut -f1)" = 10001 ] && [ "$(status CapEff)" = 0000000000000000 ] &&
    [ "$(status CapBnd)" = 0000000000000000 ] && [ "$(status NoNewPrivs)" = 1 ] &&
    ! podman exec "$name" touch /usr/share/halut/x 2>/dev/null
}
classifies() {
  curl -sf -T models/photo/cat.jpg "http://$(address "$name")/v1/classify" | jq -e '.top[0].label == "cat"'
}
serves_a_mounted_folder() {
  mkdir -p "$store/models" && cp models/golden/product-small.safetensors "$store/models/" &&
    start "$name-2" -v "$store/models:/models:ro" -e HALUTD_MODELS=/models "$image" &&
    curl -sf "http://$(address "$name-2")/v1/models" | grep -q product-small
}
# Certificate and keys are files of the host that the daemon's user may read.
serves_tls_and_keys() {
  mkdir -p "$store/secret" &&
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=localhost \
      -addext subjectAltName=DNS:localhost -keyout "$store/secret/tls.key" -out "$store/secret/tls.crt" 2>&1 &&
    echo "sesame-sesame-sesame infer someone" >"$store/secret/keys" && chmod 644 "$store/secret"/* &&
    start "$name-3" -v "$store/secret:/secret:ro" -e HALUTD_TLS_CERT=/secret/tls.crt -e HALUTD_TLS_KEY=/secret/tls.key \
      -e HALUTD_KEYS_FILE=/secret/keys "$image" || return
  local url
  url=https://localhost:$(address "$name-3" | cut -d: -f2)/v1/classify
  code 401 --cacert "$store/secret/tls.crt" -T models/photo/cat.jpg "$url" &&
    code 200 --cacert "$store/secret/tls.crt" -H "Authorization: Bearer sesame-sesame-sesame" \
      -T models/photo/cat.jpg "$url"
}
has_the_accelerator() {
  start "$name-4" -e HALUTD_BACKEND=both "$image" &&
    curl -sf -T models/photo/cat.jpg "http://$(address "$name-4")/v1/classify?compare=true" | jq -e '.compare.identical'
}
has_limits() {
  local url
  url=http://$(address "$name")
  head -c 20000000 /dev/zero >"$store/large"
  code 413 --data-binary @"$store/large" "$url/v1/classify" && code 400 -d '{"model":' "$url/v1/matmul" &&
    code 404 "$url/nowhere" && code 200 "$url/healthz"
}
has_clean_metrics() {
  curl -sf "http://$(address "$name")/metrics" | promtool check metrics
}
stops_cleanly() {
  # A request that is still arriving when the signal comes is answered first.
  local url request
  url=http://$(address "$name")
  tail -c 3072 models/photo/cat.jpg >"$store/raw" # a raw picture: as many bytes, no JPEG header
  rm -f "$store/feed" && mkfifo "$store/feed" || return
  curl -sfvT - "$url/v1/classify" <"$store/feed" >"$store/answer" 2>"$store/log" &
  request=$!
  exec 9>"$store/feed"
  head -c 1000 "$store/raw" >&9
  until grep -q "100 Continue" "$store/log"; do
    kill -0 "$request" || return
    sleep 0.1
  done
  podman kill -s TERM "$name" >/dev/null # `podman stop` also fails where systemd runs no timers
  while curl -sf "$url/healthz" >/dev/null; do sleep 0.1; done
  tail -c +1001 "$store/raw" >&9
  exec 9>&-
  [ "$(timeout 30 podman wait "$name" 2>"$store/errors" | tail -n 1)" = 0 ] && wait "$request" &&
    jq -e .top "$store/answer"
}

try "the image builds" build
[ "$failed" -eq 0 ] || finish
try "it is less than 40 MB above its base" is_small
try "it has labels, a health check, a user and a bill of materials" is_described
try "it starts read-only and without capabilities" start "$name" "$image"
try "the daemon is confined" is_confined
try "its health check passes" podman healthcheck run "$name"
try "it classifies a photo" classifies
try "it serves a mounted folder" serves_a_mounted_folder
try "it serves TLS and asks for keys, from mounted files" serves_tls_and_keys
try "its two backends agree" has_the_accelerator
try "its limits hold" has_limits
check promtool "its metrics are clean" has_clean_metrics
try "SIGTERM lets a request finish and ends with 0" stops_cleanly
finish
