/* DESIGN: as kernels_row_avx2.c, with twice the width. */
#include "kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))

enum { LANES = 32, VECTORS = 4 };

/* Sums of `vectors` times 32 outputs, in two halves each. */
INLINE void row_sum(const int8_t *entry, const uint32_t *at, uint32_t codebooks, const int vectors,
                    __m512i sum[VECTORS][2]) {
#pragma GCC unroll 4
  for (int v = 0; v < vectors; v++) sum[v][0] = sum[v][1] = _mm512_setzero_si512();
  for (uint32_t c = 0; c < codebooks;) {
    const uint32_t end = codebooks - c > HALUT_SUM16_MAX ? c + HALUT_SUM16_MAX : codebooks;
    __m512i word[VECTORS];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++) word[v] = _mm512_setzero_si512();
    for (; c < end; c++) {
      const __m256i *from = (const __m256i *)(entry + at[c]);
#pragma GCC unroll 4
      for (int v = 0; v < vectors; v++)
        word[v] = _mm512_add_epi16(word[v], _mm512_cvtepi8_epi16(_mm256_loadu_si256(from + v)));
    }
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++) {
      const __m512i low = _mm512_cvtepi16_epi32(_mm512_castsi512_si256(word[v]));
      const __m512i high = _mm512_cvtepi16_epi32(_mm512_extracti64x4_epi64(word[v], 1));
      sum[v][0] = _mm512_add_epi32(sum[v][0], low);
      sum[v][1] = _mm512_add_epi32(sum[v][1], high);
    }
  }
}

/* Sixteen floats, or `count` of them. */
INLINE void row_put(__m512i sum, const float *scale, const float *bias, uint32_t count, float *y) {
  const __mmask16 wanted = (__mmask16)(count < 16 ? (1u << count) - 1 : UINT16_MAX);
  const __m512 scaled =
      _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_maskz_loadu_ps(wanted, scale));
  _mm512_mask_storeu_ps(y, wanted, _mm512_add_ps(scaled, _mm512_maskz_loadu_ps(wanted, bias)));
}

INLINE void row_tile(const int8_t *entry, const uint32_t *at, uint32_t codebooks,
                     const float *scale, const float *bias, uint32_t left, const int vectors,
                     float *y) {
  __m512i sum[VECTORS][2];
  row_sum(entry, at, codebooks, vectors, sum);
#pragma GCC unroll 8
  for (int i = 0; i < 2 * vectors; i++) {
    const uint32_t m = 16 * (uint32_t)i;
    if (m < left) row_put(sum[i / 2][i % 2], scale + m, bias + m, left - m, y + m);
  }
}

void halut_row_avx512(const int8_t *entry, const uint32_t *at, uint32_t codebooks,
                      const float *scale, const float *bias, uint32_t outputs, float *y) {
  uint32_t m = 0;
  for (; outputs - m >= VECTORS * LANES; m += VECTORS * LANES)
    row_tile(entry + m, at, codebooks, scale + m, bias + m, outputs - m, VECTORS, y + m);
  for (; outputs - m >= 2 * LANES; m += 2 * LANES)
    row_tile(entry + m, at, codebooks, scale + m, bias + m, outputs - m, 2, y + m);
  for (; m < outputs; m += LANES)
    row_tile(entry + m, at, codebooks, scale + m, bias + m, outputs - m, 1, y + m);
}

#endif
