/* test: tallies: one a model, version and backend, and no more than so many */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>

#include "../server/metrics.h"

START_TEST(tallies_are_found_again_and_have_an_end) {
  struct halut_metrics *metrics = calloc(1, sizeof *metrics);
  ck_assert_ptr_nonnull(metrics);
  struct halut_tally *first = halut_metrics_tally(metrics, "m", 1, "cpu");
  ck_assert_ptr_eq(halut_metrics_tally(metrics, "m", 1, "cpu"), first);
  ck_assert_ptr_ne(halut_metrics_tally(metrics, "m", 1, "rtl"), first);
  for (uint32_t version = 2; version < HALUT_TALLIES_MAX; version++)
    ck_assert_uint_eq(halut_metrics_tally(metrics, "m", version, "cpu")->version, version);
  const uint32_t past = HALUT_TALLIES_MAX + 1;
  struct halut_tally *rest = halut_metrics_tally(metrics, "m", past, "cpu");
  ck_assert_str_eq(rest->model, "(others)");
  ck_assert_ptr_eq(halut_metrics_tally(metrics, "n", past, "cpu"), rest);
  ck_assert_ptr_ne(halut_metrics_tally(metrics, "n", past, "rtl"), rest);
  ck_assert_ptr_eq(halut_metrics_tally(metrics, "m", 1, "cpu"), first);
  ck_assert_uint_eq(metrics->tally_count, HALUT_TALLIES_MAX + 2);
  halut_metrics_close(metrics);
  free(metrics);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("metrics");
  TCase *all = tcase_create("all");
  tcase_add_test(all, tallies_are_found_again_and_have_an_end);
  suite_add_tcase(suite, all);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? 0 : 1;
}
