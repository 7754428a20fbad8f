/* number.h: JSON arrays of numbers to typed memory and back, fast and exact.
 *
 * A general JSON library spends about 350 ns and 40 bytes on each number; a 512 x 512 matrix is
 * 262,144 of them. This scanner reads them in one pass into the caller's array. Results are
 * correctly rounded: short numbers by arithmetic that is exact (Clinger 1990), the rest by
 * strtod/strtof, which the C library rounds correctly. The locale's decimal point must be "."
 * (LC_NUMERIC "C": never call setlocale in the daemon).
 *
 * Pure functions on the caller's memory; any thread.
 */
#ifndef HALUT_NUMBER_H
#define HALUT_NUMBER_H

#include <stddef.h>
#include <stdint.h>

#include "../core/halut.h"

/* The types of the Open Inference Protocol that JSON can carry: name on the wire, bytes. */
#define HALUT_NUMBER_MAP(XX)                                                                       \
  XX(BOOL, 1)                                                                                      \
  XX(UINT8, 1) XX(UINT16, 2) XX(UINT32, 4) XX(UINT64, 8) XX(INT8, 1) XX(INT16, 2) XX(INT32, 4)     \
      XX(INT64, 8) XX(FP32, 4) XX(FP64, 8)

enum halut_number_type {
  HALUT_NUMBER_NONE = 0,
#define XX(name, bytes) HALUT_NUMBER_##name,
  HALUT_NUMBER_MAP(XX)
#undef XX
};

const char *halut_number_name(enum halut_number_type type); /* "FP32"; "NONE"; never NULL */
enum halut_number_type halut_number_type(const char *name); /* HALUT_NUMBER_NONE if unknown */
size_t halut_number_bytes(enum halut_number_type type);     /* 0 for NONE */

enum {
  HALUT_NUMBER_RANK_MAX = 8,
  HALUT_NUMBER_TEXT_MAX = 24 /* characters the longest written value takes, a comma included */
};

struct halut_number_options {
  enum halut_number_type type;
  const char *name;  /* what messages call the array: "a" gives "a[3][17]: …" */
  uint64_t offset;   /* of `text` in the request body: added to diag->offset */
  uint32_t rank_max; /* deepest nesting accepted, 1..HALUT_NUMBER_RANK_MAX */
  uint64_t rows_max; /* longest outermost dimension when nested (rank 2 and up); 0 is no limit */
};

struct halut_number_shape {
  uint32_t rank;                       /* 1..HALUT_NUMBER_RANK_MAX */
  uint64_t dim[HALUT_NUMBER_RANK_MAX]; /* outermost first; those past rank are 1 */
  size_t count;                        /* their product */
};

/* No more than this many values are in `text`; fast enough to size an allocation with. */
size_t halut_number_count_max(const char *text, size_t bytes);

/* Reads `text`, all of it one (nested) array, into values[capacity] of options->type, row-major.
 *
 * Accepted is JSON's grammar alone: no NaN, Infinity, hex, leading "+" or zeros, bare ".", trailing
 * comma. FP32 and FP64 are correctly rounded, -0 kept, subnormals kept, underflow is 0, overflow an
 * error. Integer types take integers alone (1.0 and 1e2 are refused), in range; BOOL takes true,
 * false, 0, 1. Nested arrays must be regular. An empty array gives a dimension of 0 and is the
 * caller's to refuse.
 *
 * Errors, `values` then undefined: HALUT_EINVALID (grammar, not a number, out of the type's range),
 * HALUT_ESHAPE (ragged rows, scalars beside arrays), HALUT_ELIMIT (rank_max, rows_max, capacity).
 * diag->offset is the byte at fault and diag->text names the element. Needs text[bytes] to be
 * readable and to be a byte no number contains (a NUL, or what follows the array in its body). */
int halut_number_read(const char *text, size_t bytes, const struct halut_number_options *options,
                      void *values, size_t capacity, struct halut_number_shape *shape_out,
                      struct halut_diag *diag) __attribute__((warn_unused_result));

/* Each writes one value without a NUL and returns its characters, at most HALUT_NUMBER_TEXT_MAX
 * - 1. The float is the shortest decimal that reads back as the same float, the closest one of that
 * length
 * ("0.1", "-3e-45", "16777216"); NaN and infinities, which JSON lacks, are written as null. */
size_t halut_number_write_f32(float value, char *out);
size_t halut_number_write_i64(int64_t value, char *out);
size_t halut_number_write_u64(uint64_t value, char *out);

#endif
