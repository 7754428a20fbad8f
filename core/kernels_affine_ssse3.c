/* DESIGN: the two ends of a raw product with 16-byte vectors. quantise gathers each column that is
 * read by scalar moves, 32 rows at a time, and makes 16 values at once; dequantise transposes 4 by
 * 4. Bound by the gathering: a load and a store for each value. Columns that lie one after another
 * need none. */
#include "kernels.h"

#if defined(__x86_64__)
#include <tmmintrin.h>

#define INLINE static inline __attribute__((always_inline))

/* As in kernels_affine_avx2.c: too small and NaN become negative, and the packing makes them 0. */
INLINE __m128i quantise4(const float *x, __m128 low, __m128 inverse) {
  __m128 value = _mm_mul_ps(_mm_sub_ps(_mm_loadu_ps(x), low), inverse);
  return _mm_cvtps_epi32(_mm_min_ps(_mm_set1_ps(255), value));
}

INLINE __m128i quantise16(const float *x, __m128 low, __m128 inverse) {
  return _mm_packus_epi16(
      _mm_packs_epi32(quantise4(x, low, inverse), quantise4(x + 4, low, inverse)),
      _mm_packs_epi32(quantise4(x + 8, low, inverse), quantise4(x + 12, low, inverse)));
}

void halut_quantise_ssse3(const struct halut_affine *affine, const float *x, size_t step,
                          size_t rows, uint8_t *value, size_t stride, struct halut_ahead ahead) {
  (void)ahead;
  for (size_t row = 0; row < rows; row += HALUT_ROW_BLOCK, x += HALUT_ROW_BLOCK * step) {
    size_t here = rows - row < HALUT_ROW_BLOCK ? rows - row : HALUT_ROW_BLOCK;
    for (uint32_t i = 0; i < affine->reads; i++) {
      float column[HALUT_ROW_BLOCK];
      const float *from = x + affine->split[i];
      for (size_t r = 0; r < here; r++) column[r] = from[r * step];
      for (size_t r = here; r < HALUT_ROW_BLOCK; r++) column[r] = 0;
      const __m128 low = _mm_set1_ps(affine->low[i]), inverse = _mm_set1_ps(affine->inverse[i]);
      uint8_t *to = value + i * stride + row;
      _mm_storeu_si128((__m128i *)to, quantise16(column, low, inverse));
      _mm_storeu_si128((__m128i *)(to + 16), quantise16(column + 16, low, inverse));
      for (size_t r = here; r < HALUT_ROW_BLOCK; r++) to[r] = 0;
    }
  }
}

void halut_quantise_columns_ssse3(const struct halut_affine *affine, const float *x, size_t step,
                                  size_t rows, uint8_t *value, size_t stride) {
  for (uint32_t i = 0; i < affine->reads; i++) {
    const __m128 low = _mm_set1_ps(affine->low[i]), inverse = _mm_set1_ps(affine->inverse[i]);
    const float *from = x + affine->split[i] * step;
    uint8_t *to = value + i * stride;
    for (size_t row = 0; row < halut_pad_rows(rows); row += 16) {
      float last[16] = {0};
      if (row + 16 > rows)
        for (size_t r = row; r < rows; r++) last[r - row] = from[r];
      const __m128i made = quantise16(row + 16 > rows ? last : from + row, low, inverse);
      _mm_storeu_si128((__m128i *)(to + row), made);
    }
    for (size_t row = rows; row < halut_pad_rows(rows); row++) to[row] = 0;
  }
}

/* Four outputs of four rows. */
INLINE void dequantise4(const int32_t *acc, size_t stride, const float *scale, const float *bias,
                        float *y, size_t y_stride) {
  __m128 v[4];
#pragma GCC unroll 4
  for (uint32_t m = 0; m < 4; m++) {
    __m128 sum = _mm_cvtepi32_ps(_mm_loadu_si128((const __m128i *)(acc + m * stride)));
    v[m] = _mm_add_ps(_mm_mul_ps(sum, _mm_set1_ps(scale[m])), _mm_set1_ps(bias[m]));
  }
  _MM_TRANSPOSE4_PS(v[0], v[1], v[2], v[3]);
#pragma GCC unroll 4
  for (uint32_t r = 0; r < 4; r++) _mm_storeu_ps(y + r * y_stride, v[r]);
}

void halut_dequantise_ssse3(const int32_t *acc, size_t stride, const float *scale,
                            const float *bias, uint32_t outputs, size_t rows, float *y,
                            size_t y_stride, bool is_large) {
  (void)is_large;
  const size_t whole_rows = rows / 4 * 4;
  const uint32_t whole = outputs / 4 * 4;
  for (size_t row = 0; row < whole_rows; row += 4)
    for (uint32_t m = 0; m < whole; m += 4)
      dequantise4(acc + m * stride + row, stride, scale + m, bias + m, y + row * y_stride + m,
                  y_stride);
  for (size_t row = 0; row < rows; row++)
    for (uint32_t m = row < whole_rows ? whole : 0; m < outputs; m++)
      y[row * y_stride + m] = (float)acc[m * stride + row] * scale[m] + bias[m];
}

#endif
