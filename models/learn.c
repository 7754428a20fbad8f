/* DESIGN: trees (learn_tree.c), then every row encoded with the quantised trees, then tables fitted
 * to these codes (learn_ridge.c), then tables quantised, then the report. A is read in place, in
 * its own type, and never copied whole; the one array of its height is the target, [rows][outputs].
 *
 * BLAS and LAPACK run on one thread each while we run many: their rounding may depend on their
 * number of threads, and the result must not depend on ours. */
#include "learn.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../core/cpu.h"
#include "blas.h"
#include "learn_parts.h"

enum { LEARN_MSE, LEARN_MSE_FLOAT, LEARN_MSE_MEAN, LEARN_MSE_INT8, LEARN_VARIANCE, LEARN_SUMS };

struct learn_work {
  struct halut_samples a;
  const struct halut_learn_options *options;
  const float *b, *given; /* given: the caller's target or NULL */
  struct halut_learn_pool pool;
  struct halut_tree_plan trees;
  struct halut_tree_scratch **scratch; /* [threads] */
  struct halut_learned *out;
  uint32_t *row;   /* [tree rows] */
  uint32_t *first; /* [codebooks + 1] */
  uint32_t *count; /* [codebooks][16] */
  uint8_t *codes;  /* [codebooks][rows] */
  float *product;  /* [rows][outputs] A * B, if no target was given */
  const float *target;
  float *block;               /* [threads][HALUT_LEARN_BLOCK][columns] */
  float *answer;              /* [threads][HALUT_LEARN_BLOCK][outputs] */
  float (*bounds)[2];         /* [blocks] least and greatest of A */
  double *table, *mean;       /* [outputs][codebooks][16], [outputs] */
  double *bias;               /* [outputs] of the float tables */
  float *b_int8;              /* [columns][outputs] B after int8 quantisation */
  float a_low, a_step;        /* A's 8-bit quantisation */
  double *centre;             /* [outputs] means of the reported rows */
  double (*sums)[LEARN_SUMS]; /* [blocks] */
  size_t report_first, report_rows;
};

/* The phases in their order, with the share of the whole that is behind when one begins. */
static const struct {
  const char *phase;
  double begin;
} learn_shares[] = {{"checking", 0.0},      {"multiplying", 0.01},    {"growing trees", 0.05},
                    {"encoding", 0.60},     {"counting codes", 0.65}, {"summing targets", 0.72},
                    {"bucket means", 0.78}, {"residuals", 0.82},      {"factorising", 0.85},
                    {"solving", 0.92},      {"measuring", 0.95}};

double halut_learn_share(const char *phase, size_t done, size_t total) {
  size_t count = sizeof learn_shares / sizeof *learn_shares;
  for (size_t i = 0; i < count; i++)
    if (strcmp(learn_shares[i].phase, phase) == 0) {
      double end = i + 1 < count ? learn_shares[i + 1].begin : 1.0;
      double part = total > 0 ? (double)done / (double)total : 0.0;
      return learn_shares[i].begin + part * (end - learn_shares[i].begin);
    }
  return 0.0;
}

static size_t learn_blocks(size_t rows) {
  return (rows + HALUT_LEARN_BLOCK - 1) / HALUT_LEARN_BLOCK;
}

/* Rows first .. first + result - 1 are the block'th of `rows` rows from `base`. */
static size_t learn_block(size_t base, size_t rows, size_t block, size_t *first) {
  size_t left = rows - block * HALUT_LEARN_BLOCK;
  *first = base + block * HALUT_LEARN_BLOCK;
  return left < HALUT_LEARN_BLOCK ? left : HALUT_LEARN_BLOCK;
}

/* Checks */

static int learn_check_options(const struct learn_work *w, uint32_t outputs,
                               struct halut_diag *diag) {
  const struct halut_learn_options *o = w->options;
  const struct halut_samples *a = &w->a;
  if (!a->f32 == !a->u8)
    return halut_fail(diag, HALUT_EINVALID, 0, "one of float and u8 samples must be given");
  if (a->rows < 1 || a->rows > INT32_MAX)
    return halut_fail(diag, HALUT_ELIMIT, 0, "a has %zu rows: 1 to %d are possible", a->rows,
                      INT32_MAX);
  if (a->columns < 1 || a->columns > HALUT_COLUMNS_MAX)
    return halut_fail(diag, HALUT_ELIMIT, 0, "a has %u columns: 1 to %d are possible", a->columns,
                      HALUT_COLUMNS_MAX);
  if (outputs < 1 || outputs > HALUT_OUTPUTS_MAX)
    return halut_fail(diag, HALUT_ELIMIT, 0, "b has %u outputs: 1 to %d are possible", outputs,
                      HALUT_OUTPUTS_MAX);
  if (o->codebooks < 1 || o->codebooks > a->columns)
    return halut_fail(diag, HALUT_EINVALID, 0,
                      "%u codebooks: 1 to %u (the columns of a) are possible", o->codebooks,
                      a->columns);
  if (o->codebooks > HALUT_LEARN_CODEBOOKS_MAX)
    return halut_fail(diag, HALUT_ELIMIT, 0, "%u codebooks: the learner takes at most %d",
                      o->codebooks, HALUT_LEARN_CODEBOOKS_MAX);
  if (o->prototypes != 0 && o->prototypes != 2 && o->prototypes != 4 && o->prototypes != 8 &&
      o->prototypes != HALUT_PROTOTYPES)
    return halut_fail(diag, HALUT_EINVALID, 0, "%u prototypes: 2, 4, 8 or 16 are possible",
                      o->prototypes);
  if (!(o->ridge >= 0.0 && o->ridge <= DBL_MAX))
    return halut_fail(diag, HALUT_EINVALID, 0, "ridge is %g: it must be finite and at least 0",
                      o->ridge);
  if (!(o->heldout >= 0.0 && o->heldout <= 0.5))
    return halut_fail(diag, HALUT_EINVALID, 0, "heldout is %g: it must be from 0 to 0.5",
                      o->heldout);
  if (o->threads > HALUT_LEARN_THREADS_MAX)
    return halut_fail(diag, HALUT_EINVALID, 0, "threads is %u: at most %d are possible", o->threads,
                      HALUT_LEARN_THREADS_MAX);
  return HALUT_OK;
}

/* Quantising reaches half a range past the values: that must be a float32 still. */
static const float value_max = 1e37f;

static int value_fits(float x) {
  return fabsf(x) <= value_max; /* a NaN does not */
}

static int learn_check_values(const float *a, size_t rows, size_t columns,
                              struct halut_diag *diag) {
  for (size_t i = 0; i < rows * columns; i++)
    if (isfinite(a[i]) && !value_fits(a[i]))
      return halut_fail(diag, HALUT_EINVALID, 0,
                        "a, row %zu, column %zu (from 0) is %g: values from %g to %g are possible",
                        i / columns, i % columns, (double)a[i], (double)-value_max,
                        (double)value_max);
  return HALUT_OK;
}

static int learn_check_finite(const char *what, const float *x, size_t rows, size_t columns,
                              struct halut_diag *diag) {
  for (size_t i = 0; i < rows * columns; i++)
    if (!isfinite(x[i]))
      return halut_fail(diag, HALUT_EINVALID, 0,
                        "%s, row %zu, column %zu (from 0) is %g: every value must be finite", what,
                        i / columns, i % columns, (double)x[i]);
  return HALUT_OK;
}

static int learn_bounds(void *self, uint32_t worker, size_t block) {
  struct learn_work *w = self;
  (void)worker;
  size_t first, rows = learn_block(0, w->a.rows, block, &first);
  size_t end = (first + rows) * w->a.columns;
  float low = FLT_MAX, high = -FLT_MAX;
  for (size_t i = first * w->a.columns; i < end; i++) {
    float x = w->a.f32 ? w->a.f32[i] : (float)w->a.u8[i];
    if (!value_fits(x))
      return HALUT_EINVALID;
    low = x < low ? x : low;
    high = x > high ? x : high;
  }
  w->bounds[block][0] = low;
  w->bounds[block][1] = high;
  return HALUT_OK;
}

/* Memory */

static int learn_open(struct learn_work *w, uint32_t outputs, struct halut_diag *diag) {
  size_t codebooks = w->options->codebooks, rows = w->a.rows, blocks = learn_blocks(rows),
         threads = w->pool.threads;
  size_t n = codebooks * HALUT_PROTOTYPES, columns = w->a.columns;
  struct halut_learned *out = w->out;
  w->scratch = calloc(threads, sizeof *w->scratch);
  w->row = calloc(w->trees.rows, sizeof *w->row);
  w->first = calloc(codebooks + 1, sizeof *w->first);
  w->count = calloc(n, sizeof *w->count);
  w->codes = calloc(codebooks * rows, sizeof *w->codes);
  w->product = w->given ? NULL : calloc(rows * outputs, sizeof *w->product);
  w->block = calloc(threads * HALUT_LEARN_BLOCK * columns, sizeof *w->block);
  w->answer = calloc(threads * HALUT_LEARN_BLOCK * outputs, sizeof *w->answer);
  w->bounds = calloc(blocks, sizeof *w->bounds);
  w->table = calloc(n * outputs, sizeof *w->table);
  w->mean = calloc(outputs, sizeof *w->mean);
  w->bias = calloc(outputs, sizeof *w->bias);
  w->b_int8 = calloc(columns * outputs, sizeof *w->b_int8);
  w->centre = calloc(outputs, sizeof *w->centre);
  w->sums = calloc(blocks, sizeof *w->sums);
  out->split = calloc(codebooks * HALUT_LEVELS, sizeof *out->split);
  out->low = calloc(codebooks * HALUT_LEVELS, sizeof *out->low);
  out->inverse = calloc(codebooks * HALUT_LEVELS, sizeof *out->inverse);
  out->threshold = calloc(n, sizeof *out->threshold);
  out->table = calloc(n * outputs, sizeof *out->table);
  out->scale = calloc(outputs, sizeof *out->scale);
  out->bias = calloc(outputs, sizeof *out->bias);
  if (!w->scratch || !w->row || !w->first || !w->count || !w->codes || !(w->given || w->product) ||
      !w->block || !w->answer || !w->bounds || !w->table || !w->mean || !w->bias || !w->b_int8 ||
      !w->centre || !w->sums || !out->split || !out->low || !out->inverse || !out->threshold ||
      !out->table || !out->scale || !out->bias)
    return halut_fail(diag, HALUT_ENOMEM, 0, "out of memory for %zu rows, %zu columns, %u outputs",
                      rows, columns, outputs);
  out->columns = w->a.columns;
  out->codebooks = w->options->codebooks;
  out->outputs = outputs;
  w->target = w->given ? w->given : w->product;
  return HALUT_OK;
}

static void learn_close(struct learn_work *w) {
  for (uint32_t i = 0; w->scratch && i < w->pool.threads; i++)
    halut_tree_scratch_close(w->scratch[i]);
  free(w->scratch);
  free(w->row);
  free(w->first);
  free(w->count);
  free(w->codes);
  free(w->product);
  free(w->block);
  free(w->answer);
  free(w->bounds);
  free(w->table);
  free(w->mean);
  free(w->bias);
  free(w->b_int8);
  free(w->centre);
  free(w->sums);
}

/* Trees and codes */

/* Fills row[] with `wanted` of the learning rows, ascending: Knuth's selection sampling over
 * splitmix64. */
static void learn_choose_rows(uint32_t *row, size_t wanted, size_t rows, uint64_t seed) {
  size_t chosen = 0;
  for (size_t i = 0; chosen < wanted; i++) {
    uint64_t r = (seed += UINT64_C(0x9e3779b97f4a7c15));
    r = (r ^ r >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    r = (r ^ r >> 27) * UINT64_C(0x94d049bb133111eb);
    r ^= r >> 31;
    if (r % (rows - i) < wanted - chosen)
      row[chosen++] = (uint32_t)i;
  }
}

static int learn_tree(void *self, uint32_t worker, size_t c) {
  struct learn_work *w = self;
  if (!w->scratch[worker] && !(w->scratch[worker] = halut_tree_scratch_open(&w->trees)))
    return HALUT_ENOMEM;
  struct halut_tree tree = {w->out->split + c * HALUT_LEVELS, w->out->low + c * HALUT_LEVELS,
                            w->out->inverse + c * HALUT_LEVELS,
                            w->out->threshold + c * HALUT_PROTOTYPES};
  return halut_tree_learn(&w->trees, w->scratch[worker], worker, w->first[c],
                          w->first[c + 1] - w->first[c], &tree);
}

static int learn_encode(void *self, uint32_t worker, size_t block) {
  struct learn_work *w = self;
  (void)worker;
  size_t first, rows = learn_block(0, w->a.rows, block, &first);
  const struct halut_learned *out = w->out;
  for (size_t row = first; row < first + rows; row++)
    for (size_t c = 0; c < out->codebooks; c++) {
      unsigned node = 1;
      for (size_t i = c * HALUT_LEVELS; i < (c + 1) * HALUT_LEVELS; i++) {
        size_t at = row * w->a.columns + out->split[i];
        uint8_t value =
            w->a.u8 ? w->a.u8[at] : halut_tree_value(w->a.f32[at], out->low[i], out->inverse[i]);
        node = 2 * node + (value > out->threshold[c * HALUT_PROTOTYPES + node]);
      }
      w->codes[c * w->a.rows + row] = (uint8_t)(node - HALUT_PROTOTYPES);
    }
  return HALUT_OK;
}

/* The block of A as floats: in place if it is float, else converted into the worker's memory. */
static const float *learn_floats(struct learn_work *w, uint32_t worker, size_t first, size_t rows) {
  size_t columns = w->a.columns;
  if (w->a.f32)
    return w->a.f32 + first * columns;
  float *to = w->block + worker * HALUT_LEARN_BLOCK * columns;
  for (size_t i = 0; i < rows * columns; i++)
    to[i] = (float)w->a.u8[first * columns + i];
  return to;
}

static void learn_product(const struct learn_work *w, const float *a, const float *b, size_t rows,
                          float *to) {
  int outputs = (int)w->out->outputs, columns = (int)w->a.columns;
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)rows, outputs, columns, 1.0f, a,
              columns, b, outputs, 0.0f, to, outputs);
}

static int learn_target(void *self, uint32_t worker, size_t block) {
  struct learn_work *w = self;
  size_t first, rows = learn_block(0, w->a.rows, block, &first);
  float *product = w->product + first * w->out->outputs;
  learn_product(w, learn_floats(w, worker, first, rows), w->b, rows, product);
  for (size_t i = 0; i < rows * w->out->outputs; i++)
    if (!isfinite(product[i]))
      return HALUT_EINVALID;
  return HALUT_OK;
}

/* Tables */

/* int8 entries and scale of one output. The middle of each codebook's range goes into the bias,
 * which is exact as every row takes exactly one entry of each codebook; the bias then makes the
 * mean over the learning rows exact. */
static void learn_quantise(struct learn_work *w, size_t m) {
  size_t codebooks = w->out->codebooks, n = codebooks * HALUT_PROTOTYPES;
  double *table = w->table + m * n, range = 0.0, total = 0.0, total_float = 0.0;
  int8_t *to = w->out->table + m * n;
  double rows = (double)w->a.learn_rows;
  for (size_t c = 0; c < codebooks; c++) {
    double *entry = table + c * HALUT_PROTOTYPES, low = entry[0], high = entry[0];
    for (size_t k = 1; k < HALUT_PROTOTYPES; k++) {
      entry[k] = entry[k - k % (HALUT_PROTOTYPES / w->trees.prototypes)];
      low = fmin(low, entry[k]);
      high = fmax(high, entry[k]);
    }
    for (size_t k = 0; k < HALUT_PROTOTYPES; k++)
      entry[k] -= 0.5 * (low + high);
    range = fmax(range, 0.5 * (high - low));
  }
  float scale = (float)(range / 127.0);
  scale = scale >= FLT_MIN ? scale : 1.0f; /* constant: every entry is 0 */
  for (size_t k = 0; k < n; k++) {
    to[k] = (int8_t)fmax(-127.0, fmin(127.0, rint(table[k] / (double)scale)));
    total += (double)w->count[k] * to[k];
    total_float += (double)w->count[k] * table[k];
  }
  w->out->scale[m] = scale;
  w->out->bias[m] = (float)(w->mean[m] - (double)scale * total / rows);
  w->bias[m] = w->mean[m] - total_float / rows;
}

/* Report */

/* B as int8 with a scale an output would give it back, and the affine 8-bit quantisation of A. */
static void learn_int8(struct learn_work *w) {
  size_t outputs = w->out->outputs, columns = w->a.columns, blocks = learn_blocks(w->a.learn_rows);
  for (size_t m = 0; m < outputs; m++) {
    float top = 0.0f;
    for (size_t j = 0; j < columns; j++)
      top = fmaxf(top, fabsf(w->b[j * outputs + m]));
    float step = top / 127.0f;
    step = step >= FLT_MIN ? step : 1.0f; /* so small a column is 0 */
    for (size_t j = 0; j < columns; j++)
      w->b_int8[j * outputs + m] = step * rintf(w->b[j * outputs + m] / step);
  }
  float low = 0.0f, high = 0.0f; /* zero is representable, as padding needs */
  for (size_t i = 0; i < blocks; i++) {
    low = fminf(low, w->bounds[i][0]);
    high = fmaxf(high, w->bounds[i][1]);
  }
  w->a_step = high / 255.0f - low / 255.0f;
  w->a_step = w->a_step >= FLT_MIN ? w->a_step : 1.0f;
  w->a_low = w->a_step * rintf(low / w->a_step);
}

/* Adds the squared errors of one output over a block of rows; int8: [rows][outputs]. */
static void learn_compare(const struct learn_work *w, size_t m, size_t first, size_t rows,
                          const float *int8, double *sums) {
  const struct halut_learned *out = w->out;
  int32_t acc[HALUT_LEARN_BLOCK] = {0};
  double acc_float[HALUT_LEARN_BLOCK] = {0};
  for (size_t c = 0; c < out->codebooks; c++) {
    size_t at = (m * out->codebooks + c) * HALUT_PROTOTYPES;
    const uint8_t *code = w->codes + c * w->a.rows + first;
    for (size_t i = 0; i < rows; i++) {
      acc[i] += out->table[at + code[i]];
      acc_float[i] += w->table[at + code[i]];
    }
  }
  for (size_t i = 0; i < rows; i++) {
    double y = (double)w->target[(first + i) * out->outputs + m];
    float served = (float)acc[i] * out->scale[m] + out->bias[m];
    double off[LEARN_SUMS] = {(double)served - y, acc_float[i] + w->bias[m] - y, w->mean[m] - y,
                              (double)int8[i * out->outputs + m] - y, w->centre[m] - y};
    for (size_t k = 0; k < LEARN_SUMS; k++)
      sums[k] += off[k] * off[k];
  }
}

static int learn_report(void *self, uint32_t worker, size_t block) {
  struct learn_work *w = self;
  const struct halut_learned *out = w->out;
  size_t first, rows = learn_block(w->report_first, w->report_rows, block, &first);
  size_t outputs = out->outputs, columns = w->a.columns;
  const float *a = learn_floats(w, worker, first, rows);
  float *rounded = w->block + worker * HALUT_LEARN_BLOCK * columns;
  float *int8 = w->answer + worker * HALUT_LEARN_BLOCK * outputs;
  for (size_t i = 0; i < rows * columns; i++)
    rounded[i] =
        w->a_low + w->a_step * fminf(255.0f, fmaxf(0.0f, rintf((a[i] - w->a_low) / w->a_step)));
  learn_product(w, rounded, w->b_int8, rows, int8);
  for (size_t m = 0; m < outputs; m++)
    learn_compare(w, m, first, rows, int8, w->sums[block]);
  return HALUT_OK;
}

static int learn_measure(struct learn_work *w) {
  size_t outputs = w->out->outputs;
  int held = w->a.learn_rows < w->a.rows;
  w->report_first = held ? w->a.learn_rows : 0;
  w->report_rows = w->a.rows - w->report_first;
  for (size_t i = 0; i < w->report_rows; i++)
    for (size_t m = 0; m < outputs; m++)
      w->centre[m] += (double)w->target[(w->report_first + i) * outputs + m];
  for (size_t m = 0; m < outputs; m++)
    w->centre[m] /= (double)w->report_rows;
  learn_int8(w);
  int error =
      halut_learn_pool_run(&w->pool, "measuring", learn_blocks(w->report_rows), learn_report, w);
  double total[LEARN_SUMS] = {0};
  for (size_t block = 0; block < learn_blocks(w->report_rows); block++)
    for (size_t k = 0; k < LEARN_SUMS; k++)
      total[k] += w->sums[block][k] / ((double)w->report_rows * (double)outputs);
  w->out->heldout_rows = held ? w->report_rows : 0;
  w->out->mse = total[LEARN_MSE];
  w->out->mse_float = total[LEARN_MSE_FLOAT];
  w->out->mse_mean = total[LEARN_MSE_MEAN];
  w->out->mse_int8 = total[LEARN_MSE_INT8];
  w->out->variance = total[LEARN_VARIANCE];
  return error;
}

/* Of a product that is not made, for the target is given: how large it may become at most. */
static int learn_check_reach(const struct learn_work *w, struct halut_diag *diag) {
  double high = w->a.u8 ? 255.0 : 0.0, most = 0.0;
  for (size_t i = 0; w->a.f32 && i < w->a.rows * w->a.columns; i++)
    high = fmax(high, fabs((double)w->a.f32[i]));
  for (size_t i = 0; i < (size_t)w->a.columns * w->out->outputs; i++)
    most = fmax(most, fabs((double)w->b[i]));
  double reach = high * most * w->a.columns;
  if (reach <= (double)FLT_MAX)
    return HALUT_OK;
  return halut_fail(diag, HALUT_EINVALID, 0,
                    "a times b may reach %g, which is beyond float32: scale them down", reach);
}

/* What a reader of the file refuses. */
static int learn_check_result(const struct halut_learned *out, struct halut_diag *diag) {
  for (uint32_t m = 0; m < out->outputs; m++)
    if (!isfinite(out->scale[m]) || !isfinite(out->bias[m]))
      return halut_fail(diag, HALUT_EINVALID, 0,
                        "output %u (from 0): its table is beyond float32: scale the samples down",
                        m);
  return HALUT_OK;
}

static int learn_run(struct learn_work *w, struct halut_diag *diag) {
  const struct halut_learn_options *o = w->options;
  uint32_t codebooks = o->codebooks, columns = w->a.columns;
  size_t blocks = learn_blocks(w->a.rows);
  int error = halut_learn_pool_run(&w->pool, "checking", blocks, learn_bounds, w);
  if (error == HALUT_EINVALID) {
    error = learn_check_finite("a", w->a.f32, w->a.rows, columns, diag);
    return error ? error : learn_check_values(w->a.f32, w->a.rows, columns, diag);
  }
  for (uint32_t c = 0; c < codebooks; c++)
    w->first[c + 1] = w->first[c] + columns / codebooks + (c < columns % codebooks);
  learn_choose_rows(w->row, w->trees.rows, w->a.learn_rows, o->seed);
  w->trees.row = w->row;
  if (!error && w->given && (error = learn_check_reach(w, diag)) != HALUT_OK)
    return error;
  if (!error && !w->given)
    error = halut_learn_pool_run(&w->pool, "multiplying", blocks, learn_target, w);
  if (error == HALUT_EINVALID)
    return learn_check_finite("a times b", w->product, w->a.rows, w->out->outputs, diag);
  error = error ? error : halut_learn_pool_run(&w->pool, "growing trees", codebooks, learn_tree, w);
  error = error ? error : halut_learn_pool_run(&w->pool, "encoding", blocks, learn_encode, w);
  if (error == HALUT_EINVALID)
    return halut_fail(diag, error, 0,
                      "b cannot be factored to weigh splits by the output (LAPACK dsyev failed)");
  if (error == HALUT_ENOMEM)
    return halut_fail(diag, error, 0,
                      "out of memory for the trees: fewer tree rows or more codebooks need less");
  struct halut_ridge_plan plan = {&w->a,           w->codes, w->first,  codebooks,
                                  w->out->outputs, w->b,     w->target, o->ridge};
  error = error ? error : halut_ridge_solve(&plan, &w->pool, w->table, w->mean, w->count, diag);
  if (error)
    return error == HALUT_ECANCELED ? halut_fail(diag, error, 0, "learning was canceled") : error;
  for (size_t m = 0; m < w->out->outputs; m++)
    learn_quantise(w, m);
  error = learn_check_result(w->out, diag);
  if (error)
    return error;
  error = learn_measure(w);
  return error ? halut_fail(diag, error, 0, "learning was canceled") : HALUT_OK;
}

static uint32_t learn_threads(const struct halut_learn_options *options) {
  const uint32_t threads = options->threads ? options->threads : halut_cpu_count();
  return threads < HALUT_LEARN_THREADS_MAX ? threads : HALUT_LEARN_THREADS_MAX;
}

/* Follows learn_open, halut_tree_scratch_open and halut_ridge_solve, array by array. */
size_t halut_learn_bytes(size_t rows, uint32_t columns, uint32_t outputs,
                         const struct halut_learn_options *options) {
  size_t codebooks = options->codebooks, n = codebooks * HALUT_PROTOTYPES;
  size_t threads = learn_threads(options);
  size_t width = (columns + codebooks - 1) / codebooks, axes = width + 3;
  size_t seen = options->tree_rows && options->tree_rows < rows ? options->tree_rows : rows;
  size_t work = rows * (codebooks + 4 * (size_t)outputs) + learn_blocks(rows) * 64 + seen * 4 +
                4 * (size_t)columns * outputs + 9 * n * outputs + 64 * (n + outputs + columns);
  size_t one = HALUT_LEARN_BLOCK * 4 * ((size_t)columns + outputs) +
               seen * (8 * width + 4 * axes + 5) + 8 * width * (width + axes) +
               8 * axes * (HALUT_PROTOTYPES + 1) + 256 * width +
               8 * 8 * HALUT_PROTOTYPES * (size_t)outputs;
  return work + threads * one + 8 * n * (n + outputs);
}

int halut_learn(const float *a_f32, const uint8_t *a_u8, size_t rows, uint32_t columns,
                const float *b, uint32_t outputs, const float *target,
                const struct halut_learn_options *options, struct halut_learned *out,
                struct halut_diag *diag) {
  struct halut_learned learned = {0};
  struct learn_work w = {
      .a = {a_f32, a_u8, rows, rows, columns}, .options = options, .b = b, .given = target};
  w.out = &learned;
  int error = learn_check_options(&w, outputs, diag);
  error = error ? error : learn_check_finite("b", b, columns, outputs, diag);
  if (!error && target)
    error = learn_check_finite("target", target, rows, outputs, diag);
  if (error)
    return error;
  w.a.learn_rows = rows - (size_t)((double)rows * options->heldout);
  w.pool =
      (struct halut_learn_pool){learn_threads(options), options->progress, options->self, NULL};
  size_t tree_rows = options->tree_rows && options->tree_rows < w.a.learn_rows ? options->tree_rows
                                                                               : w.a.learn_rows;
  w.trees =
      (struct halut_tree_plan){.pool = &w.pool,
                               .samples = &w.a,
                               .rows = tree_rows,
                               .b = options->by_output ? b : NULL,
                               .outputs = outputs,
                               .width_max = (columns + options->codebooks - 1) / options->codebooks,
                               .candidates = options->candidates,
                               .prototypes = HALUT_PROTOTYPES};
  if (options->prototypes)
    w.trees.prototypes = options->prototypes;
  int blas_threads = halut_blas_threads(1);
  error = learn_open(&w, outputs, diag);
  error = error ? error : learn_run(&w, diag);
  halut_blas_threads(blas_threads);
  learn_close(&w);
  if (error)
    halut_learned_free(&learned);
  else
    *out = learned;
  return error;
}

void halut_learned_free(struct halut_learned *learned) {
  if (!learned)
    return;
  free(learned->split);
  free(learned->low);
  free(learned->inverse);
  free(learned->threshold);
  free(learned->table);
  free(learned->scale);
  free(learned->bias);
  *learned = (struct halut_learned){0};
}
