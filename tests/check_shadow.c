/* check_shadow.c: jobs computed again on the other backend, which here may lie, fail or wait. Runs
 * from the top folder. */
#include <check.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>

#include "../models/rows.h"
#include "../server/shadow.h"

enum { ROWS = 9, LIE = 1000000 };

/* ---- the other backend ---- */

static struct {
  bool lies, fails, waits;
  sem_t entered, leave; /* of a waiting call */
  size_t rows;          /* of the last call */
} other;

static int other_product(struct halut_backend *backend, uint32_t handle, const uint8_t *value,
                         size_t rows, int32_t *acc, struct halut_stats *stats) {
  if (other.waits) {
    sem_post(&other.entered);
    sem_wait(&other.leave);
  }
  other.rows = rows;
  if (other.fails)
    return HALUT_EDEVICE;
  int error = halut_backend_cpu.product(backend, handle, value, rows, acc, stats);
  if (other.lies)
    acc[0] += LIE;
  return error;
}

/* ---- a catalogue of golden models on both, a loop, a job that was answered ---- */

static struct halut_backend_ops ops;
static uv_loop_t loop;
static struct halut_catalog *catalog;
static struct halut_shadow *shadow;
static struct halut_metrics metrics;
static struct halut_job job;
static char said[256];

static void report(void *self, const char *text) {
  (void)self;
  snprintf(said, sizeof said, "%s", text);
}

static void open_all(uint64_t every) {
  static char lines[HALUT_REPORT_MAX];
  struct halut_diag diag = {0};
  uint32_t problems = 0;
  ops = halut_backend_cpu;
  ops.name = "other";
  ops.product = other_product;
  ops.conv = NULL;
  ops.matmul = NULL; /* so that a product goes through other_product */
  sem_init(&other.entered, 0, 0);
  sem_init(&other.leave, 0, 0);
  struct halut_catalog_options options = {.directory = "models/golden",
                                          .backends = {&halut_backend_cpu, &ops},
                                          .backend_count = 2,
                                          .workers = 1,
                                          .batch_max = 3};
  ck_assert_int_eq(halut_catalog_open(&options, NULL, &catalog, &problems, lines, &diag), 0);
  ck_assert_int_eq(uv_loop_init(&loop), 0);
  struct halut_shadow_options how = {.every = every, .metrics = &metrics, .report = report};
  ck_assert_int_eq(halut_shadow_open(&loop, &how, &shadow, &diag), 0);
}

/* Answers ROWS rows of a model on backend 0, as a worker would have. */
static void answer(enum halut_kind kind, const char *name) {
  struct halut_tensor in, out;
  job = (struct halut_job){.catalog = catalog, .rows = ROWS};
  job.entry = halut_catalog_find(catalog, kind, name, 0, NULL);
  ck_assert_ptr_nonnull(job.entry);
  job.in = calloc(ROWS, job.entry->in_bytes);
  job.out = calloc(ROWS, job.entry->out_bytes);
  ck_assert_int_eq(halut_model_golden(job.entry->model, &in, &out), 0);
  memcpy(job.in, in.data, job.entry->in_bytes);
  struct halut_rows rows = {job.entry->seats[0].session[0], job.entry->info, 3};
  ck_assert_int_eq(halut_rows_run(&rows, job.in, ROWS, job.out, NULL), 0);
}

static uint64_t ended(void) {
  return metrics.shadow_runs + metrics.shadow_dropped + metrics.shadow_failures;
}

static void run_until(uint64_t count) {
  while (ended() < count)
    uv_run(&loop, UV_RUN_ONCE);
}

static void close_all(void) {
  halut_shadow_close(shadow);
  ck_assert_int_eq(uv_run(&loop, UV_RUN_DEFAULT), 0);
  ck_assert_int_eq(uv_loop_close(&loop), 0);
  ck_assert_uint_eq(catalog->references, 1); /* no sample holds it any more */
  halut_catalog_drop(catalog);
  free(job.in);
  free(job.out);
}

/* ---- cases ---- */

START_TEST(runs_one_in_so_many) {
  open_all(3);
  answer(HALUT_PRODUCT, "golden-product-small");
  for (int i = 0; i < 7; i++)
    halut_shadow_offer(shadow, &job);
  run_until(2);
  ck_assert_uint_eq(metrics.shadow_runs, 2);
  ck_assert_uint_eq(metrics.comparisons, 2);
  ck_assert_uint_eq(metrics.mismatches, 0);
  ck_assert_uint_eq(metrics.shadow_dropped, 0);
  ck_assert_uint_eq(other.rows, HALUT_SHADOW_ROWS_MAX - 3); /* of ROWS, four, in batches of three */
  ck_assert_str_eq(said, "");
  close_all();
}
END_TEST

START_TEST(tells_a_lie_of_a_product) {
  open_all(1);
  answer(HALUT_PRODUCT, "golden-product-small");
  other.lies = true;
  halut_shadow_offer(shadow, &job);
  run_until(1);
  ck_assert_uint_eq(metrics.shadow_runs, 1);
  ck_assert_uint_eq(metrics.mismatches, 1);
  ck_assert_ptr_nonnull(strstr(said, "model golden-product-small: output element 0 is"));
  ck_assert_ptr_nonnull(strstr(said, " on cpu, "));
  close_all();
}
END_TEST

START_TEST(tells_the_layer_of_a_lie) {
  open_all(1);
  answer(HALUT_NETWORK, "golden-residual");
  other.lies = true;
  halut_shadow_offer(shadow, &job);
  run_until(1);
  ck_assert_uint_eq(metrics.mismatches, 1);
  ck_assert_ptr_nonnull(strstr(said, "model golden-residual: halut"));
  close_all();
}
END_TEST

/* The answer was wrong, but its backend computes it rightly now. */
START_TEST(tells_an_answer_that_does_not_come_again) {
  open_all(1);
  answer(HALUT_PRODUCT, "golden-product-small");
  ((float *)job.out)[1] += 1;
  halut_shadow_offer(shadow, &job);
  run_until(1);
  ck_assert_uint_eq(metrics.mismatches, 1);
  ck_assert_ptr_nonnull(
      strstr(said, "an answer of cpu differs from other, and did not come again"));
  close_all();
}
END_TEST

START_TEST(counts_a_backend_that_fails) {
  open_all(1);
  answer(HALUT_PRODUCT, "golden-product-small");
  other.fails = true;
  halut_shadow_offer(shadow, &job);
  run_until(1);
  ck_assert_uint_eq(metrics.shadow_failures, 1);
  ck_assert_uint_eq(metrics.shadow_runs + metrics.mismatches, 0);
  ck_assert_ptr_nonnull(strstr(said, "accelerator fault"));
  close_all();
}
END_TEST

/* One job is being computed and waits in the backend, as many as fit wait for it. */
static void fill_queue(void) {
  other.waits = true;
  halut_shadow_offer(shadow, &job);
  uv_run(&loop, UV_RUN_NOWAIT); /* the worker is woken before the loop waits */
  sem_wait(&other.entered);
  for (int i = 0; i < HALUT_SHADOW_QUEUE_MAX; i++)
    halut_shadow_offer(shadow, &job);
}

/* One runs, so many wait, the rest is dropped at once; none of it waits for the backend. */
START_TEST(drops_what_does_not_fit) {
  open_all(1);
  answer(HALUT_PRODUCT, "golden-product-small");
  fill_queue();
  ck_assert_uint_eq(metrics.shadow_dropped, 0);
  for (int i = 0; i < 5; i++)
    halut_shadow_offer(shadow, &job);
  ck_assert_uint_eq(metrics.shadow_dropped, 5);
  for (int i = 0; i < 2 * (HALUT_SHADOW_QUEUE_MAX + 1); i++) /* two batches each */
    sem_post(&other.leave);
  run_until(5 + HALUT_SHADOW_QUEUE_MAX + 1);
  ck_assert_uint_eq(metrics.shadow_runs, HALUT_SHADOW_QUEUE_MAX + 1);
  close_all();
}
END_TEST

/* At the end, what runs is waited for and what waits is not run. */
START_TEST(closes_over_a_full_queue) {
  open_all(1);
  answer(HALUT_PRODUCT, "golden-product-small");
  fill_queue();
  halut_shadow_close(shadow);
  sem_post(&other.leave);
  sem_post(&other.leave);
  ck_assert_int_eq(uv_run(&loop, UV_RUN_DEFAULT), 0);
  shadow = NULL;
  ck_assert_uint_eq(metrics.shadow_runs, 1);
  ck_assert_uint_eq(metrics.shadow_dropped, HALUT_SHADOW_QUEUE_MAX);
  close_all();
}
END_TEST

START_TEST(drops_a_row_that_is_too_large) {
  open_all(1);
  answer(HALUT_PRODUCT, "golden-product-small");
  struct halut_entry large = *job.entry;
  large.in_bytes = HALUT_SHADOW_BYTES_MAX + 1;
  struct halut_job big = job;
  big.entry = &large;
  halut_shadow_offer(shadow, &big);
  ck_assert_uint_eq(metrics.shadow_dropped, 1);
  halut_shadow_offer(NULL, &job);
  close_all();
}
END_TEST

int main(void) {
  Suite *suite = suite_create("shadow");
  TCase *cases = tcase_create("shadow");
  tcase_set_timeout(cases, 60);
  tcase_add_test(cases, runs_one_in_so_many);
  tcase_add_test(cases, tells_a_lie_of_a_product);
  tcase_add_test(cases, tells_the_layer_of_a_lie);
  tcase_add_test(cases, tells_an_answer_that_does_not_come_again);
  tcase_add_test(cases, counts_a_backend_that_fails);
  tcase_add_test(cases, drops_what_does_not_fit);
  tcase_add_test(cases, closes_over_a_full_queue);
  tcase_add_test(cases, drops_a_row_that_is_too_large);
  suite_add_tcase(suite, cases);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
