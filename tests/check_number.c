/* sanitizers: asan, it has one thread */
/* test: number arrays read and written exactly, refused clearly, and fast */
#include <check.h>
#include <jansson.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../server/base64.h"
#include "../server/number.h"

static uint64_t seed = 0x9e3779b97f4a7c15u;

static uint64_t random_bits(void) { /* splitmix64 */
  uint64_t z = seed += 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

static int read_as(enum halut_number_type type, const char *text, void *values, size_t capacity,
                   struct halut_number_shape *shape, struct halut_diag *diag) {
  struct halut_number_options options = {
      .type = type, .name = "a", .offset = 100, .rank_max = 3, .rows_max = 4};
  return halut_number_read(text, strlen(text), &options, values, capacity, shape, diag);
}

START_TEST(reads_shapes) {
  static const struct {
    const char *text;
    uint32_t rank;
    uint64_t dim[3];
  } rows[] = {{"[1,2,3]", 1, {3, 1, 1}},
              {" [ 1 ,\n2 ]\t", 1, {2, 1, 1}},
              {"[[1,2],[3,4]]", 2, {2, 2, 1}},
              {"[[[1],[2]]]", 3, {1, 2, 1}},
              {"[]", 1, {0, 1, 1}},
              {"[[],[]]", 2, {2, 0, 1}}};
  for (unsigned i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    float values[8];
    struct halut_number_shape shape;
    struct halut_diag diag;
    int error = read_as(HALUT_NUMBER_FP32, rows[i].text, values, 8, &shape, &diag);
    ck_assert_msg(error == 0, "%s: %s", rows[i].text, diag.text);
    ck_assert_uint_eq(shape.rank, rows[i].rank);
    size_t count = 1;
    for (unsigned d = 0; d < 3; d++) {
      ck_assert_uint_eq(shape.dim[d], rows[i].dim[d]);
      count *= rows[i].dim[d];
    }
    ck_assert_uint_eq(shape.count, count);
    for (unsigned k = 0; k < count; k++)
      ck_assert_float_eq(values[k], (float)(k + 1));
  }
}
END_TEST

START_TEST(refuses_with_place) {
  static const struct {
    const char *text;
    int error;
    uint64_t offset;
    const char *message;
  } rows[] = {
      {"7", HALUT_EINVALID, 100, "a: not an array, found '7'"},
      {"", HALUT_EINVALID, 100, "a: the array ends early"},
      {"[1,2", HALUT_EINVALID, 104, "a[1]: the array ends early"},
      {"[1,]", HALUT_EINVALID, 103, "a[1]: not a number, found ']'"},
      {"[1 2]", HALUT_EINVALID, 103, "a[0]: expected ',' or ']' after it, found '2'"},
      {"[01]", HALUT_EINVALID, 101, "a[0]: not a number, found '01'"},
      {"[-]", HALUT_EINVALID, 101, "a[0]: not a number, found '-'"},
      {"[.5]", HALUT_EINVALID, 101, "a[0]: not a number, found '.5'"},
      {"[5.]", HALUT_EINVALID, 101, "a[0]: not a number, found '5.'"},
      {"[+5]", HALUT_EINVALID, 101, "a[0]: not a number, found '+5'"},
      {"[1e]", HALUT_EINVALID, 101, "a[0]: not a number, found '1e'"},
      {"[0x1]", HALUT_EINVALID, 101, "a[0]: not a number, found '0x1'"},
      {"[1.2.3]", HALUT_EINVALID, 101, "a[0]: not a number, found '1.2.3'"},
      {"[0,NaN]", HALUT_EINVALID, 103, "a[1]: not a number, found 'NaN'"},
      {"[-Infinity]", HALUT_EINVALID, 101, "a[0]: not a number, found '-Infinity'"},
      {"[null]", HALUT_EINVALID, 101, "a[0]: not a number, found 'null'"},
      {"[[1,2],[3,\"x\"]]", HALUT_EINVALID, 110, "a[1][1]: not a number, found '\"x\"'"},
      {"[1e39]", HALUT_EINVALID, 101, "a[0]: 1e39 is too large for FP32"},
      {"[[1,2],[3]]", HALUT_ESHAPE, 109, "a[1]: 1 elements where the first has 2"},
      {"[[1],[2,3]]", HALUT_ESHAPE, 109, "a[1]: 2 elements where the first has 1"},
      {"[1,[2]]", HALUT_ESHAPE, 103, "a[1]: expected a number as in the rows before, found '[2'"},
      {"[[1],2]", HALUT_ESHAPE, 105, "a[1]: expected an array as in the rows before, found '2'"},
      {"[[[[1]]]]", HALUT_ESHAPE, 103, "a[0][0][0]: nested deeper than 3 levels, found '[1'"},
      {"[[1],[1],[1],[1],[1]]", HALUT_ELIMIT, 116, "a: more than 4 rows"},
      {"[1,2,3,4,5,6,7,8,9]", HALUT_ELIMIT, 117, "a: more than 8 values"},
      {"[1] 2", HALUT_EINVALID, 104, "a: more text after the array, found '2'"},
      {"[[1],]", HALUT_EINVALID, 105, "a[1]: not an array, found ']'"},
      {"[[1][2]]", HALUT_EINVALID, 104, "a[1]: expected ',' or ']' before it, found '[2'"},
  };
  for (unsigned i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    float values[8];
    struct halut_number_shape shape;
    struct halut_diag diag = {0};
    int error = read_as(HALUT_NUMBER_FP32, rows[i].text, values, 8, &shape, &diag);
    ck_assert_int_eq(error, rows[i].error);
    ck_assert_str_eq(diag.text, rows[i].message);
    ck_assert_uint_eq(diag.offset, rows[i].offset);
  }
}
END_TEST

/* The ends of each integer type are read; one past them, and fractions, are refused. */
START_TEST(keeps_integer_ranges) {
  static const struct {
    enum halut_number_type type;
    const char *good, *bad;
  } rows[] = {
      {HALUT_NUMBER_BOOL, "[0,1,true,false]", "[2]"},
      {HALUT_NUMBER_UINT8, "[0,255]", "[256]"},
      {HALUT_NUMBER_UINT16, "[0,65535]", "[65536]"},
      {HALUT_NUMBER_UINT32, "[0,4294967295]", "[4294967296]"},
      {HALUT_NUMBER_UINT64, "[0,18446744073709551615]", "[18446744073709551616]"},
      {HALUT_NUMBER_UINT64, "[10000000000000000000]", "[100000000000000000000]"},
      {HALUT_NUMBER_INT8, "[-128,127]", "[-129]"},
      {HALUT_NUMBER_INT16, "[-32768,32767]", "[32768]"},
      {HALUT_NUMBER_INT32, "[-2147483648,2147483647]", "[-2147483649]"},
      {HALUT_NUMBER_INT64, "[-9223372036854775808,9223372036854775807]", "[9223372036854775808]"},
      {HALUT_NUMBER_UINT8, "[-0]", "[-1]"},
      {HALUT_NUMBER_UINT8, "[1]", "[1.0]"},
      {HALUT_NUMBER_INT32, "[100]", "[1e2]"},
      {HALUT_NUMBER_FP32, "[1]", "[true]"},
  };
  for (unsigned i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    uint64_t values[8];
    struct halut_number_shape shape;
    struct halut_diag diag = {0};
    int error = read_as(rows[i].type, rows[i].good, values, 8, &shape, &diag);
    ck_assert_msg(error == 0, "%s: %s", rows[i].good, diag.text);
    error = read_as(rows[i].type, rows[i].bad, values, 8, &shape, &diag);
    ck_assert_msg(error == HALUT_EINVALID, "%s as %s", rows[i].bad,
                  halut_number_name(rows[i].type));
  }
  int64_t ends[2];
  struct halut_number_shape shape;
  ck_assert_int_eq(read_as(HALUT_NUMBER_INT64, rows[9].good, ends, 2, &shape, NULL), 0);
  ck_assert_int_eq(ends[0], INT64_MIN);
  ck_assert_int_eq(ends[1], INT64_MAX);
  uint64_t top[2];
  ck_assert_int_eq(read_as(HALUT_NUMBER_UINT64, rows[4].good, top, 2, &shape, NULL), 0);
  ck_assert_uint_eq(top[1], UINT64_MAX);
  int8_t small[2];
  ck_assert_int_eq(read_as(HALUT_NUMBER_INT8, "[-128,127]", small, 2, &shape, NULL), 0);
  ck_assert_int_eq(small[0], -128);
  ck_assert_int_eq(small[1], 127);
}
END_TEST

START_TEST(names_its_types) {
  for (int type = HALUT_NUMBER_BOOL; type <= HALUT_NUMBER_FP64; type++) {
    const char *name = halut_number_name((enum halut_number_type)type);
    ck_assert_int_eq((int)halut_number_type(name), type);
  }
  ck_assert_int_eq(halut_number_type("FP16"), HALUT_NUMBER_NONE);
  ck_assert_uint_eq(halut_number_bytes(HALUT_NUMBER_INT16), 2);
}
END_TEST

/* A number as clients write it, or as an adversary would: near ties, long, extreme. */
static void make_number(char *out, size_t bytes) {
  uint64_t bits = random_bits();
  double wide;
  float narrow, above;
  uint32_t low = (uint32_t)bits & 0x7f7fffffu;
  memcpy(&wide, &bits, sizeof wide);
  memcpy(&narrow, &low, sizeof narrow);
  above = nextafterf(narrow, INFINITY);
  switch (random_bits() % 7) {
  case 0:
    snprintf(out, bytes, "%.17g", isfinite(wide) ? wide : 0.5);
    break;
  case 1:
    snprintf(out, bytes, "%.17g", (double)(bits >> 11) * 0x1p-53);
    break;
  case 2:
    snprintf(out, bytes, "%.9g", (double)narrow);
    break;
  case 3:
    snprintf(out, bytes, "%u.%llu", low % 1000, (unsigned long long)random_bits());
    break;
  case 4: /* between two floats, written to some digits */
    snprintf(out, bytes, "%.*g", (int)(8 + bits % 20), ((double)narrow + (double)above) / 2);
    break;
  case 5:
    snprintf(out, bytes, "-%llue%d", (unsigned long long)(bits >> low % 60), (int)(bits % 60) - 30);
    break;
  default: /* zeros before, and more digits than are kept */
    snprintf(out, bytes, "0.000%llu%llu", (unsigned long long)bits,
             (unsigned long long)random_bits());
  }
}

START_TEST(rounds_like_the_c_library) {
  for (int i = 0; i < 300000; i++) {
    char number[96], text[100];
    make_number(number, sizeof number);
    snprintf(text, sizeof text, "[%s]", number);
    float narrow = 0, narrow_expected = strtof(number, NULL);
    double wide = 0, wide_expected = strtod(number, NULL);
    struct halut_number_shape shape;
    int error = read_as(HALUT_NUMBER_FP32, text, &narrow, 1, &shape, NULL);
    if (isinf(narrow_expected)) {
      ck_assert_int_eq(error, HALUT_EINVALID);
    } else {
      ck_assert_msg(error == 0 && memcmp(&narrow, &narrow_expected, sizeof narrow) == 0,
                    "%s: %a, expected %a", number, (double)narrow, (double)narrow_expected);
    }
    error = read_as(HALUT_NUMBER_FP64, text, &wide, 1, &shape, NULL);
    ck_assert_msg(error == 0 && memcmp(&wide, &wide_expected, sizeof wide) == 0,
                  "%s: %a, expected %a", number, wide, wide_expected);
  }
}
END_TEST

START_TEST(reads_edges_of_floats) {
  static const struct {
    const char *text;
    double value;
  } rows[] = {{"[3.4028235e38]", 0x1.fffffep127},
              {"[3.40282356e38]", 0x1.fffffep127},
              {"[1e-45]", 0x1p-149},
              {"[7e-46]", 0},
              {"[1e-400]", 0},
              {"[1.17549435e-38]", 0x1p-126},
              {"[0.000000000000000000000000000000000000011754942]", 0x1.fffffcp-127},
              {"[123456789012345678901234567890]", 0x1.8ee91p96},
              {"[1e0000000000000000000000000001]", 10},
              {"[0e99999999999]", 0}};
  for (unsigned i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    float value;
    struct halut_number_shape shape;
    struct halut_diag diag = {0};
    int error = read_as(HALUT_NUMBER_FP32, rows[i].text, &value, 1, &shape, &diag);
    ck_assert_msg(error == 0, "%s: %s", rows[i].text, diag.text);
    ck_assert_msg((double)value == rows[i].value, "%s: %a", rows[i].text, (double)value);
  }
  float zero;
  struct halut_number_shape shape;
  ck_assert_int_eq(read_as(HALUT_NUMBER_FP32, "[-0.0]", &zero, 1, &shape, NULL), 0);
  ck_assert(signbit(zero));
}
END_TEST

/* Digits of the written number that count. */
static int significant_digits(const char *text) {
  int count = 0, zeros = 0;
  for (; *text != '\0' && *text != 'e'; text++) {
    if (*text < '0' || *text > '9' || (count + zeros == 0 && *text == '0'))
      continue;
    if (*text == '0') {
      zeros++;
    } else {
      count += zeros + 1;
      zeros = 0;
    }
  }
  return count;
}

START_TEST(writes_shortest_floats) {
  for (int i = 0; i < 200000; i++) {
    uint32_t bits = (uint32_t)random_bits();
    if (i < 512)
      bits = (uint32_t)i << 23; /* every power of two, where neighbours differ */
    float value, back;
    memcpy(&value, &bits, sizeof value);
    if (!isfinite(value))
      continue;
    char text[HALUT_NUMBER_TEXT_MAX + 8];
    memset(text, '#', sizeof text);
    size_t bytes = halut_number_write_f32(value, text);
    ck_assert_uint_lt(bytes, HALUT_NUMBER_TEXT_MAX);
    ck_assert_int_eq(text[bytes], '#');
    text[bytes] = '\0';
    back = strtof(text, NULL);
    ck_assert_msg(memcmp(&back, &value, sizeof value) == 0, "%a became %s", (double)value, text);
    int digits = significant_digits(text);
    char shorter[40];
    snprintf(shorter, sizeof shorter, "%.*e", digits > 1 ? digits - 2 : 0, (double)value);
    ck_assert_msg(digits <= 1 || strtof(shorter, NULL) != value, "%s is longer than %s", text,
                  shorter);
  }
}
END_TEST

START_TEST(writes_known_texts) {
  static const struct {
    float value;
    const char *text;
  } rows[] = {{0.1f, "0.1"},
              {-0.0f, "-0"},
              {1.0f, "1"},
              {16777216.0f, "16777216"},
              {1e10f, "1e10"},
              {1.5e-7f, "1.5e-7"},
              {0.0001f, "0.0001"},
              {-12.25f, "-12.25"},
              {0x1p-149f, "1e-45"},
              {100.0f, "100"},
              {3.4028235e38f, "3.4028235e38"},
              {NAN, "null"},
              {INFINITY, "null"}};
  for (unsigned i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    char text[HALUT_NUMBER_TEXT_MAX];
    text[halut_number_write_f32(rows[i].value, text)] = '\0';
    ck_assert_str_eq(text, rows[i].text);
  }
  char text[HALUT_NUMBER_TEXT_MAX];
  text[halut_number_write_i64(INT64_MIN, text)] = '\0';
  ck_assert_str_eq(text, "-9223372036854775808");
  text[halut_number_write_u64(UINT64_MAX, text)] = '\0';
  ck_assert_str_eq(text, "18446744073709551615");
}
END_TEST

START_TEST(counts_an_upper_bound) {
  char text[1000];
  for (size_t bytes = 0; bytes < sizeof text; bytes++) {
    size_t commas = 0;
    for (size_t i = 0; i < bytes; i++) {
      text[i] = random_bits() % 3 == 0 ? ',' : '1';
      commas += text[i] == ',';
    }
    ck_assert_uint_eq(halut_number_count_max(text, bytes), commas + 1);
  }
}
END_TEST

static double cpu_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

/* Present when the undefined behaviour sanitizer, for which gcc defines no macro, is linked in. */
extern void __ubsan_handle_builtin_unreachable(void *) __attribute__((weak));

/* True where times mean nothing: sanitizers slow our code and not the library's. */
static bool is_instrumented(void) {
#if !defined(__OPTIMIZE__) || defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  return true;
#else
  return __ubsan_handle_builtin_unreachable != NULL;
#endif
}

/* A 512 x 512 matrix as a Python client sends it. */
START_TEST(is_ten_times_jansson) {
  enum { N = 512 };
  char *text = malloc((size_t)N * N * 16);
  float *values = malloc((size_t)N * N * sizeof *values);
  ck_assert(text != NULL && values != NULL);
  char *p = text;
  for (int row = 0; row < N; row++) {
    *p++ = row == 0 ? '[' : ',';
    for (int column = 0; column < N; column++) {
      float value = (float)((double)(random_bits() >> 11) * 0x1p-52 - 1);
      p += snprintf(p, 32, "%c%.9g", column == 0 ? '[' : ',', (double)value);
    }
    *p++ = ']';
  }
  memcpy(p, "]", 2);
  size_t bytes = (size_t)(p + 1 - text);
  double ours = 1e9, theirs = 1e9;
  for (int round = 0; round < 9; round++) {
    struct halut_number_options options = {.type = HALUT_NUMBER_FP32, .name = "a", .rank_max = 2};
    struct halut_number_shape shape;
    double begin = cpu_ms();
    size_t capacity = halut_number_count_max(text, bytes);
    ck_assert_uint_eq(capacity, (size_t)N * N);
    int error = halut_number_read(text, bytes, &options, values, capacity, &shape, NULL);
    double middle = cpu_ms();
    ck_assert_int_eq(error, 0);
    json_t *tree = json_loadb(text, bytes, 0, NULL);
    double end = cpu_ms();
    ck_assert_ptr_nonnull(tree);
    json_decref(tree);
    if (middle - begin < ours)
      ours = middle - begin;
    if (end - middle < theirs)
      theirs = end - middle;
  }
  printf("512 x 512 floats, %zu bytes: %.2f ms, jansson %.2f ms (parse alone), ratio %.1f\n", bytes,
         ours, theirs, theirs / ours);
  if (!is_instrumented())
    ck_assert_double_ge(theirs / ours, 10.0);
  free(values);
  free(text);
}
END_TEST

START_TEST(base64_round_trips) {
  for (size_t bytes = 0; bytes < 300; bytes++) {
    uint8_t data[300], back[304];
    char text[404];
    for (size_t i = 0; i < bytes; i++)
      data[i] = (uint8_t)random_bits();
    halut_base64_encode(data, bytes, text);
    size_t text_bytes = halut_base64_encoded_bytes(bytes), back_bytes = 0;
    ck_assert_uint_le(halut_base64_decoded_max(text_bytes), sizeof back);
    ck_assert_int_eq(halut_base64_decode(text, text_bytes, back, &back_bytes, NULL), 0);
    ck_assert_uint_eq(back_bytes, bytes);
    ck_assert_int_eq(memcmp(data, back, bytes), 0);
  }
}
END_TEST

START_TEST(base64_knows_the_vectors_of_rfc_4648) {
  static const char *const rows[][2] = {{"", ""},
                                        {"f", "Zg=="},
                                        {"fo", "Zm8="},
                                        {"foo", "Zm9v"},
                                        {"foob", "Zm9vYg=="},
                                        {"fooba", "Zm9vYmE="},
                                        {"foobar", "Zm9vYmFy"},
                                        {"???", "Pz8/"}};
  for (unsigned i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    char text[16];
    size_t bytes = strlen(rows[i][0]);
    halut_base64_encode((const uint8_t *)rows[i][0], bytes, text);
    ck_assert_uint_eq(halut_base64_encoded_bytes(bytes), strlen(rows[i][1]));
    ck_assert_int_eq(memcmp(text, rows[i][1], strlen(rows[i][1])), 0);
  }
}
END_TEST

START_TEST(base64_refuses) {
  static const struct {
    const char *text;
    uint64_t offset;
    const char *message;
  } rows[] = {
      {"Zg", 2, "base64: ends within a group of four characters (truncated, or '=' missing)"},
      {"Zg=", 2, "base64: misplaced '=' at character 2"},
      {"Zg===", 2, "base64: misplaced '=' at character 2"},
      {"Z===", 1, "base64: misplaced '=' at character 1"},
      {"Zg==Zg==", 2, "base64: misplaced '=' at character 2"},
      {"Zh==", 1, "base64: bits that are not 0 before the padding at character 2"},
      {"Zm9=", 2, "base64: bits that are not 0 before the padding at character 3"},
      {"Zm 9v", 2, "base64: ' ' at character 2"},
      {"Zm9v\n", 4, "base64: byte 0x0a at character 4"},
      {"Zm-v", 2, "base64: '-' at character 2 (the URL alphabet is not accepted)"},
      {"data:image/png;base64,Zg==", 4,
       "base64: ':' at character 4 (leave out the \"data:...;base64,\" prefix)"},
      {"Zg=\xff", 2, "base64: misplaced '=' at character 2"},
  };
  for (unsigned i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    uint8_t out[64];
    size_t bytes;
    struct halut_diag diag = {0};
    int error = halut_base64_decode(rows[i].text, strlen(rows[i].text), out, &bytes, &diag);
    ck_assert_int_eq(error, HALUT_EINVALID);
    ck_assert_str_eq(diag.text, rows[i].message);
    ck_assert_uint_eq(diag.offset, rows[i].offset);
  }
}
END_TEST

int main(void) {
  const char *given = getenv("HALUT_SEED");
  if (given != NULL)
    seed = strtoull(given, NULL, 0);
  printf("HALUT_SEED=%llu\n", (unsigned long long)seed);
  Suite *suite = suite_create("number");
  TCase *all = tcase_create("all");
  tcase_set_timeout(all, 60);
  tcase_add_test(all, reads_shapes);
  tcase_add_test(all, refuses_with_place);
  tcase_add_test(all, keeps_integer_ranges);
  tcase_add_test(all, names_its_types);
  tcase_add_test(all, rounds_like_the_c_library);
  tcase_add_test(all, reads_edges_of_floats);
  tcase_add_test(all, writes_shortest_floats);
  tcase_add_test(all, writes_known_texts);
  tcase_add_test(all, counts_an_upper_bound);
  tcase_add_test(all, is_ten_times_jansson);
  tcase_add_test(all, base64_round_trips);
  tcase_add_test(all, base64_knows_the_vectors_of_rfc_4648);
  tcase_add_test(all, base64_refuses);
  suite_add_tcase(suite, all);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? 0 : 1;
}
