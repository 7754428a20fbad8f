#!/usr/bin/env bash
# test: rtl/model.py predicts the counters of the simulated accelerator within 2 percent
# tier: full
# sanitizers: none, hardware, not C; check_rtl, shapes and accelerator run the driver
set -u
if ! command -v verilator >/dev/null; then
  echo "skip: verilator is not installed, so there is no simulated accelerator"
  exit 77
fi
make -s BUILD="$HALUT_BUILD" "$HALUT_BUILD/tests/rtl/network" >/dev/null || exit 1
exec rtl/model.py --validate "$HALUT_BUILD/tests/rtl/network"
