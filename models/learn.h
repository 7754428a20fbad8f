/* learn.h: Maddness learning of one product A * B, from samples of A.
 *
 * Deterministic: the same rows, options and seed give the same bytes for any number of threads (of
 * ours or of BLAS), on machines for which BLAS picks the same kernels. Ties: the lowest boundary
 * between distinct values wins, then the lowest column; equal goes left. Uses LAPACK for one
 * Cholesky factorisation and BLAS for A * B, both on one thread at a time; their number of threads
 * is changed meanwhile and put back, so nothing else in the process should multiply matrices then.
 *
 * Source: Blalock & Guttag 2021, sections 4.1 (tree), 4.2 (prototypes by ridge regression); here
 * the regression goes straight onto A * B, which gives the same tables without ever storing
 * prototypes.
 */
#ifndef HALUT_LEARN_H
#define HALUT_LEARN_H

#include <stddef.h>
#include <stdint.h>

#include "../core/halut.h"

enum { HALUT_LEARN_CODEBOOKS_MAX = 1024 }; /* the normal equations of more would need over 2 GiB */

struct halut_learn_options {
  uint32_t codebooks;  /* 1..columns, at most the above; contiguous ranges, the first
                          columns % codebooks are wider */
  double ridge;        /* lambda >= 0, in rows; the default 1 is the paper's */
  uint32_t prototypes; /* of a codebook: 2, 4, 8 or 16; 0 = 16. With fewer than 16 the deeper levels
                          send everything left, and entries that no code names are copies */
  uint32_t candidates; /* split columns tried at each level, 0 = all of the codebook's */
  size_t tree_rows;    /* rows the trees see, 0 = all; the regression sees all */
  uint64_t seed;       /* which rows, when tree_rows < rows */
  double heldout;      /* share of the rows kept for the report, 0..0.5 */
  uint32_t threads;    /* 0: one for each processor it may use */
  int by_output;       /* non-zero: choose splits by the error of the output (B's), not of A */
  /* Optional. Called on the calling thread; a non-zero return cancels (HALUT_ECANCELED). */
  int (*progress)(void *self, const char *phase, size_t done, size_t total);
  void *self;
};

/* Where `done` of `total` in a phase is in the whole of learning, 0..1; for a bar of all of it. The
 * phases come in one order and their shares are typical ones. 0 for a phase that is none. */
double halut_learn_share(const char *phase, size_t done, size_t total);

/* Memory that learning takes beside its samples, bytes: an upper bound for float samples without a
 * target of their own. The options must be ones that halut_learn accepts. */
size_t halut_learn_bytes(size_t rows, uint32_t columns, uint32_t outputs,
                         const struct halut_learn_options *options);

/* Owned arrays, shapes as in FORMAT.md. For u8 samples low is 0 and inverse 1: thresholds are
 * whole. */
struct halut_learned {
  uint32_t columns, codebooks, outputs;
  uint32_t *split;      /* [codebooks][4] */
  float *low, *inverse; /* [codebooks][4] */
  uint8_t *threshold;   /* [codebooks][16] */
  int8_t *table;        /* [outputs][codebooks][16] */
  float *scale, *bias;  /* [outputs] */
  /* On held-out rows (on the learning rows if there are none), over all outputs: */
  size_t heldout_rows;
  double mse;       /* of the int8 program as it will be served */
  double mse_float; /* the same codes with float tables */
  double mse_mean;  /* of predicting each output's mean over the learning rows */
  double mse_int8;  /* of an exact product of 8-bit A (affine, one scale) and int8 B (a scale an
                       output) */
  double variance;  /* of the exact product around its held-out column means, averaged */
};

/* One of a_f32 and a_u8 is given, [rows][columns]; b: [columns][outputs]; target: [rows][outputs]
 * to regress onto instead of A * B, or NULL. Errors: HALUT_EINVALID (an option, a value that is not
 * finite or, of a, past 1e37: diag says which), HALUT_ELIMIT, HALUT_ENOMEM, HALUT_ECANCELED. */
int halut_learn(const float *a_f32, const uint8_t *a_u8, size_t rows, uint32_t columns,
                const float *b, uint32_t outputs, const float *target,
                const struct halut_learn_options *options, struct halut_learned *out,
                struct halut_diag *diag) __attribute__((warn_unused_result));
void halut_learned_free(struct halut_learned *learned);

#endif
