#!/usr/bin/env bash
# test: the proofs of the accelerator hold, and fail where a fault was put in
# tier: full
# timeout: 1200
# sanitizers: none, hardware, not C; check_rtl, shapes and accelerator run the driver
set -u
for tool in yosys yosys-abc z3; do
  command -v "$tool" >/dev/null || { echo "skip: $tool is not installed"; exit 77; }
done
exec rtl/formal/run.sh "$HALUT_BUILD/rtl/formal"
