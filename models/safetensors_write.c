/* DESIGN: one pass lays the tensors out and builds the header, one hashes, one writes. */
#include <errno.h>
#include <jansson.h>
#include <nettle/sha2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "atomic_file.h"
#include "safetensors.h"

enum { LENGTH_BYTES = 8, NAME_BYTES_MAX = 256 };

static const uint8_t zeros[HALUT_ALIGN];

static size_t fill_bytes(size_t bytes) {
  return (HALUT_ALIGN - bytes % HALUT_ALIGN) % HALUT_ALIGN;
}

static int fail_memory(struct halut_diag *diag) {
  return halut_fail(diag, HALUT_ENOMEM, 0, "no memory for the header");
}

/* Adds `name` to the header; takes the `entry` reference. */
static int header_add(json_t *root, const char *name, json_t *entry, struct halut_diag *diag) {
  if (!entry)
    return fail_memory(diag);
  if (json_object_get(root, name)) {
    json_decref(entry);
    return halut_fail(diag, HALUT_EINVALID, 0, "tensor \"%.64s\" is given twice", name);
  }
  errno = 0; /* jansson fails alike for bad UTF-8 and for want of memory */
  if (json_object_set_new(root, name, entry) == 0)
    return 0;
  return errno == ENOMEM
             ? fail_memory(diag)
             : halut_fail(diag, HALUT_EINVALID, 0, "tensor name \"%.64s\" is not UTF-8", name);
}

static int pair_add(json_t *pairs, const char *key, const char *value, struct halut_diag *diag) {
  if (json_object_get(pairs, key))
    return halut_fail(diag, HALUT_EINVALID, 0, "metadata \"%.64s\" is given twice", key);
  errno = 0;
  if (json_object_set_new(pairs, key, json_string(value)) == 0)
    return 0;
  return errno == ENOMEM
             ? fail_memory(diag)
             : halut_fail(diag, HALUT_EINVALID, 0, "metadata \"%.64s\" is not UTF-8", key);
}

/* NULL without memory. */
static json_t *tensor_entry(const struct halut_tensor *tensor, size_t begin, size_t bytes) {
  json_t *shape = json_array();
  for (uint32_t i = 0; i < tensor->rank; i++)
    if (json_array_append_new(shape, json_integer(tensor->dim[i])) != 0) {
      json_decref(shape);
      return NULL;
    }
  return json_pack("{s:s, s:o, s:[I,I]}", "dtype", halut_dtype_name(tensor->dtype), "shape", shape,
                   "data_offsets", (json_int_t)begin, (json_int_t)(begin + bytes));
}

static int tensor_add(json_t *root, const struct halut_named_tensor *named, size_t *at,
                      struct halut_diag *diag) {
  const struct halut_tensor *tensor = &named->tensor;
  size_t bytes;
  if (!halut_dtype_name(tensor->dtype) || tensor->rank > HALUT_RANK_MAX)
    return halut_fail(diag, HALUT_EINVALID, 0, "tensor \"%.64s\" has no such dtype or rank",
                      named->name);
  if (strlen(named->name) >= NAME_BYTES_MAX || strcmp(named->name, "__metadata__") == 0 ||
      strncmp(named->name, HALUT_FILL_PREFIX, strlen(HALUT_FILL_PREFIX)) == 0)
    return halut_fail(diag, HALUT_EINVALID, 0, "tensor name \"%.64s\" is too long or reserved",
                      named->name);
  if (!halut_tensor_bytes(tensor, &bytes) || bytes > HALUT_FILE_MAX ||
      *at + bytes > HALUT_FILE_MAX - HALUT_HEADER_MAX)
    return halut_fail(diag, HALUT_ELIMIT, 0, "tensor \"%.64s\" takes the file past %d bytes",
                      named->name, HALUT_FILE_MAX);
  int rc = header_add(root, named->name, tensor_entry(tensor, *at, bytes), diag);
  if (rc)
    return rc;
  *at += bytes;

  size_t fill = fill_bytes(bytes);
  if (fill == 0)
    return 0;
  char name[NAME_BYTES_MAX + sizeof(HALUT_FILL_PREFIX)];
  snprintf(name, sizeof(name), "%s%s", HALUT_FILL_PREFIX, named->name);
  struct halut_tensor filling = {.dtype = HALUT_U8, .rank = 1, .dim = {(uint32_t)fill, 1, 1, 1}};
  rc = header_add(root, name, tensor_entry(&filling, *at, fill), diag);
  *at += fill;
  return rc;
}

static void data_hash(const struct halut_named_tensor *tensors, size_t count, char hex[65]) {
  struct sha256_ctx context;
  uint8_t digest[SHA256_DIGEST_SIZE];
  sha256_init(&context);
  for (size_t i = 0; i < count; i++) {
    size_t bytes = 0;
    (void)halut_tensor_bytes(&tensors[i].tensor, &bytes);
    if (bytes > 0)
      sha256_update(&context, bytes, tensors[i].tensor.data);
    sha256_update(&context, fill_bytes(bytes), zeros);
  }
  sha256_digest(&context, sizeof(digest), digest);
  halut_hex(digest, sizeof(digest), hex);
}

/* The length and the header, padded with spaces so that the data begins on a boundary. The caller
 * frees. */
static int header_build(const struct halut_named_tensor *tensors, size_t count,
                        const struct halut_text_pair *metadata, size_t metadata_count,
                        char **text_out, size_t *bytes_out, struct halut_diag *diag) {
  int rc = 0;
  char *text = NULL, hex[65];
  json_t *root = json_object(), *pairs = json_object();
  if (!root || json_object_set(root, "__metadata__", pairs) != 0) {
    rc = fail_memory(diag);
    goto done;
  }
  for (size_t i = 0; i < metadata_count; i++) {
    const struct halut_text_pair *pair = &metadata[i];
    if (strcmp(pair->key, HALUT_SHA256_KEY) == 0)
      rc = halut_fail(diag, HALUT_EINVALID, 0, "metadata \"%.64s\" is reserved", pair->key);
    else
      rc = pair_add(pairs, pair->key, pair->value, diag);
    if (rc)
      goto done;
  }
  size_t at = 0;
  for (size_t i = 0; i < count; i++) {
    rc = tensor_add(root, &tensors[i], &at, diag);
    if (rc)
      goto done;
  }
  data_hash(tensors, count, hex);
  rc = pair_add(pairs, HALUT_SHA256_KEY, hex, diag);
  if (rc)
    goto done;
  size_t length = json_dumpb(root, NULL, 0, JSON_COMPACT), fill = fill_bytes(LENGTH_BYTES + length);
  if (length + fill > HALUT_HEADER_MAX) {
    rc = halut_fail(diag, HALUT_ELIMIT, 0, "header of %zu bytes exceeds %d", length,
                    HALUT_HEADER_MAX);
    goto done;
  }
  text = malloc(LENGTH_BYTES + length + fill);
  if (!text || length == 0) {
    rc = fail_memory(diag);
    goto done;
  }
  for (unsigned i = 0; i < LENGTH_BYTES; i++)
    text[i] = (char)(uint8_t)((length + fill) >> (8 * i));
  json_dumpb(root, text + LENGTH_BYTES, length, JSON_COMPACT);
  memset(text + LENGTH_BYTES + length, ' ', fill);
  *text_out = text;
  *bytes_out = LENGTH_BYTES + length + fill;
  text = NULL;
  rc = 0;
done:
  free(text);
  json_decref(pairs);
  json_decref(root);
  return rc;
}

int halut_safetensors_write(const char *path, const struct halut_named_tensor *tensors,
                            size_t count, const struct halut_text_pair *metadata,
                            size_t metadata_count, struct halut_diag *diag) {
  char *header = NULL;
  size_t header_bytes = 0;
  struct halut_atomic_file file;
  int rc = header_build(tensors, count, metadata, metadata_count, &header, &header_bytes, diag);
  if (rc)
    return rc;
  rc = halut_atomic_file_open(path, &file, diag);
  if (rc)
    goto done;
  halut_atomic_file_put(&file, header, header_bytes);
  for (size_t i = 0; i < count; i++) {
    size_t bytes = 0;
    (void)halut_tensor_bytes(&tensors[i].tensor, &bytes);
    halut_atomic_file_put(&file, tensors[i].tensor.data, bytes);
    halut_atomic_file_put(&file, zeros, fill_bytes(bytes));
  }
  rc = halut_atomic_file_finish(&file, diag);
done:
  free(header);
  return rc;
}
