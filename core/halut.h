/* halut.h: the words every part of halutd shares: errors, tensors, tables, limits.
 *
 * Nothing here allocates, and everything may be called from any thread.
 *
 * Source of the method: Blalock & Guttag, "Multiplying Matrices Without Multiplying" (2021),
 * sections 4.1 (the hash tree: encode) and 4.3 (the tables: accumulate).
 */
#ifndef HALUT_HALUT_H
#define HALUT_HALUT_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

/* Numbers are stable: logs, exit codes and clients see them. */
#define HALUT_ERROR_MAP(XX)                      \
  XX(NOMEM, 1, "out of memory")               \
  XX(INVALID, 2, "invalid argument")          \
  XX(SHAPE, 3, "shape or type mismatch")      \
  XX(FORMAT, 4, "malformed file")             \
  XX(VERSION, 5, "unsupported version")       \
  XX(CHECKSUM, 6, "checksum mismatch")        \
  XX(LIMIT, 7, "limit exceeded")              \
  XX(IO, 8, "input/output error")             \
  XX(NOTFOUND, 9, "not found")                \
  XX(BUSY, 10, "queue full")                  \
  XX(TIMEOUT, 11, "deadline passed")          \
  XX(CANCELED, 12, "canceled")                \
  XX(DEVICE, 13, "accelerator fault")

enum halut_error {
  HALUT_OK = 0,
#define XX(name, value, text) HALUT_E##name = -(value),
  HALUT_ERROR_MAP(XX)
#undef XX
};

const char *halut_error_name(int error); /* "HALUT_EFORMAT"; never NULL */
const char *halut_error_text(int error); /* "malformed file"; never NULL */

/* Where and why: owned by the caller, written only when an error is returned. A NULL diag is
 * allowed wherever one is taken. */
struct halut_diag {
  uint64_t offset; /* bytes into the file at fault, 0 where that means nothing */
  char text[192];
};

/* Fills `diag` (which may be NULL) and returns `error`, so that a caller can return its result. */
int halut_fail(struct halut_diag *diag, int error, uint64_t offset, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

enum {
  HALUT_ALIGN = 64,           /* bytes: every array a kernel touches starts on such a boundary */
  HALUT_RANK_MAX = 4,
  HALUT_LEVELS = 4,           /* depth of the decision tree of a codebook */
  HALUT_PROTOTYPES = 16,      /* its leaves */
  HALUT_ROW_BLOCK = 32,       /* rows are padded to this many, so that few kernels have tails: D9 */
  HALUT_CODEBOOKS_MAX = 4096,
  HALUT_OUTPUTS_MAX = 4096,
  HALUT_COLUMNS_MAX = 65536,
  HALUT_TAPS_MAX = 65536,     /* values that a dense sum adds */
  HALUT_SUM16_MAX = 256       /* so many int8 entries always fit an int16; past it, widen */
};
static_assert(HALUT_PROTOTYPES == 1 << HALUT_LEVELS, "a leaf for every path");
static_assert(HALUT_SUM16_MAX * INT8_MIN >= INT16_MIN, "an int16 partial sum is exact");
static_assert(HALUT_TAPS_MAX * (int64_t)UINT8_MAX * 128 <= INT32_MAX, "a dense sum is exact");

enum halut_dtype {
  HALUT_I8 = 1,
  HALUT_U8 = 2,
  HALUT_I32 = 3,
  HALUT_F32 = 4,
  HALUT_U16 = 5,
  HALUT_U32 = 6
};

size_t halut_dtype_bytes(enum halut_dtype dtype);

/* A view: it never owns `data`. Dense and row-major. */
struct halut_tensor {
  void *data;
  enum halut_dtype dtype;
  uint32_t rank;
  uint32_t dim[HALUT_RANK_MAX]; /* outermost first; unused ones are 1 */
};

/* A view of a matrix of floats: row r, column c is at[r * row_step + c * column_step]. Either the
 * floats of a row lie side by side (column_step is 1) or those of a column do (row_step is 1); the
 * other step may be any, so that a part of a larger matrix is one too. */
struct halut_matrix {
  const float *at;
  size_t row_step, column_step;
};

/* One learned product: acc[outputs][rows] from the values that the trees read. Arrays are borrowed.
 *
 * Encode: start at node 1; at level l go right iff value[l] > threshold[c][node] (equal goes left);
 * node = 2 * node + right; the code is node - 16, level 0 being its most significant bit.
 * Accumulate: acc[m][row] = sum over c of table[m][c][code], an exact integer sum. */
struct halut_shared; /* pack.h */
struct halut_lut {
  uint32_t codebooks, outputs;
  const uint8_t *threshold; /* [codebooks][HALUT_PROTOTYPES] heap order, entry 0 unused */
  const int8_t *table;      /* [outputs][codebooks][HALUT_PROTOTYPES] */
  struct halut_shared *shared; /* where what is made of the tables lies for all who load them; NULL:
                                  each makes its own */
};

/* Requantise: y = min(255, (clamp(acc + bias[m], 0, 65535) * scale[m]) >> 16). Batch norm, ReLU and
 * the rounding half are folded into bias and scale when the model is made. */
struct halut_requant {
  const int32_t *bias;   /* [outputs], in units of the sum */
  const uint16_t *scale; /* [outputs] */
};

static inline size_t halut_pad_rows(size_t rows) {
  return (rows + HALUT_ROW_BLOCK - 1) / HALUT_ROW_BLOCK * HALUT_ROW_BLOCK;
}

#endif
