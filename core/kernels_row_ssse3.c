/* DESIGN: as kernels_row_avx2.c; a byte is widened by doubling it and shifting the word. */
#include "kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

enum { LANES = 16 };

/* Eight words to be added to two times four sums. */
static void row_widen(__m128i word, __m128i sum[2]) {
  sum[0] = _mm_add_epi32(sum[0], _mm_srai_epi32(_mm_unpacklo_epi16(word, word), 16));
  sum[1] = _mm_add_epi32(sum[1], _mm_srai_epi32(_mm_unpackhi_epi16(word, word), 16));
}

/* Four floats, or `count` of them. */
static void row_put(__m128i sum, const float *scale, const float *bias, uint32_t count, float *y) {
  const __m128 value = _mm_cvtepi32_ps(sum);
  if (count >= 4) {
    const __m128 scaled = _mm_mul_ps(value, _mm_loadu_ps(scale));
    _mm_storeu_ps(y, _mm_add_ps(scaled, _mm_loadu_ps(bias)));
    return;
  }
  float some[4];
  _mm_storeu_ps(some, value);
  for (uint32_t i = 0; i < count; i++) {
    const float scaled = some[i] * scale[i];
    y[i] = scaled + bias[i];
  }
}

void halut_row_ssse3(const int8_t *entry, const uint32_t *at, uint32_t codebooks,
                     const float *scale, const float *bias, uint32_t outputs, float *y) {
  for (uint32_t m = 0; m < outputs; m += LANES) {
    __m128i sum[4] = {_mm_setzero_si128(), _mm_setzero_si128(), _mm_setzero_si128(),
                      _mm_setzero_si128()};
    for (uint32_t c = 0; c < codebooks;) {
      const uint32_t end = codebooks - c > HALUT_SUM16_MAX ? c + HALUT_SUM16_MAX : codebooks;
      __m128i low = _mm_setzero_si128(), high = low;
      for (; c < end; c++) {
        const __m128i from = _mm_loadu_si128((const __m128i *)(entry + at[c] + m));
        low = _mm_add_epi16(low, _mm_srai_epi16(_mm_unpacklo_epi8(from, from), 8));
        high = _mm_add_epi16(high, _mm_srai_epi16(_mm_unpackhi_epi8(from, from), 8));
      }
      row_widen(low, sum);
      row_widen(high, sum + 2);
    }
    for (uint32_t i = 0; i < LANES && m + i < outputs; i += 4)
      row_put(sum[i / 4], scale + m + i, bias + m + i, outputs - m - i, y + m + i);
  }
}

#endif
