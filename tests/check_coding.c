/* test: gzip and deflate: what is undone, refused and chosen */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "../server/coding.h"
#include "../server/cors.h"

enum { ROOM = 1 << 20 };

struct purse {
  size_t left, taken;
};

static bool pay(void *self, size_t more) {
  struct purse *purse = self;
  if (more > purse->left)
    return false;
  purse->left -= more;
  purse->taken += more;
  return true;
}

static uint8_t plain[ROOM], packed[ROOM];

static size_t pack(const uint8_t *data, size_t bytes, int window) {
  z_stream stream = {.next_in = (Bytef *)(uintptr_t)data,
                     .avail_in = (uInt)bytes,
                     .next_out = packed,
                     .avail_out = ROOM};
  ck_assert_int_eq(deflateInit2(&stream, 6, Z_DEFLATED, window, 8, Z_DEFAULT_STRATEGY), Z_OK);
  ck_assert_int_eq(deflate(&stream, Z_FINISH), Z_STREAM_END);
  deflateEnd(&stream);
  return ROOM - stream.avail_out;
}

static struct purse purse;
static struct halut_diag diag;
static uint8_t *out;
static size_t out_bytes, charged;

static int unpack(enum halut_coding coding, size_t bytes, size_t bytes_max) {
  out = NULL;
  purse = (struct purse){.left = purse.left};
  int error = halut_coding_inflate(coding, packed, bytes, bytes_max, pay, &purse, &out, &out_bytes,
                                   &charged, &diag);
  ck_assert_uint_eq(charged, purse.taken);
  return error;
}

static void fill(void) {
  for (size_t i = 0; i < ROOM; i++)
    plain[i] = (uint8_t)(i % 251 * (i / 4096));
  purse.left = 4 * ROOM;
}

START_TEST(undoes_both_codings_at_every_size) {
  static const size_t sizes[] = {0, 1, 100, 16383, 16384, 16385, 70000, ROOM - 1};
  fill();
  for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
    for (int gzip = 0; gzip < 2; gzip++) {
      purse.left = 4 * ROOM;
      size_t bytes = pack(plain, sizes[i], gzip ? 31 : 15);
      ck_assert_int_eq(unpack(gzip ? HALUT_GZIP : HALUT_DEFLATE, bytes, sizes[i]), HALUT_OK);
      ck_assert_uint_eq(out_bytes, sizes[i]);
      ck_assert_int_eq(memcmp(out, plain, out_bytes), 0);
      ck_assert_uint_eq(out[out_bytes], 0);
      free(out);
    }
}
END_TEST

START_TEST(stops_at_the_limit) {
  fill();
  memset(plain, 0, ROOM);
  size_t bytes = pack(plain, ROOM, 31);
  ck_assert_int_eq(unpack(HALUT_GZIP, bytes, 100000), HALUT_ELIMIT);
  ck_assert_ptr_nonnull(strstr(diag.text, "body-inflated-max"));
  ck_assert_uint_le(charged, 100001);
  bytes = pack(plain, 100001, 31);
  ck_assert_int_eq(unpack(HALUT_GZIP, bytes, 100000), HALUT_ELIMIT);
  ck_assert_int_eq(unpack(HALUT_GZIP, bytes, 100001), HALUT_OK);
  free(out);
  purse.left = 50000;
  ck_assert_int_eq(unpack(HALUT_GZIP, bytes, 200000), HALUT_ENOMEM);
  ck_assert_ptr_nonnull(strstr(diag.text, "body-total-max"));
}
END_TEST

START_TEST(refuses_what_is_damaged) {
  fill();
  size_t bytes = pack(plain, 5000, 31);
  for (size_t cut = 0; cut < bytes; cut += 7)
    ck_assert_int_eq(unpack(HALUT_GZIP, cut, ROOM), HALUT_EFORMAT);
  ck_assert_int_eq(unpack(HALUT_DEFLATE, bytes, ROOM), HALUT_EFORMAT);
  packed[bytes - 5] ^= 1; /* of the checksum */
  ck_assert_int_eq(unpack(HALUT_GZIP, bytes, ROOM), HALUT_EFORMAT);
  packed[bytes - 5] ^= 1;
  memcpy(packed + bytes, "more", 4);
  ck_assert_int_eq(unpack(HALUT_GZIP, bytes + 4, ROOM), HALUT_EFORMAT);
  memmove(packed + bytes, packed, bytes); /* a second piece */
  ck_assert_int_eq(unpack(HALUT_GZIP, 2 * bytes, ROOM), HALUT_OK);
  ck_assert_uint_eq(out_bytes, 10000);
  ck_assert_int_eq(memcmp(out + 5000, plain, 5000), 0);
  free(out);
}
END_TEST

START_TEST(compresses_what_gets_smaller) {
  static const size_t sizes[] = {128, 500, 8191, 8192, 300000};
  fill();
  memset(plain, 'x', 400);
  for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
    for (int coding = HALUT_GZIP; coding <= HALUT_DEFLATE; coding++) {
      uint8_t *small = NULL;
      size_t bytes = 0;
      ck_assert_int_eq(
          halut_coding_deflate((enum halut_coding)coding, plain, sizes[i], &small, &bytes),
          HALUT_OK);
      ck_assert_uint_lt(bytes, sizes[i]);
      memcpy(packed, small, bytes);
      free(small);
      purse.left = 4 * ROOM;
      ck_assert_int_eq(unpack((enum halut_coding)coding, bytes, ROOM), HALUT_OK);
      ck_assert_uint_eq(out_bytes, sizes[i]);
      ck_assert_int_eq(memcmp(out, plain, out_bytes), 0);
      free(out);
    }
  uint32_t state = 1;
  for (size_t i = 0; i < 4000; i++)
    plain[i] = (uint8_t)((state = state * 1664525u + 1013904223u) >> 24);
  ck_assert_int_eq(halut_coding_deflate(HALUT_GZIP, plain, 4000, &out, &out_bytes), HALUT_ELIMIT);
  ck_assert_int_eq(halut_coding_deflate(HALUT_GZIP, plain, 127, &out, &out_bytes), HALUT_ELIMIT);
}
END_TEST

START_TEST(chooses_as_asked) {
  static const struct {
    const char *accept;
    enum halut_coding coding;
  } rows[] = {{NULL, HALUT_IDENTITY},
              {"", HALUT_IDENTITY},
              {"gzip", HALUT_GZIP},
              {"GZIP", HALUT_GZIP},
              {"x-gzip", HALUT_GZIP},
              {"deflate", HALUT_DEFLATE},
              {"gzip, deflate, br", HALUT_GZIP},
              {"deflate, gzip", HALUT_GZIP},
              {"gzip;q=0.5, deflate;q=0.8", HALUT_DEFLATE},
              {"gzip; q=0, deflate", HALUT_DEFLATE},
              {"gzip;q=0", HALUT_IDENTITY},
              {"gzip;q=0.000", HALUT_IDENTITY},
              {"gzip;q=0.001", HALUT_GZIP},
              {"*", HALUT_GZIP},
              {"*;q=0", HALUT_IDENTITY},
              {"gzip;q=0, *", HALUT_DEFLATE},
              {"br, identity", HALUT_IDENTITY},
              {"gzipped", HALUT_IDENTITY},
              {",,;;,gzip", HALUT_GZIP},
              {"gzip;q=", HALUT_GZIP}};
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
    ck_assert_msg(halut_coding_choose(rows[i].accept) == rows[i].coding, "%s",
                  rows[i].accept != NULL ? rows[i].accept : "(none)");
  enum halut_coding coding = HALUT_IDENTITY;
  ck_assert(halut_coding_parse(NULL, &coding) && coding == HALUT_IDENTITY);
  ck_assert(halut_coding_parse("Gzip", &coding) && coding == HALUT_GZIP);
  ck_assert(!halut_coding_parse("gzip, gzip", &coding));
  ck_assert(!halut_coding_parse("br", &coding));
  ck_assert(!halut_coding_parse("", &coding));
}
END_TEST

START_TEST(reads_origins_exactly) {
  static struct halut_cors cors;
  const char *bad = NULL;
  ck_assert(halut_cors_read("off", &cors, &bad));
  ck_assert_uint_eq(cors.count, 0);
  ck_assert(halut_cors_read("https://a.example, http://[::1]:3000,", &cors, &bad));
  ck_assert_uint_eq(cors.count, 2);
  ck_assert(halut_cors_allows(&cors, "https://a.example"));
  ck_assert(halut_cors_allows(&cors, "http://[::1]:3000"));
  static const char *const others[] = {"http://a.example",    "https://a.example:443", "null", "",
                                       "https://b.a.example", "https://a.example.org"};
  for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
    ck_assert(!halut_cors_allows(&cors, others[i]));
  static const char *const wrong[] = {"*",
                                      "https://*.example",
                                      "a.example",
                                      "https://a.example/",
                                      "https://A.example",
                                      "https://",
                                      "://a",
                                      "null",
                                      ","};
  for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
    ck_assert_msg(!halut_cors_read(wrong[i], &cors, &bad), "%s", wrong[i]);
  char many[1024] = "";
  for (int i = 0; i <= HALUT_ORIGINS_MAX; i++)
    snprintf(many + strlen(many), sizeof many - strlen(many), "https://a%d.example ", i);
  ck_assert(!halut_cors_read(many, &cors, &bad));
  ck_assert_ptr_eq(bad, strstr(many, "https://a16."));
  ck_assert(halut_cors_is_local("http://localhost") && halut_cors_is_local("https://[::1]:1"));
  ck_assert(!halut_cors_is_local("http://localhost.evil") && !halut_cors_is_local("null"));
}
END_TEST

int main(void) {
  Suite *suite = suite_create("coding");
  TCase *tests = tcase_create("coding");
  tcase_add_test(tests, undoes_both_codings_at_every_size);
  tcase_add_test(tests, stops_at_the_limit);
  tcase_add_test(tests, refuses_what_is_damaged);
  tcase_add_test(tests, compresses_what_gets_smaller);
  tcase_add_test(tests, chooses_as_asked);
  tcase_add_test(tests, reads_origins_exactly);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? 0 : 1;
}
