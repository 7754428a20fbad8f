/* test: framing on which two servers could disagree is refused, and plain requests are not */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../server/guard.h"

enum { FIELDS_MAX = 80, BYTES_MAX = 6144 };

static const struct halut_guard_limits limits = {64, BYTES_MAX};

/* Reads "Name: value" lines ended by "\n" the way the HTTP library hands them over: the name is all
 * before the colon, the value without blanks around it. */
static size_t headers_read(const char *text, struct halut_guard_header *headers) {
  size_t count = 0;
  while (*text != '\0') {
    const char *end = strchr(text, '\n'), *colon = strchr(text, ':');
    ck_assert_ptr_nonnull(end);
    ck_assert_ptr_nonnull(colon);
    const char *value = colon + 1 + strspn(colon + 1, " ");
    if (count < FIELDS_MAX)
      headers[count++] = (struct halut_guard_header){.name = text,
                                                     .name_bytes = (size_t)(colon - text),
                                                     .value = value,
                                                     .value_bytes = (size_t)(end - value)};
    text = end + 1;
  }
  return count;
}

static unsigned check_text(const char *version, const char *text, const char **reason,
                           struct halut_guard_framing *framing) {
  struct halut_guard_header headers[FIELDS_MAX];
  size_t count = headers_read(text, headers);
  return halut_guard_check(&limits, version, headers, count, framing, reason);
}

struct row {
  const char *version, *headers;
  unsigned status;
  const char *words; /* in the reason */
};

START_TEST(refuses_ambiguous_framing) {
  static const struct row rows[] = {
      {"HTTP/1.1", "Host: x\nContent-Length: 5\nTransfer-Encoding: chunked\n", 400, "both"},
      {"HTTP/1.1", "Host: x\nTransfer-Encoding: chunked\ncontent-length: 5\n", 400, "both"},
      {"HTTP/1.1", "Host: x\nContent-Length: 5\nContent-Length: 3\n", 400, "more than once"},
      {"HTTP/1.1", "Host: x\nContent-Length: 5\nContent-Length: 5\n", 400, "more than once"},
      {"HTTP/1.1", "Host: x\nContent-Length: 5, 5\n", 400, "whole number"},
      {"HTTP/1.1", "Host: x\nContent-Length: +5\n", 400, "whole number"},
      {"HTTP/1.1", "Host: x\nContent-Length: -1\n", 400, "whole number"},
      {"HTTP/1.1", "Host: x\nContent-Length: 0x5\n", 400, "whole number"},
      {"HTTP/1.1", "Host: x\nContent-Length: \n", 400, "empty"},
      {"HTTP/1.1", "Host: x\nContent-Length: 18446744073709551616\n", 400, "range"},
      {"HTTP/1.1", "Host: x\nContent-Length: 99999999999999999999\n", 400, "range"},
      {"HTTP/1.1", "Host: x\nContent-Length : 5\n", 400, "name"},
      {"HTTP/1.1", "Host: x\nTransfer-Encoding: gzip, chunked\n", 400, "exactly chunked"},
      {"HTTP/1.1", "Host: x\nTransfer-Encoding: xchunked\n", 400, "exactly chunked"},
      {"HTTP/1.1", "Host: x\nTransfer-Encoding: chunked \n", 400, "exactly chunked"},
      {"HTTP/1.1", "Host: x\nTransfer-Encoding: chunked\nTransfer-Encoding: chunked\n", 400,
       "more than once"},
      {"HTTP/1.1", "Host: x\nTransfer-Encodingx chunked: x\n", 400, "name"},
      {"HTTP/1.1", "Host: x\nTransfer-Encodingchunked: x\n", 400, "folded"},
      {"HTTP/1.1", "Host: x\nContent-Length5: 1\n", 400, "folded"},
      {"HTTP/1.0", "Transfer-Encoding: chunked\n", 400, "HTTP/1.0"}};
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    struct halut_guard_framing framing;
    const char *reason = NULL;
    unsigned status = check_text(rows[i].version, rows[i].headers, &reason, &framing);
    ck_assert_msg(status == rows[i].status, "%s: %u", rows[i].headers, status);
    ck_assert_ptr_nonnull(reason);
    ck_assert_msg(strstr(reason, rows[i].words) != NULL, "%s: %s", rows[i].headers, reason);
  }
}
END_TEST

START_TEST(refuses_other_faults) {
  static const struct row rows[] = {{"HTTP/1.1", "", 400, "Host"},
                                    {"HTTP/1.1", "Host: x\nHost: x\n", 400, "more than once"},
                                    {"HTTP/1.1",
                                     "Host: x\nInference-Header-Content-Length: 8\n"
                                     "Inference-Header-Content-Length: 5\n",
                                     400, "more than once"},
                                    {"HTTP/1.1", "Host: x\n: y\n", 400, "no name"},
                                    {"HTTP/1.1", "Host: x\nX[]: y\n", 400, "name"},
                                    {"HTTP/1.1", "Host: x\nX: a\x01z\n", 400, "control"},
                                    {"HTTP/1.1", "Host: x\nX: a\x7fz\n", 400, "control"},
                                    {"HTTP/1.1", "Host: x\nExpect: foo\n", 417, "100-continue"},
                                    {"HTTP/1.1", "Host: x\nExpect: 100-continued\n", 417, "met"},
                                    {"HTTP/1.1", "Host: x\nExpect: 100-contin\n", 417, "met"},
                                    {"HTTP/2.0", "Host: x\n", 505, "HTTP/1.1"},
                                    {"HTTP/0.9", "", 505, "HTTP/1.1"}};
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    struct halut_guard_framing framing;
    const char *reason = NULL;
    unsigned status = check_text(rows[i].version, rows[i].headers, &reason, &framing);
    ck_assert_msg(status == rows[i].status, "%s: %u", rows[i].headers, status);
    ck_assert_msg(strstr(reason, rows[i].words) != NULL, "%s: %s", rows[i].headers, reason);
  }
}
END_TEST

START_TEST(accepts_plain_requests) {
  struct halut_guard_framing framing;
  const char *reason = NULL;
  ck_assert_uint_eq(check_text("HTTP/1.1", "host: x\n", &reason, &framing), 0);
  ck_assert(!framing.has_length && !framing.chunked && !framing.expects_continue);
  ck_assert_ptr_null(reason);
  ck_assert_uint_eq(check_text("HTTP/1.0", "", &reason, &framing), 0);
  ck_assert_uint_eq(check_text("HTTP/1.1", "Host: x\nX: tab\there \xc3\xa9\n", &reason, &framing),
                    0);
  ck_assert_uint_eq(
      check_text("HTTP/1.1", "Host: x\nTransfer-Encoding: Chunked\n", &reason, &framing), 0);
  ck_assert(framing.chunked && !framing.has_length);
  ck_assert_uint_eq(check_text("HTTP/1.1",
                               "Host: x\nCONTENT-LENGTH: 18446744073709551615\n"
                               "Expect: 100-Continue\n",
                               &reason, &framing),
                    0);
  ck_assert_uint_eq(framing.content_length, UINT64_MAX);
  ck_assert(framing.has_length && framing.expects_continue);
}
END_TEST

START_TEST(bounds_headers_exactly) {
  struct halut_guard_header headers[64];
  struct halut_guard_framing framing;
  const char *reason = NULL;
  static char value[BYTES_MAX];
  memset(value, 'v', sizeof value);
  for (size_t i = 0; i < 64; i++)
    headers[i] = (struct halut_guard_header){
        .name = i == 0 ? "Host" : "X-Yz", .name_bytes = 4, .value = "v", .value_bytes = 1};
  ck_assert_uint_eq(halut_guard_check(&limits, "HTTP/1.1", headers, 64, &framing, &reason), 0);
  ck_assert_uint_eq(halut_guard_check(&limits, "HTTP/1.1", headers, 65, &framing, &reason), 431);
  headers[0].value = value;
  headers[0].value_bytes = BYTES_MAX - 4;
  ck_assert_uint_eq(halut_guard_check(&limits, "HTTP/1.1", headers, 1, &framing, &reason), 0);
  headers[0].value_bytes++;
  ck_assert_uint_eq(halut_guard_check(&limits, "HTTP/1.1", headers, 1, &framing, &reason), 431);
}
END_TEST

START_TEST(refuses_bad_targets) {
  ck_assert_ptr_null(halut_guard_target("/v1/classify?top=5&x=%20"));
  ck_assert_ptr_null(halut_guard_target("/%c3%a9"));
  ck_assert_ptr_nonnull(halut_guard_target("/healthz%00x"));
  ck_assert_ptr_nonnull(halut_guard_target("/health z"));
  ck_assert_ptr_nonnull(halut_guard_target("/health\x01z"));
  ck_assert_ptr_nonnull(halut_guard_target("/health\x7fz"));
}
END_TEST

int main(void) {
  Suite *suite = suite_create("guard");
  TCase *all = tcase_create("all");
  tcase_set_timeout(all, 60);
  tcase_add_test(all, refuses_ambiguous_framing);
  tcase_add_test(all, refuses_other_faults);
  tcase_add_test(all, accepts_plain_requests);
  tcase_add_test(all, bounds_headers_exactly);
  tcase_add_test(all, refuses_bad_targets);
  suite_add_tcase(suite, all);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? 0 : 1;
}
