#!/usr/bin/env bash
# test: the area of the hardware blocks is within 3 percent of what is recorded here
# tier: full
# timeout: 900
# sanitizers: none, hardware, not C; check_rtl, shapes and accelerator run the driver
#
# In kGE with Debian's OSU library. A change that is meant: write the new figure here, in its commit.
set -u
liberty=/usr/share/qflow/tech/osu035/osu035_stdcells.lib
for tool in yosys sta; do
  command -v "$tool" >/dev/null || { echo "skip: $tool is not installed"; exit 77; }
done
[ -r "$liberty" ] || { echo "skip: $liberty is not there (Debian: qflow-tech-osu035)"; exit 77; }
passed=0 failed=0
while read -r name want; do
  have=$(rtl/synth/table.sh "$HALUT_BUILD/rtl/area" "$liberty" "$name" |
    awk -F' *[|] *' -v name="$name" '$2 == name { print $4 }')
  if awk -v have="${have:-0}" -v want="$want" 'BEGIN { exit !(have >= 0.97 * want && have <= 1.03 * want) }'; then
    passed=$((passed + 1))
    echo "ok   $name: $have kGE, recorded $want"
  else
    failed=$((failed + 1))
    echo "FAIL $name: ${have:-no} kGE, recorded $want"
  fi
done <<'T'
encoder 0.363
flow 0.466
unit_small 31.239
T
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
