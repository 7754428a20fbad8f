/* matmul_cpu.h: a whole raw product on the CPU kernels, floats to floats.
 *
 * Belongs to one thread at a time.
 */
#ifndef HALUT_MATMUL_CPU_H
#define HALUT_MATMUL_CPU_H

#include "backend.h"
#include "clock.h"
#include "kernels.h"

/* Memory that one thread needs for any of its products: zero it, grow it at load. */
struct halut_matmul_scratch {
  uint8_t *value; /* [codebooks][HALUT_LEVELS][HALUT_CODE_BLOCK] */
  struct halut_read *read; /* [codebooks][HALUT_LEVELS] of them */
  uint8_t *codes; /* one block of them */
  int32_t *acc;   /* sums of the outputs that are made at a time */
  uint32_t *at;   /* [codebooks] where the entries of a row are */
  uint32_t codebooks;
  struct halut_stages stages; /* of all runs with it; the caller may clear them */
};

/* HALUT_ENOMEM. */
int halut_matmul_scratch_fit(struct halut_matmul_scratch *scratch, const struct halut_lut *lut,
                             struct halut_diag *diag) __attribute__((warn_unused_result));
void halut_matmul_scratch_close(struct halut_matmul_scratch *scratch);

/* backend.h: matmul. `packed` is in the kernels' layout; `entries` the same lut in that of ROWS. */
void halut_matmul_cpu_run(const struct halut_packed *packed, const struct halut_packed *entries,
                          const struct halut_kernels *kernels, struct halut_matmul_scratch *scratch,
                          const struct halut_floats *floats, struct halut_matrix x, size_t rows,
                          float *y);

#endif
