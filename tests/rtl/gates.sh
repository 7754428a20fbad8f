#!/usr/bin/env bash
# test: netlists of small blocks equal their sources (yosys) and compute right in a second simulator (Icarus)
# tier: full
# timeout: 900
# sanitizers: none, hardware, not C; check_rtl, shapes and accelerator run the driver
#
# gates.sh: synthesises the encoder and the flow control to Debian's OSU cells. Encoder: equivalence for all inputs by
# sat, then random vectors through the gates in Icarus against the walk computed here. Flow: equivalence by
# induction. A netlist with one cell changed must be found different.
set -u
liberty=/usr/share/qflow/tech/osu035/osu035_stdcells.lib
for tool in yosys iverilog sta; do
  command -v "$tool" >/dev/null || { echo "skip: $tool is not installed"; exit 77; }
done
[ -r "$liberty" ] || { echo "skip: $liberty is not there (Debian: qflow-tech-osu035)"; exit 77; }
work=$HALUT_BUILD/rtl/gates
mkdir -p "$work"
passed=0 failed=0
report() { # NAME CODE
  if [ "$2" -eq 0 ]; then passed=$((passed + 1)) state=ok; else failed=$((failed + 1)) state=FAIL; fi
  echo "$state $1"
}
rtl/synth/block.sh "$work" "$liberty" encoder halut_encoder || exit 1
rtl/synth/block.sh "$work" "$liberty" flow halut_flow GroupW=1 Beats=2 RowW=4 || exit 1
cells="read_liberty -ignore_miss_func -ignore_miss_dir $work/osu035_stdcells.fixed.lib"

# same_encoder NETLIST
same_encoder() {
  yosys -q -p "$cells; read_verilog -sv rtl/halut_encoder.sv; read_verilog $1; proc; flatten halut_block;
    miter -equiv -flatten -make_outputs halut_encoder halut_block miter; hierarchy -top miter; flatten; opt_clean;
    sat -verify -prove trigger 0 miter" >"$work/encoder.eq.log" 2>&1
}
same_encoder "$work/encoder.v"
report "encoder netlist equals its source" $?
sed '0,/ NAND2X1 /s// NOR2X1 /' "$work/encoder.v" >"$work/encoder_broken.v"
! same_encoder "$work/encoder_broken.v" && grep -q 'proof did fail' "$work/encoder.eq.log"
report "encoder netlist with another cell is found" $?

yosys -q -p "$cells; read_verilog -sv rtl/halut_pkg.sv rtl/halut_flow.sv;
  chparam -set GroupW 1 -set Beats 2 -set RowW 4 halut_flow; hierarchy -top halut_flow; proc; flatten; opt_clean;
  rename -top gold; design -stash gold;
  $cells; read_verilog $work/flow.v; hierarchy -top halut_block; flatten; opt_clean; rename -top gate;
  design -stash gate;
  design -copy-from gold -as gold gold; design -copy-from gate -as gate gate; splitnets -ports gold gate;
  async2sync; equiv_make gold gate equiv; hierarchy -top equiv; opt_clean; equiv_simple -undef; equiv_induct -undef;
  equiv_status -assert" >"$work/flow.eq.log" 2>&1
report "flow netlist equals its source" $?

# 2,000 vectors and the codes that the walk gives; many values equal a threshold.
awk 'BEGIN {
  srand(7)
  for (n = 0; n < 2000; n++) {
    range = n % 2 ? 256 : 3
    for (k = 0; k < 16; k++) t[k] = int(rand() * range)
    node = 1; value = ""; heap = ""
    for (l = 0; l < 4; l++) { x[l] = int(rand() * range); node = 2 * node + (x[l] > t[node]) }
    for (l = 3; l >= 0; l--) value = value sprintf("%02x", x[l])
    for (k = 15; k >= 0; k--) heap = heap sprintf("%02x", t[k])
    print value heap sprintf("%x", node - 16)
  } }' >"$work/vectors.hex"
cat >"$work/bench.v" <<V
module bench;
  reg [163:0] vector [0:1999];
  wire [3:0] code;
  reg [163:0] now;
  integer n, wrong;
  halut_block i_dut (.value_i(now[163:132]), .threshold_i(now[131:4]), .code_o(code));
  initial begin
    \$readmemh("$work/vectors.hex", vector);
    wrong = 0;
    for (n = 0; n < 2000; n = n + 1) begin
      now = vector[n];
      #100 if (code !== now[3:0]) wrong = wrong + 1;
    end
    \$display("wrong %0d", wrong);
  end
endmodule
V
iverilog -g2005-sv -o "$work/bench" "$work/bench.v" "$work/encoder.v" "${liberty%.lib}.v" 2>"$work/iverilog.log" &&
  [ "$(vvp -n "$work/bench" | tail -1)" = "wrong 0" ]
report "encoder netlist in Icarus gives the codes of the walk" $?
iverilog -g2005-sv -o "$work/bench_broken" "$work/bench.v" "$work/encoder_broken.v" "${liberty%.lib}.v" 2>/dev/null &&
  vvp -n "$work/bench_broken" | tail -1 | grep -qx 'wrong [1-9][0-9]*'
report "encoder netlist with another cell gives other codes" $?
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
