/* DESIGN: the header is parsed by jansson (duplicate keys refused) and stays alive, for names and
 * metadata point into it. Tensors are sorted by where they begin, walked once so that each begins
 * where the one before ends and the last ends the file, then sorted by name for look-ups. */
#include "safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <nettle/sha2.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "json_load.h"

enum { LENGTH_BYTES = 8 };

struct halut_safetensors {
  const uint8_t *map; /* the whole file, as it was read */
  size_t bytes;
  size_t header_bytes;
  json_t *root;
  struct halut_named_tensor *tensors;
  size_t count;
  struct halut_text_pair *pairs;
  size_t pair_count;
  void *copies; /* of the tensors that are not aligned in the file */
};

#define DTYPE_MAP(XX) XX(I8) XX(U8) XX(I32) XX(F32) XX(U16) XX(U32)

const char *halut_dtype_name(enum halut_dtype dtype) {
  switch (dtype) {
#define XX(name)                                                                                   \
  case HALUT_##name:                                                                               \
    return #name;
    DTYPE_MAP(XX)
#undef XX
  }
  return NULL;
}

enum halut_dtype halut_dtype_parse(const char *name) {
#define XX(known)                                                                                  \
  if (strcmp(name, #known) == 0)                                                                   \
    return HALUT_##known;
  DTYPE_MAP(XX)
#undef XX
  return (enum halut_dtype)0;
}

bool halut_tensor_bytes(const struct halut_tensor *tensor, size_t *bytes_out) {
  size_t bytes = halut_dtype_bytes(tensor->dtype);
  for (uint32_t i = 0; i < tensor->rank; i++)
    if (__builtin_mul_overflow(bytes, (size_t)tensor->dim[i], &bytes))
      return false;
  *bytes_out = bytes;
  return true;
}

void halut_hex(const uint8_t *digest, size_t bytes, char *hex) {
  static const char digit[] = "0123456789abcdef";
  for (size_t i = 0; i < bytes; i++) {
    hex[2 * i] = digit[digest[i] >> 4];
    hex[2 * i + 1] = digit[digest[i] & 15];
  }
  hex[2 * bytes] = '\0';
}

void halut_sha256_hex(const void *data, size_t bytes, char hex[65]) {
  struct sha256_ctx context;
  uint8_t digest[SHA256_DIGEST_SIZE];
  sha256_init(&context);
  sha256_update(&context, bytes, data);
  sha256_digest(&context, sizeof(digest), digest);
  halut_hex(digest, sizeof(digest), hex);
}

/* Into memory of its own, page by page as a mapping of the file would be: a file that somebody
 * writes into later must not change, nor end, who has checked it. */
static int content_read(struct halut_safetensors *file, int fd, size_t bytes,
                        struct halut_diag *diag) {
  uint8_t *map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (map == MAP_FAILED)
    return halut_fail(diag, HALUT_ENOMEM, 0, "no memory for its %zu bytes", bytes);
  file->map = map;
  file->bytes = bytes;
  for (size_t at = 0; at < bytes;) {
    ssize_t got = read(fd, map + at, bytes - at);
    if (got < 0 && errno == EINTR)
      continue;
    if (got < 0)
      return halut_fail(diag, HALUT_EIO, at, "cannot read: %s", strerror(errno));
    if (got == 0)
      return halut_fail(diag, HALUT_EIO, at, "it became shorter while it was read");
    at += (size_t)got;
  }
  return HALUT_OK;
}

static int file_read(struct halut_safetensors *file, const char *path, struct halut_diag *diag) {
  int fd =
      open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* non-blocking: a FIFO must not hang us */
  if (fd < 0)
    return halut_fail(diag, HALUT_EIO, 0, "cannot open: %s", strerror(errno));
  struct stat status;
  int rc = 0;
  if (fstat(fd, &status) != 0) {
    rc = halut_fail(diag, HALUT_EIO, 0, "cannot read its size: %s", strerror(errno));
  } else if (!S_ISREG(status.st_mode)) {
    rc = halut_fail(diag, HALUT_EIO, 0, "not a regular file");
  } else if (status.st_size < LENGTH_BYTES) {
    rc = halut_fail(diag, HALUT_EFORMAT, 0, "file of %lld bytes is too short for a header length",
                    (long long)status.st_size);
  } else if (status.st_size > HALUT_FILE_MAX) {
    rc = halut_fail(diag, HALUT_ELIMIT, 0, "file of %lld bytes exceeds %d",
                    (long long)status.st_size, HALUT_FILE_MAX);
  } else {
    rc = content_read(file, fd, (size_t)status.st_size, diag);
  }
  close(fd);
  return rc;
}

static int header_parse(struct halut_safetensors *file, struct halut_diag *diag) {
  uint64_t length = 0;
  for (unsigned i = 0; i < LENGTH_BYTES; i++)
    length |= (uint64_t)file->map[i] << (8 * i);
  if (length > HALUT_HEADER_MAX)
    return halut_fail(diag, HALUT_ELIMIT, 0, "header length %llu exceeds %d",
                      (unsigned long long)length, HALUT_HEADER_MAX);
  if (length > file->bytes - LENGTH_BYTES)
    return halut_fail(diag, HALUT_EFORMAT, 0,
                      "header length %llu is past the end of the file (%zu bytes)",
                      (unsigned long long)length, file->bytes);
  file->header_bytes = (size_t)length;
  json_error_t error;
  int rc = halut_json_load((const char *)file->map + LENGTH_BYTES, file->header_bytes, &file->root,
                           &error);
  if (rc == HALUT_ENOMEM)
    return halut_fail(diag, HALUT_ENOMEM, 0, "no memory for the header");
  if (rc)
    return halut_fail(diag, HALUT_EFORMAT,
                      LENGTH_BYTES + (uint64_t)(error.position > 0 ? error.position : 0),
                      "header is not JSON: %s", error.text);
  if (!json_is_object(file->root))
    return halut_fail(diag, HALUT_EFORMAT, 0, "header is not a JSON object");
  return 0;
}

static int metadata_parse(struct halut_safetensors *file, struct halut_diag *diag) {
  json_t *metadata = json_object_get(file->root, "__metadata__");
  if (!metadata)
    return 0;
  if (!json_is_object(metadata))
    return halut_fail(diag, HALUT_EFORMAT, 0, "__metadata__ is not an object");
  size_t count = json_object_size(metadata);
  file->pairs = calloc(count + 1, sizeof(*file->pairs));
  if (!file->pairs)
    return halut_fail(diag, HALUT_ENOMEM, 0, "no memory for the metadata");
  const char *key;
  json_t *value;
  json_object_foreach(metadata, key, value) {
    if (!json_is_string(value))
      return halut_fail(diag, HALUT_EFORMAT, 0, "metadata \"%.64s\" is not a string", key);
    file->pairs[file->pair_count++] = (struct halut_text_pair){key, json_string_value(value)};
  }
  return 0;
}

/* Whole numbers only: 1.0 and -1 are refused. */
static bool whole_number(const json_t *value, uint64_t max, uint64_t *out) {
  if (!json_is_integer(value))
    return false;
  json_int_t number = json_integer_value(value);
  if (number < 0 || (uint64_t)number > max)
    return false;
  *out = (uint64_t)number;
  return true;
}

static int shape_parse(struct halut_named_tensor *named, const json_t *shape,
                       struct halut_diag *diag) {
  struct halut_tensor *tensor = &named->tensor;
  for (uint32_t i = 0; i < HALUT_RANK_MAX; i++)
    tensor->dim[i] = 1;
  if (!json_is_array(shape))
    return halut_fail(diag, HALUT_EFORMAT, 0, "tensor \"%.64s\": shape is not an array",
                      named->name);
  if (json_array_size(shape) > HALUT_RANK_MAX)
    return halut_fail(diag, HALUT_ELIMIT, 0, "tensor \"%.64s\": %zu dimensions exceed %d",
                      named->name, json_array_size(shape), HALUT_RANK_MAX);
  tensor->rank = (uint32_t)json_array_size(shape);
  for (uint32_t i = 0; i < tensor->rank; i++) {
    uint64_t size;
    if (!whole_number(json_array_get(shape, i), UINT32_MAX, &size))
      return halut_fail(diag, HALUT_EFORMAT, 0,
                        "tensor \"%.64s\": dimension %u is not a whole number up to %u",
                        named->name, i, UINT32_MAX);
    tensor->dim[i] = (uint32_t)size;
  }
  return 0;
}

static int tensor_parse(struct halut_safetensors *file, const char *name, const json_t *entry,
                        struct halut_named_tensor *named, struct halut_diag *diag) {
  named->name = name;
  if (!json_is_object(entry))
    return halut_fail(diag, HALUT_EFORMAT, 0, "tensor \"%.64s\" is not an object", name);
  if (json_object_size(entry) != 3)
    return halut_fail(diag, HALUT_EFORMAT, 0,
                      "tensor \"%.64s\" must have dtype, shape and data_offsets only", name);
  const json_t *dtype = json_object_get(entry, "dtype");
  if (!json_is_string(dtype))
    return halut_fail(diag, HALUT_EFORMAT, 0, "tensor \"%.64s\": dtype is not a string", name);
  named->tensor.dtype = halut_dtype_parse(json_string_value(dtype));
  if (!named->tensor.dtype)
    return halut_fail(diag, HALUT_EFORMAT, 0, "tensor \"%.64s\": dtype \"%.16s\" is not known",
                      name, json_string_value(dtype));
  int rc = shape_parse(named, json_object_get(entry, "shape"), diag);
  if (rc)
    return rc;

  size_t data_bytes = file->bytes - LENGTH_BYTES - file->header_bytes, bytes;
  const json_t *offsets = json_object_get(entry, "data_offsets");
  uint64_t begin, end;
  if (!json_is_array(offsets) || json_array_size(offsets) != 2 ||
      !whole_number(json_array_get(offsets, 0), INT64_MAX, &begin) ||
      !whole_number(json_array_get(offsets, 1), INT64_MAX, &end))
    return halut_fail(diag, HALUT_EFORMAT, 0,
                      "tensor \"%.64s\": data_offsets are not two whole numbers", name);
  if (begin > end)
    return halut_fail(diag, HALUT_EFORMAT, 0,
                      "tensor \"%.64s\" ends (%llu) before it begins (%llu)", name,
                      (unsigned long long)end, (unsigned long long)begin);
  if (end > data_bytes)
    return halut_fail(diag, HALUT_EFORMAT, 0,
                      "tensor \"%.64s\" ends at byte %llu of a data section of %zu", name,
                      (unsigned long long)end, data_bytes);
  named->offset = LENGTH_BYTES + file->header_bytes + begin;
  if (!halut_tensor_bytes(&named->tensor, &bytes) || bytes != end - begin)
    return halut_fail(diag, HALUT_EFORMAT, named->offset,
                      "tensor \"%.64s\" has %llu bytes, which is not what its shape and dtype take",
                      name, (unsigned long long)(end - begin));
  return 0;
}

static int by_offset(const void *a, const void *b) {
  const struct halut_named_tensor *left = a, *right = b;
  size_t left_bytes = 0, right_bytes = 0;
  if (left->offset != right->offset)
    return left->offset < right->offset ? -1 : 1;
  /* Empty tensors come before the one that begins at the same byte. */
  (void)halut_tensor_bytes(&left->tensor, &left_bytes);
  (void)halut_tensor_bytes(&right->tensor, &right_bytes);
  return (left_bytes > 0) - (right_bytes > 0);
}

static int by_name(const void *a, const void *b) {
  const struct halut_named_tensor *left = a, *right = b;
  return strcmp(left->name, right->name);
}

/* The tensors must tile the data section: no gap, no overlap, nothing after the last. */
static int layout_check(const struct halut_safetensors *file, struct halut_diag *diag) {
  uint64_t at = LENGTH_BYTES + file->header_bytes;
  for (size_t i = 0; i < file->count; i++) {
    const struct halut_named_tensor *named = &file->tensors[i];
    if (named->offset < at)
      return halut_fail(diag, HALUT_EFORMAT, named->offset,
                        "tensor \"%.64s\" overlaps the one before it", named->name);
    if (named->offset > at)
      return halut_fail(diag, HALUT_EFORMAT, at,
                        "%llu bytes before tensor \"%.64s\" belong to no tensor",
                        (unsigned long long)(named->offset - at), named->name);
    size_t bytes = 0;
    (void)halut_tensor_bytes(&named->tensor, &bytes);
    at += bytes;
  }
  if (at != file->bytes)
    return halut_fail(diag, HALUT_EFORMAT, at,
                      "%llu bytes at the end of the file belong to no tensor",
                      (unsigned long long)(file->bytes - at));
  return 0;
}

static bool is_filling(const struct halut_named_tensor *named) {
  return strncmp(named->name, HALUT_FILL_PREFIX, strlen(HALUT_FILL_PREFIX)) == 0 &&
         named->tensor.dtype == HALUT_U8;
}

/* Points each tensor at its bytes; the unaligned ones at copies, all in one block. */
static int tensors_place(struct halut_safetensors *file, struct halut_diag *diag) {
  size_t copy_bytes = 0; /* at most the file's, plus padding: no overflow */
  for (size_t i = 0; i < file->count; i++) {
    size_t bytes = 0;
    (void)halut_tensor_bytes(&file->tensors[i].tensor, &bytes);
    if (file->tensors[i].offset % HALUT_ALIGN != 0)
      copy_bytes += (bytes + HALUT_ALIGN - 1) / HALUT_ALIGN * HALUT_ALIGN;
  }
  if (copy_bytes > 0) {
    file->copies = aligned_alloc(HALUT_ALIGN, copy_bytes);
    if (!file->copies)
      return halut_fail(diag, HALUT_ENOMEM, 0, "no memory to align the tensors (%zu bytes)",
                        copy_bytes);
  }
  uint8_t *next = file->copies;
  for (size_t i = 0; i < file->count; i++) {
    struct halut_named_tensor *named = &file->tensors[i];
    size_t bytes = 0;
    (void)halut_tensor_bytes(&named->tensor, &bytes);
    if (bytes == 0) {
      named->tensor.data = NULL;
    } else if (named->offset % HALUT_ALIGN == 0) {
      named->tensor.data = (void *)(uintptr_t)(file->map + named->offset); /* const by contract */
    } else {
      named->tensor.data = memcpy(next, file->map + named->offset, bytes);
      next += (bytes + HALUT_ALIGN - 1) / HALUT_ALIGN * HALUT_ALIGN;
    }
  }
  return 0;
}

static int tensors_parse(struct halut_safetensors *file, struct halut_diag *diag) {
  file->tensors = calloc(json_object_size(file->root) + 1, sizeof(*file->tensors));
  if (!file->tensors)
    return halut_fail(diag, HALUT_ENOMEM, 0, "no memory for the list of tensors");
  const char *name;
  json_t *entry;
  json_object_foreach(file->root, name, entry) {
    if (strcmp(name, "__metadata__") == 0)
      continue;
    int rc = tensor_parse(file, name, entry, &file->tensors[file->count], diag);
    if (rc)
      return rc;
    file->count++;
  }
  qsort(file->tensors, file->count, sizeof(*file->tensors), by_offset);
  int rc = layout_check(file, diag);
  if (rc)
    return rc;
  size_t kept = 0;
  for (size_t i = 0; i < file->count; i++)
    if (!is_filling(&file->tensors[i]))
      file->tensors[kept++] = file->tensors[i];
  file->count = kept;
  rc = tensors_place(file, diag);
  if (rc)
    return rc;
  qsort(file->tensors, file->count, sizeof(*file->tensors), by_name);
  return 0;
}

int halut_safetensors_open(const char *path, struct halut_safetensors **out,
                           struct halut_diag *diag) {
  struct halut_safetensors *file = calloc(1, sizeof(*file));
  if (!file)
    return halut_fail(diag, HALUT_ENOMEM, 0, "no memory to open a file");
  int rc = file_read(file, path, diag);
  if (rc)
    goto fail;
  rc = header_parse(file, diag);
  if (rc)
    goto fail;
  rc = metadata_parse(file, diag);
  if (rc)
    goto fail;
  rc = tensors_parse(file, diag);
  if (rc)
    goto fail;
  *out = file;
  return 0;
fail:
  halut_safetensors_close(file);
  return rc;
}

const struct halut_named_tensor *halut_safetensors_tensors(const struct halut_safetensors *file,
                                                           size_t *count_out) {
  *count_out = file->count;
  return file->tensors;
}

const struct halut_named_tensor *halut_safetensors_find(const struct halut_safetensors *file,
                                                        const char *name) {
  const struct halut_named_tensor key = {.name = name};
  return bsearch(&key, file->tensors, file->count, sizeof(key), by_name);
}

const struct halut_text_pair *halut_safetensors_metadata(const struct halut_safetensors *file,
                                                         size_t *count_out) {
  *count_out = file->pair_count;
  return file->pairs;
}

const char *halut_safetensors_value(const struct halut_safetensors *file, const char *key) {
  for (size_t i = 0; i < file->pair_count; i++)
    if (strcmp(file->pairs[i].key, key) == 0)
      return file->pairs[i].value;
  return NULL;
}

const void *halut_safetensors_data(const struct halut_safetensors *file, size_t *bytes_out,
                                   uint64_t *offset_out) {
  *offset_out = LENGTH_BYTES + file->header_bytes;
  *bytes_out = file->bytes - LENGTH_BYTES - file->header_bytes;
  return file->map + *offset_out;
}

size_t halut_safetensors_file_bytes(const struct halut_safetensors *file) {
  return file->bytes;
}

void halut_safetensors_close(struct halut_safetensors *file) {
  if (!file)
    return;
  json_decref(file->root);
  free(file->tensors);
  free(file->pairs);
  free(file->copies);
  if (file->map)
    munmap((void *)(uintptr_t)file->map, file->bytes);
  free(file);
}
