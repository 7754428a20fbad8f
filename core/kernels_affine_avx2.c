/* DESIGN: the two ends of a raw product, floats to u8 and sums to floats. Both transpose: rows lie
 * one after another outside, and side by side where codes are made.
 *
 * quantise: eight columns of four rows at a time. A vector of columns is put together from the few
 * loads that hold them (affine.h), then four become one vector of bytes: for each column four rows
 * in a word. Eight such vectors, 32 rows, are transposed as words into eight columns of 32 rows.
 * For these 256 values: 56 shuffles, 128 arithmetic operations, and a load, a permutation and a
 * blend for each step. The maximum with 0 is left to the packing, which saturates: a NaN, and
 * whatever is too small, converts to a negative number. Memory bounds it, not these.
 *
 * quantise_columns: no transposition, so that only the columns that are read come from memory. The
 * processor does not foresee which: each is prefetched a few columns ahead.
 *
 * dequantise: 8 outputs by 16 rows, so that a line of sums is read once, or 16 by 8 past the
 * caches. */
#include "kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))

enum {
  ROWS = 4,                       /* quantised at a time */
  WORDS = HALUT_ROW_BLOCK / ROWS, /* of four rows in a vector of rows */
  CHUNK = 16                      /* groups of columns whose words are kept before transposing */
};
static_assert(WORDS == 8 && HALUT_TAKE_NARROW == 8, "the transpositions are of 8 by 8");

INLINE void transpose8(__m256i v[8]) {
  __m256i a[8], b[8];
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    a[2 * i] = _mm256_unpacklo_epi32(v[2 * i], v[2 * i + 1]);
    a[2 * i + 1] = _mm256_unpackhi_epi32(v[2 * i], v[2 * i + 1]);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
    b[i] = _mm256_unpacklo_epi64(a[i], a[i + 2]);
    b[i + 1] = _mm256_unpackhi_epi64(a[i], a[i + 2]);
    b[i + 2] = _mm256_unpacklo_epi64(a[i + 1], a[i + 3]);
    b[i + 3] = _mm256_unpackhi_epi64(a[i + 1], a[i + 3]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    v[i] = _mm256_permute2x128_si256(b[i], b[i + 4], 0x20);
    v[i + 4] = _mm256_permute2x128_si256(b[i], b[i + 4], 0x31);
  }
}

INLINE __m256 take_columns(const float *row, const struct halut_take *take) {
  const __m256i lane = _mm256_loadu_si256((const __m256i *)take->lane);
  return _mm256_permutevar8x32_ps(_mm256_loadu_ps(row + take->column), lane);
}

INLINE __m256i quantise8(__m256 x, __m256 low, __m256 inverse) {
  __m256 value = _mm256_mul_ps(_mm256_sub_ps(x, low), inverse);
  return _mm256_cvtps_epi32(_mm256_min_ps(_mm256_set1_ps(255), value)); /* a NaN stays one */
}

/* The columns of steps `take` up to `end`, of four rows, as eight words. */
INLINE __m256i quantise_word(const float *const row[ROWS], const struct halut_take *take,
                             const struct halut_take *end, __m256 low, __m256 inverse) {
  const __m256i by_column =
      _mm256_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15, 0, 4, 8, 12, 1, 5, 9,
                       13, 2, 6, 10, 14, 3, 7, 11, 15);
  __m256 x0 = take_columns(row[0], take), x1 = take_columns(row[1], take);
  __m256 x2 = take_columns(row[2], take), x3 = take_columns(row[3], take);
  while (++take < end) {
    const __m256 keep = _mm256_loadu_ps((const float *)(const void *)take->keep);
    x0 = _mm256_blendv_ps(x0, take_columns(row[0], take), keep);
    x1 = _mm256_blendv_ps(x1, take_columns(row[1], take), keep);
    x2 = _mm256_blendv_ps(x2, take_columns(row[2], take), keep);
    x3 = _mm256_blendv_ps(x3, take_columns(row[3], take), keep);
  }
  __m256i a = _mm256_packs_epi32(quantise8(x0, low, inverse), quantise8(x1, low, inverse));
  __m256i b = _mm256_packs_epi32(quantise8(x2, low, inverse), quantise8(x3, low, inverse));
  return _mm256_shuffle_epi8(_mm256_packus_epi16(a, b), by_column);
}

/* Groups first .. last - 1 of up to HALUT_ROW_BLOCK rows; rows past the last give 0. */
static void quantise_chunk(const struct halut_affine *affine, uint32_t first, uint32_t last,
                           const float *x, size_t step, uint32_t rows, uint8_t *value,
                           size_t stride, struct halut_ahead *ahead, size_t share) {
  __m256i word[CHUNK][WORDS];
  for (uint32_t w = 0; w < WORDS; w++) {
    const uint32_t row = w * ROWS;
    if (row >= rows) {
      for (uint32_t g = first; g < last; g++) word[g - first][w] = _mm256_setzero_si256();
      continue;
    }
    const uint32_t here = rows - row < ROWS ? rows - row : ROWS;
    const __m256i wanted = _mm256_set1_epi32((int32_t)(UINT32_MAX >> 8 * (ROWS - here)));
    const float *from[ROWS];
    for (uint32_t r = 0; r < ROWS; r++)
      from[r] = x + (size_t)(row + (r < here ? r : 0)) * step;
    for (uint32_t g = first; g < last; g++) {
      halut_ahead_fetch(ahead, share);
      const __m256 low = _mm256_loadu_ps(affine->sorted_low + g * HALUT_TAKE_NARROW);
      const __m256 inverse = _mm256_loadu_ps(affine->sorted_inverse + g * HALUT_TAKE_NARROW);
      const struct halut_take *take = affine->narrow.take + affine->narrow.start[g];
      const struct halut_take *end = affine->narrow.take + affine->narrow.start[g + 1];
      word[g - first][w] = _mm256_and_si256(quantise_word(from, take, end, low, inverse), wanted);
    }
  }
  for (uint32_t g = first; g < last; g++) {
    const uint32_t *order = affine->order + g * HALUT_TAKE_NARROW;
    const uint32_t left = affine->reads - g * HALUT_TAKE_NARROW;
    transpose8(word[g - first]);
    for (uint32_t j = 0; j < HALUT_TAKE_NARROW && j < left; j++)
      _mm256_storeu_si256((__m256i *)(value + order[j] * stride), word[g - first][j]);
  }
}

void halut_quantise_avx2(const struct halut_affine *affine, const float *x, size_t step,
                         size_t rows, uint8_t *value, size_t stride, struct halut_ahead ahead) {
  if (!affine->narrow.start) { /* fewer columns than a load */
    halut_quantise_ssse3(affine, x, step, rows, value, stride, ahead);
    return;
  }
  const uint32_t groups = affine->narrow.groups;
  const size_t words = (size_t)groups * ((rows + ROWS - 1) / ROWS);
  const size_t share = (ahead.bytes / words + 63) / 64 * 64;
  for (size_t row = 0; row < rows; row += HALUT_ROW_BLOCK) {
    uint32_t here = (uint32_t)(rows - row < HALUT_ROW_BLOCK ? rows - row : HALUT_ROW_BLOCK);
    for (uint32_t g = 0; g < groups; g += CHUNK)
      quantise_chunk(affine, g, groups - g < CHUNK ? groups : g + CHUNK,
                     x + row * step, step, here, value + row, stride, &ahead, share);
  }
}

/* A vector of rows of one column. */
INLINE __m256i quantise_rows(const float *x, __m256 low, __m256 inverse) {
  const __m256i in_order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  __m256i a = _mm256_packs_epi32(quantise8(_mm256_loadu_ps(x), low, inverse),
                                 quantise8(_mm256_loadu_ps(x + 8), low, inverse));
  __m256i b = _mm256_packs_epi32(quantise8(_mm256_loadu_ps(x + 16), low, inverse),
                                 quantise8(_mm256_loadu_ps(x + 24), low, inverse));
  return _mm256_permutevar8x32_epi32(_mm256_packus_epi16(a, b), in_order);
}

void halut_quantise_columns_avx2(const struct halut_affine *affine, const float *x, size_t step,
                                 size_t rows, uint8_t *value, size_t stride) {
  const size_t whole = rows / HALUT_ROW_BLOCK * HALUT_ROW_BLOCK;
  for (uint32_t i = 0; i < affine->reads; i++) {
    const __m256 low = _mm256_set1_ps(affine->low[i]), inverse = _mm256_set1_ps(affine->inverse[i]);
    const float *from = x + affine->split[i] * step, *next = halut_column_ahead(affine, x, step, i);
    uint8_t *to = value + i * stride;
    for (size_t row = 0; row < whole; row += HALUT_ROW_BLOCK) {
      _mm_prefetch((const char *)(next + row), _MM_HINT_T0);
      _mm_prefetch((const char *)(next + row + HALUT_ROW_BLOCK / 2), _MM_HINT_T0);
      _mm256_storeu_si256((__m256i *)(to + row), quantise_rows(from + row, low, inverse));
    }
    if (whole == rows) continue;
    float last[HALUT_ROW_BLOCK] = {0};
    for (size_t row = whole; row < rows; row++) last[row - whole] = from[row];
    _mm256_storeu_si256((__m256i *)(to + whole), quantise_rows(last, low, inverse));
    for (size_t row = rows; row < whole + HALUT_ROW_BLOCK; row++) to[row] = 0;
  }
}

/* Eight outputs of eight rows, row by row; of the last only `count` are wanted. */
INLINE void dequantise8(const int32_t *acc, size_t stride, const float *scale, const float *bias,
                        uint32_t count, __m256i v[8]) {
#pragma GCC unroll 8
  for (uint32_t i = 0; i < 8; i++) {
    const uint32_t m = i < count ? i : 0;
    __m256 sum = _mm256_cvtepi32_ps(_mm256_loadu_si256((const __m256i *)(acc + m * stride)));
    sum = _mm256_mul_ps(sum, _mm256_broadcast_ss(scale + m));
    v[i] = _mm256_castps_si256(_mm256_add_ps(sum, _mm256_broadcast_ss(bias + m)));
  }
  transpose8(v);
}

INLINE void dequantise_put(const int32_t *acc, size_t stride, const float *scale,
                           const float *bias, uint32_t count, uint32_t rows, float *y,
                           size_t y_stride) {
  __m256i v[8];
  dequantise8(acc, stride, scale, bias, count, v);
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const __m256i wanted = _mm256_cmpgt_epi32(_mm256_set1_epi32((int32_t)count), lane);
#pragma GCC unroll 8
  for (uint32_t i = 0; i < 8; i++) {
    if (i >= rows) continue;
    if (count == 8)
      _mm256_storeu_si256((__m256i *)(y + i * y_stride), v[i]);
    else
      _mm256_maskstore_epi32((int *)(y + i * y_stride), wanted, v[i]);
  }
}

/* Whole cache lines, 16 outputs of 8 rows, past the caches: half a line would be read first. */
INLINE void dequantise_stream(const int32_t *acc, size_t stride, const float *scale,
                              const float *bias, float *y, size_t y_stride) {
  __m256i low[8], high[8];
  dequantise8(acc, stride, scale, bias, 8, low);
  dequantise8(acc + 8 * stride, stride, scale + 8, bias + 8, 8, high);
#pragma GCC unroll 8
  for (uint32_t i = 0; i < 8; i++) {
    _mm256_stream_si256((__m256i *)(y + i * y_stride), low[i]);
    _mm256_stream_si256((__m256i *)(y + i * y_stride + 8), high[i]);
  }
}

static void dequantise_streamed(const int32_t *acc, size_t stride, const float *scale,
                                const float *bias, uint32_t outputs, size_t rows, float *y,
                                size_t y_stride) {
  for (size_t row = 0; row < rows; row += 8)
    for (uint32_t m = 0; m < outputs; m += 16)
      dequantise_stream(acc + m * stride + row, stride, scale + m, bias + m,
                        y + row * y_stride + m, y_stride);
  _mm_sfence();
}

void halut_dequantise_avx2(const int32_t *acc, size_t stride, const float *scale,
                           const float *bias, uint32_t outputs, size_t rows, float *y,
                           size_t y_stride, bool is_large) {
  if (is_large && outputs % 16 == 0 && y_stride % 16 == 0 && rows % 8 == 0 &&
      (uintptr_t)y % HALUT_ALIGN == 0) {
    dequantise_streamed(acc, stride, scale, bias, outputs, rows, y, y_stride);
    return;
  }
  for (size_t row = 0; row < rows; row += 16) {
    uint32_t here = (uint32_t)(rows - row < 16 ? rows - row : 16);
    for (uint32_t m = 0; m < outputs; m += 8) {
      const int32_t *from = acc + m * stride + row;
      float *to = y + row * y_stride + m;
      if (outputs - m >= 8 && here == 16) {
        dequantise_put(from, stride, scale + m, bias + m, 8, 8, to, y_stride);
        dequantise_put(from + 8, stride, scale + m, bias + m, 8, 8, to + 8 * y_stride, y_stride);
        continue;
      }
      uint32_t count = outputs - m < 8 ? outputs - m : 8;
      for (uint32_t i = 0; i < here; i += 8)
        dequantise_put(from + i, stride, scale + m, bias + m, count, here - i < 8 ? here - i : 8,
                       to + i * y_stride, y_stride);
    }
  }
}

#endif
