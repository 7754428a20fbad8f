#!/usr/bin/env bash
# power.sh FOLDER LIBERTY [NAME...]: power and energy of blocks (rtl/synth/blocks), from what switches when they compute
# the first learned layer of the shipped network on a picture.
#
# The netlist runs in Icarus, every result is compared, and OpenSTA gets how often each pin switched. Each cell takes
# DELAY ns (default 0.05), so that glitches are there, roughly. No wires and no clock tree. PERIOD as in block.sh.
set -eu
if [ $# -lt 2 ]; then
  echo "usage: power.sh FOLDER LIBERTY [NAME...]" >&2
  exit 2
fi
mkdir -p "$1"
folder=$(cd "$1" && pwd) liberty=$2
shift 2
here=$(cd "$(dirname "$0")" && pwd)
period=${PERIOD:-6} delay=${DELAY:-0.05}
[ -r "$liberty" ] || { echo "power.sh: cannot read $liberty; give one with LIBERTY=path" >&2; exit 1; }
for tool in yosys sta iverilog; do
  command -v "$tool" >/dev/null || { echo "power.sh: $tool is not installed (make deps-test)" >&2; exit 1; }
done

# parameter NAME DEFAULT PARAMETER=VALUE...
parameter() {
  local name=$1 value=$2 p
  shift 2
  for p in "$@"; do [ "${p%%=*}" = "$name" ] && value=${p#*=}; done
  echo "$value"
}

# cells FIXED: the functions of the library's cells, in Verilog; once a run.
made=
cells() {
  [ -n "$made" ] && return
  made=yes
  yosys -q -p "read_liberty -ignore_miss_func $1; proc; write_verilog -noattr $folder/cells.plain.v" >/dev/null
  sed -E "1i \`timescale 1ns/1ps
    s/^  assign (Z|ZN|Q|QN|CO|S|Y|YC|YS) = /  assign #$delay \\1 = /" "$folder/cells.plain.v" >"$folder/cells.v"
}

# simulate NAME BENCH P R: makes FOLDER/NAME/BENCH.vcd; fails unless all results are right.
simulate() {
  local work=$folder/$1
  mkdir -p "$work"
  "$here/vectors.py" "$work" "$3" "$4"
  local options=(-g2005-sv "-DPERIOD=$period" -o "$work/bench" -s bench)
  [ "$2" = encoder ] || options+=("-Pbench.P=$3" "-Pbench.R=$4")
  iverilog "${options[@]}" "$here/bench_$2.v" "$folder/$1.v" "$folder/cells.v"
  (cd "$work" && vvp -n bench >log)
  if ! grep -q '^wrong 0 of [1-9]' "$work/log"; then
    echo "power.sh: the netlist of $1 computes wrong: $(tail -1 "$work/log")" >&2
    return 1
  fi
}

# watts NAME BENCH: what OpenSTA reports once the activities are set.
watts() {
  local work=$folder/$1 clock="create_clock -name clk -period $period [get_ports clk_i]"
  "$here/activity.py" "$folder/$1.v" "$work/$2.vcd" "$period" "$work/still.v" >"$work/activity.tcl"
  [ "$2" = encoder ] && clock="create_clock -name clk -period $period; set_input_delay 0 -clock clk [all_inputs]"
  cat >"$work/power.tcl" <<T
read_liberty $fixed
read_verilog $work/still.v
link_design halut_block
eval {$clock}
report_power
puts "== simulated activity"
source $work/activity.tcl
report_power
T
  sta -exit "$work/power.tcl" >"$work/power.log" 2>&1
  awk '/^== simulated/ { on = 1 } on && /^Total/ { print $5 }' "$work/power.log"
}

echo "| block | mW | pJ a cycle | encodes/cycle | lookups/cycle | pJ an encode or lookup |"
echo "| --- | --- | --- | --- | --- | --- |"
wanted=" $* "
while read -r name lookups top parameters; do
  case $wanted in "  " | *" $name "*) ;; *) continue ;; esac
  bench=$(sed -nE 's/^halut_(encoder|lanes|top)(_latch)?$/\1/p' <<<"$top" | sed 's/top/unit/')
  [ -n "$bench" ] || continue
  # shellcheck disable=SC2086 # parameters are words
  set -- $parameters
  codebooks=$(parameter P 16 "$@") rows=$(parameter R 1 "$@")
  # Anew where a source, a script or the library is newer than the netlist, or the library another one.
  if [ ! -s "$folder/$name.v" ] || [ "$(cat "$folder/$name.library" 2>/dev/null)" != "$liberty" ] ||
    [ -n "$(find "$here"/../*.sv "$here/../synth" "$liberty" -type f -newer "$folder/$name.v" -print -quit)" ]; then
    "$here/../synth/block.sh" "$folder" "$liberty" "$name" "$top" "$@" >/dev/null
    echo "$liberty" >"$folder/$name.library"
  fi
  fixed=$folder/$(basename "$liberty" .lib).fixed.lib
  cells "$fixed"
  simulate "$name" "$bench" "$codebooks" "$rows"
  total=$(watts "$name" "$bench")
  [ -n "$total" ] || { echo "power.sh: no power in $folder/$name/power.log" >&2; exit 1; }
  awk -v name="$name" -v watts="$total" -v period="$period" -v lookups="$lookups" -v encodes=$((codebooks * rows)) '
    BEGIN {
      energy = watts * period * 1000 # pJ
      if (name == "encoder") encodes = 1
      if (name == "lanes") encodes = 0
      printf "| %s | %.2f | %.2f | %s | %s | %.3f |\n", name, 1000 * watts, energy, encodes ? encodes : "",
             lookups ? lookups : "", energy / (lookups ? lookups : encodes)
    }'
done < <(grep -v '^#' "$here/../synth/blocks")
