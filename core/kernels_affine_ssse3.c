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

INLINE void quantise16(const float *x, float low, float inverse, uint8_t *to) {
  const __m128 l = _mm_set1_ps(low), i = _mm_set1_ps(inverse);
  const __m128i first = _mm_packs_epi32(quantise4(x, l, i), quantise4(x + 4, l, i));
  const __m128i second = _mm_packs_epi32(quantise4(x + 8, l, i), quantise4(x + 12, l, i));
  _mm_storeu_si128((__m128i *)to, _mm_packus_epi16(first, second));
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

#define AFFINE(kind) halut_##kind##_ssse3
#include "kernels_affine.inc"

#endif
