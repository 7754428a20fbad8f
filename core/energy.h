/* energy.h: what a product would cost in silicon: a model over the accelerator's counters, not a
 * measurement. One list of constants, each with its source; rtl/model.py reads the same list.
 *
 * The unit they come from: arXiv 2311.10207, 14 nm, 624 MHz; the source states no voltage for them.
 * Host, DRAM, interconnect, activations and clocking of idle units are left out. */
#ifndef HALUT_ENERGY_H
#define HALUT_ENERGY_H

#include "backend.h"

/* HALUT_ENERGY(counter, picojoules for each, source) */
#define HALUT_ENERGY_MAP(XX)                                                                       \
  XX(lookups, 0.353,                                                                               \
     "23.6 pJ a unit cycle of 64 lookups and 1 encode, scale_system.py of the "                    \
     "original, split 2.9 encoders : 1 decoder by its NanGate45 power")                            \
  XX(device_encodes, 1.0, "the rest of that unit cycle")                                           \
  XX(device_table_bytes, 0.9, "a byte of L1, scale_system.py, from arXiv 2110.09101")

/* Picojoules. 0 for a backend that counts no device work. */
static inline double halut_energy(const struct halut_stats *stats) {
  if (stats->device_cycles == 0)
    return 0;
#define HALUT_ENERGY_TERM(counter, picojoules, source) +(picojoules) * (double)stats->counter
  return 0 HALUT_ENERGY_MAP(HALUT_ENERGY_TERM);
#undef HALUT_ENERGY_TERM
}

#endif
