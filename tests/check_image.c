/* test: pictures decode to the expected tensors; broken and hostile ones give clear errors */
#include <check.h>
#include <dirent.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <jpeglib.h>
#include <zlib.h>

#include "../server/image.h"

enum { SIDE = 32, PLANAR = 3 * SIDE * SIDE, FILE_MAX = 1 << 16, CASES_MAX = 128 };

static char cases[CASES_MAX][64]; /* "NAME@FIT" of each file of expected values */
static int case_count;

static int by_name(const void *a, const void *b) {
  return strcmp(a, b);
}

static void find_cases(void) {
  DIR *folder = opendir("tests/images");
  if (folder == NULL)
    return;
  for (struct dirent *entry; (entry = readdir(folder)) != NULL;) {
    const char *dot = strrchr(entry->d_name, '.');
    if (dot == NULL || strcmp(dot, ".u8") != 0 || case_count == CASES_MAX)
      continue;
    snprintf(cases[case_count++], sizeof cases[0], "%.*s", (int)(dot - entry->d_name),
             entry->d_name);
  }
  closedir(folder);
  qsort(cases, (size_t)case_count, sizeof cases[0], by_name);
}

/* The file's bytes in an allocation of exactly their size, so that a sanitizer sees reads past it.
 */
static uint8_t *read_file(const char *name, size_t *size_out) {
  char path[128];
  snprintf(path, sizeof path, "tests/images/%s", name);
  FILE *file = fopen(path, "rb");
  ck_assert_msg(file != NULL, "%s: cannot be opened (run from the top folder)", path);
  static uint8_t buffer[FILE_MAX];
  *size_out = fread(buffer, 1, sizeof buffer, file);
  fclose(file);
  uint8_t *bytes = malloc(*size_out);
  ck_assert_ptr_nonnull(bytes);
  memcpy(bytes, buffer, *size_out);
  return bytes;
}

static const struct halut_image_options cifar = {
    .width = SIDE, .height = SIDE, .pixels_max = HALUT_IMAGE_PIXELS_DEFAULT};

static int decode(const uint8_t *bytes, size_t size, uint8_t *planar, struct halut_diag *diag) {
  return halut_image_decode(bytes, size, &cifar, planar, NULL, diag);
}

START_TEST(gives_expected_tensor) {
  const char *name = cases[_i];
  const char *at = strrchr(name, '@');
  char picture[64], expected_name[72];
  snprintf(picture, sizeof picture, "%.*s", (int)(at - name), name);
  snprintf(expected_name, sizeof expected_name, "%s.u8", name);
  size_t size, expected_size;
  uint8_t *bytes = read_file(picture, &size);
  uint8_t *expected = read_file(expected_name, &expected_size);
  ck_assert_uint_eq(expected_size, PLANAR);
  struct halut_image_options options = cifar;
  options.fit = strcmp(at, "@squash") == 0 ? HALUT_IMAGE_SQUASH : HALUT_IMAGE_CROP;
  uint8_t planar[PLANAR];
  memset(planar, 0xa5, sizeof planar);
  struct halut_diag diag = {0};
  struct halut_image_info info;
  int error = halut_image_decode(bytes, size, &options, planar, &info, &diag);
  ck_assert_msg(error == 0, "%s: %s", name, diag.text);
  for (unsigned i = 0; i < PLANAR; i++) {
    ck_assert_msg(planar[i] == expected[i], "%s: plane %u row %u column %u: %u, expected %u", name,
                  i / 1024, i / 32 % 32, i % 32, planar[i], expected[i]);
  }
  ck_assert_int_eq(info.kind, strstr(picture, ".png") != NULL ? HALUT_IMAGE_PNG : HALUT_IMAGE_JPEG);
  free(bytes);
  free(expected);
}
END_TEST

START_TEST(finds_the_pictures) {
  ck_assert_int_ge(case_count, 30); /* a wrong folder must not pass for an empty one */
}
END_TEST

/* Every prefix of a picture is refused, with a message that names the format. */
static void check_truncations(const char *name, const char *format) {
  size_t size;
  uint8_t *bytes = read_file(name, &size);
  uint8_t planar[PLANAR];
  for (size_t cut = 8; cut + 2 < size; cut += 1 + size / 97) {
    uint8_t *part = malloc(cut);
    ck_assert_ptr_nonnull(part);
    memcpy(part, bytes, cut);
    struct halut_diag diag = {0};
    int error = decode(part, cut, planar, &diag);
    ck_assert_msg(error == HALUT_EINVALID, "%s cut to %zu bytes: %d", name, cut, error);
    ck_assert_msg(strncmp(diag.text, format, strlen(format)) == 0, "%s", diag.text);
    free(part);
  }
  free(bytes);
}

START_TEST(refuses_truncated) {
  check_truncations("wide.png", "PNG: ");
  check_truncations("interlaced.png", "PNG: ");
  check_truncations("plain.jpg", "JPEG: ");
  check_truncations("progressive.jpg", "JPEG: ");
}
END_TEST

/* Any flipped byte of a PNG is found: every one of them is under a check sum, a length or a
 * signature. */
START_TEST(refuses_flipped_png_bytes) {
  size_t size;
  uint8_t *bytes = read_file("wide.png", &size);
  uint8_t planar[PLANAR];
  for (size_t i = 0; i < size - 12; i += 1 + size / 211) { /* IEND is not read */
    bytes[i] ^= 0x10;
    struct halut_diag diag = {0};
    ck_assert_msg(decode(bytes, size, planar, &diag) < 0, "byte %zu", i);
    ck_assert_uint_gt(strlen(diag.text), 0);
    bytes[i] ^= 0x10;
  }
  free(bytes);
}
END_TEST

/* A PNG of these dimensions whose header is in order, with a little data. */
static size_t make_png_header(uint8_t *out, uint32_t width, uint32_t height) {
  static const uint8_t start[] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n',
                                  0,    0,   0,   13,  'I',  'H',  'D',  'R'};
  memcpy(out, start, sizeof start);
  uint8_t *p = out + sizeof start;
  for (int shift = 24; shift >= 0; shift -= 8)
    *p++ = (uint8_t)(width >> shift);
  for (int shift = 24; shift >= 0; shift -= 8)
    *p++ = (uint8_t)(height >> shift);
  memcpy(p, "\x08\x02\0\0\0", 5);
  p += 5;
  uint32_t crc = (uint32_t)crc32(0, out + 12, 17);
  for (int shift = 24; shift >= 0; shift -= 8)
    *p++ = (uint8_t)(crc >> shift);
  return (size_t)(p - out);
}

static void expect(const uint8_t *bytes, size_t size, int error, const char *text) {
  uint8_t planar[PLANAR];
  struct halut_diag diag = {0};
  ck_assert_int_eq(decode(bytes, size, planar, &diag), error);
  ck_assert_str_eq(diag.text, text);
}

START_TEST(refuses_too_many_pixels_at_the_header) {
  uint8_t png[64];
  size_t size = make_png_header(png, 20000, 20000);
  expect(png, size, HALUT_ELIMIT, "PNG: 20000 x 20000 pixels exceed image-pixels-max 16777216");
  size = make_png_header(png, 100000, 2);
  expect(png, size, HALUT_ELIMIT, "PNG: 100000 x 2 pixels: a side exceeds 65535");
  size_t jpeg_size;
  uint8_t *jpeg = read_file("plain.jpg", &jpeg_size);
  for (size_t i = 0; i + 8 < jpeg_size;
       i++) { /* the frame header: ff c0, length, depth, height, width */
    if (jpeg[i] != 0xff || jpeg[i + 1] != 0xc0)
      continue;
    memset(jpeg + i + 5, 0xf0, 4);
    break;
  }
  expect(jpeg, jpeg_size, HALUT_ELIMIT,
         "JPEG: 61680 x 61680 pixels exceed image-pixels-max 16777216");
  free(jpeg);
}
END_TEST

START_TEST(obeys_pixels_max_exactly) {
  size_t size;
  uint8_t *bytes = read_file("wide.png", &size); /* 75 x 41 */
  uint8_t planar[PLANAR];
  struct halut_image_options options = cifar;
  options.pixels_max = 75 * 41;
  struct halut_diag diag = {0};
  ck_assert_int_eq(halut_image_decode(bytes, size, &options, planar, NULL, &diag), 0);
  options.pixels_max--;
  ck_assert_int_eq(halut_image_decode(bytes, size, &options, planar, NULL, &diag), HALUT_ELIMIT);
  free(bytes);
}
END_TEST

/* A progressive JPEG with a scan for each of the first `bands` coefficients of each colour; to
 * free(). */
static unsigned char *make_many_scans(int bands, unsigned long *size_out) {
  enum { SCANS_MAX = 1 + 3 * 63 };
  static jpeg_scan_info scans[SCANS_MAX];
  int count = 0;
  scans[count++] = (jpeg_scan_info){.comps_in_scan = 3, .component_index = {0, 1, 2}};
  for (int color = 0; color < 3; color++) {
    for (int band = 1; band <= bands; band++) {
      int end = band == bands ? 63 : band;
      scans[count++] =
          (jpeg_scan_info){.comps_in_scan = 1, .component_index = {color}, .Ss = band, .Se = end};
    }
  }
  struct jpeg_compress_struct encoder;
  struct jpeg_error_mgr errors;
  encoder.err = jpeg_std_error(&errors);
  jpeg_create_compress(&encoder);
  unsigned char *out = NULL;
  jpeg_mem_dest(&encoder, &out, size_out);
  encoder.image_width = encoder.image_height = 16;
  encoder.input_components = 3;
  encoder.in_color_space = JCS_RGB;
  jpeg_set_defaults(&encoder);
  encoder.scan_info = scans;
  encoder.num_scans = count;
  jpeg_start_compress(&encoder, TRUE);
  unsigned char row[48] = {0};
  JSAMPROW rows[1] = {row};
  while (encoder.next_scanline < 16)
    jpeg_write_scanlines(&encoder, rows, 1);
  jpeg_finish_compress(&encoder);
  jpeg_destroy_compress(&encoder);
  return out;
}

START_TEST(limits_scans) {
  uint8_t planar[PLANAR];
  struct halut_diag diag = {0};
  unsigned long size = 0;
  unsigned char *few = make_many_scans(30, &size);
  int error = decode(few, size, planar, &diag);
  ck_assert_msg(error == 0, "%s", diag.text);
  free(few);
  unsigned char *many = make_many_scans(60, &size);
  expect(many, size, HALUT_ELIMIT, "JPEG: more than 100 scans");
  free(many);
}
END_TEST

START_TEST(names_what_it_is_not) {
  expect((const uint8_t *)"", 0, HALUT_EINVALID, "image: no bytes");
  expect((const uint8_t *)"GIF89a....", 10, HALUT_EINVALID,
         "image: 10 bytes that are neither PNG nor JPEG nor the 3072 of a raw 32 x 32 picture "
         "(a GIF)");
  static uint8_t record[PLANAR + 1];
  expect(record, sizeof record, HALUT_EINVALID,
         "image: 3073 bytes that are neither PNG nor JPEG nor the 3072 of a raw 32 x 32 picture "
         "(a CIFAR record starts with its label: leave it out)");
}
END_TEST

START_TEST(copies_raw_pixels) {
  uint8_t raw[PLANAR], planar[PLANAR];
  for (unsigned i = 0; i < PLANAR; i++)
    raw[i] = (uint8_t)(i * 7 + i / 256);
  struct halut_diag diag;
  struct halut_image_info info;
  ck_assert_int_eq(halut_image_decode(raw, PLANAR, &cifar, planar, &info, &diag), 0);
  ck_assert_int_eq(info.kind, HALUT_IMAGE_RAW);
  ck_assert_int_eq(memcmp(raw, planar, PLANAR), 0);
}
END_TEST

/* Bright pixels may spell the start of a JPEG. */
START_TEST(takes_bright_raw_pixels_for_raw) {
  uint8_t raw[PLANAR];
  memset(raw, 0xff, sizeof raw);
  raw[1] = 0xd8;
  ck_assert_int_eq(halut_image_sniff(raw, PLANAR, SIDE, SIDE), HALUT_IMAGE_RAW);
  raw[3] = 0xe0;
  ck_assert_int_eq(halut_image_sniff(raw, PLANAR, SIDE, SIDE), HALUT_IMAGE_RAW);
  ck_assert_int_eq(halut_image_sniff(raw, PLANAR - 1, SIDE, SIDE), HALUT_IMAGE_JPEG);
}
END_TEST

/* The filter keeps a flat picture flat, whatever the sizes. */
START_TEST(keeps_flat_pictures_flat) {
  uint8_t png[8192];
  for (uint32_t side = 1; side <= 200; side += 13) {
    size_t size = make_png_header(png, side, side);
    size_t raw_bytes = (size_t)side * (3 * side + 1);
    uint8_t *raw = malloc(raw_bytes);
    ck_assert_ptr_nonnull(raw);
    memset(raw, 200, raw_bytes);
    for (uint32_t y = 0; y < side; y++)
      raw[(size_t)y * (3 * side + 1)] = 0;
    uLongf packed = sizeof png - size - 24;
    uint8_t *idat = png + size;
    ck_assert_int_eq(compress(idat + 8, &packed, raw, raw_bytes), Z_OK);
    for (int i = 0; i < 4; i++)
      idat[i] = (uint8_t)(packed >> (24 - 8 * i));
    memcpy(idat + 4, "IDAT", 4);
    uint32_t crc = (uint32_t)crc32(0, idat + 4, (uInt)packed + 4);
    for (int i = 0; i < 4; i++)
      idat[8 + packed + (unsigned)i] = (uint8_t)(crc >> (24 - 8 * i));
    memcpy(idat + 12 + packed, "\0\0\0\0IEND\xae\x42\x60\x82", 12);
    uint8_t planar[PLANAR];
    struct halut_diag diag = {0};
    int error = decode(png, size + packed + 24, planar, &diag);
    ck_assert_msg(error == 0, "side %u: %s", side, diag.text);
    for (unsigned i = 0; i < PLANAR; i++)
      ck_assert_uint_eq(planar[i], 200);
    free(raw);
  }
}
END_TEST

int main(void) {
  find_cases();
  Suite *suite = suite_create("image");
  TCase *files = tcase_create("files");
  tcase_add_test(files, finds_the_pictures);
  tcase_add_loop_test(files, gives_expected_tensor, 0, case_count);
  suite_add_tcase(suite, files);
  TCase *rest = tcase_create("rest");
  tcase_set_timeout(rest, 30);
  tcase_add_test(rest, refuses_truncated);
  tcase_add_test(rest, refuses_flipped_png_bytes);
  tcase_add_test(rest, refuses_too_many_pixels_at_the_header);
  tcase_add_test(rest, obeys_pixels_max_exactly);
  tcase_add_test(rest, limits_scans);
  tcase_add_test(rest, names_what_it_is_not);
  tcase_add_test(rest, copies_raw_pixels);
  tcase_add_test(rest, takes_bright_raw_pixels_for_raw);
  tcase_add_test(rest, keeps_flat_pictures_flat);
  suite_add_tcase(suite, rest);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? 0 : 1;
}
