/* .npy arrays: what is read, and the exact error of what is not. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../models/npy.h"

/* A version 1 file: header text as given, padded to a multiple of 16, then `bytes` zero bytes. */
static size_t file_make(uint8_t *to, const char *dictionary, size_t bytes) {
  size_t length = strlen(dictionary), total = (10 + length + 1 + 15) / 16 * 16;
  memset(to, ' ', total);
  memcpy(to, "\x93NUMPY\x01\x00", 8);
  to[8] = (uint8_t)(total - 10);
  to[9] = (uint8_t)((total - 10) >> 8);
  memcpy(to + 10, dictionary, length);
  to[total - 1] = '\n';
  memset(to + total, 0, bytes);
  return total + bytes;
}

START_TEST(what_is_written_is_read) {
  static const enum halut_npy_type types[] = {HALUT_NPY_U8, HALUT_NPY_F32, HALUT_NPY_F64};
  for (uint32_t rank = 1; rank <= HALUT_RANK_MAX; rank++) {
    enum halut_npy_type type = types[_i];
    const uint32_t dim[HALUT_RANK_MAX] = {3, 2, 1, 5};
    uint8_t u8[30];
    float f32[30], back[30];
    double f64[30];
    size_t count = rank == 4 ? 30 : rank == 1 ? 3 : 6;
    for (int i = 0; i < 30; i++) {
      u8[i] = (uint8_t)(i * 8);
      f64[i] = f32[i] = (float)u8[i];
    }
    const void *data = type == HALUT_NPY_U8    ? (void *)u8
                       : type == HALUT_NPY_F32 ? (void *)f32
                                               : (void *)f64;
    char path[] = "/tmp/check_npy.XXXXXX";
    int fd = mkstemp(path);
    ck_assert_int_ge(fd, 0);
    close(fd);
    struct halut_npy npy;
    struct halut_diag diag = {0};
    ck_assert_int_eq(halut_npy_write(path, type, rank, dim, data, &diag), 0);
    ck_assert_msg(halut_npy_open(path, &npy, &diag) == 0, "%s", diag.text);
    ck_assert_int_eq(npy.type, type);
    ck_assert_uint_eq(npy.rank, rank);
    ck_assert_uint_eq(npy.count, count);
    for (uint32_t i = 0; i < HALUT_RANK_MAX; i++)
      ck_assert_uint_eq(npy.dim[i], i < rank ? dim[i] : 1);
    ck_assert(!memcmp(npy.data, data, count * halut_npy_type_bytes(type)));
    halut_npy_floats(&npy, 1, count - 1, back);
    ck_assert(!memcmp(back, f32 + 1, (count - 1) * sizeof *back));
    ck_assert((halut_npy_in_place(&npy) != NULL) == (type == HALUT_NPY_F32));
    halut_npy_close(&npy);
    unlink(path);
  }
}
END_TEST

START_TEST(versions_two_and_three_have_four_bytes_of_length) {
  uint8_t bytes[256];
  const char *dictionary = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 1)}";
  memcpy(bytes, "\x93NUMPY", 6);
  bytes[6] = (uint8_t)(2 + _i);
  bytes[7] = 0;
  memcpy(bytes + 8, &(uint32_t){(uint32_t)strlen(dictionary)}, 4);
  memcpy(bytes + 12, dictionary, strlen(dictionary));
  memcpy(bytes + 12 + strlen(dictionary), (float[2]){1.5f, -2.0f}, 8);
  struct halut_npy npy;
  float back[2];
  ck_assert_int_eq(halut_npy_parse(bytes, 12 + strlen(dictionary) + 8, &npy, NULL), 0);
  halut_npy_floats(&npy, 0, 2, back);
  ck_assert(back[0] == 1.5f && back[1] == -2.0f);
}
END_TEST

START_TEST(keys_come_in_any_order_and_spacing) {
  static const char *const dictionary[] = {
      "{ \"shape\" : ( 4 , ) , 'descr':'|u1','fortran_order' :False }",
      "{'fortran_order':False,'shape':(4,),'descr':'<u1',}",
      "{'descr': '|u1', 'fortran_order': True, 'shape': (1, 4, 1), }", /* one order only */
  };
  uint8_t bytes[256];
  struct halut_npy npy;
  struct halut_diag diag = {0};
  size_t size = file_make(bytes, dictionary[_i], 4);
  ck_assert_msg(halut_npy_parse(bytes, size, &npy, &diag) == 0, "%s", diag.text);
  ck_assert_uint_eq(npy.count, 4);
}
END_TEST

/* [[1, 2, 3], [4, 5, 6]], its columns one after another. */
START_TEST(a_matrix_in_fortran_order_is_read_in_c_order) {
  static const uint8_t stored[6] = {1, 4, 2, 5, 3, 6};
  static const char *const name[] = {"|u1", "<f4", "<f8"};
  char dictionary[96];
  _Alignas(max_align_t) uint8_t bytes[256]; /* headers are padded, so that the values are aligned */
  float single[6], back[6];
  double twice[6];
  for (int i = 0; i < 6; i++) single[i] = stored[i], twice[i] = stored[i];
  const void *const values[] = {stored, single, twice};
  const size_t each[] = {1, 4, 8};
  snprintf(dictionary, sizeof dictionary,
           "{'descr': '%s', 'fortran_order': True, 'shape': (2, 3)}", name[_i]);
  size_t size = file_make(bytes, dictionary, 6 * each[_i]);
  memcpy(bytes + size - 6 * each[_i], values[_i], 6 * each[_i]);
  struct halut_npy npy;
  struct halut_diag diag = {0};
  ck_assert_msg(halut_npy_parse(bytes, size, &npy, &diag) == 0, "%s", diag.text);
  ck_assert(npy.by_column);
  ck_assert_ptr_null(halut_npy_in_place(&npy));
  ck_assert_ptr_eq(halut_npy_columns(&npy), _i == 1 ? npy.data : NULL);
  for (size_t first = 0; first < 6; first++) {
    halut_npy_floats(&npy, first, 6 - first, back);
    for (size_t i = first; i < 6; i++) ck_assert(back[i - first] == (float)(i + 1));
    uint8_t whole[6];
    if (npy.type == HALUT_NPY_U8) halut_npy_bytes(&npy, first, 6 - first, whole);
    for (size_t i = first; npy.type == HALUT_NPY_U8 && i < 6; i++)
      ck_assert(whole[i - first] == i + 1);
  }
}
END_TEST

static const struct {
  const char *dictionary;
  size_t bytes; /* of values */
  int error;
  const char *text;
} broken[] = {
    {"{'descr': '>f4', 'fortran_order': False, 'shape': (2,)}", 8, HALUT_EFORMAT,
     "type '>f4' is big-endian: little-endian is read"},
    {"{'descr': '|O', 'fortran_order': False, 'shape': (2,)}", 8, HALUT_EFORMAT,
     "an array of Python objects, which only running code could read: float32, float64 or uint8 is "
     "read"},
    {"{'descr': '<i8', 'fortran_order': False, 'shape': (1,)}", 8, HALUT_EFORMAT,
     "type '<i8': float32 (<f4), float64 (<f8) or uint8 (|u1) is read"},
    {"{'descr': [('x', '<f4')], 'fortran_order': False, 'shape': (2,)}", 8, HALUT_EFORMAT,
     "an array of records: plain float32, float64 or uint8 is read"},
    {"{'descr': 4, 'fortran_order': False, 'shape': (2,)}", 8, HALUT_EFORMAT,
     "'descr' is not a type name"},
    {"{'descr': '<f4', 'fortran_order': True, 'shape': (2, 2, 1)}", 16, HALUT_EFORMAT,
     "the array is in Fortran order and no matrix: save numpy.ascontiguousarray(array) instead"},
    {"{'descr': '<f4', 'fortran_order': None, 'shape': (2, 2)}", 16, HALUT_EFORMAT,
     "'fortran_order' is neither True nor False"},
    {"{'descr': '<f4', 'fortran_order': False, 'shape': ()}", 4, HALUT_EFORMAT,
     "a single number, not an array"},
    {"{'descr': '<f4', 'fortran_order': False, 'shape': 2}", 8, HALUT_EFORMAT,
     "'shape' is not a tuple"},
    {"{'descr': '<f4', 'fortran_order': False, 'shape': (-2,)}", 8, HALUT_EFORMAT,
     "a dimension of 'shape' is not a whole number"},
    {"{'descr': '<f4', 'fortran_order': False, 'shape': (2 2)}", 16, HALUT_EFORMAT,
     "'shape' is not closed"},
    {"{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1, 1, 1, 1)}", 4, HALUT_ELIMIT,
     "more than 4 dimensions"},
    {"{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296,)}", 4, HALUT_ELIMIT,
     "a dimension is over 4294967295"},
    {"{'descr': '<f4', 'fortran_order': False, 'shape': (4294967295, 4294967295, 4294967295)}", 4,
     HALUT_ELIMIT, "the array has more values than this machine can count"},
    {"{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}", 7, HALUT_EFORMAT,
     "the file ends within its values: 7 bytes are there, 8 are due"},
    {"{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}", 11, HALUT_EFORMAT,
     "3 bytes follow the last value"},
    {"{'descr': '<f4', 'shape': (2,)}", 8, HALUT_EFORMAT, "the header lacks 'fortran_order'"},
    {"{'descr': '<f4', 'descr': '<f4'}", 8, HALUT_EFORMAT,
     "key 'descr' of the header is there twice"},
    {"{'order': 'C'}", 8, HALUT_EFORMAT, "key 'order' of the header is unknown"},
    {"{'descr': '<f4', 'fortran_order': False, 'shape': (2,)", 8, HALUT_EFORMAT,
     "the header's dictionary is not closed"},
    {"{'descr': '<f4', 'fortran_order': False, 'shape': (2,)} ()", 8, HALUT_EFORMAT,
     "the header goes on after its dictionary"},
    {"['descr']", 8, HALUT_EFORMAT, "the header is not a dictionary"},
    {"{descr: '<f4'}", 8, HALUT_EFORMAT,
     "the header is not a dictionary of descr, fortran_order and shape"}};

START_TEST(says_what_is_broken) {
  uint8_t bytes[256];
  struct halut_npy npy;
  struct halut_diag diag = {0};
  size_t size = file_make(bytes, broken[_i].dictionary, broken[_i].bytes);
  ck_assert_int_eq(halut_npy_parse(bytes, size, &npy, &diag), broken[_i].error);
  ck_assert_str_eq(diag.text, broken[_i].text);
}
END_TEST

START_TEST(no_part_of_a_file_is_a_file) {
  uint8_t bytes[256];
  struct halut_npy npy;
  size_t size = file_make(bytes, "{'descr': '<f4', 'fortran_order': False, 'shape': (3,)}", 12);
  for (size_t part = 0; part < size; part++) {
    struct halut_diag diag = {0};
    uint8_t *exact =
        malloc(part + 1); /* its own memory, so that a sanitizer sees a read past the end */
    ck_assert_ptr_nonnull(exact);
    memcpy(exact, bytes, part);
    ck_assert_msg(halut_npy_parse(exact, part, &npy, &diag) == HALUT_EFORMAT, "%zu bytes of %zu",
                  part, size);
    ck_assert_int_ne(diag.text[0], 0);
    free(exact);
  }
  ck_assert_int_eq(halut_npy_parse(bytes, size, &npy, NULL), 0);
}
END_TEST

START_TEST(names_the_version_and_the_size_of_the_header) {
  uint8_t bytes[8192];
  struct halut_npy npy;
  struct halut_diag diag = {0};
  size_t size = file_make(bytes, "{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}", 8);
  bytes[6] = 4;
  ck_assert_int_eq(halut_npy_parse(bytes, size, &npy, &diag), HALUT_EFORMAT);
  ck_assert_str_eq(diag.text, "version 4.0 of .npy: 1.0, 2.0 and 3.0 are read");
  memset(bytes + 10, ' ', sizeof bytes - 10);
  bytes[6] = 1;
  bytes[8] = 0x01;
  bytes[9] = 0x10;
  ck_assert_int_eq(halut_npy_parse(bytes, sizeof bytes, &npy, &diag), HALUT_ELIMIT);
  ck_assert_str_eq(diag.text, "a header of 4097 bytes: at most 4096 are read");
}
END_TEST

/* ---- models/atomic_file ---- */

static char folder[] = "/tmp/check_npy.XXXXXX", place[64];
static const uint32_t one[1] = {1};

/* The path of `name` in the test's folder, until the next call. */
static const char *in_folder(const char *name) {
  snprintf(place, sizeof place, "%s/%s", folder, name);
  return place;
}

static int write_in_folder(const char *name, struct halut_diag *diag) {
  return halut_npy_write(in_folder(name), HALUT_NPY_U8, 1, one, "x", diag);
}

static mode_t kind_of(const char *name) {
  struct stat status;
  ck_assert_int_eq(lstat(in_folder(name), &status), 0);
  return status.st_mode;
}

static void folder_begin(void) {
  ck_assert_ptr_nonnull(mkdtemp(folder));
}

/* So many files are left, none of which a test forgot. */
static void folder_end(const char *const *names) {
  for (size_t i = 0; names[i]; i++)
    ck_assert_int_eq(remove(in_folder(names[i])), 0);
  ck_assert_int_eq(rmdir(folder), 0);
}

/* What was killed under the same process number leaves such a part; containers repeat theirs. */
START_TEST(a_stale_part_is_no_obstacle) {
  static const char *const left[] = {"part", "a.npy", NULL};
  char stale[128];
  folder_begin();
  snprintf(stale, sizeof stale, "%s/a.npy.%ld.0.part", folder, (long)getpid());
  ck_assert_int_eq(mknod(stale, S_IFREG | 0600, 0), 0);
  ck_assert_int_eq(write_in_folder("a.npy", NULL), 0);
  ck_assert_int_eq(rename(stale, in_folder("part")), 0); /* it is not ours to remove */
  folder_end(left);
}
END_TEST

START_TEST(a_replaced_file_keeps_its_permissions_and_a_link_its_target) {
  static const char *const left[] = {"a.npy", "link", "dangling", "new.npy", NULL};
  folder_begin();
  ck_assert_int_eq(write_in_folder("a.npy", NULL), 0);
  ck_assert_int_eq(chmod(in_folder("a.npy"), 0606), 0);
  ck_assert_int_eq(symlink("a.npy", in_folder("link")), 0);
  ck_assert_int_eq(symlink("new.npy", in_folder("dangling")), 0);
  ck_assert_int_eq(truncate(in_folder("a.npy"), 0), 0);
  ck_assert_int_eq(write_in_folder("link", NULL), 0);
  ck_assert_int_eq(write_in_folder("dangling", NULL), 0);
  ck_assert(S_ISLNK(kind_of("link")));
  ck_assert(S_ISLNK(kind_of("dangling")));
  ck_assert_uint_eq(kind_of("a.npy"), S_IFREG | 0606);
  ck_assert(S_ISREG(kind_of("new.npy")));
  struct halut_npy npy;
  ck_assert_int_eq(halut_npy_open(in_folder("a.npy"), &npy, NULL), 0);
  halut_npy_close(&npy);
  folder_end(left);
}
END_TEST

START_TEST(what_is_no_file_is_not_replaced) {
  static const char *const left[] = {"fifo", "folder", "loop", NULL};
  struct halut_diag diag = {0};
  folder_begin();
  ck_assert_int_eq(mkfifo(in_folder("fifo"), 0600), 0);
  ck_assert_int_eq(mkdir(in_folder("folder"), 0700), 0);
  ck_assert_int_eq(symlink("loop", in_folder("loop")), 0);
  ck_assert_int_eq(write_in_folder("fifo", &diag), HALUT_EIO);
  ck_assert_ptr_nonnull(strstr(diag.text, "what is no regular file is there"));
  ck_assert_int_eq(write_in_folder("folder", &diag), HALUT_EIO);
  ck_assert_ptr_nonnull(strstr(diag.text, "a folder is there"));
  ck_assert_int_eq(write_in_folder("loop", &diag), HALUT_EIO);
  ck_assert(S_ISFIFO(kind_of("fifo")));
  folder_end(left);
}
END_TEST

START_TEST(names_what_the_system_refused) {
  struct halut_npy npy;
  struct halut_diag diag = {0};
  const uint32_t dim[1] = {1};
  ck_assert_int_eq(halut_npy_open("/nowhere/a.npy", &npy, &diag), HALUT_EIO);
  ck_assert_str_eq(diag.text, "cannot open: No such file or directory");
  ck_assert_int_eq(halut_npy_open("/tmp", &npy, &diag), HALUT_EIO);
  ck_assert_str_eq(diag.text, "not a regular file");
  char fifo[sizeof folder + 2];
  folder_begin();
  snprintf(fifo, sizeof fifo, "%s/f", folder);
  ck_assert_int_eq(mkfifo(fifo, 0600), 0);
  diag.text[0] = '\0';
  const int error = halut_npy_open(fifo, &npy, &diag); /* nobody writes to it */
  ck_assert_int_eq(unlink(fifo), 0);
  ck_assert_int_eq(rmdir(folder), 0);
  ck_assert_int_eq(error, HALUT_EIO);
  ck_assert_str_eq(diag.text, "not a regular file");
  ck_assert_int_eq(halut_npy_write("/nowhere/a.npy", HALUT_NPY_U8, 1, dim, "", &diag), HALUT_EIO);
  ck_assert_ptr_nonnull(strstr(diag.text, "No such file or directory"));
}
END_TEST

int main(void) {
  Suite *suite = suite_create("npy");
  TCase *tcase = tcase_create("npy");
  suite_add_tcase(suite, tcase);
  tcase_add_loop_test(tcase, what_is_written_is_read, 0, 3);
  tcase_add_loop_test(tcase, versions_two_and_three_have_four_bytes_of_length, 0, 2);
  tcase_add_loop_test(tcase, keys_come_in_any_order_and_spacing, 0, 3);
  tcase_add_loop_test(tcase, a_matrix_in_fortran_order_is_read_in_c_order, 0, 3);
  tcase_add_loop_test(tcase, says_what_is_broken, 0, sizeof broken / sizeof *broken);
  tcase_add_test(tcase, no_part_of_a_file_is_a_file);
  tcase_add_test(tcase, names_the_version_and_the_size_of_the_header);
  tcase_add_test(tcase, a_stale_part_is_no_obstacle);
  tcase_add_test(tcase, a_replaced_file_keeps_its_permissions_and_a_link_its_target);
  tcase_add_test(tcase, what_is_no_file_is_not_replaced);
  tcase_add_test(tcase, names_what_the_system_refused);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed != 0;
}
