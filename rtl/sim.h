/* sim.h: the Verilated accelerator as a bus.
 *
 * One halut_sim is one accelerator with its own clock; it belongs to one thread at a time, and any
 * number may run at once (nothing is global). The model and its sizes are chosen by the function
 * that opens it.
 */
#ifndef HALUT_SIM_H
#define HALUT_SIM_H

#ifdef __cplusplus
extern "C" {
#endif

#include "../core/halut.h"
#include "bus.h"

struct halut_sim;

/* Cycles by what a stream did, streams in the order load, in, acc, out. */
struct halut_sim_seen {
  struct {
    uint64_t taken;        /* valid and ready */
    uint64_t back_to_back; /* of these, right after another */
    uint64_t starved;      /* ready, not valid */
    uint64_t held;         /* valid, not ready */
  } stream[4];
};

/* What a sim looks like to C: one table for every model that is compiled in. */
struct halut_sim_ops {
  const char *name;
  /* A device out of reset. HALUT_ENOMEM; HALUT_EINVALID if this CPU lacks what the model was
   * compiled for. */
  int (*open)(struct halut_sim **out, struct halut_bus *bus_out, struct halut_diag *diag);
  void (*close)(struct halut_sim *sim); /* NULL is fine */
  /* Clock cycles since open. */
  uint64_t (*cycles)(const struct halut_sim *sim);
  /* From now on every stream pauses at random: of 256 cycles, about `pause` see it not valid (load,
   * in, acc) or not ready (out). 0 for never. For tests. */
  void (*pause)(struct halut_sim *sim, uint64_t seed, uint8_t load, uint8_t in, uint8_t acc,
                uint8_t out);
  /* Writes a waveform (FST) from now on, until `path` is NULL. HALUT_EIO. */
  int (*trace)(struct halut_sim *sim, const char *path, struct halut_diag *diag);
  /* What each stream saw so far, for coverage. */
  void (*seen)(const struct halut_sim *sim, struct halut_sim_seen *out);
};

extern const struct halut_sim_ops halut_sim_unit; /* the one the backend uses */

#ifdef __cplusplus
}
#endif

#endif
