/* The learner: against the plain reference in tests/learn_reference.py (splits, thresholds, codes,
 * tables), and for what a reference cannot show: the same bytes for any number of threads, errors,
 * and that it learns.
 *
 * timeout: 120 */
#include <check.h>
#include <inttypes.h>
#include <malloc.h>
#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../core/cpu.h"
#include "../models/learn.h"
#include "../models/learned_file.h"
#include "../models/npy.h"
#include "../models/session.h"

static uint64_t random_state;

static uint64_t random_next(void) { /* splitmix64 */
  uint64_t z = random_state += 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

static float random_unit(void) {
  return (float)(random_next() >> 40) * 0x1p-24f;
}

/* Near enough to normal: the sum of 12 uniform values, centred. */
static float random_normal(void) {
  float sum = -6.0f;
  for (int i = 0; i < 12; i++)
    sum += random_unit();
  return sum;
}

enum kind { NORMAL, RELU, UNIFORM, STEPS, CONSTANT, OFFSET, TINY };

static float sample(enum kind kind) {
  float x = random_normal();
  switch (kind) {
  case NORMAL:
    return x;
  case RELU:
    return x > 0.0f ? x : 0.0f;
  case UNIFORM:
    return random_unit();
  case STEPS: /* few values, so that ties abound */
    return (float)(random_next() >> 62);
  case CONSTANT:
    return 7.5f;
  case OFFSET:
    return 100.0f + x;
  case TINY:
    return x * 1e-30f;
  }
  return 0.0f;
}

/* One product to learn. `whole`: the samples are u8, scaled from what `kind` gives. */
struct setting {
  enum kind kind;
  int whole, twins; /* twins: column 1 repeats column 0, column 3 is column 2 mirrored */
  size_t rows;
  uint32_t columns, outputs, codebooks;
  int by_output;
  double ridge, heldout;
  uint32_t candidates;
  int target;
  uint32_t prototypes;
};

struct data {
  float *a, *b, *target;
  uint8_t *a_u8;
};

static struct data data_make(const struct setting *s) {
  size_t count = s->rows * s->columns;
  struct data d = {.a = malloc(count * sizeof(float)),
                   .b = malloc(s->columns * s->outputs * sizeof(float)),
                   .target = malloc(s->rows * s->outputs * sizeof(float)),
                   .a_u8 = malloc(count)};
  ck_assert(d.a && d.b && d.target && d.a_u8);
  for (size_t i = 0; i < count; i++) {
    size_t column = i % s->columns;
    d.a[i] = s->twins && column == 1   ? d.a[i - 1]
             : s->twins && column == 3 ? 3.0f - d.a[i - 1]
                                       : sample(s->kind);
    float scaled = s->kind == STEPS ? d.a[i] : d.a[i] * 60.0f;
    d.a_u8[i] = (uint8_t)fminf(255.0f, fmaxf(0.0f, scaled));
  }
  for (size_t i = 0; i < s->columns * s->outputs; i++)
    d.b[i] = random_normal();
  for (size_t i = 0; i < s->rows * s->outputs; i++)
    d.target[i] = 50.0f + random_normal();
  return d;
}

static void data_free(struct data *d) {
  free(d->a);
  free(d->b);
  free(d->target);
  free(d->a_u8);
}

static int data_learn(const struct setting *s, const struct data *d, uint32_t threads,
                      struct halut_learned *out, struct halut_diag *diag) {
  struct halut_learn_options options = {.codebooks = s->codebooks,
                                        .ridge = s->ridge,
                                        .heldout = s->heldout,
                                        .candidates = s->candidates,
                                        .prototypes = s->prototypes,
                                        .by_output = s->by_output,
                                        .threads = threads};
  return halut_learn(s->whole ? NULL : d->a, s->whole ? d->a_u8 : NULL, s->rows, s->columns, d->b,
                     s->outputs, s->target ? d->target : NULL, &options, out, diag);
}

/* ---- against the reference ---- */

static const struct setting settings[] = {
    {NORMAL, 0, 0, 300, 12, 5, 3, .ridge = 1, .by_output = 0},
    {RELU, 0, 0, 400, 18, 7, 2, .ridge = 1, .by_output = 1}, /* fewer outputs than columns */
    {RELU, 0, 0, 400, 10, 16, 4, .ridge = 1, .by_output = 1, .heldout = .25}, /* uneven codebooks */
    {RELU, 1, 0, 400, 27, 8, 3, .ridge = 1, .by_output = 1},
    {RELU, 1, 0, 400, 27, 8, 3, .ridge = 1, .by_output = 0, .target = 1},
    {STEPS, 1, 1, 200, 8, 3, 2, .ridge = 1, .by_output = 0},
    {STEPS, 1, 1, 200, 8, 3, 2, .ridge = 1, .by_output = 1},
    {STEPS, 0, 1, 200, 8, 3, 1, .ridge = 1, .by_output = 0},
    {NORMAL, 0, 0, 12, 6, 3, 2, .ridge = 1, .by_output = 0}, /* leaves without rows */
    {NORMAL, 0, 0, 300, 12, 5, 2, .ridge = 20, .by_output = 1, .candidates = 2},
    {NORMAL, 0, 0, 300, 12, 5, 2, .ridge = 1, .by_output = 0, .candidates = 3},
    {NORMAL, 0, 0, 300, 12, 5, 12, .ridge = 0, .by_output = 1}, /* one column each, no ridge */
    {OFFSET, 0, 0, 250, 9, 4, 1, .ridge = 1, .by_output = 1},
    {TINY, 0, 0, 250, 9, 4, 2, .ridge = 1, .by_output = 0},
    {CONSTANT, 0, 0, 50, 4, 2, 2, .ridge = 1, .by_output = 1},
    {CONSTANT, 0, 0, 50, 4, 2, 2, .ridge = 1, .candidates = 1}, /* the lowest column again */
    {NORMAL, 0, 0, 300, 12, 5, 2, .ridge = 1, .by_output = 0, .heldout = .1, .target = 1},
    {NORMAL, 0, 0, 80, 66, 1, 65, .ridge = 2, .by_output = 0}, /* factorised in two panels */
    {UNIFORM, 0, 0, 1, 4, 2, 2, .ridge = 1, .by_output = 0},
    {NORMAL, 0, 0, 300, 12, 5, 3, .ridge = 1, .prototypes = 2},
    {RELU, 1, 0, 300, 12, 5, 3, .ridge = 1, .by_output = 1, .prototypes = 4},
    {RELU, 0, 0, 300, 12, 5, 3, .ridge = 0, .by_output = 1, .prototypes = 8, .heldout = .1}};

enum { SETTINGS = sizeof settings / sizeof *settings };

static int reference_runs(void) {
  static int known; /* of this process: 1 it runs, -1 it does not */
  if (!known)
    known = system("/usr/bin/python3 -c 'import numpy' >/dev/null 2>&1") == 0 ? 1 : -1;
  return known > 0;
}

static void save(const char *folder, const char *name, enum halut_npy_type type, size_t rows,
                 uint32_t columns, const void *data) {
  char path[128];
  uint32_t dim[2] = {(uint32_t)rows, columns};
  snprintf(path, sizeof path, "%s/%s", folder, name);
  ck_assert_int_eq(halut_npy_write(path, type, 2, dim, data, NULL), 0);
}

START_TEST(equals_the_reference) {
  const struct setting *s = &settings[_i];
  struct data d = data_make(s);
  struct halut_learned learned;
  struct halut_diag diag = {0};
  char folder[] = "/tmp/check_learn.XXXXXX", path[64], command[512];
  ck_assert_msg(data_learn(s, &d, 2, &learned, &diag) == 0, "%s", diag.text);
  ck_assert_ptr_nonnull(mkdtemp(folder));
  save(folder, "a.npy", s->whole ? HALUT_NPY_U8 : HALUT_NPY_F32, s->rows, s->columns,
       s->whole ? (void *)d.a_u8 : (void *)d.a);
  save(folder, "b.npy", HALUT_NPY_F32, s->columns, s->outputs, d.b);
  save(folder, "t.npy", HALUT_NPY_F32, s->rows, s->outputs, d.target);
  snprintf(path, sizeof path, "%s/model", folder);
  ck_assert_int_eq(halut_learned_write(&learned, path, "model", 1, NULL, d.a, 1, &diag), 0);
  snprintf(command, sizeof command,
           "cd %s && /usr/bin/python3 \"$OLDPWD/tests/learn_reference.py\" a.npy b.npy model "
           "--codebooks %u --learn-rows %zu --ridge %g --candidates %u --prototypes %u %s %s",
           folder, s->codebooks, s->rows - (size_t)((double)s->rows * s->heldout), s->ridge,
           s->candidates, s->prototypes ? s->prototypes : 16, s->by_output ? "--by-output" : "",
           s->target ? "--target t.npy" : "");
  ck_assert_msg(system(command) == 0, "setting %d: %s", _i, command);
  snprintf(command, sizeof command, "rm -r %s", folder);
  ck_assert_int_eq(system(command), 0);
  halut_learned_free(&learned);
  data_free(&d);
}
END_TEST

/* ---- what it promises ---- */

static int same(const struct halut_learned *x, const struct halut_learned *y) {
  size_t levels = (size_t)x->codebooks * HALUT_LEVELS,
         leaves = (size_t)x->codebooks * HALUT_PROTOTYPES;
  return x->codebooks == y->codebooks && x->outputs == y->outputs &&
         !memcmp(x->split, y->split, levels * sizeof *x->split) &&
         !memcmp(x->low, y->low, levels * sizeof *x->low) &&
         !memcmp(x->inverse, y->inverse, levels * sizeof *x->inverse) &&
         !memcmp(x->threshold, y->threshold, leaves) &&
         !memcmp(x->table, y->table, leaves * x->outputs) &&
         !memcmp(x->scale, y->scale, x->outputs * sizeof *x->scale) &&
         !memcmp(x->bias, y->bias, x->outputs * sizeof *x->bias) &&
         !memcmp(&x->mse, &y->mse, sizeof x->mse) &&
         !memcmp(&x->mse_int8, &y->mse_int8, sizeof x->mse_int8);
}

START_TEST(gives_the_same_bytes_for_any_number_of_threads) {
  const struct setting s = {RELU, _i, 0,          2000,          100,
                            70,   11, .ridge = 1, .heldout = .2, .by_output = 1};
  struct data d = data_make(&s);
  struct halut_learned one, many;
  ck_assert_int_eq(data_learn(&s, &d, 1, &one, NULL), 0);
  static const uint32_t threads[] = {2, 3, 16, 0};
  for (size_t i = 0; i < sizeof threads / sizeof *threads; i++) {
    ck_assert_int_eq(data_learn(&s, &d, threads[i], &many, NULL), 0);
    ck_assert_msg(same(&one, &many), "%u threads give other bytes", threads[i]);
    halut_learned_free(&many);
  }
  halut_learned_free(&one);
  data_free(&d);
}
END_TEST

START_TEST(takes_as_many_threads_as_processors_it_may_use) {
  cpu_set_t one, allowed;
  struct halut_learn_options options = {.codebooks = 4};
  ck_assert_int_eq(sched_getaffinity(0, sizeof allowed, &allowed), 0);
  ck_assert_uint_le(halut_cpu_count(), (uint32_t)CPU_COUNT(&allowed)); /* less under a quota */
  CPU_ZERO(&one);
  for (size_t cpu = 0; CPU_COUNT(&one) == 0; cpu++)
    if (CPU_ISSET(cpu, &allowed))
      CPU_SET(cpu, &one);
  ck_assert_int_eq(sched_setaffinity(0, sizeof one, &one), 0);
  ck_assert_uint_eq(halut_cpu_count(), 1);
  const size_t bytes = halut_learn_bytes(1000, 64, 8, &options);
  options.threads = 1;
  ck_assert_uint_eq(halut_learn_bytes(1000, 64, 8, &options), bytes);
  options.threads = 2;
  ck_assert_uint_gt(halut_learn_bytes(1000, 64, 8, &options), bytes);
}
END_TEST

START_TEST(the_seed_chooses_the_rows_of_the_trees) {
  const struct setting s = {NORMAL, 0, 0, 1000, 16, 4, 2, .ridge = 1};
  struct data d = data_make(&s);
  struct halut_learned learned[4];
  const struct {
    size_t tree_rows;
    uint64_t seed;
  } choice[4] = {{200, 1}, {200, 1}, {200, 2}, {1000, 1}};
  for (int i = 0; i < 4; i++) {
    struct halut_learn_options options = {.codebooks = 2,
                                          .ridge = 1,
                                          .tree_rows = choice[i].tree_rows,
                                          .seed = choice[i].seed,
                                          .threads = 1};
    ck_assert_int_eq(halut_learn(d.a, NULL, s.rows, s.columns, d.b, s.outputs, NULL, &options,
                                 &learned[i], NULL),
                     0);
  }
  struct halut_learned all;
  ck_assert_int_eq(data_learn(&s, &d, 1, &all, NULL), 0);
  ck_assert(same(&learned[0], &learned[1]));
  ck_assert(!same(&learned[0], &learned[2]));
  ck_assert(!same(&learned[0], &all));
  ck_assert(same(&learned[3], &all));
  for (int i = 0; i < 4; i++)
    halut_learned_free(&learned[i]);
  halut_learned_free(&all);
  data_free(&d);
}
END_TEST

/* The report's error is that of the program as it is served, on rows that were not learned from. */
START_TEST(reports_the_error_of_what_is_served) {
  const struct setting s = {RELU, 0, 0, 900, 30, 6, 5, .ridge = 1, .heldout = .3, .by_output = 1};
  struct data d = data_make(&s);
  struct halut_learned p;
  ck_assert_int_eq(data_learn(&s, &d, 2, &p, NULL), 0);
  size_t held = p.heldout_rows, first = s.rows - held;
  ck_assert_uint_eq(held, 270);
  float *y = malloc(held * s.outputs * sizeof *y);
  ck_assert_ptr_nonnull(y);
  halut_learned_apply(&p, d.a + first * s.columns, held, y);
  double mse = 0.0, variance = 0.0;
  for (size_t m = 0; m < s.outputs; m++) {
    double sum = 0.0, square = 0.0;
    for (size_t i = 0; i < held; i++) {
      double exact = 0.0;
      for (size_t j = 0; j < s.columns; j++)
        exact += (double)d.a[(first + i) * s.columns + j] * (double)d.b[j * s.outputs + m];
      double off = (double)y[i * s.outputs + m] - exact;
      mse += off * off / (double)(held * s.outputs);
      sum += exact;
      square += exact * exact;
    }
    variance += (square - sum * sum / (double)held) / (double)(held * s.outputs);
  }
  ck_assert_double_eq_tol(p.mse, mse, 1e-5 * mse);
  ck_assert_double_eq_tol(p.variance, variance, 1e-5 * variance);
  ck_assert_double_le(fabs(p.mse - p.mse_float), 0.02 * p.mse_float);
  ck_assert_double_lt(p.mse, 0.5 * p.mse_mean);
  ck_assert_double_lt(p.mse_int8, 0.001 * p.variance);
  ck_assert_double_gt(p.mse_int8, 0.0);
  free(y);
  halut_learned_free(&p);
  data_free(&d);
}
END_TEST

/* The classic example, A uniform: the Python original is at 0.872 of the error of column means
 * (12.85 of 14.74). */
START_TEST(learns_the_uniform_example) {
  struct setting s = {UNIFORM, 0, 0, 10000, 512, 10, 32, .ridge = 1, .heldout = .2, .by_output = 1};
  struct data d = data_make(&s);
  for (size_t i = 0; i < s.columns * s.outputs; i++)
    d.b[i] = random_unit();
  struct halut_learned learned;
  ck_assert_int_eq(data_learn(&s, &d, 2, &learned, NULL), 0);
  ck_assert_uint_eq(learned.heldout_rows, 2000);
  ck_assert_msg(learned.mse <= 0.872 * learned.mse_mean, "mse %g, of column means %g", learned.mse,
                learned.mse_mean);
  ck_assert_double_le(learned.mse, 12.9);
  halut_learned_free(&learned);
  data_free(&d);
}
END_TEST

/* 0, 1, 2 as often as each other: both cuts leave the same error. Deeper, the upper node is cut
 * once more. */
START_TEST(the_lowest_boundary_wins_a_tie) {
  enum { ROWS = 30 };
  uint8_t a[ROWS];
  float b[1] = {1.0f}, whole[ROWS];
  for (size_t i = 0; i < ROWS; i++)
    whole[i] = a[i] = (uint8_t)(i % 3);
  struct halut_learn_options options = {.codebooks = 1, .ridge = 1, .threads = 1};
  struct halut_learned p;
  ck_assert_int_eq(halut_learn(NULL, a, ROWS, 1, b, 1, NULL, &options, &p, NULL), 0);
  ck_assert_uint_eq(p.threshold[1], 0);
  ck_assert_uint_eq(p.threshold[2], 255);
  ck_assert_uint_eq(p.threshold[3], 1);
  halut_learned_free(&p);
  ck_assert_int_eq(halut_learn(whole, NULL, ROWS, 1, b, 1, NULL, &options, &p, NULL), 0);
  ck_assert_uint_eq(p.threshold[1], 127);
  ck_assert_float_eq(p.low[0],
                     0.5f - 0.5f * 2.0f); /* the middle of 0 and 1 less half of the range */
  halut_learned_free(&p);
}
END_TEST

/* Splits by the output's error serve the output better when B weighs columns differently. */
START_TEST(splits_by_output_lower_the_error_of_the_output) {
  struct setting s = {NORMAL, 0, 0, 3000, 24, 4, 4, .ridge = 1, .heldout = .3};
  struct data d = data_make(&s);
  for (size_t i = 0; i < s.columns * s.outputs; i++)
    d.b[i] *= i / s.outputs % 6 < 2 ? 3.0f : 0.1f;
  struct halut_learned by_input, by_output;
  ck_assert_int_eq(data_learn(&s, &d, 1, &by_input, NULL), 0);
  s.by_output = 1;
  ck_assert_int_eq(data_learn(&s, &d, 1, &by_output, NULL), 0);
  ck_assert_double_lt(by_output.mse, 0.8 * by_input.mse);
  halut_learned_free(&by_input);
  halut_learned_free(&by_output);
  data_free(&d);
}
END_TEST

/* A ReLU's zeros are told from the smallest positive value, whatever the spread of the other
 * thresholds of the level: column 0 parts the rows in two groups, in one of which column 1 is 0 or
 * tiny, in the other 0 to 1000. */
START_TEST(parts_zeros_from_small_values) {
  enum { ROWS = 400 };
  float a[ROWS][2], b[2] = {1.0f, 1.0f}, target[ROWS], y[ROWS];
  for (size_t i = 0; i < ROWS; i++) {
    a[i][0] = i % 2 ? 5000.0f : 0.0f;
    a[i][1] = i % 4 < 2 ? 0.0f : i % 2 ? 1000.0f * random_unit() : 1e-3f;
    target[i] = i % 4 ? 0.0f : -1000.0f;
  }
  struct halut_learn_options options = {.codebooks = 1, .ridge = 0, .threads = 1};
  struct halut_learned p;
  ck_assert_int_eq(halut_learn(*a, NULL, ROWS, 2, b, 1, target, &options, &p, NULL), 0);
  halut_learned_apply(&p, *a, ROWS, y);
  for (size_t i = 0; i < ROWS; i++)
    ck_assert_msg(fabsf(y[i] - target[i]) < 10.0f, "row %zu: %g is due, %g came", i,
                  (double)target[i], (double)y[i]);
  halut_learned_free(&p);
}
END_TEST

START_TEST(the_file_runs_and_replays_its_example) {
  const struct setting s = {RELU, _i, 0, 500, 21, 9, 4, .ridge = 1, .by_output = 1};
  struct data d = data_make(&s);
  for (size_t i = 0; s.whole && i < s.rows * s.columns; i++)
    d.a[i] = (float)d.a_u8[i];
  struct halut_learned p;
  struct halut_diag diag = {0};
  char path[] = "/tmp/check_learn.XXXXXX";
  int fd = mkstemp(path);
  ck_assert_int_ge(fd, 0);
  close(fd);
  ck_assert_int_eq(data_learn(&s, &d, 2, &p, NULL), 0);
  ck_assert_msg(!halut_learned_write(&p, path, "x", 1, "said", d.a, 16, &diag), "%s", diag.text);
  struct halut_model *model;
  ck_assert_msg(!halut_model_open(path, &model, &diag), "%s", diag.text);
  struct halut_session *session;
  ck_assert_int_eq(halut_session_open(model, &halut_backend_cpu, NULL, 100, &session, NULL), 0);
  struct halut_tensor in, golden, out;
  ck_assert_int_eq(halut_model_golden(model, &in, &golden), 0);
  ck_assert_uint_eq(in.dim[0], 16);
  float y[16 * 9];
  out = golden;
  out.data = y;
  ck_assert_int_eq(halut_session_run(session, &in, &out, NULL), 0);
  ck_assert(!memcmp(y, golden.data, sizeof y));
  ck_assert_double_eq_tol(halut_model_info(model)->heldout_nmse, p.mse / p.variance, 1e-8);
  halut_session_close(session);
  halut_model_close(model);
  halut_learned_free(&p);
  data_free(&d);
  unlink(path);
}
END_TEST

/* Held-out rows that hardly differ make the share of their variance that is lost enormous. */
START_TEST(a_file_tells_no_share_that_it_could_not_read) {
  const struct setting s = {NORMAL, 0, 0, 100, 4, 2, 2, .ridge = 1};
  struct data d = data_make(&s);
  struct halut_learned p;
  struct halut_diag diag = {0};
  struct halut_model *model;
  char path[] = "/tmp/check_learn.XXXXXX";
  int fd = mkstemp(path);
  ck_assert_int_ge(fd, 0);
  close(fd);
  ck_assert_int_eq(data_learn(&s, &d, 1, &p, NULL), 0);
  for (p.variance = p.mse; p.variance > 1e-60; p.variance *= 1e-20) {
    ck_assert_msg(!halut_learned_write(&p, path, "x", 1, NULL, d.a, 0, &diag), "%s", diag.text);
    ck_assert_msg(!halut_model_open(path, &model, &diag), "%s", diag.text);
    halut_model_close(model);
  }
  halut_learned_free(&p);
  data_free(&d);
  unlink(path);
}
END_TEST

/* ---- errors ---- */

struct stop {
  const char *phase;
  int calls;
};

static int stop_there(void *self, const char *phase, size_t done, size_t total) {
  struct stop *stop = self;
  ck_assert_uint_le(done, total);
  stop->calls++;
  return strcmp(phase, stop->phase) == 0;
}

START_TEST(can_be_canceled_in_every_phase) {
  static const char *const phase[] = {"checking",     "multiplying",    "growing trees",
                                      "encoding",     "counting codes", "summing targets",
                                      "bucket means", "residuals",      "factorising",
                                      "solving",      "measuring"};
  const struct setting s = {NORMAL, 0, 0, 600, 8, 3, 2, .ridge = 1};
  struct data d = data_make(&s);
  for (size_t i = 0; i < sizeof phase / sizeof *phase; i++) {
    struct stop stop = {.phase = phase[i]};
    struct halut_learn_options options = {
        .codebooks = 2, .ridge = 1, .threads = 2, .progress = stop_there, .self = &stop};
    struct halut_learned learned;
    struct halut_diag diag = {0};
    int error =
        halut_learn(d.a, NULL, s.rows, s.columns, d.b, s.outputs, NULL, &options, &learned, &diag);
    ck_assert_msg(error == HALUT_ECANCELED, "phase %s: %d", phase[i], error);
    ck_assert_str_eq(diag.text, "learning was canceled");
    ck_assert_int_gt(stop.calls, 0);
  }
  data_free(&d);
}
END_TEST

struct early_stop {
  const char *phase;
  int left; /* times it goes on while the first step is not done */
  int after;
};

static int stop_within(void *self, const char *phase, size_t done, size_t total) {
  struct early_stop *stop = self;
  (void)total;
  if (strcmp(phase, stop->phase) != 0 || done > 0)
    return 0;
  stop->after += stop->left <= 0;
  return stop->left-- <= 0;
}

/* One codebook is one step, and so is the factorisation. */
START_TEST(reads_the_quota_of_a_control_group) {
  static const struct {
    const char *text;
    uint32_t processors;
  } cases[] = {{"max 100000\n", UINT32_MAX}, {"200000 100000\n", 2}, {"150000 100000\n", 2},
               {"1000 100000\n", 1},         {"", UINT32_MAX},       {"100000 0\n", UINT32_MAX}};
  char path[] = "/tmp/halut-quota-XXXXXX";
  int file = mkstemp(path);
  ck_assert_int_ge(file, 0);
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    ck_assert_int_eq(ftruncate(file, 0), 0);
    ck_assert_int_eq(pwrite(file, cases[i].text, strlen(cases[i].text), 0),
                     (ssize_t)strlen(cases[i].text));
    ck_assert_msg(halut_cpu_quota(path) == cases[i].processors, "%s", cases[i].text);
  }
  close(file);
  unlink(path);
  ck_assert_uint_eq(halut_cpu_quota(path), UINT32_MAX);
}
END_TEST

START_TEST(can_be_canceled_within_a_long_step) {
  static const struct early_stop stops[] = {{"growing trees", 2, 0},   /* centring */
                                            {"growing trees", 6, 0},   /* the first level */
                                            {"growing trees", 100, 0}, /* the last */
                                            {"factorising", 2, 0}};
  for (size_t i = 0; i < sizeof stops / sizeof *stops; i++) {
    struct early_stop stop = stops[i];
    bool is_tree = stop.phase[0] == 'g';
    const struct setting s = {NORMAL,
                              0,
                              0,
                              is_tree ? 4000 : 400,
                              is_tree ? 40 : 140,
                              3,
                              is_tree ? 1 : 140,
                              .ridge = 1,
                              .by_output = 1};
    struct data d = data_make(&s);
    struct halut_learn_options options = {.codebooks = s.codebooks,
                                          .ridge = 1,
                                          .threads = 1,
                                          .by_output = 1,
                                          .progress = stop_within,
                                          .self = &stop};
    struct halut_learned learned = {0};
    int error =
        halut_learn(d.a, NULL, s.rows, s.columns, d.b, s.outputs, NULL, &options, &learned, NULL);
    ck_assert_msg(error == HALUT_ECANCELED, "%s: %d", stop.phase, error);
    ck_assert_int_le(stop.after, 2);
    data_free(&d);
  }
}
END_TEST

struct watch {
  double share;
  size_t before, peak;
  int calls;
};

/* The sanitizers' allocators tell mallinfo2 nothing. */
#if defined __SANITIZE_ADDRESS__ || defined __SANITIZE_THREAD__
enum { MEMORY_IS_TOLD = 0 };
#else
enum { MEMORY_IS_TOLD = 1 };
#endif

static size_t held_now(void) {
  struct mallinfo2 info = mallinfo2();
  return info.uordblks + info.hblkhd;
}

static int watch_there(void *self, const char *phase, size_t done, size_t total) {
  struct watch *watch = self;
  double share = halut_learn_share(phase, done, total);
  size_t held = held_now() - watch->before;
  ck_assert_msg(share >= watch->share && share <= 1.0, "%s %zu of %zu: %g after %g", phase, done,
                total, share, watch->share);
  watch->share = share;
  watch->peak = held > watch->peak ? held : watch->peak;
  watch->calls++;
  return 0;
}

START_TEST(tells_how_far_it_is_and_how_much_it_takes) {
  static const uint32_t codebooks[] = {1, 4, 40};
  const struct setting s = {NORMAL, 0, 0, 3000, 40, 30, 1, .ridge = 1, .by_output = 1};
  struct data d = data_make(&s);
  for (size_t i = 0; i < 3; i++) {
    struct watch watch = {.before = held_now()};
    struct halut_learn_options options = {.codebooks = codebooks[i],
                                          .ridge = 1,
                                          .threads = 1,
                                          .by_output = 1,
                                          .progress = watch_there,
                                          .self = &watch};
    struct halut_learned learned;
    ck_assert_int_eq(
        halut_learn(d.a, NULL, s.rows, s.columns, d.b, s.outputs, NULL, &options, &learned, NULL),
        0);
    ck_assert(watch.share == 1.0 && watch.calls > 20);
    size_t told = halut_learn_bytes(s.rows, s.columns, s.outputs, &options);
    if (MEMORY_IS_TOLD)
      ck_assert_msg(watch.peak <= told + 65536 && watch.peak >= told / 3, "%u: %zu, told %zu",
                    codebooks[i], watch.peak, told);
    halut_learned_free(&learned);
  }
  ck_assert(halut_learn_share("no such phase", 1, 1) == 0.0);
  data_free(&d);
}
END_TEST

static void refused(const struct setting *s, const struct data *d, int error, const char *text) {
  struct halut_learned learned;
  struct halut_diag diag = {0};
  ck_assert_int_eq(data_learn(s, d, 1, &learned, &diag), error);
  ck_assert_str_eq(diag.text, text);
}

START_TEST(names_the_value_that_is_not_finite) {
  const struct setting s = {NORMAL, 0, 0, 600, 7, 3, 2, .ridge = 1, .target = 1};
  struct data d = data_make(&s);
  d.a[523 * 7 + 4] = NAN;
  d.a[599 * 7 + 6] = INFINITY;
  refused(&s, &d, HALUT_EINVALID,
          "a, row 523, column 4 (from 0) is nan: every value must be finite");
  d.target[5 * 3 + 1] = -INFINITY;
  refused(&s, &d, HALUT_EINVALID,
          "target, row 5, column 1 (from 0) is -inf: every value must be finite");
  d.b[6 * 3 + 2] = INFINITY;
  refused(&s, &d, HALUT_EINVALID, "b, row 6, column 2 (from 0) is inf: every value must be finite");
  data_free(&d);
  d = data_make(&s);
  d.a[7 * 7 + 2] = -3e38f; /* its range would be no float32 */
  refused(&s, &d, HALUT_EINVALID,
          "a, row 7, column 2 (from 0) is -3e+38: values from -1e+37 to 1e+37 are possible");
  data_free(&d);
}
END_TEST

START_TEST(refuses_what_float32_cannot_hold) {
  const struct setting s = {NORMAL, 0, 0, 600, 7, 3, 2, .ridge = 1, .target = 1};
  struct data d = data_make(&s);
  struct halut_learned learned;
  struct halut_diag diag = {0};
  for (size_t i = 0; i < (size_t)s.columns * s.outputs; i++)
    d.b[i] = 1e20f;
  d.a[5] = 1e20f;
  ck_assert_int_eq(data_learn(&s, &d, 1, &learned, &diag), HALUT_EINVALID);
  ck_assert_str_eq(diag.text,
                   "a times b may reach 7e+40, which is beyond float32: scale them down");
  d.a[5] = 1e10f;
  ck_assert_int_eq(data_learn(&s, &d, 1, &learned, &diag), HALUT_OK);
  halut_learned_free(&learned);
  data_free(&d);
}
END_TEST

/* Columns whose step would be 0 count as 0, and what is reported is a number. */
START_TEST(takes_values_of_all_sizes) {
  const struct setting s = {NORMAL, 0, 0, 600, 7, 3, 2, .ridge = 1};
  const float scales[] = {1e-45f, 1e-38f, 1e-30f, 1e37f};
  for (size_t i = 0; i < sizeof scales / sizeof scales[0]; i++) {
    struct data d = data_make(&s);
    struct halut_learned learned;
    for (size_t j = 0; j < (size_t)s.rows * s.columns; j++)
      d.a[j] = fmaxf(-1.0f, fminf(1.0f, d.a[j])) * scales[i];
    for (size_t j = 0; j < (size_t)s.columns * s.outputs; j++)
      d.b[j] *= j % s.outputs == 1 ? 1e-45f : 1e-3f;
    ck_assert_int_eq(data_learn(&s, &d, 1, &learned, NULL), 0);
    ck_assert(isfinite(learned.mse) && isfinite(learned.mse_float) && isfinite(learned.mse_int8));
    for (size_t c = 0; c < (size_t)learned.codebooks * HALUT_LEVELS; c++)
      ck_assert(isfinite(learned.low[c]) && isfinite(learned.inverse[c]));
    halut_learned_free(&learned);
    data_free(&d);
  }
}
END_TEST

START_TEST(names_the_option_that_is_wrong) {
  struct setting s = {NORMAL, 0, 0, 20, 7, 3, 8, .ridge = 1};
  struct data d = data_make(&s);
  refused(&s, &d, HALUT_EINVALID, "8 codebooks: 1 to 7 (the columns of a) are possible");
  s.codebooks = 0;
  refused(&s, &d, HALUT_EINVALID, "0 codebooks: 1 to 7 (the columns of a) are possible");
  s.codebooks = 2;
  s.prototypes = 12;
  refused(&s, &d, HALUT_EINVALID, "12 prototypes: 2, 4, 8 or 16 are possible");
  s.prototypes = 0;
  s.ridge = -1;
  refused(&s, &d, HALUT_EINVALID, "ridge is -1: it must be finite and at least 0");
  s.ridge = (double)NAN;
  refused(&s, &d, HALUT_EINVALID, "ridge is nan: it must be finite and at least 0");
  s.ridge = 1;
  s.heldout = .6;
  refused(&s, &d, HALUT_EINVALID, "heldout is 0.6: it must be from 0 to 0.5");
  s.heldout = 0;
  s.rows = 0;
  refused(&s, &d, HALUT_ELIMIT, "a has 0 rows: 1 to 2147483647 are possible");
  s.rows = 20;
  s.outputs = HALUT_OUTPUTS_MAX + 1;
  refused(&s, &d, HALUT_ELIMIT, "b has 4097 outputs: 1 to 4096 are possible");
  data_free(&d);
}
END_TEST

START_TEST(refuses_a_bad_name) {
  const struct setting s = {NORMAL, 0, 0, 30, 7, 3, 2, .ridge = 1};
  struct data d = data_make(&s);
  struct halut_learned p;
  struct halut_diag diag = {0};
  ck_assert_int_eq(data_learn(&s, &d, 1, &p, NULL), 0);
  ck_assert_int_eq(halut_learned_write(&p, "/tmp/never", ".x", 1, NULL, d.a, 1, &diag),
                   HALUT_EINVALID);
  ck_assert_str_eq(diag.text,
                   "name \".x\": 1 to 63 of A-Z a-z 0-9 _ . - are possible, and no dot first");
  ck_assert_int_ne(access("/tmp/never", F_OK), 0);
  halut_learned_free(&p);
  data_free(&d);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("learn");
  TCase *tcase = tcase_create("learn");
  const char *seed = getenv("HALUT_SEED");
  random_state = seed ? strtoull(seed, NULL, 0) : 1;
  printf("seed %" PRIu64 "\n", random_state);
  suite_add_tcase(suite, tcase);
  tcase_set_timeout(tcase, 60);
  if (reference_runs())
    tcase_add_loop_test(tcase, equals_the_reference, 0, SETTINGS);
  tcase_add_loop_test(tcase, gives_the_same_bytes_for_any_number_of_threads, 0, 2);
  tcase_add_test(tcase, takes_as_many_threads_as_processors_it_may_use);
  tcase_add_test(tcase, reads_the_quota_of_a_control_group);
  tcase_add_test(tcase, the_seed_chooses_the_rows_of_the_trees);
  tcase_add_test(tcase, reports_the_error_of_what_is_served);
  tcase_add_test(tcase, learns_the_uniform_example);
  tcase_add_test(tcase, splits_by_output_lower_the_error_of_the_output);
  tcase_add_test(tcase, parts_zeros_from_small_values);
  tcase_add_loop_test(tcase, the_file_runs_and_replays_its_example, 0, 2);
  tcase_add_test(tcase, a_file_tells_no_share_that_it_could_not_read);
  tcase_add_test(tcase, can_be_canceled_in_every_phase);
  tcase_add_test(tcase, can_be_canceled_within_a_long_step);
  tcase_add_test(tcase, tells_how_far_it_is_and_how_much_it_takes);
  TCase *quick = tcase_create("quick"); /* CK_RUN_CASE=quick runs these alone */
  suite_add_tcase(suite, quick);
  tcase_add_test(quick, the_lowest_boundary_wins_a_tie);
  tcase_add_test(quick, names_the_value_that_is_not_finite);
  tcase_add_test(quick, takes_values_of_all_sizes);
  tcase_add_test(quick, refuses_what_float32_cannot_hold);
  tcase_add_test(quick, names_the_option_that_is_wrong);
  tcase_add_test(quick, refuses_a_bad_name);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner), ran = srunner_ntests_run(runner);
  srunner_free(runner);
  int skipped = reference_runs() ? 0 : SETTINGS;
  if (skipped)
    puts("skip: comparison with tests/learn_reference.py: /usr/bin/python3 has no numpy");
  printf("%d passed, %d failed, %d skipped\n", ran - failed, failed, skipped);
  return failed != 0;
}
