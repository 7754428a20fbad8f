#!/usr/bin/env bash
# test: the hardware sources are free of warnings in every size that is built
# sanitizers: none, hardware, not C; check_rtl, shapes and accelerator run the driver
set -u
if ! command -v verilator >/dev/null; then
  echo "skip: verilator is not installed"
  exit 77
fi
exec make -s BUILD="$HALUT_BUILD" lint-rtl
