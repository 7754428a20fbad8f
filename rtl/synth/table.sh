#!/usr/bin/env bash
# table.sh FOLDER LIBERTY [NAME...]: synthesise the blocks in `blocks` (or the named ones) and print their table.
#
# kGE: thousands of the library's NAND2 of drive 1. The original's figures are those of the same flow with NanGate45
# (latches, C = 16, M = 8, 8 lookups a cycle); only a NanGate45 library makes the last column mean something.
set -eu
if [ $# -lt 2 ]; then
  echo "usage: table.sh FOLDER LIBERTY [NAME...]" >&2
  exit 2
fi
folder=$1 liberty=$2
shift 2
here=$(cd "$(dirname "$0")" && pwd)
[ -r "$liberty" ] || { echo "table.sh: cannot read $liberty; give one with LIBERTY=path" >&2; exit 1; }
for tool in yosys sta; do
  command -v "$tool" >/dev/null || { echo "table.sh: $tool is not installed (Debian: yosys, opensta)" >&2; exit 1; }
done
wanted=" $* "
original=12237 # um2 for each lookup a cycle: 97,899 um2 for 8

head="| block | um2 | kGE | cells | latches | flip-flops | ns | MHz"
echo "$head | lookups/cycle | lookups/cycle/mm2 | against the original |"
echo "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
while read -r name lookups top parameters; do
  if [ "$wanted" != "  " ]; then
    case $wanted in *" $name "*) ;; *) continue ;; esac
  fi
  # shellcheck disable=SC2086 # parameters are words
  line=$("$here/block.sh" "$folder" "$liberty" "$name" "$top" $parameters)
  echo "$line" | awk -v lookups="$lookups" -v original="$original" '{
    printf "| %s | %d | %.3f | %d | %d | %d | %.2f | %.0f |", $1, $2, $3, $4, $5, $6, $7, 1000 / $7
    if (lookups > 0) printf " %d | %.0f | %.1f |\n", lookups, 1e6 * lookups / $2, original * lookups / $2
    else print " | | |" }'
done < <(grep -v '^#' "$here/blocks")
