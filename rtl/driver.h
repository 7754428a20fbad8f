/* driver.h: one accelerator behind a bus: identify, load tables, run products, recover.
 *
 * A device belongs to one thread at a time. It keeps as many tables in the accelerator as fit;
 * those that do not fit pass through two buffers there, one being loaded while the other computes.
 * Products wider or longer than the accelerator are cut into tiles: over outputs in lanes of M,
 * over codebooks with the accumulate stream.
 *
 * Faults: whatever the bus does, a call ends. A transfer that does not finish in its cycle budget
 * is HALUT_ETIMEOUT; a register that says what it cannot say, or a bus error, is HALUT_EDEVICE.
 * Either way the accelerator is reset, counted as empty of tables, and the next call loads them
 * again, so that one fault costs one call.
 */
#ifndef HALUT_DRIVER_H
#define HALUT_DRIVER_H

#include "../core/backend.h"
#include "../core/halut.h"
#include "bus.h"

struct halut_device;

/* What the accelerator is, from its registers. */
struct halut_device_shape {
  uint32_t codebooks_cycle, rows_cycle, lanes; /* P, R, M */
  uint32_t codebooks;                          /* resident: C */
  uint32_t beat_lanes;                         /* lanes in an output beat */
  uint32_t sum_codebooks;                      /* codebooks whose sum is exact in one run */
};

struct halut_device_options {
  uint32_t resident_max;   /* keep at most so many codebooks resident, 0 for all that fit */
  uint32_t budget_percent; /* cycle budget of a transfer over its ideal cycles, 0 for
                              HALUT_BUDGET_PERCENT */
};

enum { HALUT_BUDGET_PERCENT = 1600, HALUT_BUDGET_SLACK = 4096 /* cycles, for short transfers */ };

/* `bus` is borrowed and must outlive the device. Resets and identifies it. HALUT_EDEVICE if it is
 * not an accelerator of this version or its shape makes no sense; HALUT_EINVALID for options out of
 * range; HALUT_ENOMEM. */
int halut_device_open(const struct halut_bus *bus, const struct halut_device_options *options,
                      struct halut_device **out, struct halut_diag *diag)
    __attribute__((warn_unused_result));
const struct halut_device_shape *halut_device_shape(const struct halut_device *device);

/* Makes a lut known and packs its tables; they go to the accelerator with the first run. `lut` and
 * its arrays must outlive the device. HALUT_ELIMIT past HALUT_CODEBOOKS_MAX or HALUT_OUTPUTS_MAX,
 * HALUT_ENOMEM. */
int halut_device_load(struct halut_device *device, const struct halut_lut *lut,
                      uint32_t *handle_out, struct halut_diag *diag)
    __attribute__((warn_unused_result));

/* value u8 [codebooks][HALUT_LEVELS][padded], acc i32 [outputs][padded], as in backend.h. Adds to
 * *stats (may be NULL) also on failure, as far as the counters can be read. HALUT_EINVALID,
 * HALUT_ENOMEM, HALUT_ETIMEOUT, HALUT_EDEVICE. */
int halut_device_product(struct halut_device *device, uint32_t handle, const uint8_t *value,
                         size_t rows, int32_t *acc, struct halut_stats *stats,
                         struct halut_diag *diag) __attribute__((warn_unused_result));

void halut_device_close(struct halut_device *device); /* NULL is fine */

#endif
