#!/usr/bin/env bash
# test: netlists of an encoder and of a whole unit compute the shipped network's first learned layer in Icarus; power
# tier: full
# timeout: 900
# sanitizers: none, hardware, not C; check_rtl, shapes and accelerator run the driver
#
# With Debian's OSU cells. A netlist with other cells must be refused, and standing still must cost less.
set -u
liberty=/usr/share/qflow/tech/osu035/osu035_stdcells.lib
for tool in yosys sta iverilog; do
  command -v "$tool" >/dev/null || { echo "skip: $tool is not installed"; exit 77; }
done
[ -r "$liberty" ] || { echo "skip: $liberty is not there (Debian: qflow-tech-osu035)"; exit 77; }
work=$HALUT_BUILD/rtl/power-test
rm -rf "$work"
passed=0 failed=0
report() { # NAME CODE
  if [ "$2" -eq 0 ]; then passed=$((passed + 1)) state=ok; else failed=$((failed + 1)) state=FAIL; fi
  echo "$state $1"
}

rtl/power/power.sh "$work" "$liberty" encoder unit_small >"$work.table"
report "both compute right and have a power" $?
cat "$work.table"
above=$(awk -F' *[|] *' '$2 == "encoder" { e = $3 } $2 == "unit_small" { u = $3 } END { print (e > 0 && u > 4 * e) }' \
  "$work.table")
report "a unit takes more than its four encoders" $((1 - above))

# The last total is that of the activities; none at all is clock and leakage.
sed -E 's/^(pin \{.*\}) [^ ]+ /\1 0 /' "$work/unit_small/activity.tcl" >"$work/unit_small/still.tcl"
sed 's/activity.tcl/still.tcl/' "$work/unit_small/power.tcl" >"$work/unit_small/none.tcl"
sta -exit "$work/unit_small/none.tcl" >"$work/unit_small/none.log" 2>&1
lower=$(awk 'FNR == 1 { file++ } /^Total/ { total[file] = $5 }
  END { print (total[2] > 0 && total[2] < 0.9 * total[1]) }' \
  "$work/unit_small/power.log" "$work/unit_small/none.log")
report "pins that do not switch cost less" $((1 - lower))

sed -i '0,/ XOR2X1 /s// XNOR2X1 /' "$work/unit_small.v"
rtl/power/power.sh "$work" "$liberty" unit_small >"$work.broken" 2>&1
code=$?
grep -q 'the netlist of unit_small computes wrong' "$work.broken" && [ $code -ne 0 ]
report "a netlist with another cell is refused" $?
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
