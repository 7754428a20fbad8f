/* affine.h: which floats of a row the trees of a raw product read, and how each becomes a u8.
 *
 * Immutable once open, so threads may share it. The kernels that read it are `quantise` in
 * kernels.h.
 */
#ifndef HALUT_AFFINE_H
#define HALUT_AFFINE_H

#include "halut.h"

enum { HALUT_TAKE_WIDTH = 8 }; /* neighbouring columns that one step of a kernel loads */

/* One such step, towards a group of HALUT_TAKE_WIDTH entries: where keep[i] is all ones, entry i is
 * x[column + lane[i]]; elsewhere it is 0. */
struct halut_take {
  int32_t lane[HALUT_TAKE_WIDTH], keep[HALUT_TAKE_WIDTH];
  uint32_t column;
};

struct halut_affine {
  uint32_t columns, reads;
  const uint32_t *split;       /* [reads] column read; this and the next two are borrowed */
  const float *low, *inverse;  /* [reads] */

  /* The same in order of column, in groups of HALUT_TAKE_WIDTH entries, the last filled with 0. */
  uint32_t groups;
  const uint32_t *order; /* [reads] which read an entry is */
  const float *sorted_low, *sorted_inverse;
  const struct halut_take *take; /* of group g: take_start[g] to take_start[g + 1] - 1 */
  const uint32_t *take_start;    /* [groups + 1]; NULL for fewer columns than HALUT_TAKE_WIDTH */
  void *memory; /* owned: the sorted arrays */
};

/* `split` below `columns`; both and `reads` at least 1. HALUT_ENOMEM; *affine is then empty. */
int halut_affine_open(uint32_t columns, uint32_t reads, const uint32_t *split, const float *low,
                      const float *inverse, struct halut_affine *affine, struct halut_diag *diag)
    __attribute__((warn_unused_result));
void halut_affine_close(struct halut_affine *affine); /* an empty one is fine */

#endif
