/* kernels.h: the inner loops, one version for each instruction set, and the table that picks among
 * them.
 *
 * kernels.inc lists every version, fastest first. Every version of a kind gives the same bytes as
 * `ref`. Kernels allocate nothing, fail never, may be called from any thread and need no alignment
 * unless said. Rows (positions of a map, rows of a product) come in vectors of HALUT_ROW_BLOCK and,
 * with their codes, in blocks of HALUT_CODE_BLOCK.
 */
#ifndef HALUT_KERNELS_H
#define HALUT_KERNELS_H

#include <stdbool.h>

#include "affine.h"
#include "cpu.h"
#include "halut.h"
#include "pack.h"

enum { HALUT_DENSE_BLOCK = 32 }; /* positions that a dense kernel computes at once */

/* Where a tree level finds its value, and the mask of it, at the first row of a block. */
struct halut_read {
  ptrdiff_t at; /* from the block's `value` */
  size_t mask;  /* from its `masks` */
};

/* encode: the codes of some codebooks at the `rows` of a block, a multiple of HALUT_ROW_BLOCK and
 * at most HALUT_CODE_BLOCK. `read` is [codebooks][HALUT_LEVELS], `threshold` as in a halut_lut. A
 * level reads value[read.at + row] & masks[read.mask + row]; NULL `masks` are all ones. Codes are
 * 0..15; row r's goes to codes[c * stride + r], one codebook after another, so that of a `stride`
 * below `rows` what is too much is written over by the next. */
typedef void halut_encode_fn(const uint8_t *value, const uint8_t *masks,
                             const struct halut_read *read, const uint8_t *threshold,
                             uint32_t codebooks, size_t rows, uint8_t *codes, size_t stride);

/* accumulate: sums of table entries over one block of codes, [codebooks][halut_code_stride(rows)],
 * of which the first `rows` (a multiple of HALUT_SUM_ROWS, at most HALUT_CODE_BLOCK) are wanted.
 * `arrange` (optional, NULL) reorders a block in place, once, before `sum` and `map` read it; the
 * block then has room for halut_codes_bytes(codebooks), and what pads it may be anything.
 * `sum`: acc[m * stride + row], exact.
 * `map`: out[m * stride + row] = requantised sum, exact; `rows` bytes an output are written.
 * `map_few` (optional, NULL) does the same for HALUT_SUM_ROWS rows, from PAIRS; codes that pad an
 * odd number of codebooks may be anything. */
struct halut_accumulate {
  enum halut_layout layout; /* of the packed tables it takes */
  void (*arrange)(const struct halut_packed *packed, uint8_t *codes);
  void (*sum)(const struct halut_packed *packed, const uint8_t *codes, uint32_t rows, int32_t *acc,
              size_t stride);
  void (*map)(const struct halut_packed *packed, const uint8_t *codes, uint32_t rows,
              const struct halut_requant *requant, uint8_t *out, size_t stride);
  void (*map_few)(const struct halut_packed *packed, const uint8_t *codes,
                  const struct halut_requant *requant, uint8_t *out, size_t stride);
};

/* Codes of few rows lie closer, so that all of them stay in the first-level cache; those that are
 * rearranged do not. */
static inline size_t halut_code_stride(const struct halut_accumulate *accumulate, size_t rows) {
  size_t stride = accumulate->arrange ? HALUT_CODE_BLOCK : HALUT_SUM_ROWS;
  while (stride < rows) stride *= 2;
  return stride;
}

/* Bytes of a block of codes, its codebooks padded to a multiple of four. */
static inline size_t halut_codes_bytes(uint32_t codebooks) {
  return ((size_t)codebooks + 3) / 4 * 4 * HALUT_CODE_BLOCK;
}

/* pool2: 2x2 maximum of a map of `height` x `width` (both even) into one of half the size. */
typedef void halut_pool2_fn(const uint8_t *in, uint32_t height, uint32_t width, uint8_t *out);

/* add: y[i] = clamp(y[i] + other[i] - zero, 0, 255). */
typedef void halut_add_fn(uint8_t *y, const uint8_t *other, size_t count, uint8_t zero);

/* dense: HALUT_DENSE_BLOCK positions of a dense int8 layer, requantised: out[m * stride + i] from
 * sum over t of weight[m][t] * source[t][i]. Sums are exact while they fit an int32. */
typedef void halut_dense_fn(const struct halut_weights *weights, const uint8_t *const *source,
                         const struct halut_requant *requant, uint8_t *out, size_t stride);

/* linear: y[m] = bias[m] + sum over i of weight[m][i] * x[i], exact while it fits an int32. */
typedef void halut_linear_fn(const int8_t *weight, const int32_t *bias, uint32_t outputs,
                             uint32_t inputs, const uint8_t *x, int32_t *y);

/* Memory that will be read next: a hint that is never read through, and may be empty. */
struct halut_ahead {
  const char *at;
  size_t bytes;
};

/* Asks for the next `bytes` of it, or what is left, to be brought into the second-level cache. */
static inline void halut_ahead_fetch(struct halut_ahead *ahead, size_t bytes) {
  bytes = bytes < ahead->bytes ? bytes : ahead->bytes;
  for (size_t i = 0; i < bytes; i += 64) __builtin_prefetch(ahead->at + i, 0, 2);
  ahead->at += bytes;
  ahead->bytes -= bytes;
}

/* quantise: the floats that trees read, of rows of affine->columns floats that begin `step` floats
 * apart, as u8: value[i * stride + row] = clamp(rint((x[row * step + split[i]] - low[i]) *
 * inverse[i]), 0, 255), a NaN giving 0, ties to even, each step rounded to float. Whole vectors of
 * HALUT_ROW_BLOCK rows are written, 0 past the last row; `stride` has room for them. `ahead` may be
 * prefetched meanwhile. */
typedef void halut_quantise_fn(const struct halut_affine *affine, const float *x, size_t step,
                               size_t rows, uint8_t *value, size_t stride,
                               struct halut_ahead ahead);

/* quantise_columns: the same of an x whose columns lie one after another, `step` floats apart: the
 * float is x[split[i] * step + row]. What follows the rows may be prefetched. */
typedef void halut_quantise_columns_fn(const struct halut_affine *affine, const float *x,
                                       size_t step, size_t rows, uint8_t *value, size_t stride);

/* dequantise: y[row * y_stride + m] = (float)acc[m * stride + row] * scale[m] + bias[m], each step
 * rounded to float. Sums of whole vectors of HALUT_ROW_BLOCK rows must be readable. `is_large` says
 * that y is larger than a cache that would keep it, so that it may be written past all of them. */
typedef void halut_dequantise_fn(const int32_t *acc, size_t stride, const float *scale,
                                 const float *bias, uint32_t outputs, size_t rows, float *y,
                                 size_t y_stride, bool is_large);

/* row: a row of a product whose codes are known, from entries (pack.h: ROWS) to floats:
 * y[m] = (float)(sum over c of entry[at[c] + m]) * scale[m] + bias[m]. The sum is exact, each step
 * after it rounded to float. */
typedef void halut_row_fn(const int8_t *entry, const uint32_t *at, uint32_t codebooks,
                          const float *scale, const float *bias, uint32_t outputs, float *y);

#define HALUT_KERNEL_DECLARE_encode(name) extern halut_encode_fn halut_encode_##name;
#define HALUT_KERNEL_DECLARE_accumulate(name)                                                      \
  extern const struct halut_accumulate halut_accumulate_##name;
#define HALUT_KERNEL_DECLARE_pool2(name) extern halut_pool2_fn halut_pool2_##name;
#define HALUT_KERNEL_DECLARE_add(name) extern halut_add_fn halut_add_##name;
#define HALUT_KERNEL_DECLARE_dense(name) extern halut_dense_fn halut_dense_##name;
#define HALUT_KERNEL_DECLARE_linear(name) extern halut_linear_fn halut_linear_##name;
#define HALUT_KERNEL_DECLARE_quantise(name) extern halut_quantise_fn halut_quantise_##name;
#define HALUT_KERNEL_DECLARE_quantise_columns(name)                                                \
  extern halut_quantise_columns_fn halut_quantise_columns_##name;
#define HALUT_KERNEL_DECLARE_dequantise(name) extern halut_dequantise_fn halut_dequantise_##name;
#define HALUT_KERNEL_DECLARE_row(name) extern halut_row_fn halut_row_##name;
#define HALUT_KERNEL(kind, name, flags) HALUT_KERNEL_DECLARE_##kind(name)
#include "kernels.inc"
#undef HALUT_KERNEL

struct halut_kernels {
  halut_encode_fn *encode;
  const struct halut_accumulate *accumulate;
  halut_pool2_fn *pool2;
  halut_add_fn *add;
  halut_dense_fn *dense;
  halut_linear_fn *linear;
  halut_quantise_fn *quantise;
  halut_quantise_columns_fn *quantise_columns;
  halut_dequantise_fn *dequantise;
  halut_row_fn *row;
};

/* Fills `kernels` with the fastest of each kind that `cpu_flags` (see cpu.h) allow. */
void halut_kernels_init(struct halut_kernels *kernels, uint32_t cpu_flags);

/* quantise or quantise_columns, as x lies. `ahead` is for the former: the latter needs none. */
static inline void halut_quantise(const struct halut_kernels *kernels,
                                  const struct halut_affine *affine, struct halut_matrix x,
                                  size_t rows, uint8_t *value, size_t stride,
                                  struct halut_ahead ahead) {
  if (x.column_step == 1)
    kernels->quantise(affine, x.at, x.row_step, rows, value, stride, ahead);
  else
    kernels->quantise_columns(affine, x.at, x.column_step, rows, value, stride);
}

/* clamp(sum + bias, 0, 65535) of a u16 sum is one saturating subtraction and one saturating
 * addition, of which one is of 0. */
struct halut_shift {
  uint16_t less, more;
};

static inline struct halut_shift halut_shift_of(int64_t bias) {
  const int64_t less = bias < 0 ? -bias : 0, more = bias > 0 ? bias : 0;
  return (struct halut_shift){(uint16_t)(less < UINT16_MAX ? less : UINT16_MAX),
                              (uint16_t)(more < UINT16_MAX ? more : UINT16_MAX)};
}

/* Requantise one value, as written in halut.h: the specification that every `map` and `dense`
 * meets. */
static inline uint8_t halut_requantise(int64_t sum, int32_t bias, uint16_t scale) {
  int64_t value = sum + bias;
  value = value < 0 ? 0 : value > UINT16_MAX ? UINT16_MAX : value;
  value = value * scale >> 16;
  return (uint8_t)(value > UINT8_MAX ? UINT8_MAX : value);
}

#endif
