/* test: two threads on one computation: what nobody began is taken back, who is dismissed leaves */
#include <check.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "../core/helper.h"

enum { PARTS = 2000 };

static struct halut_helper *helper;

static void open_helper(void) {
  struct halut_diag diag = {0};
  ck_assert_int_eq(halut_helper_open(&helper, &diag), 0);
}

static void close_helper(void) {
  halut_helper_close(helper);
}

/* A part that says who ran it; `meets`: it does not end before the other has begun. */
struct part {
  pthread_t by;
  int runs;
  _Atomic bool begun;
  struct part *meets;
  bool dismisses;
};

static void part_run(void *self) {
  struct part *part = self;
  part->by = pthread_self();
  part->runs++;
  atomic_store(&part->begun, true);
  if (part->dismisses)
    halut_helper_dismiss(helper);
  while (part->meets && !atomic_load(&part->meets->begun))
    sched_yield();
}

static void *serve(void *self) {
  (void)self;
  halut_helper_serve(helper);
  return NULL;
}

static bool is_mine(const struct part *part) {
  return pthread_equal(part->by, pthread_self()) != 0;
}

START_TEST(does_all_itself_where_nobody_serves) {
  struct part own = {0}, other = {0};
  ck_assert(!halut_helper_is_served(NULL));
  ck_assert(!halut_helper_is_served(helper));
  ck_assert(!halut_helper_share(helper, part_run, &own, &other));
  ck_assert(own.runs == 1 && other.runs == 1 && is_mine(&own) && is_mine(&other));
  halut_helper_dismiss(helper);
  ck_assert(!halut_helper_is_served(helper));
}
END_TEST

/* Each part waits for the other to begin: only two threads can end them. */
START_TEST(shares_with_a_thread_of_its_own) {
  struct halut_diag diag = {0};
  ck_assert_int_eq(halut_helper_staff(helper, &diag), 0);
  for (int i = 0; i < PARTS; i++) {
    struct part own = {0}, other = {.meets = &own};
    own.meets = &other;
    ck_assert(halut_helper_is_served(helper));
    ck_assert(halut_helper_share(helper, part_run, &own, &other));
    ck_assert(own.runs == 1 && other.runs == 1 && is_mine(&own) && !is_mine(&other));
  }
}
END_TEST

/* Who said that it would serve has not come: as a thread that the system does not run. */
START_TEST(takes_back_what_nobody_has_begun) {
  halut_helper_meet(helper);
  for (int i = 0; i < 3; i++) {
    struct part own = {0}, other = {0};
    ck_assert(halut_helper_is_served(helper));
    ck_assert(!halut_helper_share(helper, part_run, &own, &other));
    ck_assert(own.runs == 1 && other.runs == 1 && is_mine(&other));
  }
}
END_TEST

START_TEST(leaves_at_once_if_dismissed_before_it_came) {
  halut_helper_meet(helper);
  halut_helper_dismiss(helper);
  ck_assert(!halut_helper_is_served(helper));
  halut_helper_serve(helper); /* returns */
  halut_helper_meet(helper);  /* and may come again */
  ck_assert(halut_helper_is_served(helper));
}
END_TEST

/* Dismissed between the offer and the taking back: that part is still done, once, and no other. */
START_TEST(forgets_no_dismissal_while_a_part_is_offered) {
  struct part own = {.dismisses = true}, other = {0};
  halut_helper_meet(helper);
  ck_assert(!halut_helper_share(helper, part_run, &own, &other));
  ck_assert_int_eq(other.runs, 1);
  ck_assert(!halut_helper_is_served(helper));
  halut_helper_serve(helper); /* returns */
}
END_TEST

START_TEST(ends_the_part_in_which_it_is_dismissed) {
  for (int i = 0; i < PARTS / 20; i++) {
    struct part own = {0}, other = {.meets = &own, .dismisses = true};
    pthread_t thread;
    own.meets = &other;
    halut_helper_meet(helper);
    ck_assert_int_eq(pthread_create(&thread, NULL, serve, NULL), 0);
    ck_assert(halut_helper_share(helper, part_run, &own, &other));
    ck_assert(!halut_helper_is_served(helper));
    pthread_join(thread, NULL);
    struct part next = {0}, late = {0};
    ck_assert(!halut_helper_share(helper, part_run, &next, &late));
    ck_assert(is_mine(&late));
  }
}
END_TEST

/* Whatever the two are doing when it comes: spinning, asleep, or not there yet. */
START_TEST(is_dismissed_at_any_moment) {
  for (int i = 0; i < PARTS / 20; i++) {
    pthread_t thread;
    halut_helper_meet(helper);
    ck_assert_int_eq(pthread_create(&thread, NULL, serve, NULL), 0);
    for (int turn = 0; turn < i; turn++)
      sched_yield();
    halut_helper_dismiss(helper);
    pthread_join(thread, NULL);
    ck_assert(!halut_helper_is_served(helper));
  }
}
END_TEST

int main(void) {
  Suite *suite = suite_create("helper");
  TCase *tests = tcase_create("helper");
  tcase_set_timeout(tests, 60);
  tcase_add_checked_fixture(tests, open_helper, close_helper);
  tcase_add_test(tests, does_all_itself_where_nobody_serves);
  tcase_add_test(tests, shares_with_a_thread_of_its_own);
  tcase_add_test(tests, takes_back_what_nobody_has_begun);
  tcase_add_test(tests, leaves_at_once_if_dismissed_before_it_came);
  tcase_add_test(tests, forgets_no_dismissal_while_a_part_is_offered);
  tcase_add_test(tests, ends_the_part_in_which_it_is_dismissed);
  tcase_add_test(tests, is_dismissed_at_any_moment);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_ENV);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
