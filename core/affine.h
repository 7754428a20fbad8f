/* affine.h: which floats of a row the trees of a raw product read, and how each becomes a u8.
 *
 * Immutable once open, so threads may share it. The kernels that read it are `quantise` and
 * `quantise_columns` in kernels.h.
 */
#ifndef HALUT_AFFINE_H
#define HALUT_AFFINE_H

#include "halut.h"

enum {
  HALUT_TAKE_NARROW = 8, /* neighbouring columns that one step of a kernel loads */
  HALUT_TAKE_WIDE = 16
};

/* One such step, towards a group of as many entries: where keep[i] is all ones, entry i is
 * x[column + lane[i]]; elsewhere it is 0. Both are 0 past the width. */
struct halut_take {
  int32_t lane[HALUT_TAKE_WIDE], keep[HALUT_TAKE_WIDE];
  uint32_t column;
};

/* The steps of all groups: those of group g are take[start[g]] to take[start[g + 1] - 1]. */
struct halut_takes {
  uint32_t groups;       /* of the width, the last filled with 0 */
  const uint32_t *start; /* [groups + 1]; NULL for fewer columns than the width */
  const struct halut_take *take;
};

struct halut_affine {
  uint32_t columns, reads;
  const uint32_t *split;       /* [reads] column read; this and the next two are borrowed */
  const float *low, *inverse;  /* [reads] */

  /* The same in order of column, padded with 0 to a multiple of HALUT_TAKE_WIDE entries. */
  const uint32_t *order; /* [reads] which read an entry is */
  const float *sorted_low, *sorted_inverse;
  struct halut_takes narrow, wide;
  void *memory; /* owned: the sorted arrays and the steps */
};

/* Where the column of the read that comes a few after read i begins, to be prefetched. */
static inline const float *halut_column_ahead(const struct halut_affine *affine, const float *x,
                                              size_t step, uint32_t i) {
  enum { COLUMNS_AHEAD = 6 };
  const uint32_t later = i + COLUMNS_AHEAD < affine->reads ? i + COLUMNS_AHEAD : i;
  return x + affine->split[later] * step;
}

/* `split` below `columns`; both and `reads` at least 1. HALUT_ENOMEM; *affine is then empty. */
int halut_affine_open(uint32_t columns, uint32_t reads, const uint32_t *split, const float *low,
                      const float *inverse, struct halut_affine *affine, struct halut_diag *diag)
    __attribute__((warn_unused_result));
void halut_affine_close(struct halut_affine *affine); /* an empty one is fine */

#endif
