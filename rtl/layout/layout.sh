#!/usr/bin/env bash
# layout.sh FOLDER: places and routes one halut_encoder with Debian's qflow in the OSU 0.35 um library, checks the
# result and draws it: graywolf, qrouter, magic (design rules, GDS), netgen (layout against netlist).
#
# Writes FOLDER/layout/halut_encoder.{def,gds} and FOLDER/encoder.png. Debian has no insides of the cells, so the GDS is
# wires and the outlines and pins of cells, and the design rules see those alone.
set -eu
[ $# -eq 1 ] || { echo "usage: layout.sh FOLDER" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
tech=/usr/share/qflow/tech/osu035
for tool in qflow graywolf qrouter magic netgen-lvs yosys; do
  command -v "$tool" >/dev/null || { echo "layout.sh: $tool is not installed (make layout installs it)" >&2; exit 1; }
done
rm -rf "$1"
mkdir -p "$1/source" "$1/synthesis" "$1/layout"
cd "$1"
yosys -q -p "read_verilog -sv $here/../halut_encoder.sv; hierarchy -top halut_encoder; proc; opt_clean;
  write_verilog -noattr source/halut_encoder.v"
for step in synthesize place route migrate drc lvs gds; do
  if ! qflow "$step" -T osu035 halut_encoder </dev/null >"$step.log" 2>&1; then
    echo "layout.sh: $step failed: see $1/$step.log" >&2
    exit 1
  fi
done

# said WORDS LOG: or stop; the tools exit with 0 either way.
said() {
  grep -q "$1" "$2" || { echo "layout.sh: $2 does not say \"$1\"" >&2; exit 1; }
  echo "${2%.log}: $1"
}
said 'Final: No failed routes!' route.log
said 'drc = 0' drc.log
said 'Circuits match uniquely' lvs.log
[ -s layout/halut_encoder.gds ] || { echo "layout.sh: no GDS" >&2; exit 1; }
"$here/picture.py" layout/halut_encoder.def "$tech/osu035_stdcells.lef" encoder.png
