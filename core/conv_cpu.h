/* conv_cpu.h: a learned convolution on the CPU kernels, from maps to requantised maps.
 *
 * Belongs to one thread at a time. Reads only the map it is given.
 */
#ifndef HALUT_CONV_CPU_H
#define HALUT_CONV_CPU_H

#include <stdbool.h>

#include "backend.h"
#include "clock.h"
#include "kernels.h"

struct halut_conv_cpu {
  const struct halut_conv *conv; /* borrowed */
  size_t positions;              /* out_h * out_w */
  size_t masked;                 /* positions padded to HALUT_ROW_BLOCK; small maps: a block */
  uint32_t together;             /* so many small maps share a block of codes, else 1 */
  uint8_t *mask; /* [kernel_h * kernel_w][masked], NULL if values must be gathered */
  struct halut_read *read; /* [codebooks][HALUT_LEVELS], NULL likewise: from the first byte of an
                              image, or of small maps side by side */
};

/* Memory that one thread needs for any of its convolutions: zero it, grow it at load. */
struct halut_conv_scratch {
  uint8_t *codes; /* one block of every codebook, and room to write past it */
  uint8_t *tile;  /* [outputs][positions padded], before pooling */
  uint8_t *side;  /* small maps side by side: [channels][HALUT_CODE_BLOCK], and room around it */
  uint8_t *value; /* gathered rows of each level of a codebook */
  size_t codes_bytes, tile_bytes, side_bytes;
  struct halut_stages stages; /* of all runs with it; the caller may clear them */
};

/* HALUT_ENOMEM. `outputs` and `codebooks` are the lut's. */
int halut_conv_cpu_open(const struct halut_conv *conv, uint32_t codebooks,
                        struct halut_conv_cpu *out, struct halut_diag *diag)
    __attribute__((warn_unused_result));
void halut_conv_cpu_close(struct halut_conv_cpu *conv); /* an empty one is fine */
int halut_conv_scratch_fit(struct halut_conv_scratch *scratch, const struct halut_lut *lut,
                           const struct halut_conv *conv, struct halut_diag *diag)
    __attribute__((warn_unused_result));
void halut_conv_scratch_close(struct halut_conv_scratch *scratch);

/* What one thread does of backend.h's conv. Of a single image it may be some rows of the output
 * map before pooling: `first` is 0 or what halut_conv_cpu_middle says, `last` that or out_h. */
struct halut_conv_part {
  const uint8_t *in;
  uint32_t count;
  uint32_t first, last;
  struct halut_epilogue epilogue;
  uint8_t *out; /* row 0, as those of the epilogue's `other` */
};

/* The row where the map of one image can be cut in two, so that nothing is computed twice: about
 * half, or 0 where there is none. */
uint32_t halut_conv_cpu_middle(const struct halut_conv_cpu *conv, uint32_t pool);

/* Whether it ever has so few rows that map_few would do: then it takes tables for that as well. */
bool halut_conv_cpu_is_few(const struct halut_conv_cpu *conv, const struct halut_kernels *kernels);

/* The same tables for `map` and, else NULL, for `map_few`. */
struct halut_conv_tables {
  const struct halut_packed *packed, *few;
};

void halut_conv_cpu_run(const struct halut_conv_cpu *conv, const struct halut_conv_tables *tables,
                        const struct halut_kernels *kernels, struct halut_conv_scratch *scratch,
                        const struct halut_conv_part *part);

#endif
