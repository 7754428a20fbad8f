/* pack.h: tables and weights, rearranged once at load into the order that kernels read them.
 *
 * A packed table borrows its lut and owns one block of memory. It is immutable after packing, so threads may
 * share it.
 */
#ifndef HALUT_PACK_H
#define HALUT_PACK_H

#include "halut.h"

enum { HALUT_CODE_BLOCK = 128 }; /* rows whose codes lie together: codes are [codebooks][HALUT_CODE_BLOCK] */

enum halut_layout {
  HALUT_LAYOUT_NONE = 0 /* the lut as it is */
};

struct halut_packed {
  const struct halut_lut *lut; /* borrowed */
  enum halut_layout layout;
  void *memory; /* owned: everything below points into it */
};

/* HALUT_ENOMEM; *packed is then empty. */
int halut_pack(const struct halut_lut *lut, enum halut_layout layout, struct halut_packed *packed,
            struct halut_diag *diag) __attribute__((warn_unused_result));
void halut_unpack(struct halut_packed *packed); /* frees; an empty one is fine */

/* Weights of a dense int8 layer, [outputs][taps], in the forms that kernels read. Taps are padded with zero
 * weights. */
struct halut_weights {
  uint32_t outputs, taps;
  const int8_t *raw; /* [outputs][taps], borrowed */
  int16_t *pair;     /* [outputs][taps rounded up to 2], owned */
  int8_t *quad;      /* [outputs][taps rounded up to 4], owned */
};

/* HALUT_ENOMEM; *weights is then empty. */
int halut_weights_pack(const int8_t *raw, uint32_t outputs, uint32_t taps, struct halut_weights *weights,
                    struct halut_diag *diag) __attribute__((warn_unused_result));
void halut_weights_unpack(struct halut_weights *weights);

/* Memory on a HALUT_ALIGN boundary, zeroed, at least one byte; free() it. NULL when there is none. */
void *halut_alloc(size_t bytes);

#endif
