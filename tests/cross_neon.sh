#!/usr/bin/env bash
# test: the NEON kernels and the convolution over them give the reference's bytes (cross-built, under qemu)
# tier: full
# timeout: 600
# sanitizers: none, it builds its own for another processor
#
# cross_neon.sh: HALUT_SEED=N repeats a run; else the programs choose and print theirs.
set -u
cd "$(dirname "$0")/.." || exit 2

cc=aarch64-linux-gnu-gcc
qemu=
for name in qemu-aarch64 qemu-aarch64-static; do
  command -v "$name" >/dev/null && qemu=$name
done
if ! command -v "$cc" >/dev/null || [ -z "$qemu" ]; then
  echo "skip: NEON kernels: need gcc-aarch64-linux-gnu, libc6-dev-arm64-cross and qemu-user"
  exit 77
fi
made=$(mktemp -d)
trap 'rm -rf "$made"' EXIT

objects=()
for source in core/*.c tests/check_kernels.c tests/check_conv.c; do
  object=$made/$(basename "$source" .c).o
  "$cc" -std=c17 -O2 -g -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wstrict-prototypes -Werror -D_GNU_SOURCE \
    -ffp-contract=off -Itests/cross -c -o "$object" "$source" || exit 1
  case $source in core/*) objects+=("$object") ;; esac
done

passed=0 failed=0
for program in check_kernels check_conv; do
  "$cc" -static -o "$made/$program" "$made/$program.o" "${objects[@]}" -lm || exit 1
  if "$qemu" "$made/$program" >"$made/log" 2>&1 && grep -q 'up to neon$' "$made/log"; then
    n=$(sed -n 's/ tests held$//p' "$made/log")
    passed=$((passed + n))
  else
    failed=$((failed + 1))
  fi
  cat "$made/log"
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
