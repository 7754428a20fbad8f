#!/usr/bin/env bash
# test: the register package and table are those of regs.inc
exec rtl/regs.sh check
