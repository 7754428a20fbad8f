/* learn_parts.h: the seams between the parts of the learner (learn.c and learn_*.c); nobody else
 * includes it.
 *
 * Every part splits its work into items that do not depend on each other and whose size does not
 * depend on the number of threads, so the result is the same for any number of them.
 */
#ifndef HALUT_LEARN_PARTS_H
#define HALUT_LEARN_PARTS_H

#include "learn.h"

enum {
  HALUT_LEARN_THREADS_MAX = 256,
  HALUT_LEARN_BLOCK = 256           /* rows of one item where items are rows */
};

/* The rows of A, either type. The last (rows - learn_rows) ones are kept for the report. */
struct halut_samples {
  const float *f32;
  const uint8_t *u8;
  size_t rows, learn_rows;
  uint32_t columns;
};

/* learn_pool.c: who works, and who is told. */
struct halut_learn_pool_job; /* of learn_pool.c */
struct halut_learn_pool {
  uint32_t threads;
  int (*progress)(void *self, const char *phase, size_t done, size_t total);
  void *self;
  struct halut_learn_pool_job *job; /* being run */
};

/* `worker` is below pool->threads; items with the same worker never overlap. Returns 0 or a
 * halut_error. */
typedef int halut_learn_pool_fn(void *self, uint32_t worker, size_t item);

/* Runs every item once, in any order, and returns after the last. The first error stops the rest.
 * HALUT_ECANCELED if the progress function asks for it. */
int halut_learn_pool_run(struct halut_learn_pool *pool, const char *phase, size_t items,
                         halut_learn_pool_fn *run, void *self) __attribute__((warn_unused_result));

/* To be asked by long items now and then: not 0 if the phase is to end early, and the item with it.
 */
int halut_learn_pool_poll(const struct halut_learn_pool *pool, uint32_t worker);

/* learn_tree.c: splits and thresholds. */
struct halut_tree {
  uint32_t *split;      /* [4] column of A */
  float *low, *inverse; /* [4] */
  uint8_t *threshold;   /* [16] */
};

struct halut_tree_plan {
  const struct halut_learn_pool *pool;
  const struct halut_samples *samples;
  const uint32_t *row; /* [rows] the rows the trees see */
  size_t rows;
  const float *b; /* [columns][outputs], or NULL: choose splits by the error of A itself */
  uint32_t outputs;
  uint32_t width_max;  /* columns of the widest codebook */
  uint32_t candidates; /* 0 = all */
  uint32_t prototypes; /* leaves that are used: levels past them send everything left */
};

struct halut_tree_scratch; /* of one worker */
struct halut_tree_scratch *
halut_tree_scratch_open(const struct halut_tree_plan *plan);       /* NULL: no memory */
void halut_tree_scratch_close(struct halut_tree_scratch *scratch); /* NULL is fine */

/* Learns the tree of the codebook that owns columns first .. first + width - 1, as an item of a
 * phase of plan->pool. */
int halut_tree_learn(const struct halut_tree_plan *plan, struct halut_tree_scratch *scratch,
                     uint32_t worker, uint32_t first, uint32_t width, struct halut_tree *tree)
    __attribute__((warn_unused_result));

/* The value that a tree level compares: what FORMAT.md says, for a finite or an infinite x or a
 * NaN. */
uint8_t halut_tree_value(float x, float low, float inverse);

/* learn_ridge.c: tables. */
struct halut_ridge_plan {
  const struct halut_samples *samples;
  const uint8_t *codes;  /* [codebooks][rows] */
  const uint32_t *first; /* [codebooks + 1] first column of each codebook */
  uint32_t codebooks, outputs;
  const float *b;      /* [columns][outputs] */
  const float *target; /* [rows][outputs] */
  double ridge;
};

/* table: [outputs][codebooks][16], mean: [outputs] of the target, count: [codebooks][16]; all over
 * the learning rows. The prediction is mean + sum of table entries, up to a constant an output (see
 * learn.c). */
int halut_ridge_solve(const struct halut_ridge_plan *plan, struct halut_learn_pool *pool,
                      double *table, double *mean, uint32_t *count, struct halut_diag *diag)
    __attribute__((warn_unused_result));

#endif
