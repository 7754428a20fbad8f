/* cpu.h: what this processor and its operating system can run, and how much of it at once.
 *
 * A flag stands for everything that the kernels_<name>.c of its name are compiled with. May be
 * called from any thread; nothing is cached or changed.
 */
#ifndef HALUT_CPU_H
#define HALUT_CPU_H

#include "halut.h"

/* Weakest first. AVX512 means F, BW, VL, DQ, VBMI and VNNI together (Ice Lake, Zen 4 and later). */
#define HALUT_CPU_MAP(XX)   \
  XX(SSSE3, 0, "ssse3")  \
  XX(AVX2, 1, "avx2")    \
  XX(AVX512, 2, "avx512") \
  XX(NEON, 3, "neon")

enum halut_cpu {
#define XX(flag, bit, name) HALUT_CPU_##flag = 1 << (bit),
  HALUT_CPU_MAP(XX)
#undef XX
};

/* Flags that may be used here: the processor has the instructions and the system saves the
 * registers. */
uint32_t halut_cpu_flags(void);

/* Flags up to and including the one called `name` ("ref" gives none), whether this machine has them
 * or not: mask halut_cpu_flags() with it. HALUT_EINVALID for an unknown name; *mask_out is
 * untouched then. */
int halut_cpu_ceiling(const char *name, uint32_t *mask_out, struct halut_diag *diag)
    __attribute__((warn_unused_result));

/* Name of the best flag in `flags`, "ref" for none. */
const char *halut_cpu_name(uint32_t flags);

/* Processors that the calling thread may use, at least 1: its affinity, not what is there, and no
 * more than the quota of its control group, if that is of version 2. */
uint32_t halut_cpu_count(void);

/* Processors' worth of time that a control group's file cpu.max allows, rounded up; UINT32_MAX
 * where it sets no limit or cannot be read. */
uint32_t halut_cpu_quota(const char *path);

#endif
