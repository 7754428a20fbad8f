/* test: JSON bodies split and read strictly, written exactly */
#include <check.h>
#include <stdbool.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../server/json.h"

static const char *const keys[] = {"a", "data", "b64", "instances", NULL};

enum { DEPTH = 16 };

static struct halut_json *open_body(const char *body) {
  struct halut_json *json = NULL;
  struct halut_diag diag = {0};
  int error = halut_json_open(body, strlen(body), keys, DEPTH, &json, &diag);
  ck_assert_msg(error == 0, "%s: %s", body, diag.text);
  return json;
}

static void expect_slice(const struct halut_json *json, const json_t *value, const char *text,
                         bool is_string) {
  const struct halut_json_slice *slice = halut_json_slice(json, value);
  ck_assert_msg(slice != NULL, "no slice for %s", text);
  ck_assert_uint_eq(slice->bytes, strlen(text));
  ck_assert_int_eq(memcmp(slice->text, text, slice->bytes), 0);
  ck_assert_ptr_eq(slice->text, json->body + slice->offset);
  ck_assert_int_eq(slice->is_string, is_string);
}

START_TEST(cuts_out_arrays) {
  struct halut_json *json = open_body("{\"model\":\"m\", \"a\" : [[1, 2],[3]] ,\"top\":5}");
  ck_assert_uint_eq(json->slice_count, 1);
  expect_slice(json, json_object_get(json->root, "a"), "[[1, 2],[3]]", false);
  const char *model = NULL;
  ck_assert_int_eq(halut_json_get_text(json->root, "model", true, &model, NULL), 0);
  ck_assert_str_eq(model, "m");
  ck_assert_ptr_null(halut_json_slice(json, json_object_get(json->root, "top")));
  halut_json_close(json);
}
END_TEST

START_TEST(cuts_out_strings_and_nested_members) {
  struct halut_json *json =
      open_body("{\"image\":{\"b64\":\"QUJD\\/\"},\"inputs\":[{\"data\":[]},{\"data\":[true]}]}");
  ck_assert_uint_eq(json->slice_count, 3);
  const json_t *image = json_object_get(json->root, "image");
  expect_slice(json, json_object_get(image, "b64"), "QUJD\\/", true);
  const json_t *inputs = json_object_get(json->root, "inputs");
  expect_slice(json, json_object_get(json_array_get(inputs, 0), "data"), "[]", false);
  expect_slice(json, json_object_get(json_array_get(inputs, 1), "data"), "[true]", false);
  halut_json_close(json);
}
END_TEST

START_TEST(leaves_arrays_of_objects_and_other_keys) {
  struct halut_json *json =
      open_body("{\"instances\":[{\"b64\":\"eA==\"},{\"b64\":\"eQ==\"}],\"x\":[1,2],"
                "\"a\":7}");
  ck_assert_uint_eq(json->slice_count, 2);
  const json_t *instances = json_object_get(json->root, "instances");
  ck_assert_uint_eq(json_array_size(instances), 2);
  expect_slice(json, json_object_get(json_array_get(instances, 1), "b64"), "eQ==", true);
  ck_assert_uint_eq(json_array_size(json_object_get(json->root, "x")), 2);
  ck_assert_int_eq(json_integer_value(json_object_get(json->root, "a")), 7);
  ck_assert_ptr_null(halut_json_slice(json, json_object_get(json->root, "a")));
  halut_json_close(json);
}
END_TEST

/* Keys inside strings, strings that look like keys, escapes before quotes. */
START_TEST(cuts_out_the_strings_of_a_list) {
  struct halut_json *json =
      open_body("{\"data\":[ \"eA==\",\"a\\\"]\"],\"x\":[\"left\"],\"a\":[[\"deep\"]]}");
  ck_assert_uint_eq(json->slice_count, 3);
  const json_t *list = json_object_get(json->root, "data");
  ck_assert_uint_eq(json_array_size(list), 2);
  expect_slice(json, json_array_get(list, 0), "eA==", true);
  expect_slice(json, json_array_get(list, 1), "a\\\"]", true);
  ck_assert_str_eq(json_string_value(json_array_get(json_object_get(json->root, "x"), 0)), "left");
  list = json_array_get(json_object_get(json->root, "a"), 0);
  expect_slice(json, json_array_get(list, 0), "deep", true);
  halut_json_close(json);
}
END_TEST

START_TEST(is_not_fooled_by_strings) {
  struct halut_json *json = open_body(
      "{\"t\":\"\\\"a\\\":[1,2]\",\"u\":\"\\\\\",\"a\":[5],\"v\":\"a\",\"w\":[\"a\",\"data\"]}");
  ck_assert_uint_eq(json->slice_count, 1);
  expect_slice(json, json_object_get(json->root, "a"), "[5]", false);
  ck_assert_str_eq(json_string_value(json_object_get(json->root, "t")), "\"a\":[1,2]");
  halut_json_close(json);
}
END_TEST

/* Where a string is asked for, what a client wrote itself is no mark of one that was cut out. */
START_TEST(is_not_fooled_by_what_looks_like_a_mark) {
  struct halut_json *json = open_body("{\"data\":[\"eA==\",[0],[0,0]],\"x\":[0]}");
  ck_assert_uint_eq(json->slice_count, 1);
  const json_t *list = json_object_get(json->root, "data");
  expect_slice(json, json_array_get(list, 0), "eA==", true);
  ck_assert_ptr_null(halut_json_slice(json, json_array_get(list, 1)));
  ck_assert_ptr_null(halut_json_slice(json, json_array_get(list, 2)));
  ck_assert_ptr_null(halut_json_slice(json, json_object_get(json->root, "x")));
  halut_json_close(json);
}
END_TEST

START_TEST(knows_keys_and_text_however_spelled) {
  struct halut_json *json = open_body("{\"d\\u0061ta\":[1],\"\\u0062\\u0036\\u0034\":"
                                      "\"\\u002B\\/a\\u003d\\n\\u00e9\\u0022\",\"datax\":[2]}");
  size_t bytes = 0;
  ck_assert_uint_eq(json->slice_count, 2);
  expect_slice(json, json_object_get(json->root, "data"), "[1]", false);
  ck_assert(halut_json_is_text(json, json_object_get(json->root, "b64")));
  ck_assert(!halut_json_is_text(json, json_object_get(json->root, "data")));
  ck_assert(!halut_json_is_text(json, json_object_get(json->root, "datax")));
  char *text = halut_json_unescape(halut_json_slice(json, json_object_get(json->root, "b64")),
                                   &bytes);
  ck_assert_str_eq(text, "+/a=\\n\\u00e9\\u0022");
  ck_assert_uint_eq(bytes, strlen(text));
  free(text);
  halut_json_close(json);
}
END_TEST

/* What nobody takes is read by jansson after all. */
START_TEST(checks_the_rest) {
  static const char *const good[] = {"[1,[2,{\"x\":null}],\"y\"]", "\"\\u00e9\"", "[]", "\"\""};
  static const struct {
    const char *value;
    size_t column;
  } bad[] = {{"[NaN ,,,]", 18}, {"\"\\q\"", 17}, {"\"\xff\"", 15}, {"[1 2]", 18}, {"[01]", 16}};
  char body[96];
  struct halut_diag diag = {0};
  for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
    snprintf(body, sizeof body, "{\"b64\":[0],\n\"x\": {\"data\":%s}}", good[i]);
    struct halut_json *json = open_body(body);
    ck_assert_msg(halut_json_rest(json, &diag) == 0, "%s: %s", body, diag.text);
    halut_json_close(json);
  }
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
    snprintf(body, sizeof body, "{\"b64\":[0],\n\"x\": {\"data\":%s}}", bad[i].value);
    struct halut_json *json = open_body(body);
    ck_assert_int_eq(halut_json_rest(json, &diag), HALUT_EINVALID);
    char start[48];
    snprintf(start, sizeof start, "JSON: line 2, column %zu: ", bad[i].column);
    ck_assert_msg(strncmp(diag.text, start, strlen(start)) == 0, "%s: %s", body, diag.text);
    ck_assert_ptr_nonnull(
        halut_json_slice(json, json_object_get(json_object_get(json->root, "x"), "data")));
    ck_assert_int_eq(halut_json_rest(json, &diag), 0);
    halut_json_close(json);
  }
  char *large = malloc(HALUT_JSON_ENVELOPE_MAX + 32);
  ck_assert_ptr_nonnull(large);
  snprintf(large, HALUT_JSON_ENVELOPE_MAX + 32, "{\"data\":\"%0*d\"}", HALUT_JSON_ENVELOPE_MAX + 1,
           0);
  struct halut_json *json = open_body(large);
  ck_assert_int_eq(halut_json_rest(json, &diag), HALUT_ELIMIT);
  ck_assert_str_eq(diag.text,
                   "JSON: more than 65536 bytes at byte 9 and before that nobody asks for");
  halut_json_close(json);
  free(large);
}
END_TEST

START_TEST(cuts_big_arrays_at_every_alignment) {
  for (size_t pad = 0; pad < 140; pad++) {
    char array[1024], body[1400];
    size_t used = 0;
    array[used++] = '[';
    for (size_t i = 0; i < pad; i++)
      array[used++] = ' ';
    used += (size_t)snprintf(array + used, sizeof array - used, "[1,\"]\\\"[\",%*d],[[2]]]",
                             (int)(1 + pad * 5), 7);
    int bytes = snprintf(body, sizeof body, "{\"a\":%s,\"top\":3}", array);
    ck_assert_int_lt(bytes, (int)sizeof body);
    struct halut_json *json = open_body(body);
    expect_slice(json, json_object_get(json->root, "a"), array, false);
    ck_assert_int_eq(json_integer_value(json_object_get(json->root, "top")), 3);
    halut_json_close(json);
  }
}
END_TEST

START_TEST(refuses_with_line_and_column) {
  static const struct {
    const char *body;
    int error;
    const char *start; /* of the message */
  } rows[] = {
      {"", HALUT_EINVALID, "JSON: line 1, column 1: '[' or '{' expected near end of file"},
      {"[1]", HALUT_EINVALID, "JSON: the body must be an object"},
      {"{\"a\":[1,2],\n \"b\" 3}", HALUT_EINVALID, "JSON: line 2, column 7: ':' expected near '3'"},
      {"{\"a\":[1,2,3,4,5,6,7,8,9],}", HALUT_EINVALID, "JSON: line 1, column 27: string or '}'"},
      {"{\"x\":1,\"x\":2}", HALUT_EINVALID, "JSON: line 1, column 11: duplicate object key"},
      {"{\"a\":[1],\"a\":[2]}", HALUT_EINVALID, "JSON: line 1, column "},
      {"{\"x\":NaN}", HALUT_EINVALID, "JSON: line 1, column 9: invalid token"},
      {"{\"x\":1} 2", HALUT_EINVALID, "JSON: line 1, column 10: end of file expected near '2'"},
      {"{\"x\":\"\xff\"}", HALUT_EINVALID, "JSON: line 1, column "},
      {"{\"a\":[1,2", HALUT_EINVALID, "JSON: the array at byte 5 has no end"},
      {"{\"b64\":\"QUJD", HALUT_EINVALID, "JSON: the string at byte 7 has no end"},
      {"{\"x\":[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]}", HALUT_ELIMIT,
       "JSON: nested deeper than 16 levels at byte 20"},
  };
  for (unsigned i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    struct halut_json *json = NULL;
    struct halut_diag diag = {0};
    int error = halut_json_open(rows[i].body, strlen(rows[i].body), keys, DEPTH, &json, &diag);
    ck_assert_msg(error == rows[i].error, "%s: %d %s", rows[i].body, error, diag.text);
    ck_assert_msg(strncmp(diag.text, rows[i].start, strlen(rows[i].start)) == 0, "%s: %s",
                  rows[i].body, diag.text);
    ck_assert_ptr_null(json);
  }
}
END_TEST

/* What jansson must read is bounded; what it need not is not. */
START_TEST(limits_the_envelope) {
  enum { BIG = 200000 };
  char *body = malloc(BIG + 64);
  ck_assert_ptr_nonnull(body);
  for (int known = 0; known < 2; known++) {
    char *p = body + snprintf(body, 32, "{\"%s\":[1", known ? "a" : "x");
    while (p - body < BIG)
      p += snprintf(p, 32, ",1");
    snprintf(p, 32, "]}");
    struct halut_json *json = NULL;
    struct halut_diag diag = {0};
    int error = halut_json_open(body, strlen(body), keys, DEPTH, &json, &diag);
    ck_assert_int_eq(error, known ? 0 : HALUT_ELIMIT);
    if (!known) {
      ck_assert_str_eq(diag.text, "JSON: more than 65536 bytes beside its arrays of numbers and "
                                  "base64 strings");
    }
    halut_json_close(json);
  }
  char *p = body + snprintf(body, 32, "{\"instances\":[{\"b64\":\"\"}");
  for (int i = 1; i <= HALUT_JSON_SLICES_MAX; i++)
    p += snprintf(p, 32, ",{\"b64\":\"\"}");
  snprintf(p, 32, "]}");
  struct halut_json *json = NULL;
  struct halut_diag diag = {0};
  ck_assert_int_eq(halut_json_open(body, strlen(body), keys, DEPTH, &json, &diag), HALUT_ELIMIT);
  ck_assert_str_eq(diag.text, "JSON: more than 1024 arrays of numbers and base64 strings");
  free(body);
}
END_TEST

START_TEST(checks_members) {
  struct halut_json *json =
      open_body("{\"top\":5,\"crop\":true,\"model\":\"m\",\"many\":\"many\"}");
  const json_t *root = json->root;
  struct halut_diag diag = {0};
  int64_t number = 1;
  bool flag = false;
  const char *text = NULL;
  ck_assert_int_eq(halut_json_get_int(root, "top", true, 1, 10, &number, &diag), 0);
  ck_assert_int_eq(number, 5);
  ck_assert_int_eq(halut_json_get_int(root, "top", true, 1, 4, &number, &diag), HALUT_EINVALID);
  ck_assert_str_eq(diag.text, "top: must be an integer in 1..4, not 5");
  ck_assert_int_eq(halut_json_get_int(root, "many", true, 1, 4, &number, &diag), HALUT_EINVALID);
  ck_assert_str_eq(diag.text, "many: must be an integer in 1..4, not \"many\"");
  ck_assert_int_eq(halut_json_get_int(root, "none", true, 1, 4, &number, &diag), HALUT_EINVALID);
  ck_assert_str_eq(diag.text, "none: missing");
  ck_assert_int_eq(halut_json_get_int(root, "none", false, 1, 4, &number, &diag), 0);
  ck_assert_int_eq(number, 5);
  ck_assert_int_eq(halut_json_get_bool(root, "crop", true, &flag, &diag), 0);
  ck_assert(flag);
  ck_assert_int_eq(halut_json_get_bool(root, "model", true, &flag, &diag), HALUT_EINVALID);
  ck_assert_str_eq(diag.text, "model: must be true or false, not \"m\"");
  ck_assert_int_eq(halut_json_get_text(root, "crop", true, &text, &diag), HALUT_EINVALID);
  ck_assert_str_eq(diag.text, "crop: must be a string, not true");
  static const char *const most[] = {"top", "crop", "model", NULL};
  static const char *const other[] = {"top", "crop", "model", "money", NULL};
  static const char *const all[] = {"top", "crop", "model", "many", NULL};
  ck_assert_int_eq(halut_json_only(root, most, &diag), HALUT_EINVALID);
  ck_assert_str_eq(diag.text, "many: unknown member");
  ck_assert_int_eq(halut_json_only(root, other, &diag), HALUT_EINVALID);
  ck_assert_str_eq(diag.text, "many: unknown member; is \"money\" meant?");
  ck_assert_int_eq(halut_json_only(root, all, &diag), 0);
  halut_json_close(json);
}
END_TEST

static void expect_text(struct halut_json_out *out, const char *text) {
  size_t bytes = 0;
  char *got = halut_json_out_take(out, &bytes);
  ck_assert_ptr_nonnull(got);
  ck_assert_str_eq(got, text);
  ck_assert_uint_eq(bytes, strlen(text));
  free(got);
}

START_TEST(writes_arrays) {
  static const float f32[] = {0.1f, -2, 3e20f, 4};
  static const int32_t i32[] = {INT32_MIN, 0, 7};
  static const uint8_t u8[] = {0, 255};
  struct halut_json_out out = {0};
  halut_json_out_f32(&out, f32, 2, 2, true);
  expect_text(&out, "[[0.1,-2],[3e20,4]]");
  halut_json_out_f32(&out, f32, 2, 2, false);
  expect_text(&out, "[0.1,-2,3e20,4]");
  halut_json_out_i32(&out, i32, 1, 3, false);
  expect_text(&out, "[-2147483648,0,7]");
  halut_json_out_u8(&out, u8, 2, 1, true);
  expect_text(&out, "[[0],[255]]");
  halut_json_out_u8(&out, u8, 0, 1, true);
  expect_text(&out, "[]");
  halut_json_out_u8(&out, u8, 2, 0, true);
  expect_text(&out, "[[],[]]");
  halut_json_out_u8(&out, u8, 2, 0, false);
  expect_text(&out, "[]");
  expect_text(&out, "");
}
END_TEST

/* The longest values there are fill the room that is reserved for them exactly at worst. */
START_TEST(writes_long_arrays) {
  enum { N = 5000 };
  float *values = malloc(N * sizeof *values);
  ck_assert_ptr_nonnull(values);
  for (int i = 0; i < N; i++)
    values[i] = -1.17549435e-38f;
  struct halut_json_out out = {0};
  halut_json_out_f32(&out, values, N / 50, 50, true);
  ck_assert(!out.failed);
  size_t bytes = 0;
  char *text = halut_json_out_take(&out, &bytes);
  json_t *tree = json_loadb(text, bytes, 0, NULL);
  ck_assert_uint_eq(json_array_size(tree), N / 50);
  const json_t *row = json_array_get(tree, N / 50 - 1);
  ck_assert_uint_eq(json_array_size(row), 50);
  ck_assert_float_eq((float)json_real_value(json_array_get(row, 49)), -1.17549435e-38f);
  json_decref(tree);
  free(text);
  free(values);
}
END_TEST

/* Those that are written without printf, at both ends of their ranges, and one that is not. */
START_TEST(formats_as_printf_does) {
  struct halut_json_out out = {0};
  halut_json_out_format(&out, "%s", "");
  halut_json_out_format(&out, "{%s:%u,%u}", "a", 0u, UINT_MAX);
  halut_json_out_format(&out, "%06u %06u %06u", 7u, 123456u, 7654321u);
  halut_json_out_format(&out, " %lu %llu %zu", ULONG_MAX, ULLONG_MAX, (size_t)42);
  halut_json_out_format(&out, " %s%% %s %.3f", "%u", "text", 0.5);
  expect_text(&out, "{a:0,4294967295}000007 123456 7654321 18446744073709551615 "
                    "18446744073709551615 42 %u% text 0.500");
}
END_TEST

START_TEST(escapes_any_bytes) {
  static const char *const rows[][2] = {
      {"plain", "\"plain\""},
      {"q\"b\\s/", "\"q\\\"b\\\\s/\""},
      {"\x01\n\x7f", "\"\\u0001\\u000a\\u007f\""},
      {"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", "\"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\""},
      {"\xff", "\"\xef\xbf\xbd\""},
      {"\xc0\x80", "\"\xef\xbf\xbd\xef\xbf\xbd\""},                   /* overlong */
      {"\xed\xa0\x80!", "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd!\""}, /* surrogate */
      {"\xe2\x82", "\"\xef\xbf\xbd\xef\xbf\xbd\""},                   /* cut off */
  };
  for (unsigned i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    struct halut_json_out out = {0};
    halut_json_out_string(&out, rows[i][0]);
    expect_text(&out, rows[i][1]);
  }
  size_t bytes = 0;
  char *error = halut_json_error(&bytes, "no model \"%s\"", "\xfex");
  ck_assert_str_eq(error, "{\"error\":\"no model \\\"\xef\xbf\xbdx\\\"\"}");
  ck_assert_uint_eq(bytes, strlen(error));
  free(error);
}
END_TEST

START_TEST(forgets_on_close) {
  struct halut_json_out out = {0};
  halut_json_out_format(&out, "left");
  halut_json_out_close(&out);
  ck_assert_ptr_null(out.data);
}
END_TEST

int main(void) {
  json_object_seed(1);
  Suite *suite = suite_create("json");
  TCase *all = tcase_create("all");
  tcase_set_timeout(all, 30);
  tcase_add_test(all, cuts_out_arrays);
  tcase_add_test(all, cuts_out_strings_and_nested_members);
  tcase_add_test(all, leaves_arrays_of_objects_and_other_keys);
  tcase_add_test(all, cuts_out_the_strings_of_a_list);
  tcase_add_test(all, is_not_fooled_by_strings);
  tcase_add_test(all, is_not_fooled_by_what_looks_like_a_mark);
  tcase_add_test(all, knows_keys_and_text_however_spelled);
  tcase_add_test(all, checks_the_rest);
  tcase_add_test(all, cuts_big_arrays_at_every_alignment);
  tcase_add_test(all, refuses_with_line_and_column);
  tcase_add_test(all, limits_the_envelope);
  tcase_add_test(all, checks_members);
  tcase_add_test(all, writes_arrays);
  tcase_add_test(all, writes_long_arrays);
  tcase_add_test(all, formats_as_printf_does);
  tcase_add_test(all, escapes_any_bytes);
  tcase_add_test(all, forgets_on_close);
  suite_add_tcase(suite, all);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? 0 : 1;
}
