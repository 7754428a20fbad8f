/* safetensors.h: bounded reader and atomic writer of safetensors files.
 *
 * A file is 8 bytes of little-endian header length, a JSON header, then the bytes of the tensors.
 * This reader believes nothing: every length, shape, offset, gap and overlap is checked before a
 * byte is used, and an error names the tensor and the offset. It knows nothing of models; model.h
 * does.
 *
 * A file is read whole when it is opened, and tensors point into that memory: who writes into it
 * later changes nothing. Still replace files by renaming over them, as the writer does, or a reader
 * may find half of each. An open file is immutable: any thread may read it.
 */
#ifndef HALUT_SAFETENSORS_H
#define HALUT_SAFETENSORS_H

#include <stdbool.h>

#include "../core/halut.h"

#define HALUT_SHA256_KEY "halut.sha256"
/* Tensors of this prefix (U8) fill the gap up to the next 64-byte boundary: the format knows no
 * gaps. */
#define HALUT_FILL_PREFIX "_pad."

enum {
  HALUT_HEADER_MAX = 1 << 20, /* bytes */
  HALUT_FILE_MAX = 1 << 30    /* bytes */
};

struct halut_named_tensor {
  const char *name;
  struct halut_tensor tensor; /* rank 0 for a scalar; data may be NULL if a dimension is 0 */
  uint64_t offset;            /* bytes into the file; ignored by the writer */
};

struct halut_text_pair {
  const char *key, *value; /* UTF-8, NUL-terminated */
};

struct halut_safetensors;

/* Maps and checks `path`. A tensor that is not HALUT_ALIGN-aligned in the file is copied, so all
 * are in memory. Filling is left out. Errors: HALUT_EIO, HALUT_EFORMAT, HALUT_ELIMIT, HALUT_ENOMEM.
 */
int halut_safetensors_open(const char *path, struct halut_safetensors **out,
                           struct halut_diag *diag) __attribute__((warn_unused_result));
/* Tensors sorted by name. */
const struct halut_named_tensor *halut_safetensors_tensors(const struct halut_safetensors *file,
                                                           size_t *count_out);
/* NULL if there is none of that name. */
const struct halut_named_tensor *halut_safetensors_find(const struct halut_safetensors *file,
                                                        const char *name);
/* Metadata in the order of the file. */
const struct halut_text_pair *halut_safetensors_metadata(const struct halut_safetensors *file,
                                                         size_t *count_out);
const char *halut_safetensors_value(const struct halut_safetensors *file,
                                    const char *key); /* or NULL */
/* All bytes after the header, and where they begin in the file. */
const void *halut_safetensors_data(const struct halut_safetensors *file, size_t *bytes_out,
                                   uint64_t *offset_out);
size_t halut_safetensors_file_bytes(const struct halut_safetensors *file);
void halut_safetensors_close(struct halut_safetensors *file); /* NULL is fine */

/* Writes a file whose data section and tensors start on HALUT_ALIGN-byte boundaries, in the given
 * order, and adds HALUT_SHA256_KEY to the metadata. The file appears whole or not at all
 * (atomic_file.h). Errors: HALUT_EINVALID (a name twice, not UTF-8, or reserved), HALUT_ELIMIT,
 * HALUT_EIO, HALUT_ENOMEM. */
int halut_safetensors_write(const char *path, const struct halut_named_tensor *tensors,
                            size_t count, const struct halut_text_pair *metadata,
                            size_t metadata_count, struct halut_diag *diag)
    __attribute__((warn_unused_result));

/* SHA-256 of `bytes` at `data`, as 64 lower-case hex digits and a NUL. */
void halut_sha256_hex(const void *data, size_t bytes, char hex[65]);
void halut_hex(const uint8_t *digest, size_t bytes, char *hex); /* hex: 2 * bytes + 1 */

/* "U8", or NULL; and back: 0 if unknown. */
const char *halut_dtype_name(enum halut_dtype dtype);
enum halut_dtype halut_dtype_parse(const char *name);
/* Product of the dimensions times the size of one; false if that overflows. */
bool halut_tensor_bytes(const struct halut_tensor *tensor, size_t *bytes_out);

#endif
