/* sanitizers: asan, it has one thread */
/* check_format.c: what the reader of model files refuses, and that it never believes a broken file.
 *
 * tests/invalid/RULE/input must give exactly tests/invalid/RULE/error, and models/FORMAT.md must
 * show it. Runs from the top folder. */
#include <check.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../core/backend.h"
#include "../models/model.h"
#include "../models/safetensors.h"
#include "../models/session.h"

enum { RULES_MAX = 256, LINE_MAX_BYTES = 512, CORRUPTIONS = 3000 };

static char *rules[RULES_MAX];
static int rule_count;

static int by_text(const void *a, const void *b) {
  return strcmp(*(char *const *)a, *(char *const *)b);
}

static void rules_list(void) {
  DIR *folder = opendir("tests/invalid");
  if (!folder)
    return;
  for (struct dirent *entry; (entry = readdir(folder)) && rule_count < RULES_MAX;)
    if (entry->d_name[0] != '.')
      rules[rule_count++] = strdup(entry->d_name);
  closedir(folder);
  qsort(rules, (size_t)rule_count, sizeof(rules[0]), by_text);
}

static uint8_t *file_read(const char *path, size_t *bytes_out) {
  FILE *file = fopen(path, "rb");
  ck_assert_msg(file != NULL, "cannot open %s", path);
  ck_assert_int_eq(fseek(file, 0, SEEK_END), 0);
  long bytes = ftell(file);
  ck_assert_int_ge(bytes, 0);
  rewind(file);
  uint8_t *content = malloc((size_t)bytes + 1);
  ck_assert_ptr_nonnull(content);
  ck_assert_uint_eq(fread(content, 1, (size_t)bytes, file), (size_t)bytes);
  content[bytes] = 0;
  fclose(file);
  *bytes_out = (size_t)bytes;
  return content;
}

/* As the command line prints it. */
static void error_format(int rc, const struct halut_diag *diag, char *text, size_t size) {
  int used = snprintf(text, size, "%s: %s", halut_error_text(rc), diag->text);
  if (diag->offset)
    snprintf(text + used, size - (size_t)used, " (byte %llu)", (unsigned long long)diag->offset);
}

START_TEST(refuses_each_broken_rule_by_name) {
  char path[LINE_MAX_BYTES], is[LINE_MAX_BYTES], row[LINE_MAX_BYTES + 64];
  size_t bytes;
  snprintf(path, sizeof(path), "tests/invalid/%s/error", rules[_i]);
  char *wanted = (char *)file_read(path, &bytes);
  wanted[strcspn(wanted, "\n")] = '\0';
  snprintf(path, sizeof(path), "tests/invalid/%s/input", rules[_i]);
  struct halut_model *model = NULL;
  struct halut_diag diag = {0};
  int rc = halut_model_open(path, &model, &diag);
  ck_assert_msg(rc < 0, "%s was accepted", path);
  ck_assert_ptr_null(model);
  error_format(rc, &diag, is, sizeof(is));
  ck_assert_str_eq(is, wanted);
  ck_assert_int_eq(halut_model_open(path, &model, NULL), rc); /* without a diag, too */

  char *page = (char *)file_read("models/FORMAT.md", &bytes);
  snprintf(row, sizeof(row), "| `%s` | `%s` |\n", rules[_i], wanted);
  ck_assert_msg(strstr(page, row) != NULL, "models/FORMAT.md lacks the row %s", row);
  free(page);
  free(wanted);
}
END_TEST

START_TEST(names_every_rule_that_the_page_names) {
  size_t bytes;
  char *page = (char *)file_read("models/FORMAT.md", &bytes), *at = strstr(page, "| rule | error");
  ck_assert_ptr_nonnull(at);
  int rows = 0;
  for (at = strstr(at, "\n| `"); at; at = strstr(at + 1, "\n| `"))
    rows++;
  ck_assert_int_eq(rows, rule_count);
  ck_assert_int_ge(rows, 80);
  free(page);
}
END_TEST

/* An anonymous file of these bytes, opened by its path below /proc. */
static int memory_file(const uint8_t *content, size_t bytes, char path[64]) {
  int fd = memfd_create("model", MFD_CLOEXEC);
  ck_assert_int_ge(fd, 0);
  ck_assert_int_eq((int)(write(fd, content, bytes) == (ssize_t)bytes), 1);
  snprintf(path, 64, "/proc/self/fd/%d", fd);
  return fd;
}

/* Runs a model that was accepted on what its golden example gives, or on zeros: it must end. */
static void model_run(const struct halut_model *model) {
  const struct halut_model_info *info = halut_model_info(model);
  bool network = info->kind == HALUT_NETWORK;
  size_t in_bytes = network ? (size_t)info->channels * info->height * info->width
                            : (size_t)info->columns * sizeof(float);
  size_t outputs = network ? info->classes : info->outputs;
  if (in_bytes > 1 << 20) /* legal, but slow */
    return;
  struct halut_session *session;
  ck_assert_int_eq(halut_session_open(model, &halut_backend_cpu, NULL, 1, &session, NULL), 0);
  struct halut_tensor in = {.data = calloc(1, in_bytes),
                            .dtype = network ? HALUT_U8 : HALUT_F32,
                            .rank = network ? 4 : 2,
                            .dim = {1, network ? info->channels : info->columns,
                                    network ? info->height : 1, network ? info->width : 1}};
  struct halut_tensor out = {.data = calloc(outputs, 4),
                             .dtype = network ? HALUT_I32 : HALUT_F32,
                             .rank = 2,
                             .dim = {1, (uint32_t)outputs, 1, 1}};
  ck_assert_int_eq(halut_session_run(session, &in, &out, NULL), 0);
  free(in.data);
  free(out.data);
  halut_session_close(session);
}

/* 0 and 1: whether the bytes were accepted; what is accepted is run. */
static int content_try(const uint8_t *content, size_t bytes) {
  char path[64];
  struct halut_model *model = NULL;
  struct halut_diag diag = {0};
  int fd = memory_file(content, bytes, path);
  int rc = halut_model_open(path, &model, &diag);
  if (rc == 0)
    model_run(model);
  else
    ck_assert_msg(diag.text[0] != '\0', "an error without a reason");
  halut_model_close(model);
  close(fd);
  return rc == 0;
}

static const char *const whole[] = {"models/golden/strides.safetensors",
                                    "models/golden/pools.safetensors",
                                    "models/golden/product-small.safetensors"};
enum { WHOLE_COUNT = sizeof(whole) / sizeof(whole[0]) };

START_TEST(refuses_a_file_cut_anywhere) {
  size_t bytes;
  uint8_t *content = file_read(whole[_i], &bytes);
  ck_assert_int_eq(content_try(content, bytes), 1);
  for (size_t cut = 0; cut < bytes; cut++)
    ck_assert_msg(content_try(content, cut) == 0, "%s cut to %zu bytes was accepted", whole[_i],
                  cut);
  free(content);
}
END_TEST

static uint64_t random_next(uint64_t *state) { /* xorshift64*, Vigna 2016 */
  *state ^= *state >> 12;
  *state ^= *state << 25;
  *state ^= *state >> 27;
  return *state * UINT64_C(0x2545F4914F6CDD1D);
}

/* Puts the true checksum into the header, so that a change of the data gets past it. */
static void checksum_renew(uint8_t *content, size_t bytes) {
  uint64_t length = 0;
  for (int i = 0; i < 8; i++)
    length |= (uint64_t)content[i] << (8 * i);
  if (length > bytes - 8)
    return;
  char *key = memmem(content, bytes, "\"halut.sha256\":\"", 16), hex[65];
  if (!key || key + 16 + 64 > (char *)content + 8 + length)
    return;
  halut_sha256_hex(content + 8 + length, bytes - 8 - (size_t)length, hex);
  memcpy(key + 16, hex, 64);
}

/* One to four bytes changed at random in the header (even numbers) or anywhere. */
static void content_spoil(uint8_t *content, size_t bytes, int number, uint64_t *state) {
  size_t header = 8 + content[0] + 256u * content[1];
  size_t range = number % 2 == 0 ? header : bytes;
  for (uint64_t left = 1 + random_next(state) % 4; left > 0; left--) {
    size_t at = (size_t)(random_next(state) % range);
    static const char digits[] = "0123456789-[]{}\",:";
    content[at] = random_next(state) % 2
                      ? (uint8_t)digits[random_next(state) % (sizeof(digits) - 1)]
                      : (uint8_t)random_next(state);
  }
  checksum_renew(content, bytes);
}

START_TEST(survives_random_corruption) {
  size_t bytes;
  const char *given = getenv("HALUT_SEED");
  uint64_t seed = given ? strtoull(given, NULL, 10) : 20261125, state = seed * 2 + 1;
  uint8_t *content = file_read(whole[_i], &bytes), *copy = malloc(bytes);
  ck_assert_ptr_nonnull(copy);
  printf("%s: seed %llu (HALUT_SEED)\n", whole[_i], (unsigned long long)seed);
  int accepted = 0;
  for (int number = 0; number < CORRUPTIONS; number++) {
    memcpy(copy, content, bytes);
    content_spoil(copy, bytes, number, &state);
    accepted += content_try(copy, bytes);
  }
  /* Otherwise the checksum was not renewed, and nothing behind it was tried. */
  ck_assert_int_gt(accepted, CORRUPTIONS / 20);
  ck_assert_int_lt(accepted, CORRUPTIONS);
  free(copy);
  free(content);
}
END_TEST

START_TEST(refuses_what_is_no_file) {
  struct halut_model *model = NULL;
  struct halut_diag diag = {0};
  ck_assert_int_eq(halut_model_open("tests/no-such-file", &model, &diag), HALUT_EIO);
  ck_assert_str_eq(diag.text, "cannot open: No such file or directory");
  ck_assert_int_eq(halut_model_open("tests", &model, &diag), HALUT_EIO);
  ck_assert_str_eq(diag.text, "not a regular file");
  ck_assert_int_eq(halut_model_open("/dev/null", &model, &diag), HALUT_EIO);
  ck_assert_ptr_null(model);
}
END_TEST

/* Writing. */

static char folder[] = "/tmp/halut-check-XXXXXX";
static char target[64];

static void folder_make(void) {
  ck_assert_ptr_nonnull(mkdtemp(folder));
  snprintf(target, sizeof(target), "%s/file", folder);
}

static int folder_entries(void) {
  int count = 0;
  DIR *open = opendir(folder);
  ck_assert_ptr_nonnull(open);
  for (struct dirent *entry; (entry = readdir(open));)
    count += entry->d_name[0] != '.';
  closedir(open);
  return count;
}

static void folder_remove(void) {
  unlink(target);
  ck_assert_int_eq(rmdir(folder), 0);
}

static uint8_t bytes_value[70] = {1, 2, 3};
static uint16_t words_value[3] = {1, 500, 65535};
static const struct halut_named_tensor written[] = {
    {"bytes", {bytes_value, HALUT_U8, 2, {7, 10, 1, 1}}, 0},
    {"none", {NULL, HALUT_F32, 2, {0, 3, 1, 1}}, 0},
    {"words", {words_value, HALUT_U16, 1, {3, 1, 1, 1}}, 0},
    {"scalar", {bytes_value, HALUT_I8, 0, {1, 1, 1, 1}}, 0}};
static const struct halut_text_pair pairs[] = {{"b", "\"quoted\" \xc3\xa9"}, {"a", ""}};

START_TEST(reads_what_it_wrote) {
  struct halut_safetensors *file;
  struct halut_diag diag = {0};
  ck_assert_msg(halut_safetensors_write(target, written, 4, pairs, 2, &diag) == 0, "%s", diag.text);
  ck_assert_int_eq(folder_entries(), 1);
  ck_assert_msg(halut_safetensors_open(target, &file, &diag) == 0, "%s", diag.text);
  size_t count, bytes;
  uint64_t offset;
  (void)halut_safetensors_tensors(file, &count);
  ck_assert_uint_eq(count, 4);
  for (size_t i = 0; i < 4; i++) {
    const struct halut_named_tensor *read = halut_safetensors_find(file, written[i].name);
    ck_assert_ptr_nonnull(read);
    ck_assert_int_eq(read->tensor.dtype, written[i].tensor.dtype);
    ck_assert_uint_eq(read->tensor.rank, written[i].tensor.rank);
    ck_assert_mem_eq(read->tensor.dim, written[i].tensor.dim, sizeof(read->tensor.dim));
    ck_assert_uint_eq(read->offset % HALUT_ALIGN, 0);
    ck_assert(halut_tensor_bytes(&read->tensor, &bytes));
    if (bytes > 0)
      ck_assert_mem_eq(read->tensor.data, written[i].tensor.data, bytes);
  }
  ck_assert_ptr_null(halut_safetensors_find(file, "byte"));
  ck_assert_str_eq(halut_safetensors_value(file, "b"), pairs[0].value);
  ck_assert_str_eq(halut_safetensors_value(file, "a"), "");
  ck_assert_ptr_null(halut_safetensors_value(file, "c"));
  char hex[65];
  const void *data = halut_safetensors_data(file, &bytes, &offset);
  halut_sha256_hex(data, bytes, hex);
  ck_assert_str_eq(halut_safetensors_value(file, HALUT_SHA256_KEY), hex);
  ck_assert_uint_eq(offset + bytes, halut_safetensors_file_bytes(file));
  halut_safetensors_close(file);
}
END_TEST

/* As cp over a file that is being served does. */
START_TEST(stays_what_it_was_when_somebody_writes_into_it) {
  struct halut_safetensors *file;
  struct halut_diag diag = {0};
  ck_assert_msg(halut_safetensors_write(target, written, 4, pairs, 2, &diag) == 0, "%s", diag.text);
  ck_assert_msg(halut_safetensors_open(target, &file, &diag) == 0, "%s", diag.text);
  FILE *other = fopen(target, "w");
  ck_assert_ptr_nonnull(other);
  ck_assert_int_eq(fputs("something else", other), 1);
  ck_assert_int_eq(fclose(other), 0);
  const struct halut_named_tensor *read = halut_safetensors_find(file, "bytes");
  ck_assert_mem_eq(read->tensor.data, bytes_value, 70);
  halut_safetensors_close(file);
}
END_TEST

START_TEST(refuses_to_write_what_it_could_not_read) {
  struct halut_diag diag = {0};
  struct halut_named_tensor twice[] = {written[0], written[0]};
  ck_assert_int_eq(halut_safetensors_write(target, twice, 2, NULL, 0, &diag), HALUT_EINVALID);
  ck_assert_str_eq(diag.text, "tensor \"bytes\" is given twice");
  static const char *const bad[] = {"_pad.x", "__metadata__", "\xff\xfe"};
  for (size_t i = 0; i < 3; i++) {
    struct halut_named_tensor one = written[0];
    one.name = bad[i];
    ck_assert_int_eq(halut_safetensors_write(target, &one, 1, NULL, 0, &diag), HALUT_EINVALID);
  }
  struct halut_text_pair again[] = {pairs[0], pairs[0]}, reserved = {HALUT_SHA256_KEY, "0"};
  ck_assert_int_eq(halut_safetensors_write(target, written, 1, again, 2, &diag), HALUT_EINVALID);
  ck_assert_int_eq(halut_safetensors_write(target, written, 1, &reserved, 1, &diag),
                   HALUT_EINVALID);
  struct halut_named_tensor large = {"large", {bytes_value, HALUT_F32, 2, {65536, 65536, 1, 1}}, 0};
  ck_assert_int_eq(halut_safetensors_write(target, &large, 1, NULL, 0, &diag), HALUT_ELIMIT);
  ck_assert_int_eq(folder_entries(), 0);
}
END_TEST

START_TEST(keeps_the_old_file_when_writing_fails) {
  struct halut_diag diag = {0};
  ck_assert_int_eq(halut_safetensors_write(target, written, 1, NULL, 0, &diag), 0);
  /* A folder in the place of the file: everything works but the rename. */
  char inside[128];
  snprintf(inside, sizeof(inside), "%s/sub", folder);
  ck_assert_int_eq(mkdir(inside, 0700), 0);
  ck_assert_int_eq(halut_safetensors_write(inside, written, 1, NULL, 0, &diag), HALUT_EIO);
  ck_assert_int_eq(folder_entries(), 2); /* no part left over */
  ck_assert_int_eq(rmdir(inside), 0);
  snprintf(inside, sizeof(inside), "%s/no/file", folder);
  ck_assert_int_eq(halut_safetensors_write(inside, written, 1, NULL, 0, &diag), HALUT_EIO);
  ck_assert_msg(strstr(diag.text, "No such file or directory") != NULL, "%s", diag.text);
  struct halut_safetensors *file;
  ck_assert_int_eq(halut_safetensors_open(target, &file, &diag), 0);
  halut_safetensors_close(file);
}
END_TEST

int main(void) {
  rules_list();
  Suite *suite = suite_create("format");
  TCase *reading = tcase_create("reading");
  tcase_set_timeout(reading, 120);
  tcase_add_loop_test(reading, refuses_each_broken_rule_by_name, 0, rule_count);
  tcase_add_test(reading, names_every_rule_that_the_page_names);
  tcase_add_loop_test(reading, refuses_a_file_cut_anywhere, 0, WHOLE_COUNT);
  tcase_add_loop_test(reading, survives_random_corruption, 0, WHOLE_COUNT);
  tcase_add_test(reading, refuses_what_is_no_file);
  suite_add_tcase(suite, reading);
  TCase *writing = tcase_create("writing");
  tcase_add_checked_fixture(writing, folder_make, folder_remove);
  tcase_add_test(writing, reads_what_it_wrote);
  tcase_add_test(writing, stays_what_it_was_when_somebody_writes_into_it);
  tcase_add_test(writing, refuses_to_write_what_it_could_not_read);
  tcase_add_test(writing, keeps_the_old_file_when_writing_fails);
  suite_add_tcase(suite, writing);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  for (int i = 0; i < rule_count; i++)
    free(rules[i]);
  return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
