/* test: scores ranked, logits as probabilities */
#include <check.h>
#include <math.h>
#include <stdlib.h>

#include "../server/ranking.h"

enum { COUNT_MAX = 70 };

static uint32_t random_next(uint32_t *state) {
  *state = *state * 1664525u + 1013904223u;
  return *state >> 8;
}

/* Few values among many keys give ties; each k is compared with picking the best one at a time. */
START_TEST(ranks_as_picking_one_at_a_time_does) {
  uint32_t state = 1;
  for (uint32_t count = 1; count <= COUNT_MAX; count++)
    for (uint32_t k = 1; k <= count; k += count / 7 + 1) {
      int32_t keys[COUNT_MAX];
      uint32_t order[COUNT_MAX];
      int taken[COUNT_MAX] = {0};
      for (uint32_t i = 0; i < count; i++)
        keys[i] = (int32_t)(random_next(&state) % (count % 2 == 0 ? 5u : 100000u)) - 3;
      halut_rank(keys, count, k, order);
      for (uint32_t place = 0; place < k; place++) {
        uint32_t best = count;
        for (uint32_t i = 0; i < count; i++)
          if (!taken[i] && (best == count || keys[i] > keys[best]))
            best = i;
        taken[best] = 1;
        ck_assert_msg(order[place] == best, "count %u k %u place %u", count, k, place);
      }
    }
}
END_TEST

START_TEST(float_keys_order_as_floats) {
  static const float values[] = {-INFINITY, -3.5f, -1e-42f, -0.0f, 0.0f, 1e-42f, 2.0f, INFINITY};
  enum { COUNT = sizeof values / sizeof values[0] };
  int32_t keys[COUNT];
  halut_rank_float_keys(values, COUNT, keys);
  for (size_t i = 1; i < COUNT; i++)
    ck_assert_int_lt(keys[i - 1], keys[i]);
}
END_TEST

START_TEST(softmax_survives_extreme_logits) {
  static const int32_t logits[] = {INT32_MAX, INT32_MAX - 1, 0, INT32_MIN};
  struct halut_softmax softmax = halut_softmax_of(logits, 4, 1.0f);
  double first = halut_softmax_at(&softmax, logits[0]);
  ck_assert_double_eq_tol(first, 1 / (1 + exp(-1)), 1e-12);
  ck_assert_double_eq_tol(halut_softmax_at(&softmax, logits[1]), 1 - first, 1e-12);
  ck_assert_double_eq(halut_softmax_at(&softmax, logits[3]), 0);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("ranking");
  TCase *all = tcase_create("all");
  tcase_add_test(all, ranks_as_picking_one_at_a_time_does);
  tcase_add_test(all, float_keys_order_as_floats);
  tcase_add_test(all, softmax_survives_extreme_logits);
  suite_add_tcase(suite, all);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? 0 : 1;
}
