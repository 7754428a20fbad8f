/* check.h: as much of the Check library as check_kernels.c and check_conv.c use, for a processor
 * that Debian's package is not installed for (cross_neon.sh). Tests run in one process; the first
 * failure ends it, and time limits are the script's. */
#ifndef HALUT_CROSS_CHECK_H
#define HALUT_CROSS_CHECK_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CHECK_TESTS_MAX = 32, CK_ENV = 0 };

typedef struct {
  const char *name;
  void (*run)(void);
} CheckTest;

typedef struct {
  void (*setup)(void), (*teardown)(void);
  CheckTest test[CHECK_TESTS_MAX];
  int count;
} TCase;

typedef struct {
  TCase *tests;
} Suite;

typedef Suite SRunner;

#define START_TEST(name_)                                                                          \
  static void name_##_run(void);                                                                   \
  static const CheckTest name_ = {#name_, name_##_run};                                            \
  static void name_##_run(void)
#define END_TEST

#define ck_assert_msg(holds, ...)                                                                  \
  do {                                                                                             \
    if (!(holds)) {                                                                                \
      printf("%s:%d: %s: ", __FILE__, __LINE__, #holds);                                           \
      printf(__VA_ARGS__);                                                                         \
      printf("\n");                                                                                \
      exit(1);                                                                                     \
    }                                                                                              \
  } while (0)
#define ck_assert(holds) ck_assert_msg(holds, "no")
#define ck_assert_int_eq(left, right) ck_assert_msg((left) == (right), "differ")
#define ck_assert_uint_eq(left, right) ck_assert_msg((left) == (right), "differ")
#define ck_assert_ptr_ne(left, right) ck_assert_msg((left) != (right), "equal")
#define ck_assert_ptr_nonnull(pointer) ck_assert_msg((pointer), "NULL")
#define ck_assert_str_eq(left, right) ck_assert_msg(strcmp((left), (right)) == 0, "differ")
#define ck_assert_ptr_null(pointer) ck_assert_msg(!(pointer), "not NULL")

static inline Suite *suite_create(const char *name) {
  (void)name;
  static Suite suite;
  return &suite;
}

static inline TCase *tcase_create(const char *name) {
  (void)name;
  static TCase tests;
  return &tests;
}

static inline void suite_add_tcase(Suite *suite, TCase *tests) { suite->tests = tests; }

static inline void tcase_add_checked_fixture(TCase *tests, void (*setup)(void),
                                             void (*teardown)(void)) {
  tests->setup = setup;
  tests->teardown = teardown;
}

static inline void tcase_set_timeout(TCase *tests, double seconds) {
  (void)tests;
  (void)seconds;
}

static inline void tcase_add_test(TCase *tests, CheckTest test) {
  if (tests->count == CHECK_TESTS_MAX) abort();
  tests->test[tests->count++] = test;
}

static inline SRunner *srunner_create(Suite *suite) { return suite; }

static inline void srunner_run_all(SRunner *runner, int mode) {
  (void)mode;
  TCase *tests = runner->tests;
  for (int i = 0; i < tests->count; i++) {
    printf("%s\n", tests->test[i].name);
    fflush(stdout);
    if (tests->setup) tests->setup();
    tests->test[i].run();
    if (tests->teardown) tests->teardown();
  }
  printf("%d tests held\n", tests->count);
}

static inline int srunner_ntests_failed(SRunner *runner) { return runner->tests->count == 0; }
static inline void srunner_free(SRunner *runner) { (void)runner; }

#endif
