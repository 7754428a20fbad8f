/* pack.h: tables and weights, rearranged once at load into the order that kernels read them.
 *
 * A packed table borrows its lut and owns one block of memory. It is immutable after packing, so
 * threads share it: all sessions on a model read the same one.
 */
#ifndef HALUT_PACK_H
#define HALUT_PACK_H

#include "halut.h"

/* Rows whose codes lie together. */
enum { HALUT_CODE_BLOCK = 128 };

/* accumulate takes a multiple of this many rows: one 4x4 map is enough */
enum { HALUT_SUM_ROWS = 16 };

static inline size_t halut_sum_rows(size_t rows) {
  return (rows + HALUT_SUM_ROWS - 1) / HALUT_SUM_ROWS * HALUT_SUM_ROWS;
}

enum halut_layout {
  HALUT_LAYOUT_NONE = 0, /* the lut as it is */
  HALUT_LAYOUT_BYTES, /* for byte shuffles: u8 tables, less their minimum, in groups of 3, 2, 1 */
  HALUT_LAYOUT_PAIRS, /* for byte shuffles of 16 rows: u8 tables, two codebooks side by side */
  HALUT_LAYOUT_QUADS, /* for 64-byte permutes: i8 tables of four codebooks side by side */
  HALUT_LAYOUT_ROWS,  /* for one row: the outputs of an entry side by side */
  HALUT_LAYOUTS
};

enum {
  HALUT_RUN_CODEBOOKS = 128, /* whose codes, 16 KiB a block, leave half of the first-level cache */
  HALUT_RUN_OUTPUTS = 32     /* whose tables of the same codebooks lie one after another */
};

/* BYTES. The tables of one output for HALUT_RUN_CODEBOOKS codebooks. They are read in groups whose
 * sum fits a u8: of three, then of two, then single ones; groups come in twins, tables in turn from
 * the one and from the other. The sum of a run fits a u16. */
struct halut_run {
  size_t entry;                 /* of its first table in `table` and `at` */
  uint32_t threes, twos, ones;  /* twins of groups of three, two, one */
};

/* BYTES and PAIRS. Of all tables of an output: the sum of their minima, which the u8 sum lacks to
 * the sum of int8 entries, and the sum of their ranges, which it does not exceed. */
struct halut_base {
  int32_t least;
  uint32_t range;
};

struct halut_packed {
  const struct halut_lut *lut; /* borrowed */
  enum halut_layout layout;

  /* BYTES: [entry][16]. PAIRS: [outputs / HALUT_QUAD_OUTPUTS][codebooks / 2][HALUT_QUAD_OUTPUTS]
   * [2][16], less their minimum, padded with 0 */
  const uint8_t *table;
  const struct halut_base *base; /* [outputs] */

  /* BYTES */
  const uint16_t *at;           /* [entry] HALUT_SUM_ROWS times the codebook */
  const struct halut_run *run;  /* [outputs][runs] */
  uint32_t runs;                /* of an output */

  /* QUADS: codebooks padded to a multiple of four, outputs to one of HALUT_QUAD_OUTPUTS, with 0 */
  const int8_t *quad; /* [outputs / HALUT_QUAD_OUTPUTS][codebooks / 4][HALUT_QUAD_OUTPUTS][4][16] */

  /* ROWS: outputs padded to row_stride, a multiple of HALUT_ROW_BLOCK, with 0 */
  const int8_t *entry; /* [codebooks][HALUT_PROTOTYPES][row_stride] */
  uint32_t row_stride;

  void *memory; /* owned: all of the above point into it */
};

enum { HALUT_QUAD_OUTPUTS = 4 };

/* BYTES. Run r of output m. */
static inline const struct halut_run *halut_run_of(const struct halut_packed *packed, uint32_t m,
                                                   uint32_t r) {
  return &packed->run[(size_t)m * packed->runs + r];
}

/* HALUT_ENOMEM; *packed is then empty. */
int halut_pack(const struct halut_lut *lut, enum halut_layout layout, struct halut_packed *packed,
               struct halut_diag *diag) __attribute__((warn_unused_result));
void halut_unpack(struct halut_packed *packed); /* frees; an empty one is fine */

/* Packed tables that everyone who loads a lut shares. Zero it before the first use; it belongs to
 * the owner of the lut, who closes it after everyone. Any thread may take from it. */
struct halut_shared {
  _Atomic(struct halut_packed *) packed[HALUT_LAYOUTS];
};
void halut_shared_close(struct halut_shared *shared);

/* As halut_pack, of lut->shared where that is set: whoever comes first packs. Give it back with
 * halut_pack_put. HALUT_ENOMEM. */
int halut_pack_get(const struct halut_lut *lut, enum halut_layout layout,
                   const struct halut_packed **out, struct halut_diag *diag)
    __attribute__((warn_unused_result));
void halut_pack_put(const struct halut_packed *packed); /* NULL is fine */

/* A packed table of some of its outputs, made without copying: valid as long as what it was made
 * of, and until it is moved. `first` must be a multiple of HALUT_QUAD_OUTPUTS. Not of ROWS. */
struct halut_slice {
  struct halut_packed packed;
  struct halut_lut lut;
};
void halut_pack_slice(const struct halut_packed *packed, uint32_t first, uint32_t count,
                      struct halut_slice *slice);

/* Weights of a dense int8 layer, [outputs][taps], in the forms that kernels read. Taps are padded
 * with zero weights. */
struct halut_weights {
  uint32_t outputs, taps;
  const int8_t *raw; /* [outputs][taps], borrowed */
  int16_t *pair;     /* [outputs][taps rounded up to 2], owned */
  int8_t *quad;      /* [outputs][taps rounded up to 4], owned */
};

/* HALUT_ENOMEM; *weights is then empty. */
int halut_weights_pack(const int8_t *raw, uint32_t outputs, uint32_t taps,
                       struct halut_weights *weights, struct halut_diag *diag)
    __attribute__((warn_unused_result));
void halut_weights_unpack(struct halut_weights *weights);

/* Memory on a HALUT_ALIGN boundary, zeroed, at least one byte; free() it. NULL when there is none.
 */
void *halut_alloc(size_t bytes);

#endif
