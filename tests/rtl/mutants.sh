#!/usr/bin/env bash
# test: faults put into the hardware and its driver are caught by named tests of check_rtl
# tier: full
# timeout: 1500
# sanitizers: none, hardware, not C; check_rtl, shapes and accelerator run the driver
#
# Works on a copy of the tree and of the build; of the models only `tiled` is built again for a fault. A fault whose
# sed changes nothing fails as well, so that the list follows the sources.
set -u
command -v verilator >/dev/null || { echo "skip: verilator is not installed"; exit 77; }
make -s BUILD="$HALUT_BUILD" "$HALUT_BUILD/tests/check_rtl" >/dev/null || exit 1
work=$HALUT_BUILD/rtl/mutants build=$(basename "$HALUT_BUILD")
rm -rf "$work" && mkdir -p "$work/tree/$build" || exit 1
for entry in *; do
  case $entry in build*) ;; *) cp -a "$entry" "$work/tree" || exit 1 ;; esac
done
for entry in "$HALUT_BUILD"/*; do
  case $entry in *.a | */core | */models | */server | */tests) cp -a "$entry" "$work/tree/$build" || exit 1 ;; esac
done
mkdir "$work/tree/$build/rtl"
cp -p "$HALUT_BUILD"/rtl/*.o "$work/tree/$build/rtl" || exit 1
cp -a "$HALUT_BUILD"/rtl/{unit,tiled,narrow,flat,runtime} "$work/tree/$build/rtl" || exit 1
cd "$work/tree" || exit 1
export HALUT_SEED=1
passed=0 failed=0

# suite LOG: builds and runs the tests of the copy. 0: all pass; 1: some fail; 2: it does not build.
suite() {
  make BUILD="$build" -o "$build/rtl/unit.o" -o "$build/rtl/narrow.o" -o "$build/rtl/flat.o" \
    "$build/tests/check_rtl" >"$1" 2>&1 || return 2
  "$build/tests/check_rtl" >"$1" 2>&1 || return 1
}

report() { # STATE NAME WHAT
  if [ "$1" = ok ]; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
  printf '%-4s %-40s %s\n' "$1" "$2" "$3"
}

if suite "$work/none.log"; then report ok "no fault" "all pass"; else
  report FAIL "no fault" "see $work/none.log"
fi

# Name; file; a test that must fail; what the log must say; in the next line a sed. Faults of the driver come first: the
# model is as it was.
while IFS=';' read -r name file test text && read -r change; do
  file=${file# } test=${test# } text=${text# }
  log="$work/${name// /-}.log"
  cp -p "$file" "$work/original"
  sed -i -E "$change" "$file"
  if cmp -s "$file" "$work/original"; then
    report FAIL "$name" "'$change' changes nothing in $file"
    continue
  fi
  suite "$log"
  code=$?
  cp "$work/original" "$file"
  caught=$(sed -nE 's/.*:[EF]:[^:]*:([a-z_]+):.*/\1/p' "$log" | sort -u | paste -sd' ')
  if [ $code -ne 1 ]; then
    report FAIL "$name" "$([ $code -eq 2 ] && echo "does not build" || echo "not caught"): see $log"
  elif [[ " $caught " != *" $test "* ]]; then
    report FAIL "$name" "not caught by $test but by: $caught"
  elif ! grep -q -- "$text" "$log"; then
    report FAIL "$name" "the log does not say '$text': see $log"
  else
    report ok "$name" "caught by $test and $(($(wc -w <<<"$caught") - 1)) more"
  fi
done <<'T'
tile loop one short; rtl/driver.c; product_matches_the_plain_loop; counted
  s/&& n < t->tile_count;/\&\& n + 1 < t->tile_count;/
last codebook of a tile forgotten; rtl/driver.c; product_matches_the_plain_loop; is wrong
  s/n < tile->codebooks;/n + 1 < tile->codebooks;/
sums of tiles not joined; rtl/driver.c; the_largest_sums_are_exact; is wrong
  s/accumulate = n %.*/accumulate = false;/
inverted compare; rtl/halut_encoders.sv; product_matches_the_plain_loop; is wrong
  s/assign bit1 = greater/assign bit1 = Top ^ greater/
equal goes right; rtl/halut_encoders.sv; product_matches_the_plain_loop; is wrong
  s/greater\(value_i\[2\*W \+: W\], node2\)/Top ^ greater(node2, value_i[2*W +: W])/
wrong node index; rtl/halut_encoders.sv; product_matches_the_plain_loop; is wrong
  s/choose\(right0, pick\(right1, threshold_i\[39/choose(right0, pick(right0, threshold_i[39/
dropped stall; rtl/halut_flow.sv; product_matches_the_plain_loop; .
  s/assign move = .*/assign move = 1'b1;/
group loop one short; rtl/halut_flow.sv; product_matches_the_plain_loop; .
  s/count_q == last_group_i/count_q + 1'b1 == last_group_i/
load one codebook short; rtl/halut_ctrl.sv; product_matches_the_plain_loop; not done after
  s/\* P - 1\);/* P - 2);/
accumulate beat dropped; rtl/halut_top.sv; product_matches_the_plain_loop; is wrong
  s/\(accumulate \? acc_q/(1'b0 ? acc_q/
stall counted twice; rtl/halut_ctrl.sv; every_cycle_is_counted_once; .
  s/if \(stall_in_i\) stall_in_q/if (stall_in_i || stall_out_i) stall_in_q/
never raises valid; rtl/halut_flow.sv; product_matches_the_plain_loop; not done after
  s/assign out_valid_o = /assign out_valid_o = 1'b0 \&\& /
T
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
