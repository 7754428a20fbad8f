#!/usr/bin/env bash
# run.sh FOLDER: the proofs of the accelerator, each by the engine that suits it. Work files go to FOLDER.
#
#   sat    all inputs of something combinational
#   pdr    for ever: yosys -> AIGER -> property-directed reachability of yosys-abc
#   bmc    the first cycles, every input: yosys-smtbmc and z3
# The engines may use 300 seconds of CPU time each; on an idle core the longest takes about ten.
# A proof marked "must fail" has a fault put in; it shows that the property can fail.
set -u
[ $# -eq 1 ] || { echo "usage: run.sh FOLDER" >&2; exit 2; }
mkdir -p "$1"
work=$(cd "$1" && pwd)
cd "$(dirname "$0")/.." || exit 2
passed=0 failed=0
common="halut_pkg.sv halut_regs_pkg.sv"

# report NAME WANT CODE: WANT is 0 for a proof that must hold, 1 for one that must fail.
report() {
  if { [ "$2" -eq 0 ] && [ "$3" -eq 0 ]; } || { [ "$2" -eq 1 ] && [ "$3" -ne 0 ]; }; then
    passed=$((passed + 1)) state=ok
  else
    failed=$((failed + 1)) state=FAIL
  fi
  printf '%-4s %-46s %s s\n' "$state" "$1" "$((SECONDS - began))"
}

# sat NAME WANT FILES [COMMANDS]
sat() {
  began=$SECONDS
  yosys -q -p "read_verilog -formal -sv $3; ${4:-} prep -top proof -flatten; sat -prove-asserts -verify" \
    >"$work/$1.log" 2>&1
  local code=$?
  # A fault must be found; yosys ends with 1 for a source that it cannot read, too.
  if [ "$2" -eq 1 ] && ! grep -q 'proof did fail' "$work/$1.log"; then report "$1" 0 1; else
    report "$1" "$2" "$code"
  fi
}

# pdr NAME WANT FILES [COMMANDS]: yosys-abc prints its verdict and exits 0 either way.
pdr() {
  began=$SECONDS
  yosys -q -p "read_verilog -formal -sv $3; ${4:-} prep -top proof -nordff -flatten; chformal -cover -remove;
    async2sync; dffunmap; setundef -undriven -anyseq; opt -full -nodffe -nosdff; techmap;
    opt -nodffe -nosdff; dffunmap; abc -g AND -fast; opt_clean; delete -port o:*; opt_clean;
    write_aiger -I -B -zinit $work/$1.aig" >"$work/$1.log" 2>&1 &&
    (ulimit -t 300 && yosys-abc -c "read_aiger $work/$1.aig; fold; strash; pdr") >>"$work/$1.log" 2>&1
  if grep -q 'Property proved' "$work/$1.log"; then report "$1" "$2" 0; else
    # A fault must be found, not merely fail to be proved.
    if [ "$2" -eq 1 ] && ! grep -q 'was asserted in frame' "$work/$1.log"; then report "$1" 0 1; else
      report "$1" "$2" 1
    fi
  fi
}

# bmc NAME WANT CYCLES FILES
bmc() {
  began=$SECONDS
  yosys -q -p "read_verilog -formal -sv $4; prep -top proof -nordff -flatten; async2sync; dffunmap;
    write_smt2 -wires $work/$1.smt2" >"$work/$1.log" 2>&1 &&
    (ulimit -t 300 && yosys-smtbmc -s z3 --unroll -t "$3" "$work/$1.smt2") >>"$work/$1.log" 2>&1
  report "$1" "$2" $?
}

# broken FILE SED: a copy with a fault in it; prints its path.
broken() {
  sed -E "$2" "$1" >"$work/broken_$1"
  if cmp -s "$1" "$work/broken_$1"; then echo "run.sh: '$2' changes nothing in $1" >&2; exit 2; fi
  echo "$work/broken_$1"
}

sat encoder_is_its_specification 0 "halut_encoder.sv formal/encoder.sv"
sat encoders_of_8_rows_are_8_encoders 0 "halut_encoder.sv halut_encoders.sv formal/encoders.sv"
sat packed_sums_are_separate_sums 0 "halut_pkg.sv formal/packed.sv"
sat packed_sums_past_256_must_fail 1 "halut_pkg.sv formal/packed.sv" "chparam -set Bound 65281 proof;"
file=$(broken halut_encoder.sv 's/> level1/>= level1/') || exit 2
sat encoder_ties_right_must_fail 1 "$file formal/encoder.sv"
file=$(broken halut_encoders.sv 's/- \(a & ~Top\)/- a/') || exit 2
sat encoders_that_borrow_must_fail 1 "halut_encoder.sv $file formal/encoders.sv"

pdr flow_loses_and_repeats_nothing 0 "$common halut_flow.sv formal/flow.sv"
file=$(broken halut_flow.sv "s/assign move = .*/assign move = 1'b1;/") || exit 2
pdr flow_without_stall_must_fail 1 "$common $file formal/flow.sv"
file=$(broken halut_flow.sv 's/first1_q <= count_q == .*/first1_q <= group_last;/') || exit 2
pdr flow_with_wrong_first_must_fail 1 "$common $file formal/flow.sv"
bmc flow_first_8_cycles 0 8 "$common halut_flow.sv formal/flow.sv"

pdr counters_equal_the_pins 0 "$common halut_flow.sv halut_ctrl.sv formal/counters.sv"
file=$(broken halut_ctrl.sv 's/if \(stall_in_i\) stall_in_q/if (stall_in_i || stall_out_i) stall_in_q/') || exit 2
pdr counters_with_wrong_stall_must_fail 1 "$common halut_flow.sv $file formal/counters.sv"

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
