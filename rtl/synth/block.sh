#!/usr/bin/env bash
# block.sh FOLDER LIBERTY NAME TOP [PARAMETER=VALUE...]: synthesise one block, time it, say how large it is.
#
# Writes FOLDER/NAME.{v,stat,sta} and prints one line: NAME um2 kGE cells latches flip-flops ns
# (ns: longest path to a flip-flop or an output by OpenSTA, without wires). PERIOD (ns, default 6) is the aim.
set -eu
if [ $# -lt 4 ]; then
  echo "usage: block.sh FOLDER LIBERTY NAME TOP [PARAMETER=VALUE...]" >&2
  exit 2
fi
folder=$1 liberty=$2 name=$3 top=$4
shift 4
here=$(cd "$(dirname "$0")" && pwd)
period=${PERIOD:-6}
mkdir -p "$folder"

# What a library calls the cells that yosys has to be told.
if grep -q 'cell *(DLH_X1)' "$liberty"; then
  map=$here/nangate45.v nand=NAND2_X1 drive=BUF_X1 load=3.898 high=LOGIC1_X1 low=LOGIC0_X1 pin=Z
elif grep -q 'cell *(LATCH)' "$liberty"; then
  map=$here/osu035.v nand=NAND2X1 drive=BUFX2 load=0.05 high='' low='' pin=Y
else
  echo "block.sh: $liberty: neither a NanGate45 nor an OSU library; add its cells beside $here/osu035.v" >&2
  exit 1
fi
# Debian's OSU library has a latch of area 0; its LEF has the size.
fixed=$folder/$(basename "$liberty" .lib).fixed.lib
if [ ! -s "$fixed" ] || [ "$liberty" -nt "$fixed" ]; then
  latch=0
  lef=${liberty%.lib}.lef
  if [ -f "$lef" ]; then
    latch=$(awk '/^MACRO LATCH/ { on = 1 } on && /SIZE/ { print $2 * $4; exit }' "$lef")
  fi
  awk -v latch="$latch" '/cell *\(LATCH\)/ { on = 1 }
    on && /area *: *0 *;/ { sub(/area *: *0/, "area : " latch); on = 0 } { print }' "$liberty" >"$fixed.$$"
  mv "$fixed.$$" "$fixed"
fi
printf 'set_driving_cell %s\nset_load %s\n' "$drive" "$load" >"$folder/$name.constr"

parameters=""
for p in "$@"; do parameters="$parameters -set ${p%%=*} ${p#*=}"; done
sources=""
for f in pkg regs_pkg encoder encoders gate rows flow lanes_packed lanes_latch lanes ctrl top; do
  sources="$sources $here/../halut_$f.sv"
done
# Sums of many terms become rows of full adders by maccmap; the more usual extract_fa loses inversions in yosys before
# 0.50 (YosysHQ/yosys #3879), and its netlists add wrongly. A constant that one row passes on is seen in the next turn.
adders=""
for _ in 1 2 3 4 5 6; do adders="${adders}techmap -map $here/adders.v; opt -fast; "; done
# The hierarchy goes flat before mapping, so that constants of a size are used up.
cat >"$folder/$name.ys" <<Y
read_verilog -sv $sources
${parameters:+chparam$parameters $top}
hierarchy -check -top $top
synth -top $top -flatten -run begin:fine
maccmap
$adders
techmap -map $map
synth -top $top -run fine:check
opt -purge
techmap -map $map
techmap
dfflibmap -liberty $fixed
opt
abc -D $((period * 1000)) -liberty $fixed -constr $folder/$name.constr -script $here/speed.abc
setundef -zero
splitnets
opt_clean -purge
${high:+hilomap -singleton -hicell $high $pin -locell $low $pin}
rename $top halut_block
check
tee -q -o $folder/$name.stat stat -liberty $fixed
write_verilog -noattr -noexpr -nohex -nodec $folder/$name.v
Y
# After chparam the module has a name of its own.
sed -i "s/^rename $top halut_block\$/rename -top halut_block/" "$folder/$name.ys"
yosys -q -l "$folder/$name.log" "$folder/$name.ys" >/dev/null 2>&1 || {
  grep -m 3 ERROR "$folder/$name.log" >&2
  exit 1
}
cat >"$folder/$name.tcl" <<T
read_liberty $fixed
read_verilog $folder/$name.v
link_design halut_block
if {[llength [get_ports -quiet clk_i]]} {
  create_clock -name clk -period $period [get_ports clk_i]
  foreach port [all_inputs] {
    if {[get_property \$port full_name] ne "clk_i"} {
      set_input_delay [expr 0.1 * $period] -clock clk \$port
    }
  }
  set_output_delay [expr 0.1 * $period] -clock clk [all_outputs]
  if {[llength [get_ports -quiet rst_ni]]} { set_false_path -from [get_ports rst_ni] }
  puts "== all endpoints; a latch may borrow time, which then reads as slack 0"
  report_checks -path_delay max -format end -group_count 4
  puts "== to flip-flops and outputs"
  report_checks -path_delay max -to [all_outputs]
  report_checks -path_delay max -to [all_registers -edge_triggered -data_pins]
} else {
  set_max_delay $period -from [all_inputs] -to [all_outputs]
  puts "== to flip-flops and outputs"
  report_checks -path_delay max
}
report_power
exit
T
sta -exit "$folder/$name.tcl" >"$folder/$name.sta" 2>&1 || { tail -3 "$folder/$name.sta" >&2; exit 1; }
area=$(sed -nE 's/.*Chip area for .*: *([0-9.]+).*/\1/p' "$folder/$name.stat" | tail -1)
cells=$(sed -nE 's/.*Number of cells: *([0-9]+).*/\1/p' "$folder/$name.stat" | tail -1)
gate=$(awk -v cell="($nand)" 'index($0, cell) { on = 1 }
  on && /area[ \t]*:/ { gsub(/[^0-9.]/, ""); print; exit }' "$fixed")
latches=$(awk '$1 ~ /^(DLH|DLL|LATCH)/ { n += $2 } END { print n + 0 }' "$folder/$name.stat")
flops=$(awk '$1 ~ /^(DFF|SDFF)/ { n += $2 } END { print n + 0 }' "$folder/$name.stat")
slack=$(awk '/^== to/ { on = 1 } on && /slack/ && ($1 < worst || worst == "") { worst = $1 }
  END { print worst }' "$folder/$name.sta")
[ -n "$slack" ] || { echo "block.sh: no path in $folder/$name.sta" >&2; exit 1; }
awk -v name="$name" -v area="$area" -v gate="$gate" -v cells="$cells" -v latches="$latches" -v flops="$flops" \
  -v period="$period" -v slack="$slack" 'BEGIN {
  printf "%s %.0f %.3f %d %d %d %.2f\n", name, area, area / gate / 1000, cells, latches, flops,
         period - slack }'
