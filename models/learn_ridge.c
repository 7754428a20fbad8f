/* DESIGN: with G the one-hot codes of the learning rows, [rows][codebooks * 16], and T the target,
 * the table L minimises |G L - (T - mean)|^2 + lambda |L - L0|^2, where L0 is the table of bucket
 * means: entry (c, k) is the mean of the rows of leaf (c, k), in codebook c's columns, times B. So
 * ridge shrinks towards the plain Maddness table, and a leaf that no row reaches keeps L0, there
 * the mean of its nearest ancestor that rows do reach.
 *
 *   L = L0 + (G'G + lambda I)^-1 (G'(T - mean) - G'G L0)
 *
 * G'G is counts of pairs of codes: exact integers, no G is ever stored. The Cholesky factorisation
 * is LAPACK's, a panel at a time so that it can be cancelled, on one thread so that its rounding
 * does not depend on the number of threads.
 * Columns of G'G of one codebook sum to the same vector, so it is singular without lambda: a floor
 * of RIDGE_FLOOR of the rows keeps it factorisable. */
#include <cblas.h>
#include <lapacke.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "learn_parts.h"

#define RIDGE_FLOOR 1e-9

enum {
  RIDGE_GROUP = 8,   /* codebooks of one item */
  RIDGE_SIDES = 32,  /* outputs of one item */
  RIDGE_PANEL = 1024 /* columns factorised between two looks whether to go on */
};

struct ridge_work {
  const struct halut_learn_pool *pool;
  const struct halut_ridge_plan *plan;
  size_t n;        /* codebooks * 16 */
  double *gram;    /* [n][n], upper triangle row-major = lower triangle for LAPACK */
  double *right;   /* [outputs][n] */
  double *table;   /* [outputs][n] */
  double *mean;    /* [outputs] */
  uint32_t *count; /* [n] */
};

static int ridge_pairs(void *self, uint32_t worker, size_t c) {
  struct ridge_work *w = self;
  (void)worker;
  size_t rows = w->plan->samples->learn_rows, stride = w->plan->samples->rows;
  const uint8_t *a = w->plan->codes + c * stride;
  for (size_t d = c; d < w->plan->codebooks; d++) {
    const uint8_t *b = w->plan->codes + d * stride;
    uint32_t pair[4][256] = {
        0}; /* four, as an increment waits for the last one of the same counter */
    size_t i = 0;
    for (; i + 4 <= rows; i += 4) {
      pair[0][a[i] << 4 | b[i]]++;
      pair[1][a[i + 1] << 4 | b[i + 1]]++;
      pair[2][a[i + 2] << 4 | b[i + 2]]++;
      pair[3][a[i + 3] << 4 | b[i + 3]]++;
    }
    for (; i < rows; i++)
      pair[0][a[i] << 4 | b[i]]++;
    for (size_t k = 0; k < 256; k++) {
      uint64_t sum = (uint64_t)pair[0][k] + pair[1][k] + pair[2][k] + pair[3][k];
      w->gram[(c * 16 + k / 16) * w->n + d * 16 + k % 16] = (double)sum;
      if (c == d && k / 16 == k % 16)
        w->count[c * 16 + k / 16] = (uint32_t)sum;
    }
  }
  return HALUT_OK;
}

/* G'T of a group of codebooks, so that a row of T is read once for all of them. */
static int ridge_right(void *self, uint32_t worker, size_t group) {
  struct ridge_work *w = self;
  (void)worker;
  size_t outputs = w->plan->outputs, stride = w->plan->samples->rows, first = group * RIDGE_GROUP;
  size_t last = first + RIDGE_GROUP < w->plan->codebooks ? first + RIDGE_GROUP : w->plan->codebooks;
  double *sum = calloc((last - first) * 16 * outputs, sizeof *sum);
  if (!sum)
    return HALUT_ENOMEM;
  for (size_t row = 0; row < w->plan->samples->learn_rows; row++) {
    const float *t = w->plan->target + row * outputs;
    for (size_t c = first; c < last; c++) {
      double *to = sum + ((c - first) * 16 + w->plan->codes[c * stride + row]) * outputs;
      for (size_t m = 0; m < outputs; m++)
        to[m] += (double)t[m];
    }
  }
  for (size_t k = 0; k < (last - first) * 16; k++)
    for (size_t m = 0; m < outputs; m++)
      w->right[m * w->n + first * 16 + k] = sum[k * outputs + m];
  free(sum);
  return HALUT_OK;
}

/* Sums of the heap nodes of a codebook from those of its leaves; [32][width], node 1 the root. */
static void ridge_ancestors(double *sum, uint32_t *count, size_t width) {
  for (size_t node = 15; node >= 1; node--) {
    count[node] = count[2 * node] + count[2 * node + 1];
    for (size_t j = 0; j < width; j++)
      sum[node * width + j] = sum[2 * node * width + j] + sum[(2 * node + 1) * width + j];
  }
}

/* L0 of one codebook, centred: its count-weighted mean over the leaves is 0. */
static int ridge_start(void *self, uint32_t worker, size_t c) {
  struct ridge_work *w = self;
  (void)worker;
  const struct halut_samples *a = w->plan->samples;
  size_t first = w->plan->first[c], width = w->plan->first[c + 1] - first,
         outputs = w->plan->outputs;
  uint32_t count[32] = {0};
  double *sum = calloc(32 * width, sizeof *sum);
  if (!sum)
    return HALUT_ENOMEM;
  for (size_t row = 0; row < a->learn_rows; row++) {
    double *to = sum + (16 + (size_t)w->plan->codes[c * a->rows + row]) * width;
    size_t at = row * a->columns + first;
    for (size_t j = 0; j < width; j++)
      to[j] += a->f32 ? (double)a->f32[at + j] : (double)a->u8[at + j];
  }
  memcpy(count + 16, w->count + c * 16, 16 * sizeof *count);
  ridge_ancestors(sum, count, width);
  for (size_t k = 0; k < 16; k++) {
    size_t node = 16 + k;
    while (!count[node])
      node /= 2;
    for (size_t j = 0; j < width; j++) {
      double p = sum[node * width + j] / count[node] - sum[width + j] / count[1];
      const float *b = w->plan->b + (first + j) * outputs;
      for (size_t m = 0; m < outputs; m++)
        w->table[m * w->n + c * 16 + k] += p * (double)b[m];
    }
  }
  free(sum);
  return HALUT_OK;
}

/* right = G'(T - mean) - G'G L0, for some outputs. */
static int ridge_residual(void *self, uint32_t worker, size_t item) {
  struct ridge_work *w = self;
  (void)worker;
  size_t first = item * RIDGE_SIDES, left = w->plan->outputs - first;
  size_t sides = left < RIDGE_SIDES ? left : RIDGE_SIDES;
  for (size_t m = first; m < first + sides; m++) {
    double sum = 0.0;
    for (size_t k = 0; k < 16; k++) /* every row has one code of codebook 0 */
      sum += w->right[m * w->n + k];
    w->mean[m] = sum / (double)w->plan->samples->learn_rows;
    for (size_t k = 0; k < w->n; k++)
      w->right[m * w->n + k] -= w->mean[m] * w->count[k];
  }
  cblas_dsymm(CblasColMajor, CblasLeft, CblasLower, (int)w->n, (int)sides, -1.0, w->gram, (int)w->n,
              w->table + first * w->n, (int)w->n, 1.0, w->right + first * w->n, (int)w->n);
  return HALUT_OK;
}

static int ridge_substitute(void *self, uint32_t worker, size_t item) {
  struct ridge_work *w = self;
  (void)worker;
  size_t first = item * RIDGE_SIDES, left = w->plan->outputs - first, n = w->n;
  size_t sides = left < RIDGE_SIDES ? left : RIDGE_SIDES;
  lapack_int info = LAPACKE_dpotrs(LAPACK_COL_MAJOR, 'L', (lapack_int)n, (lapack_int)sides, w->gram,
                                   (lapack_int)n, w->right + first * n, (lapack_int)n);
  for (size_t k = 0; k < sides * n; k++)
    w->table[first * n + k] += w->right[first * n + k];
  return info ? HALUT_EINVALID : HALUT_OK;
}

/* The next panel of columns of the factor, and what it leaves of the rest. */
static int ridge_panel(struct ridge_work *w, size_t first, size_t width) {
  lapack_int n = (lapack_int)w->n, panel = (lapack_int)width, rest = n - (lapack_int)first - panel;
  double *corner = w->gram + first * w->n + first, *below = corner + width;
  if (LAPACKE_dpotrf(LAPACK_COL_MAJOR, 'L', panel, corner, n))
    return HALUT_EINVALID;
  if (rest == 0)
    return HALUT_OK;
  cblas_dtrsm(CblasColMajor, CblasRight, CblasLower, CblasTrans, CblasNonUnit, rest, panel, 1.0,
              corner, n, below, n);
  cblas_dsyrk(CblasColMajor, CblasLower, CblasNoTrans, rest, panel, -1.0, below, n, 1.0,
              below + width * w->n, n);
  return HALUT_OK;
}

static int ridge_factor(void *self, uint32_t worker, size_t item) {
  struct ridge_work *w = self;
  (void)item;
  double rows = (double)w->plan->samples->learn_rows;
  for (size_t k = 0; k < w->n; k++)
    w->gram[k * w->n + k] += fmax(w->plan->ridge, RIDGE_FLOOR * rows);
  for (size_t first = 0; first < w->n; first += RIDGE_PANEL) {
    size_t width = w->n - first < RIDGE_PANEL ? w->n - first : RIDGE_PANEL;
    int error = ridge_panel(w, first, width);
    if (error)
      return error;
    if (halut_learn_pool_poll(w->pool, worker))
      return HALUT_ECANCELED;
  }
  return HALUT_OK;
}

int halut_ridge_solve(const struct halut_ridge_plan *plan, struct halut_learn_pool *pool,
                      double *table, double *mean, uint32_t *count, struct halut_diag *diag) {
  size_t n = (size_t)plan->codebooks * HALUT_PROTOTYPES;
  struct ridge_work w = {
      .pool = pool, .plan = plan, .n = n, .table = table, .mean = mean, .count = count};
  size_t groups = (plan->codebooks + RIDGE_GROUP - 1) / RIDGE_GROUP;
  size_t sides = (plan->outputs + RIDGE_SIDES - 1) / RIDGE_SIDES;
  int error = HALUT_ENOMEM;
  w.gram = calloc(n * n, sizeof *w.gram);
  w.right = calloc(n * plan->outputs, sizeof *w.right);
  memset(table, 0, n * plan->outputs * sizeof *table);
  if (!w.gram || !w.right)
    goto done;
  error = halut_learn_pool_run(pool, "counting codes", plan->codebooks, ridge_pairs, &w);
  error = error ? error : halut_learn_pool_run(pool, "summing targets", groups, ridge_right, &w);
  error =
      error ? error : halut_learn_pool_run(pool, "bucket means", plan->codebooks, ridge_start, &w);
  error = error ? error : halut_learn_pool_run(pool, "residuals", sides, ridge_residual, &w);
  error = error ? error : halut_learn_pool_run(pool, "factorising", 1, ridge_factor, &w);
  error = error ? error : halut_learn_pool_run(pool, "solving", sides, ridge_substitute, &w);
done:
  free(w.gram);
  free(w.right);
  if (error == HALUT_EINVALID)
    return halut_fail(diag, error, 0,
                      "ridge %g is too small: the normal equations cannot be factorised",
                      plan->ridge);
  if (error == HALUT_ENOMEM)
    return halut_fail(diag, error, 0,
                      "out of memory for the normal equations of %u codebooks (%zu MiB)",
                      plan->codebooks, n * n * sizeof *w.gram >> 20);
  return error;
}
