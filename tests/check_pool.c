/* test: workers that have nothing to do help one that has, and go when work comes */
#include <check.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "../server/pool.h"

enum { WORKERS = 2, ITEMS = 300 };

static uv_loop_t loop;
static struct halut_pool *pool;
static struct halut_item items[ITEMS];
static uint32_t done;
static _Atomic int ran; /* items, whoever ran them */

static void on_done(struct halut_item *item) {
  (void)item;
  done++;
}

static void on_settled(void *self) { (void)self; }

static void submit(uint32_t index) {
  items[index] = (struct halut_item){.deadline_ns = UINT64_MAX, .done = on_done};
  ck_assert_int_eq(halut_pool_submit(pool, &items[index], 0), 0);
}

static void pool_start(uint32_t workers, bool lends,
                       void (*run)(void *, uint32_t, struct halut_item **, uint32_t)) {
  struct halut_diag diag = {0};
  struct halut_pool_options options = {.workers = workers,
                                       .lends = lends,
                                       .limits = {1, 1, ITEMS},
                                       .run = run,
                                       .settled = on_settled};
  ck_assert_int_eq(uv_loop_init(&loop), 0);
  ck_assert_int_eq(halut_pool_open(&loop, &options, &pool, &diag), 0);
  done = 0;
  atomic_store(&ran, 0);
}

static void pool_finish(uint32_t count) {
  while (done < count)
    uv_run(&loop, UV_RUN_ONCE);
  halut_pool_close(pool);
  ck_assert_int_eq(uv_run(&loop, UV_RUN_DEFAULT), 0);
  ck_assert_int_eq(uv_loop_close(&loop), 0);
}

/* ---- parts that only two threads can end ---- */

struct part {
  _Atomic bool begun;
  struct part *meets;
};

static void part_run(void *self) {
  struct part *part = self;
  atomic_store(&part->begun, true);
  while (!atomic_load(&part->meets->begun))
    sched_yield();
}

static void share_once(struct halut_helper *helper) {
  struct part own = {0}, other = {.meets = &own};
  own.meets = &other;
  ck_assert(halut_helper_share(helper, part_run, &own, &other));
}

/* Asks until a worker is idle, and waits until it has come. */
static struct halut_helper *helper_get(uint32_t worker) {
  struct halut_helper *helper;
  while ((helper = halut_pool_help(pool, worker)) == NULL)
    sched_yield();
  while (!halut_helper_is_served(helper))
    sched_yield();
  return helper;
}

/* ---- ---- */

static void run_shared(void *self, uint32_t worker, struct halut_item **taken, uint32_t count) {
  (void)self;
  ck_assert(taken[0]->status == 0 && count == 1);
  struct halut_helper *helper = helper_get(worker);
  share_once(helper);
  ck_assert_ptr_eq(halut_pool_help(pool, worker), helper); /* asked for again: the same */
  share_once(helper);
}

START_TEST(an_idle_worker_helps) {
  pool_start(WORKERS, true, run_shared);
  for (uint32_t i = 0; i < 20; i++) {
    submit(i);
    while (done <= i)
      uv_run(&loop, UV_RUN_ONCE);
  }
  pool_finish(20);
}
END_TEST

static void run_alone(void *self, uint32_t worker, struct halut_item **taken, uint32_t count) {
  (void)self;
  ck_assert(taken[0]->status == 0 && count == 1);
  ck_assert_ptr_null(halut_pool_help(pool, worker));
}

START_TEST(nobody_helps_where_there_is_nobody_or_it_is_off) {
  pool_start(1, true, run_alone);
  submit(0);
  pool_finish(1);
  pool_start(WORKERS, false, run_alone);
  submit(0);
  pool_finish(1);
}
END_TEST

static _Atomic bool is_helped; /* the first item is being computed by both */

/* The first item ends only when the second has been computed, by the worker that was helping. */
static void run_recalled(void *self, uint32_t worker, struct halut_item **taken, uint32_t count) {
  (void)self;
  ck_assert_uint_eq(count, 1);
  if (taken[0] == &items[0]) {
    struct halut_helper *helper = helper_get(worker);
    share_once(helper);
    atomic_store(&is_helped, true);
    while (atomic_load(&ran) == 0)
      sched_yield();
    ck_assert(!halut_helper_is_served(helper));
  }
  atomic_fetch_add(&ran, 1);
}

START_TEST(who_helps_is_recalled_when_work_comes) {
  atomic_store(&is_helped, false);
  pool_start(WORKERS, true, run_recalled);
  submit(0);
  uv_run(&loop, UV_RUN_NOWAIT); /* wakes a worker */
  while (!atomic_load(&is_helped))
    sched_yield();
  submit(1);
  pool_finish(2);
}
END_TEST

static void nothing(void *self) { (void)self; }

/* Asks, is helped or not, and is done, as requests that come one by one or together. */
static void run_any(void *self, uint32_t worker, struct halut_item **taken, uint32_t count) {
  (void)self;
  (void)taken;
  struct halut_helper *helper = halut_pool_help(pool, worker);
  for (int i = 0; i < 5; i++)
    if (halut_helper_is_served(helper))
      halut_helper_share(helper, nothing, NULL, NULL);
  atomic_fetch_add(&ran, (int)count);
}

START_TEST(nothing_is_lost_however_work_comes) {
  pool_start(WORKERS + 2, true, run_any);
  for (uint32_t i = 0; i < ITEMS; i++) {
    submit(i);
    if (i % 7 == 0)
      uv_run(&loop, UV_RUN_NOWAIT);
    while (i % 50 == 0 && done <= i)
      uv_run(&loop, UV_RUN_ONCE);
  }
  pool_finish(ITEMS);
  ck_assert_int_eq(atomic_load(&ran), ITEMS);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("pool");
  TCase *tests = tcase_create("pool");
  tcase_set_timeout(tests, 60);
  tcase_add_test(tests, an_idle_worker_helps);
  tcase_add_test(tests, nobody_helps_where_there_is_nobody_or_it_is_off);
  tcase_add_test(tests, who_helps_is_recalled_when_work_comes);
  tcase_add_test(tests, nothing_is_lost_however_work_comes);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_ENV);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
