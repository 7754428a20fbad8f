/* test: the batching policy under random arrivals on a made-up clock */
#include <check.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../core/halut.h"
#include "../server/batcher.h"

static uint64_t seed = 0x9e3779b97f4a7c15u;

static uint64_t random_bits(void) { /* splitmix64 */
  uint64_t z = seed += 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

static uint32_t random_below(uint32_t limit) {
  return (uint32_t)(random_bits() % limit);
}

static struct halut_batcher *open_with(uint32_t lanes, uint32_t batch_max, uint32_t queue_max) {
  struct halut_batch_limits limits = {
      .lanes = lanes, .batch_max = batch_max, .queue_max = queue_max};
  struct halut_batcher *batcher = NULL;
  ck_assert_int_eq(halut_batcher_open(&limits, &batcher), 0);
  return batcher;
}

static int submit_to(struct halut_batcher *batcher, struct halut_item *item, uint32_t lane) {
  *item = (struct halut_item){.lane = lane, .arrived_ns = 0, .deadline_ns = UINT64_MAX};
  return halut_batcher_submit(batcher, item, 0);
}

START_TEST(refuses_impossible_limits) {
  static const struct halut_batch_limits bad[] = {
      {0, 1, 1}, {HALUT_LANES_MAX + 1, 1, 1}, {1, 0, 1}, {1, HALUT_TAKE_MAX + 1, 1}, {1, 1, 0}};
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
    struct halut_batcher *batcher = NULL;
    ck_assert_int_eq(halut_batcher_open(&bad[i], &batcher), HALUT_EINVALID);
    ck_assert_ptr_null(batcher);
  }
  halut_batcher_close(NULL);
}
END_TEST

START_TEST(fills_a_lane_exactly_to_its_limit) {
  struct halut_batcher *batcher = open_with(2, 4, 3);
  struct halut_item items[5], *taken[HALUT_TAKE_MAX];
  for (int i = 0; i < 3; i++)
    ck_assert_int_eq(submit_to(batcher, &items[i], 0), 0);
  ck_assert_int_eq(submit_to(batcher, &items[3], 0), HALUT_EBUSY);
  ck_assert_int_eq(submit_to(batcher, &items[4], 1), 0); /* the other lane has room of its own */
  ck_assert_uint_eq(halut_batcher_waiting(batcher), 4);
  ck_assert_uint_eq(halut_batcher_lane_waiting(batcher, 0), 3);
  ck_assert_uint_eq(halut_batcher_take(batcher, 0, 0, taken), 3);
  ck_assert_int_eq(submit_to(batcher, &items[3], 0), 0);
  ck_assert_uint_eq(halut_batcher_take(batcher, 0, 0, taken), 1);
  ck_assert_uint_eq(halut_batcher_take(batcher, 0, 0, taken), 1);
  ck_assert_uint_eq(halut_batcher_take(batcher, 0, 0, taken), 0);
  halut_batcher_close(batcher);
}
END_TEST

START_TEST(refuses_what_is_late_already) {
  struct halut_batcher *batcher = open_with(1, 1, 1);
  struct halut_item item = {.deadline_ns = 100};
  ck_assert_int_eq(halut_batcher_submit(batcher, &item, 100), HALUT_ETIMEOUT);
  ck_assert_uint_eq(halut_batcher_waiting(batcher), 0);
  ck_assert_int_eq(halut_batcher_submit(batcher, &item, 99), 0);
  struct halut_item *taken[HALUT_TAKE_MAX];
  ck_assert_uint_eq(halut_batcher_take(batcher, 100, 0, taken), 1);
  ck_assert_int_eq(item.status, HALUT_ETIMEOUT);
  halut_batcher_close(batcher);
}
END_TEST

START_TEST(leaves_a_share_for_idle_workers) {
  struct halut_batcher *batcher = open_with(1, 64, 64);
  struct halut_item items[10], *taken[HALUT_TAKE_MAX];
  for (int i = 0; i < 10; i++)
    ck_assert_int_eq(submit_to(batcher, &items[i], 0), 0);
  ck_assert_uint_eq(halut_batcher_take(batcher, 0, 2, taken), 4); /* of 10, for 3 workers */
  ck_assert_uint_eq(halut_batcher_take(batcher, 0, 1, taken), 3);
  ck_assert_uint_eq(halut_batcher_take(batcher, 0, 0, taken), 3);
  ck_assert_int_eq(submit_to(batcher, &items[0], 0), 0);
  ck_assert_uint_eq(halut_batcher_take(batcher, 0, 100, taken), 1); /* never none of one */
  halut_batcher_close(batcher);
}
END_TEST

START_TEST(late_items_do_not_use_up_the_batch) {
  struct halut_batcher *batcher = open_with(1, 2, 64);
  struct halut_item items[6], *taken[HALUT_TAKE_MAX];
  for (int i = 0; i < 6; i++) {
    items[i] = (struct halut_item){.deadline_ns = i < 3 ? 10u : 1000u};
    ck_assert_int_eq(halut_batcher_submit(batcher, &items[i], 0), 0);
  }
  ck_assert_uint_eq(halut_batcher_take(batcher, 10, 0, taken), 5); /* three late ones and two */
  for (int i = 0; i < 5; i++) {
    ck_assert_ptr_eq(taken[i], &items[i]);
    ck_assert_int_eq(items[i].status, i < 3 ? HALUT_ETIMEOUT : HALUT_OK);
  }
  ck_assert_uint_eq(halut_batcher_take(batcher, 10, 0, taken), 1);
  halut_batcher_close(batcher);
}
END_TEST

START_TEST(lanes_take_turns) {
  struct halut_batcher *batcher = open_with(3, 1, 64);
  struct halut_item flood[20], other, third, *taken[HALUT_TAKE_MAX];
  for (int i = 0; i < 20; i++)
    ck_assert_int_eq(submit_to(batcher, &flood[i], 0), 0);
  ck_assert_int_eq(submit_to(batcher, &other, 1), 0);
  ck_assert_int_eq(submit_to(batcher, &third, 2), 0);
  bool saw_other = false, saw_third = false;
  for (int i = 0; i < 3; i++) {
    ck_assert_uint_eq(halut_batcher_take(batcher, 0, 0, taken), 1);
    saw_other = saw_other || taken[0] == &other;
    saw_third = saw_third || taken[0] == &third;
  }
  ck_assert(saw_other);
  ck_assert(saw_third);
  while (halut_batcher_take(batcher, 0, 0, taken) > 0)
    continue;
  halut_batcher_close(batcher);
}
END_TEST

/* ---- the simulation: every item comes out once, in order of its lane, within the limits ---- */

enum { ITEMS = 20000 };

struct simulation {
  struct halut_batch_limits limits;
  struct halut_batcher *batcher;
  struct halut_item *items;               /* [ITEMS] */
  bool *is_out;                           /* [ITEMS] */
  uint32_t queued[HALUT_LANES_MAX];       /* what must be waiting */
  int64_t last_out[HALUT_LANES_MAX];      /* index of the item taken last */
  uint32_t turns_passed[HALUT_LANES_MAX]; /* takes since the lane, not empty, was served */
  uint64_t now_ns;
  uint32_t submitted, accepted, taken;
};

static void simulate_arrivals(struct simulation *s) {
  for (uint32_t n = random_below(12); n > 0 && s->submitted < ITEMS; n--) {
    struct halut_item *item = &s->items[s->submitted++];
    uint32_t lane = random_below(4) != 0 ? 0 : random_below(s->limits.lanes); /* a busy lane */
    *item = (struct halut_item){.lane = lane, .arrived_ns = s->now_ns, .status = 12345};
    item->deadline_ns = s->now_ns + random_below(400);
    int expected = item->deadline_ns <= s->now_ns           ? HALUT_ETIMEOUT
                   : s->queued[lane] >= s->limits.queue_max ? HALUT_EBUSY
                                                            : 0;
    ck_assert_int_eq(halut_batcher_submit(s->batcher, item, s->now_ns), expected);
    if (expected != 0)
      continue;
    s->queued[lane]++;
    s->accepted++;
  }
}

static void check_fairness(struct simulation *s, uint32_t lane) {
  for (uint32_t l = 0; l < s->limits.lanes; l++) {
    s->turns_passed[l] = l == lane || s->queued[l] == 0 ? 0 : s->turns_passed[l] + 1;
    ck_assert_uint_lt(s->turns_passed[l], s->limits.lanes);
  }
}

static void simulate_take(struct simulation *s) {
  struct halut_item *batch[HALUT_TAKE_MAX];
  uint32_t idle = random_below(4), fresh = 0, waiting = s->accepted - s->taken;
  memset(batch, 0, sizeof batch);
  uint32_t count = halut_batcher_take(s->batcher, s->now_ns, idle, batch);
  ck_assert_int_eq(count == 0, waiting == 0);
  if (count == 0)
    return;
  uint32_t lane = batch[0]->lane;
  uint32_t share = (s->queued[lane] + idle) / (idle + 1);
  for (uint32_t i = 0; i < count; i++) {
    int64_t index = batch[i] - s->items;
    ck_assert_uint_eq(batch[i]->lane, lane);
    ck_assert(!s->is_out[index]);
    ck_assert_int_gt(index, s->last_out[lane]); /* first come, first served */
    bool is_late = batch[i]->deadline_ns <= s->now_ns;
    ck_assert_int_eq(batch[i]->status, is_late ? HALUT_ETIMEOUT : HALUT_OK);
    s->is_out[index] = true;
    s->last_out[lane] = index;
    fresh += !is_late;
  }
  s->taken += count;
  s->queued[lane] -= count;
  ck_assert_uint_le(fresh, s->limits.batch_max);
  ck_assert_uint_le(fresh, share);
  /* Greedy: it stopped at a limit or at the end of the lane, not before. */
  ck_assert(fresh == s->limits.batch_max || fresh == share || s->queued[lane] == 0 ||
            count == HALUT_TAKE_MAX);
  check_fairness(s, lane);
}

static void check_counts(const struct simulation *s) {
  ck_assert_uint_eq(halut_batcher_waiting(s->batcher), s->accepted - s->taken);
  for (uint32_t l = 0; l < s->limits.lanes; l++)
    ck_assert_uint_eq(halut_batcher_lane_waiting(s->batcher, l), s->queued[l]);
}

static void simulate(struct halut_batch_limits limits) {
  struct simulation s = {.limits = limits, .now_ns = 1};
  s.batcher = open_with(limits.lanes, limits.batch_max, limits.queue_max);
  s.items = calloc(ITEMS, sizeof *s.items);
  s.is_out = calloc(ITEMS, sizeof *s.is_out);
  ck_assert_ptr_nonnull(s.items);
  ck_assert_ptr_nonnull(s.is_out);
  for (uint32_t l = 0; l < HALUT_LANES_MAX; l++)
    s.last_out[l] = -1;
  while (s.submitted < ITEMS || s.accepted > s.taken) {
    s.now_ns += random_below(40);
    if (random_below(2) == 0)
      simulate_arrivals(&s);
    else
      simulate_take(&s);
    check_counts(&s);
  }
  ck_assert_uint_gt(s.accepted, 0);
  halut_batcher_close(s.batcher);
  free(s.is_out);
  free(s.items);
}

START_TEST(loses_and_repeats_nothing) {
  static const struct halut_batch_limits limits[] = {
      {1, 1, 1}, {1, 8, 1000}, {2, 64, 256}, {3, 4, 7}, {HALUT_LANES_MAX, HALUT_TAKE_MAX, 65536}};
  for (size_t i = 0; i < sizeof limits / sizeof limits[0]; i++)
    simulate(limits[i]);
}
END_TEST

int main(void) {
  const char *given = getenv("HALUT_SEED");
  if (given != NULL)
    seed = strtoull(given, NULL, 0);
  printf("HALUT_SEED=%llu\n", (unsigned long long)seed);
  Suite *suite = suite_create("batcher");
  TCase *all = tcase_create("all");
  tcase_set_timeout(all, 60);
  tcase_add_test(all, refuses_impossible_limits);
  tcase_add_test(all, fills_a_lane_exactly_to_its_limit);
  tcase_add_test(all, refuses_what_is_late_already);
  tcase_add_test(all, leaves_a_share_for_idle_workers);
  tcase_add_test(all, late_items_do_not_use_up_the_batch);
  tcase_add_test(all, lanes_take_turns);
  tcase_add_test(all, loses_and_repeats_nothing);
  suite_add_tcase(suite, all);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? 0 : 1;
}
