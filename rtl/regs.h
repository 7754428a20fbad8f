/* regs.h: the register map in C, read from regs.inc. */
#ifndef HALUT_REGS_H
#define HALUT_REGS_H

enum halut_reg {
#define HALUT_REG(name, offset, access, text) HALUT_REG_##name = (offset),
#include "regs.inc"
#undef HALUT_REG
};

enum {
  HALUT_DEVICE_ID = 0x48414C55, /* "HALU" */
  HALUT_DEVICE_MAJOR = 1,
  HALUT_CONTROL_RUN = 1,
  HALUT_CONTROL_LOAD = 2,
  HALUT_CONTROL_RESET = 4,
  HALUT_CONTROL_CLEAR = 8,
  HALUT_STATUS_RUNNING = 1,
  HALUT_STATUS_LOADING = 2,
  HALUT_STATUS_BAD_SIZE = 0x100,
  HALUT_STATUS_BUSY = 0x200,
  HALUT_STATUS_OVERLAP = 0x400,
  HALUT_STATUS_ERRORS = 0x700,
  HALUT_RUN_ACCUMULATE = 1,
  HALUT_LOAD_BEATS = 17 /* of a codebook */
};

#endif
