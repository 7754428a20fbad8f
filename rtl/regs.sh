#!/bin/sh
# regs.sh write|check: the files made from regs.inc, or whether they are stale.
set -eu
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
awk -v format=sv -f regs.awk regs.inc > "$work/halut_regs_pkg.sv"
awk -v format=md -f regs.awk regs.inc > "$work/table"
awk -v table="$work/table" '
  /^<!-- registers -->$/ { print; while ((getline line < table) > 0) print line; skip = 1; next }
  /^<!-- end of registers -->$/ { skip = 0 }
  !skip { print }' README.md > "$work/README.md"
case ${1:-} in
  write) cp "$work/halut_regs_pkg.sv" "$work/README.md" . ;;
  check)
    for file in halut_regs_pkg.sv README.md; do
      cmp -s "$work/$file" "$file" || { echo "rtl/$file is stale: run make regs" >&2; exit 1; }
    done ;;
  *) echo "usage: regs.sh write|check" >&2; exit 2 ;;
esac
