/* DESIGN: as kernels_affine_avx2.c, with twice the width: sixteen entries of four rows are put
 * together by permutations of whole cache lines, which a mask merges, and become a vector of bytes;
 * sixteen such vectors, 64 rows, are transposed as words. For these 1,024 values: 128 shuffles, 256
 * arithmetic operations, and 64 loads with a permutation for each step.
 *
 * quantise_columns: as there, sixteen rows of a column at a time.
 *
 * dequantise: 16 outputs by 16 rows, so that whole lines of sums and of floats are moved. */
#include "kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))

enum {
  ROWS = 4,   /* quantised at a time */
  WORDS = 16, /* of four rows in a vector of rows */
  TALL = ROWS * WORDS,
  CHUNK = 8 /* groups of columns whose words are kept before transposing */
};
static_assert(TALL == 2 * HALUT_ROW_BLOCK && HALUT_TAKE_WIDE == 16, "transposed 16 by 16");

INLINE void transpose16(__m512i v[16]) {
  __m512i a[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    a[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
    a[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) { /* v[i + k]: column k of every four, rows i .. i + 3 */
    v[i] = _mm512_unpacklo_epi64(a[i], a[i + 2]);
    v[i + 1] = _mm512_unpackhi_epi64(a[i], a[i + 2]);
    v[i + 2] = _mm512_unpacklo_epi64(a[i + 1], a[i + 3]);
    v[i + 3] = _mm512_unpackhi_epi64(a[i + 1], a[i + 3]);
  }
#pragma GCC unroll 4
  for (int k = 0; k < 4; k++) {
    __m512i low = _mm512_shuffle_i32x4(v[k], v[k + 4], 0x88);
    __m512i low_odd = _mm512_shuffle_i32x4(v[k], v[k + 4], 0xdd);
    __m512i high = _mm512_shuffle_i32x4(v[k + 8], v[k + 12], 0x88);
    __m512i high_odd = _mm512_shuffle_i32x4(v[k + 8], v[k + 12], 0xdd);
    a[k] = _mm512_shuffle_i32x4(low, high, 0x88);
    a[k + 8] = _mm512_shuffle_i32x4(low, high, 0xdd);
    a[k + 4] = _mm512_shuffle_i32x4(low_odd, high_odd, 0x88);
    a[k + 12] = _mm512_shuffle_i32x4(low_odd, high_odd, 0xdd);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 16; i++)
    v[i] = a[i];
}

INLINE __m512 take_columns(__m512 x, const float *row, const struct halut_take *take) {
  const __mmask16 keep = _mm512_movepi32_mask(_mm512_loadu_si512(take->keep));
  return _mm512_mask_permutexvar_ps(x, keep, _mm512_loadu_si512(take->lane),
                                    _mm512_loadu_ps(row + take->column));
}

INLINE __m512i quantise16(__m512 x, __m512 low, __m512 inverse) {
  __m512 value = _mm512_mul_ps(_mm512_sub_ps(x, low), inverse);
  return _mm512_cvtps_epi32(_mm512_min_ps(_mm512_set1_ps(255), value)); /* a NaN stays one */
}

/* The columns of steps `take` up to `end`, of four rows, as sixteen words. */
INLINE __m512i quantise_word(const float *const row[ROWS], const struct halut_take *take,
                             const struct halut_take *end, __m512 low, __m512 inverse) {
  const __m512i by_column =
      _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
  __m512 x0 = _mm512_setzero_ps(), x1 = x0, x2 = x0, x3 = x0;
  for (; take < end; take++) {
    x0 = take_columns(x0, row[0], take);
    x1 = take_columns(x1, row[1], take);
    x2 = take_columns(x2, row[2], take);
    x3 = take_columns(x3, row[3], take);
  }
  __m512i a = _mm512_packs_epi32(quantise16(x0, low, inverse), quantise16(x1, low, inverse));
  __m512i b = _mm512_packs_epi32(quantise16(x2, low, inverse), quantise16(x3, low, inverse));
  return _mm512_shuffle_epi8(_mm512_packus_epi16(a, b), by_column);
}

/* Groups first .. last - 1 of up to TALL rows; rows past the last give 0. */
static void quantise_chunk(const struct halut_affine *affine, uint32_t first, uint32_t last,
                           const float *x, size_t step, uint32_t rows, uint8_t *value,
                           size_t stride, struct halut_ahead *ahead, size_t share) {
  __m512i word[CHUNK][WORDS];
  for (uint32_t w = 0; w < WORDS; w++) {
    const uint32_t row = w * ROWS;
    if (row >= rows) {
      for (uint32_t g = first; g < last; g++)
        word[g - first][w] = _mm512_setzero_si512();
      continue;
    }
    const uint32_t here = rows - row < ROWS ? rows - row : ROWS;
    const __m512i wanted = _mm512_set1_epi32((int32_t)(UINT32_MAX >> 8 * (ROWS - here)));
    const float *from[ROWS];
    for (uint32_t r = 0; r < ROWS; r++)
      from[r] = x + (size_t)(row + (r < here ? r : 0)) * step;
    for (uint32_t g = first; g < last; g++) {
      halut_ahead_fetch(ahead, share);
      const __m512 low = _mm512_loadu_ps(affine->sorted_low + g * HALUT_TAKE_WIDE);
      const __m512 inverse = _mm512_loadu_ps(affine->sorted_inverse + g * HALUT_TAKE_WIDE);
      const struct halut_take *take = affine->wide.take + affine->wide.start[g];
      const struct halut_take *end = affine->wide.take + affine->wide.start[g + 1];
      word[g - first][w] = _mm512_and_si512(quantise_word(from, take, end, low, inverse), wanted);
    }
  }
  for (uint32_t g = first; g < last; g++) {
    const uint32_t *order = affine->order + g * HALUT_TAKE_WIDE;
    const uint32_t left = affine->reads - g * HALUT_TAKE_WIDE;
    transpose16(word[g - first]);
    for (uint32_t j = 0; j < HALUT_TAKE_WIDE && j < left; j++) {
      uint8_t *to = value + order[j] * stride;
      if (rows > HALUT_ROW_BLOCK)
        _mm512_storeu_si512(to, word[g - first][j]);
      else
        _mm256_storeu_si256((__m256i *)to, _mm512_castsi512_si256(word[g - first][j]));
    }
  }
}

void halut_quantise_avx512(const struct halut_affine *affine, const float *x, size_t step,
                           size_t rows, uint8_t *value, size_t stride, struct halut_ahead ahead) {
  if (!affine->wide.start) { /* fewer columns than a load */
    halut_quantise_avx2(affine, x, step, rows, value, stride, ahead);
    return;
  }
  const uint32_t groups = affine->wide.groups;
  const size_t words = (size_t)groups * ((rows + ROWS - 1) / ROWS);
  const size_t share = (ahead.bytes / words + 63) / 64 * 64;
  for (size_t row = 0; row < rows; row += TALL) {
    uint32_t here = (uint32_t)(rows - row < TALL ? rows - row : TALL);
    for (uint32_t g = 0; g < groups; g += CHUNK)
      quantise_chunk(affine, g, groups - g < CHUNK ? groups : g + CHUNK,
                     x + row * step, step, here, value + row, stride, &ahead, share);
  }
}

void halut_quantise_columns_avx512(const struct halut_affine *affine, const float *x, size_t step,
                                   size_t rows, uint8_t *value, size_t stride) {
  for (uint32_t i = 0; i < affine->reads; i++) {
    const __m512 low = _mm512_set1_ps(affine->low[i]), inverse = _mm512_set1_ps(affine->inverse[i]);
    const float *from = x + affine->split[i] * step, *next = halut_column_ahead(affine, x, step, i);
    for (size_t row = 0; row < halut_pad_rows(rows); row += 16) {
      const size_t left = row < rows ? rows - row : 0;
      const __mmask16 wanted = (__mmask16)(left < 16 ? (1u << left) - 1 : UINT16_MAX);
      _mm_prefetch((const char *)(next + row), _MM_HINT_T0);
      __m512i v = quantise16(_mm512_maskz_loadu_ps(wanted, from + row), low, inverse);
      v = _mm512_max_epi32(v, _mm512_setzero_si512());
      _mm_storeu_si128((__m128i *)(value + i * stride + row),
                       _mm512_maskz_cvtepi32_epi8(wanted, v));
    }
  }
}

/* 16 outputs of 16 rows. */
INLINE void dequantise16(const int32_t *acc, size_t stride, const float *scale, const float *bias,
                         float *y, size_t y_stride, const bool is_past) {
  __m512i v[16];
#pragma GCC unroll 16
  for (uint32_t m = 0; m < 16; m++) {
    __m512 sum = _mm512_cvtepi32_ps(_mm512_loadu_si512(acc + m * stride));
    sum = _mm512_mul_ps(sum, _mm512_set1_ps(scale[m]));
    v[m] = _mm512_castps_si512(_mm512_add_ps(sum, _mm512_set1_ps(bias[m])));
  }
  transpose16(v);
#pragma GCC unroll 16
  for (uint32_t i = 0; i < 16; i++) {
    float *to = y + i * y_stride;
    if (is_past)
      _mm512_stream_si512((void *)to, v[i]);
    else
      _mm512_storeu_si512(to, v[i]);
  }
}

/* `rows` and `outputs` are multiples of 16. */
INLINE void dequantise_whole(const int32_t *acc, size_t stride, const float *scale,
                             const float *bias, uint32_t outputs, size_t rows, float *y,
                             size_t y_stride, const bool is_past) {
  for (size_t row = 0; row < rows; row += 16)
    for (uint32_t m = 0; m < outputs; m += 16)
      dequantise16(acc + m * stride + row, stride, scale + m, bias + m, y + row * y_stride + m,
                   y_stride, is_past);
}

/* What is left over is AVX2's. */
void halut_dequantise_avx512(const int32_t *acc, size_t stride, const float *scale,
                             const float *bias, uint32_t outputs, size_t rows, float *y,
                             size_t y_stride, bool is_large) {
  const size_t whole = rows / 16 * 16;
  const uint32_t wide = outputs / 16 * 16;
  if (is_large && y_stride % 16 == 0 && (uintptr_t)y % HALUT_ALIGN == 0) {
    dequantise_whole(acc, stride, scale, bias, wide, whole, y, y_stride, true);
    _mm_sfence();
  } else {
    dequantise_whole(acc, stride, scale, bias, wide, whole, y, y_stride, false);
  }
  if (wide < outputs)
    halut_dequantise_avx2(acc + wide * stride, stride, scale + wide, bias + wide, outputs - wide,
                          whole, y + wide, y_stride, false);
  if (whole < rows)
    halut_dequantise_avx2(acc + whole, stride, scale, bias, outputs, rows - whole,
                          y + whole * y_stride, y_stride, false);
}

#endif
