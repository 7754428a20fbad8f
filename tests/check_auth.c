/* test: API keys: the file and its problems, scopes, refusals */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../server/auth.h"

static char path[64], told[4096];
static unsigned problems;

static void tell(void *self, const char *text) {
  size_t used = strlen(told);
  ck_assert_ptr_eq(self, &problems);
  snprintf(told + used, sizeof told - used, "%s\n", text);
  problems++;
}

static struct halut_keys *open_bytes(const char *text, size_t bytes) {
  snprintf(path, sizeof path, "/tmp/halut-keys-XXXXXX");
  int descriptor = mkstemp(path);
  ck_assert_int_ge(descriptor, 0);
  ck_assert_int_eq(write(descriptor, text, bytes), (ssize_t)bytes);
  close(descriptor);
  told[0] = '\0';
  problems = 0;
  struct halut_keys *keys = halut_keys_open(path, tell, &problems);
  unlink(path);
  return keys;
}

static struct halut_keys *open_text(const char *text) {
  return open_bytes(text, strlen(text));
}

static unsigned ask(const struct halut_keys *keys, enum halut_scope scope,
                    const struct halut_claim *claim, const char *words) {
  struct halut_verdict verdict;
  halut_auth_check(keys, scope, claim, &verdict);
  ck_assert_msg(words == NULL || strstr(verdict.reason, words) != NULL, "%s", verdict.reason);
  return verdict.status;
}

static const char sample[] = "# comment\n\n"
                             "reader-key-1 infer\n"
                             "  all-of-them-2\tinfer,admin,metrics  operator\r\n"
                             "scraper-key-3 metrics prometheus";

START_TEST(takes_both_headers_and_scopes) {
  struct halut_keys *keys = open_text(sample);
  ck_assert_msg(keys != NULL, "%s", told);
  ck_assert_uint_eq(halut_keys_count(keys), 3);
  ck_assert_uint_eq(ask(keys, HALUT_INFER, &(struct halut_claim){.api_key = "reader-key-1"}, ""),
                    0);
  const struct halut_claim bearer = {.authorization = "bearer  all-of-them-2"};
  struct halut_verdict verdict;
  for (int scope = HALUT_INFER; scope <= HALUT_METRICS; scope *= 2) {
    halut_auth_check(keys, (enum halut_scope)scope, &bearer, &verdict);
    ck_assert_uint_eq(verdict.status, 0);
    ck_assert_str_eq(verdict.name, "operator");
  }
  halut_auth_check(keys, HALUT_METRICS, &(struct halut_claim){.api_key = "reader-key-1"}, &verdict);
  ck_assert_uint_eq(verdict.status, 403);
  ck_assert_str_eq(verdict.name, "line-3");
  ck_assert_ptr_nonnull(strstr(verdict.reason, "scope metrics"));
  ck_assert_ptr_null(strstr(verdict.reason, "reader-key"));
  halut_keys_close(keys);
}
END_TEST

START_TEST(refuses_what_is_no_key) {
  struct halut_keys *keys = open_text(sample);
  static const struct halut_claim claims[] = {{.api_key = "reader-key-2"},
                                              {.api_key = "reader-key-"},
                                              {.api_key = "reader-key-1 "},
                                              {.api_key = ""},
                                              {.authorization = "Bearer reader-key"},
                                              {.authorization = "Bearer "}};
  for (size_t i = 0; i < sizeof claims / sizeof claims[0]; i++)
    ck_assert_uint_eq(ask(keys, HALUT_INFER, &claims[i], "not known"), 401);
  static const struct halut_claim none[] = {
      {.is_local = true},
      {.authorization = "Basic reader-key-1"},
      {.authorization = "Bearerreader-key-1"},
      {.authorization = "Bearer"}};
  for (size_t i = 0; i < sizeof none / sizeof none[0]; i++)
    ck_assert_uint_eq(ask(keys, HALUT_INFER, &none[i], "needs an API key"), 401);
  ck_assert_uint_eq(ask(keys, HALUT_OPEN, &none[0], ""), 0);
  halut_keys_close(keys);
}
END_TEST

START_TEST(without_keys_only_admin_is_closed) {
  static const struct halut_claim far = {0}, near = {.is_local = true},
                                  page = {.is_local = true, .is_from_page = true};
  ck_assert_uint_eq(ask(NULL, HALUT_INFER, &far, ""), 0);
  ck_assert_uint_eq(ask(NULL, HALUT_METRICS, &page, ""), 0);
  ck_assert_uint_eq(ask(NULL, HALUT_ADMIN, &far, "keys-file"), 403);
  ck_assert_uint_eq(ask(NULL, HALUT_ADMIN, &near, ""), 0);
  ck_assert_uint_eq(ask(NULL, HALUT_ADMIN, &page, "other sites"), 403);
}
END_TEST

START_TEST(reports_every_problem_and_no_key) {
  char text[4096];
  snprintf(text, sizeof text,
           "good-key-11 infer\n"
           "secret-key-2\n"
           "secret-key-3 infer,root\n"
           "short infer\n"
           "good-key-11 admin\n"
           "secret-key-4 infer name more\n"
           "secret-key-5 infer %0*d\n"
           "secret\xc3\xa4-key-6 infer\n"
           "%0*d infer\n",
           HALUT_KEY_NAME_MAX, 1, HALUT_KEY_BYTES_MAX + 1, 1);
  ck_assert_ptr_null(open_text(text));
  ck_assert_uint_eq(problems, 8);
  static const char *const words[] = {":2: must be",      ":3: no scope \"root\"",
                                      ":4: a key has 8",  ":5: a key that is there already",
                                      ":6: must be",      ":7: a name has at most 31",
                                      ":8: a key has vi", ":9: a key has 8 to 255"};
  for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
    ck_assert_msg(strstr(told, words[i]) != NULL, "no \"%s\" in\n%s", words[i], told);
  ck_assert_ptr_null(strstr(told, "secret"));
}
END_TEST

START_TEST(bounds_the_file) {
  char *text = malloc(HALUT_KEYS_MAX * 32u);
  size_t used = 0;
  ck_assert_ptr_nonnull(text);
  for (int i = 0; i < HALUT_KEYS_MAX; i++)
    used += (size_t)snprintf(text + used, 32, "key-number-%d infer\n", i);
  struct halut_keys *keys = open_bytes(text, used);
  ck_assert_msg(keys != NULL, "%s", told);
  halut_keys_close(keys);
  used += (size_t)snprintf(text + used, 32, "one-too-many infer\n");
  ck_assert_ptr_null(open_bytes(text, used));
  ck_assert_ptr_nonnull(strstr(told, "more than 1024 keys"));
  memset(text, 'k', 2000);
  ck_assert_ptr_null(open_bytes(text, 2000));
  ck_assert_ptr_nonnull(strstr(told, "too long"));
  ck_assert_ptr_null(open_text("# nothing\n"));
  ck_assert_ptr_nonnull(strstr(told, "has no key"));
  free(text);
  told[0] = '\0';
  ck_assert_ptr_null(halut_keys_open("/nonexistent/keys", tell, &problems));
  ck_assert_ptr_nonnull(strstr(told, "/nonexistent/keys: No such file"));
}
END_TEST

int main(void) {
  Suite *suite = suite_create("auth");
  TCase *tests = tcase_create("auth");
  tcase_add_test(tests, takes_both_headers_and_scopes);
  tcase_add_test(tests, refuses_what_is_no_key);
  tcase_add_test(tests, without_keys_only_admin_is_closed);
  tcase_add_test(tests, reports_every_problem_and_no_key);
  tcase_add_test(tests, bounds_the_file);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? 0 : 1;
}
