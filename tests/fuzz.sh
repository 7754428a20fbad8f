#!/usr/bin/env bash
# fuzz.sh SECONDS [TARGET...]: run each libFuzzer target (tests/fuzz_*.c) for so many seconds.
#
# Starts from tests/corpus/TARGET; what is found goes to FUZZ_OUT (default build-fuzz), never to the corpus:
# a crash is a file there named crash_TARGET_…, to be added to the corpus together with its fix.
set -eu
cd "$(dirname "$0")/.."
seconds=${1:?usage: tests/fuzz.sh SECONDS [TARGET...]}
shift
out=${FUZZ_OUT:-build-fuzz}
mkdir -p "$out"
[ $# -gt 0 ] || set -- base64 config guard image json multipart npy number safetensors
for target in "$@"; do
  clang -std=c17 -O1 -g -D_GNU_SOURCE -fsanitize=fuzzer,address,undefined \
    -fno-sanitize-recover=undefined "tests/fuzz_$target.c" \
    server/{base64,config,guard,image,json,multipart,number}.c \
    models/{atomic_file,json_load,npy,safetensors}.c core/halut.c \
    -o "$out/fuzz_$target" -lm -ljansson -lspng -ljpeg -lz -lnettle
  mkdir -p "$out/found_$target"
  echo "$target: $seconds s"
  "$out/fuzz_$target" -max_total_time="$seconds" -max_len=8192 -rss_limit_mb=1024 -verbosity=0 \
    -print_final_stats=1 -artifact_prefix="$out/crash_${target}_" \
    "$out/found_$target" "tests/corpus/$target" 2>&1 | grep -E 'stat::number_of|ERROR|SUMMARY|crash' || true
  if compgen -G "$out/crash_${target}_*" >/dev/null; then
    echo "$target: failed, see $out/crash_${target}_*" >&2
    exit 1
  fi
done
