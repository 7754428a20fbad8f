#!/usr/bin/env bash
# test: on a processor without AVX (under qemu) halut and halutd run, and give the same integers
# tier: full
# timeout: 300
# sanitizers: none, they and qemu are in each other's way
set -u
cd "$(dirname "$0")/.." || exit 2
if [ "$(uname -m)" != x86_64 ] || ! command -v qemu-x86_64 >/dev/null; then
  echo "skip: another processor: needs x86-64 and qemu-user"
  exit 77
fi
. tests/deploy/lib.sh
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
picture=models/photo/cat.jpg

old() {
  local program=$1
  shift
  qemu-x86_64 -cpu Nehalem "$HALUT_BUILD/$program" "$@"
}
has_the_same_logits() {
  old halut classify --json "$picture" >"$work/old" && "$HALUT_BUILD/halut" classify --json "$picture" >"$work/new" &&
    jq -e '.[0].top[0].label == "cat"' "$work/old" && cmp "$work/old" "$work/new"
}
names_what_the_accelerator_needs() {
  ! old halut classify --backend rtl "$picture" 2>"$work/log" &&
    grep 'rtl backend: this build of the accelerator needs a processor with AVX2' "$work/log"
}

try "the daemon starts and finds its models" old halutd --check-config --models models --backend cpu
try "the command classifies, with the same logits" has_the_same_logits
try "the accelerator says what it needs" names_what_the_accelerator_needs
finish
