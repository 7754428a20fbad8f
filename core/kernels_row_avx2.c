/* DESIGN: a row takes one entry of each table, and with the outputs of an entry side by side that
 * is one run of bytes: 16 outputs are a load that widens and an addition. Sums stay in words for as
 * many codebooks as these hold. */
#include "kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))

enum { LANES = 16, VECTORS = 4 };

/* Sums of `vectors` times 16 outputs, in two halves each. */
INLINE void row_sum(const int8_t *entry, const uint32_t *at, uint32_t codebooks, const int vectors,
                    __m256i sum[VECTORS][2]) {
#pragma GCC unroll 4
  for (int v = 0; v < vectors; v++) sum[v][0] = sum[v][1] = _mm256_setzero_si256();
  for (uint32_t c = 0; c < codebooks;) {
    const uint32_t end = codebooks - c > HALUT_SUM16_MAX ? c + HALUT_SUM16_MAX : codebooks;
    __m256i word[VECTORS];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++) word[v] = _mm256_setzero_si256();
    for (; c < end; c++) {
      const __m128i *from = (const __m128i *)(entry + at[c]);
#pragma GCC unroll 4
      for (int v = 0; v < vectors; v++)
        word[v] = _mm256_add_epi16(word[v], _mm256_cvtepi8_epi16(_mm_loadu_si128(from + v)));
    }
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++) {
      const __m256i low = _mm256_cvtepi16_epi32(_mm256_castsi256_si128(word[v]));
      const __m256i high = _mm256_cvtepi16_epi32(_mm256_extracti128_si256(word[v], 1));
      sum[v][0] = _mm256_add_epi32(sum[v][0], low);
      sum[v][1] = _mm256_add_epi32(sum[v][1], high);
    }
  }
}

/* Eight floats, or `count` of them. */
INLINE void row_put(__m256i sum, const float *scale, const float *bias, uint32_t count, float *y) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const __m256i wanted = _mm256_cmpgt_epi32(_mm256_set1_epi32((int32_t)count), lane);
  const __m256 scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(sum), _mm256_maskload_ps(scale, wanted));
  _mm256_maskstore_ps(y, wanted, _mm256_add_ps(scaled, _mm256_maskload_ps(bias, wanted)));
}

INLINE void row_tile(const int8_t *entry, const uint32_t *at, uint32_t codebooks,
                     const float *scale, const float *bias, uint32_t left, const int vectors,
                     float *y) {
  __m256i sum[VECTORS][2];
  row_sum(entry, at, codebooks, vectors, sum);
#pragma GCC unroll 8
  for (int i = 0; i < 2 * vectors; i++) {
    const uint32_t m = 8 * (uint32_t)i;
    if (m < left) row_put(sum[i / 2][i % 2], scale + m, bias + m, left - m, y + m);
  }
}

void halut_row_avx2(const int8_t *entry, const uint32_t *at, uint32_t codebooks,
                    const float *scale, const float *bias, uint32_t outputs, float *y) {
  uint32_t m = 0;
  for (; outputs - m >= VECTORS * LANES; m += VECTORS * LANES)
    row_tile(entry + m, at, codebooks, scale + m, bias + m, outputs - m, VECTORS, y + m);
  for (; m < outputs; m += LANES)
    row_tile(entry + m, at, codebooks, scale + m, bias + m, outputs - m, 1, y + m);
}

#endif
