/* test: every allocation of the decoders fails in turn: a clear error, nothing leaked */
#include "../server/image.h"
#include "../server/json.h"
#include "oom.h"

/* ---- Pictures ---- */

struct picture {
  uint8_t bytes[1 << 14];
  size_t size;
};

static struct picture picture;

static int decode(void *self) {
  const struct picture *p = self;
  static uint8_t planar[3 * 32 * 32];
  struct halut_image_options options = {.width = 32, .height = 32, .pixels_max = 1 << 20};
  return halut_image_decode(p->bytes, p->size, &options, planar, NULL, &last);
}

START_TEST(decodes_pictures) {
  static const char *const names[] = {"wide.png",  "interlaced.png",  "palette.png", "exif6.png",
                                      "plain.jpg", "progressive.jpg", "cmyk.jpg",    "exif6.jpg"};
  char path[64];
  snprintf(path, sizeof path, "tests/images/%s", names[_i]);
  FILE *file = fopen(path, "rb");
  ck_assert_msg(file != NULL, "%s: cannot be opened (run from the top folder)", path);
  picture.size = fread(picture.bytes, 1, sizeof picture.bytes, file);
  fclose(file);
  sweep(names[_i], decode, &picture);
}
END_TEST

/* ---- JSON ---- */

static int open_json(void *self) {
  static const char *const keys[] = {"a", "data", NULL};
  const char *body = self;
  struct halut_json *json = NULL;
  int error = halut_json_open(body, strlen(body), keys, 16, &json, &last);
  halut_json_close(json);
  return error;
}

START_TEST(opens_json) {
  char body[1024] = "{\"model\":\"m\",\"x\":{\"y\":[true,1.5,\"z\"]},\"inputs\":[";
  for (int i = 0; i < 40; i++) {
    size_t used = strlen(body);
    snprintf(body + used, sizeof body - used, "%s{\"data\":[%d]}", i > 0 ? "," : "", i);
  }
  memcpy(body + strlen(body), "]}", 3);
  sweep("JSON body", open_json, body);
}
END_TEST

static int write_json(void *self) {
  (void)self;
  struct halut_json_out out = {0};
  static const float values[200] = {0.5f};
  halut_json_out_format(&out, "{\"name\":");
  halut_json_out_string(&out, "a \"quoted\" name");
  halut_json_out_format(&out, ",\"c\":");
  for (int i = 0; i < 20; i++)
    halut_json_out_f32(&out, values, 10, 20, true);
  size_t bytes = 0;
  char *text = halut_json_out_take(&out, &bytes);
  bool made = text != NULL;
  free(text);
  return made ? 0 : HALUT_ENOMEM;
}

START_TEST(writes_json) {
  sweep("JSON reply", write_json, NULL);
}
END_TEST

int main(void) {
  json_object_seed(1);
  Suite *suite = suite_create("codec_oom");
  TCase *all = tcase_create("all");
  tcase_set_timeout(all, 60);
  tcase_add_loop_test(all, decodes_pictures, 0, 8);
  tcase_add_test(all, opens_json);
  tcase_add_test(all, writes_json);
  suite_add_tcase(suite, all);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? 0 : 1;
}
