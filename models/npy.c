/* DESIGN: the dictionary is read by a small scanner of exactly what NumPy writes (any order of
 * keys, any spacing, one trailing comma), not by a Python parser. Everything is checked before the
 * first value is touched. */
#include "npy.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "atomic_file.h"

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "values are read in place");

struct npy_scan {
  const char *at, *end;
  const char *file; /* first byte of the file, for offsets */
};

static uint64_t npy_offset(const struct npy_scan *scan) {
  return (uint64_t)(scan->at - scan->file);
}

static void npy_space(struct npy_scan *scan) {
  while (scan->at < scan->end && (*scan->at == ' ' || *scan->at == '\t' || *scan->at == '\n'))
    scan->at++;
}

/* Takes `c`, after space, if it comes next. */
static bool npy_take(struct npy_scan *scan, char c) {
  npy_space(scan);
  if (scan->at == scan->end || *scan->at != c)
    return false;
  scan->at++;
  return true;
}

/* A quoted string without escapes, copied and ended with NUL. */
static bool npy_text(struct npy_scan *scan, char *to, size_t room) {
  npy_space(scan);
  char quote = scan->at < scan->end ? *scan->at : 0;
  if (quote != '\'' && quote != '"')
    return false;
  const char *from = scan->at + 1;
  const char *close = memchr(from, quote, (size_t)(scan->end - from));
  if (!close || (size_t)(close - from) >= room)
    return false;
  memcpy(to, from, (size_t)(close - from));
  to[close - from] = '\0';
  scan->at = close + 1;
  return true;
}

static bool npy_word(struct npy_scan *scan, const char *word) {
  npy_space(scan);
  size_t length = strlen(word);
  if ((size_t)(scan->end - scan->at) < length || memcmp(scan->at, word, length) != 0)
    return false;
  scan->at += length;
  return true;
}

static int npy_descr(struct npy_scan *scan, struct halut_npy *out, struct halut_diag *diag) {
  char text[16];
  npy_space(scan);
  uint64_t offset = npy_offset(scan);
  if (scan->at < scan->end && *scan->at == '[')
    return halut_fail(diag, HALUT_EFORMAT, offset,
                      "an array of records: plain float32, float64 or uint8 is read");
  if (!npy_text(scan, text, sizeof text))
    return halut_fail(diag, HALUT_EFORMAT, offset, "'descr' is not a type name");
  if (!strcmp(text, "<f4"))
    out->type = HALUT_NPY_F32;
  else if (!strcmp(text, "<f8"))
    out->type = HALUT_NPY_F64;
  else if (!strcmp(text, "|u1") || !strcmp(text, "<u1"))
    out->type = HALUT_NPY_U8;
  else if (text[0] == '>')
    return halut_fail(diag, HALUT_EFORMAT, offset, "type '%s' is big-endian: little-endian is read",
                      text);
  else if (!strcmp(text, "|O"))
    return halut_fail(diag, HALUT_EFORMAT, offset,
                      "an array of Python objects, which only running code could read: "
                      "float32, float64 or uint8 is read");
  else
    return halut_fail(diag, HALUT_EFORMAT, offset,
                      "type '%s': float32 (<f4), float64 (<f8) or uint8 (|u1) is read", text);
  return HALUT_OK;
}

static int npy_shape(struct npy_scan *scan, struct halut_npy *out, struct halut_diag *diag) {
  npy_space(scan);
  uint64_t offset = npy_offset(scan);
  if (!npy_take(scan, '('))
    return halut_fail(diag, HALUT_EFORMAT, offset, "'shape' is not a tuple");
  while (!npy_take(scan, ')')) {
    uint64_t size = 0;
    const char *digits = scan->at; /* npy_take skipped the space */
    if (out->rank == HALUT_RANK_MAX)
      return halut_fail(diag, HALUT_ELIMIT, offset, "more than %d dimensions", HALUT_RANK_MAX);
    while (scan->at < scan->end && *scan->at >= '0' && *scan->at <= '9' && size <= UINT32_MAX)
      size = size * 10 + (uint64_t)(*scan->at++ - '0');
    if (scan->at == digits)
      return halut_fail(diag, HALUT_EFORMAT, npy_offset(scan),
                        "a dimension of 'shape' is not a whole number");
    if (size > UINT32_MAX)
      return halut_fail(diag, HALUT_ELIMIT, offset, "a dimension is over %u", UINT32_MAX);
    out->dim[out->rank++] = (uint32_t)size;
    if (!npy_take(scan, ',')) {
      if (npy_take(scan, ')'))
        break;
      return halut_fail(diag, HALUT_EFORMAT, npy_offset(scan), "'shape' is not closed");
    }
  }
  if (out->rank == 0)
    return halut_fail(diag, HALUT_EFORMAT, offset, "a single number, not an array");
  return HALUT_OK;
}

/* fortran_order: of a matrix, or where there is only one order. */
static int npy_order(struct halut_npy *out, uint64_t offset, struct halut_diag *diag) {
  uint32_t long_dims = 0;
  for (uint32_t i = 0; i < out->rank; i++)
    long_dims += out->dim[i] > 1;
  if (long_dims > 1 && out->rank > 2)
    return halut_fail(diag, HALUT_EFORMAT, offset,
                      "the array is in Fortran order and no matrix: save "
                      "numpy.ascontiguousarray(array) instead");
  out->by_column = long_dims > 1;
  return HALUT_OK;
}

static int npy_entry(struct npy_scan *scan, struct halut_npy *out, unsigned *seen,
                     uint64_t *fortran, struct halut_diag *diag) {
  char key[16];
  npy_space(scan);
  uint64_t offset = npy_offset(scan);
  if (!npy_text(scan, key, sizeof key) || !npy_take(scan, ':'))
    return halut_fail(diag, HALUT_EFORMAT, offset,
                      "the header is not a dictionary of descr, fortran_order and shape");
  unsigned bit = !strcmp(key, "descr")           ? 1
                 : !strcmp(key, "fortran_order") ? 2
                 : !strcmp(key, "shape")         ? 4
                                                 : 0;
  if (!bit || *seen & bit)
    return halut_fail(diag, HALUT_EFORMAT, offset, "key '%s' of the header is %s", key,
                      bit ? "there twice" : "unknown");
  *seen |= bit;
  if (bit == 1)
    return npy_descr(scan, out, diag);
  if (bit == 4)
    return npy_shape(scan, out, diag);
  npy_space(scan);
  offset = npy_offset(scan);
  if (npy_word(scan, "True"))
    *fortran = offset;
  else if (!npy_word(scan, "False"))
    return halut_fail(diag, HALUT_EFORMAT, offset, "'fortran_order' is neither True nor False");
  return HALUT_OK;
}

static int npy_dictionary(struct npy_scan *scan, struct halut_npy *out, struct halut_diag *diag) {
  unsigned seen = 0;
  uint64_t fortran = 0; /* offset of its True */
  if (!npy_take(scan, '{'))
    return halut_fail(diag, HALUT_EFORMAT, npy_offset(scan), "the header is not a dictionary");
  while (!npy_take(scan, '}')) {
    int error = npy_entry(scan, out, &seen, &fortran, diag);
    if (error)
      return error;
    if (!npy_take(scan, ',')) {
      if (npy_take(scan, '}'))
        break;
      return halut_fail(diag, HALUT_EFORMAT, npy_offset(scan),
                        "the header's dictionary is not closed");
    }
  }
  npy_space(scan);
  if (scan->at != scan->end)
    return halut_fail(diag, HALUT_EFORMAT, npy_offset(scan),
                      "the header goes on after its dictionary");
  const char *missing = !(seen & 1)   ? "descr"
                        : !(seen & 2) ? "fortran_order"
                        : !(seen & 4) ? "shape"
                                      : NULL;
  if (missing)
    return halut_fail(diag, HALUT_EFORMAT, npy_offset(scan), "the header lacks '%s'", missing);
  return fortran ? npy_order(out, fortran, diag) : HALUT_OK;
}

/* Finds the dictionary; the values start at its end. */
static int npy_frame(const uint8_t *bytes, size_t count, struct npy_scan *scan,
                     struct halut_diag *diag) {
  if (count < 10 || memcmp(bytes, "\x93NUMPY", 6) != 0)
    return halut_fail(diag, HALUT_EFORMAT, 0, "not a .npy file: it does not begin with \\x93NUMPY");
  size_t head = bytes[6] == 1 ? 10 : 12;
  if (bytes[6] < 1 || bytes[6] > 3 || bytes[7] != 0)
    return halut_fail(diag, HALUT_EFORMAT, 6, "version %u.%u of .npy: 1.0, 2.0 and 3.0 are read",
                      bytes[6], bytes[7]);
  if (count < head)
    return halut_fail(diag, HALUT_EFORMAT, count, "the file ends within its header");
  uint64_t length = bytes[8] | (uint64_t)bytes[9] << 8;
  if (head == 12)
    length |= (uint64_t)bytes[10] << 16 | (uint64_t)bytes[11] << 24;
  if (length > count - head)
    return halut_fail(diag, HALUT_EFORMAT, count, "the file ends within its header");
  if (length > HALUT_NPY_DICT_MAX)
    return halut_fail(diag, HALUT_ELIMIT, 8, "a header of %llu bytes: at most %d are read",
                      (unsigned long long)length, HALUT_NPY_DICT_MAX);
  scan->file = (const char *)bytes;
  scan->at = scan->file + head;
  scan->end = scan->at + length;
  return HALUT_OK;
}

int halut_npy_parse(const void *bytes, size_t count, struct halut_npy *out,
                    struct halut_diag *diag) {
  struct npy_scan scan;
  struct halut_npy npy = {.dim = {1, 1, 1, 1}};
  int error = npy_frame(bytes, count, &scan, diag);
  error = error ? error : npy_dictionary(&scan, &npy, diag);
  if (error)
    return error;
  size_t begin = (size_t)(scan.end - scan.file), need = halut_npy_type_bytes(npy.type);
  bool over = false;
  npy.count = 1;
  for (uint32_t i = 0; i < npy.rank; i++)
    over |= __builtin_mul_overflow(npy.count, npy.dim[i], &npy.count);
  over |= __builtin_mul_overflow(need, npy.count, &need);
  if (over)
    return halut_fail(diag, HALUT_ELIMIT, begin,
                      "the array has more values than this machine can count");
  if (need > count - begin)
    return halut_fail(diag, HALUT_EFORMAT, count,
                      "the file ends within its values: %zu bytes are there, %zu are due",
                      count - begin, need);
  if (need < count - begin)
    return halut_fail(diag, HALUT_EFORMAT, begin + need, "%zu bytes follow the last value",
                      count - begin - need);
  npy.data = (const uint8_t *)bytes + begin;
  *out = npy;
  return HALUT_OK;
}

int halut_npy_open(const char *path, struct halut_npy *out, struct halut_diag *diag) {
  struct stat status;
  void *map = MAP_FAILED;
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not hang us */
  if (fd < 0)
    return halut_fail(diag, HALUT_EIO, 0, "cannot open: %s", strerror(errno));
  int error = HALUT_OK;
  if (fstat(fd, &status) != 0)
    error = halut_fail(diag, HALUT_EIO, 0, "cannot be examined: %s", strerror(errno));
  else if (!S_ISREG(status.st_mode))
    error = halut_fail(diag, HALUT_EIO, 0, "not a regular file");
  else if (status.st_size == 0)
    error = halut_fail(diag, HALUT_EFORMAT, 0, "not a .npy file: it is empty");
  else if ((map = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, fd, 0)) == MAP_FAILED)
    error = halut_fail(diag, HALUT_EIO, 0, "cannot be mapped: %s", strerror(errno));
  close(fd);
  if (error)
    return error;
  error = halut_npy_parse(map, (size_t)status.st_size, out, diag);
  if (error) {
    munmap(map, (size_t)status.st_size);
    return error;
  }
  out->map = map;
  out->map_bytes = (size_t)status.st_size;
  return HALUT_OK;
}

void halut_npy_close(struct halut_npy *npy) {
  if (!npy)
    return;
  if (npy->map)
    munmap(npy->map, npy->map_bytes);
  *npy = (struct halut_npy){0};
}

size_t halut_npy_type_bytes(enum halut_npy_type type) {
  return type == HALUT_NPY_F64 ? 8 : type == HALUT_NPY_F32 ? 4 : 1;
}

const char *halut_npy_type_name(enum halut_npy_type type) {
  return type == HALUT_NPY_F64 ? "float64" : type == HALUT_NPY_F32 ? "float32" : "uint8";
}

/* Of a matrix in Fortran order. */
static void npy_floats_turned(const struct halut_npy *npy, size_t first, size_t count, float *to) {
  const size_t rows = npy->dim[0], columns = npy->dim[1];
  const uint8_t *bytes = npy->data;
  for (size_t i = first; i < first + count; i++) {
    const size_t at = i % columns * rows + i / columns;
    double value = bytes[npy->type == HALUT_NPY_U8 ? at : 0];
    float single;
    if (npy->type == HALUT_NPY_F64)
      memcpy(&value, bytes + at * sizeof value, sizeof value);
    else if (npy->type == HALUT_NPY_F32)
      value = (double)*(const float *)memcpy(&single, bytes + at * sizeof single, sizeof single);
    to[i - first] = (float)value;
  }
}

void halut_npy_floats(const struct halut_npy *npy, size_t first, size_t count, float *to) {
  assert(first <= npy->count);
  assert(count <= npy->count - first);
  if (npy->by_column) {
    npy_floats_turned(npy, first, count, to);
    return;
  }
  const uint8_t *from = (const uint8_t *)npy->data + first * halut_npy_type_bytes(npy->type);
  if (npy->type == HALUT_NPY_F32)
    memcpy(to, from, count * sizeof *to);
  for (size_t i = 0; npy->type == HALUT_NPY_U8 && i < count; i++)
    to[i] = (float)from[i];
  for (size_t i = 0; npy->type == HALUT_NPY_F64 && i < count; i++) {
    double value;
    memcpy(&value, from + i * sizeof value, sizeof value);
    to[i] = (float)value;
  }
}

void halut_npy_bytes(const struct halut_npy *npy, size_t first, size_t count, uint8_t *to) {
  assert(npy->type == HALUT_NPY_U8);
  assert(first <= npy->count);
  assert(count <= npy->count - first);
  const uint8_t *bytes = npy->data;
  const size_t rows = npy->dim[0], columns = npy->dim[1];
  if (!npy->by_column)
    memcpy(to, bytes + first, count);
  for (size_t i = first; npy->by_column && i < first + count; i++)
    to[i - first] = bytes[i % columns * rows + i / columns];
}

static const float *npy_stored(const struct halut_npy *npy) {
  return npy->type != HALUT_NPY_F32 || (uintptr_t)npy->data % sizeof(float) ? NULL : npy->data;
}

const float *halut_npy_in_place(const struct halut_npy *npy) {
  return npy->by_column ? NULL : npy_stored(npy);
}

const float *halut_npy_columns(const struct halut_npy *npy) {
  return npy->by_column ? npy_stored(npy) : NULL;
}

size_t halut_npy_head(char head[HALUT_NPY_HEAD_MAX], enum halut_npy_type type, uint32_t rank,
                      const uint32_t *dim) {
  static const char *const name[] = {
      [HALUT_NPY_U8] = "|u1", [HALUT_NPY_F32] = "<f4", [HALUT_NPY_F64] = "<f8"};
  assert(rank >= 1);
  assert(rank <= HALUT_RANK_MAX);
  size_t at = 10;
  at += (size_t)snprintf(head + at, HALUT_NPY_HEAD_MAX - at,
                         "{'descr': '%s', 'fortran_order': False, 'shape': (", name[type]);
  for (uint32_t i = 0; i < rank; i++)
    at += (size_t)snprintf(head + at, HALUT_NPY_HEAD_MAX - at,
                           i + 1 < rank || rank == 1 ? "%u, " : "%u", dim[i]);
  if (rank == 1)
    at--; /* (3,) as Python writes it */
  at += (size_t)snprintf(head + at, HALUT_NPY_HEAD_MAX - at, "), }");
  size_t end = (at + 1 + 63) / 64 * 64;
  assert(end <= HALUT_NPY_HEAD_MAX);
  memset(head + at, ' ', end - at);
  head[end - 1] = '\n';
  memcpy(head, "\x93NUMPY\x01\x00", 8);
  head[8] = (char)(end - 10);
  head[9] = 0;
  static_assert(HALUT_NPY_HEAD_MAX - 10 < 256, "the length fits its low byte");
  return end;
}

int halut_npy_write(const char *path, enum halut_npy_type type, uint32_t rank, const uint32_t *dim,
                    const void *data, struct halut_diag *diag) {
  char head[HALUT_NPY_HEAD_MAX];
  struct halut_atomic_file file;
  size_t bytes = halut_npy_type_bytes(type);
  for (uint32_t i = 0; i < rank; i++)
    bytes *= dim[i];
  int error = halut_atomic_file_open(path, &file, diag);
  if (error)
    return error;
  halut_atomic_file_put(&file, head, halut_npy_head(head, type, rank, dim));
  halut_atomic_file_put(&file, data, bytes);
  return halut_atomic_file_finish(&file, diag);
}
