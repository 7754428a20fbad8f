#!/usr/bin/env bash
# test: the register package and table are those of regs.inc
# sanitizers: none, hardware, not C; check_rtl, shapes and accelerator run the driver
exec rtl/regs.sh check
