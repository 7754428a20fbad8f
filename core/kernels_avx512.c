/* DESIGN: the tables of four codebooks are the 64 bytes that one vpermb chooses from, and the codes
 * of a row lie side by side, each with its table's place added; so the four entries of a row come
 * out side by side too, and vpdpbusd with ones adds them to an i32 sum. Exact without ranges,
 * groups or widening.
 *
 * accumulate: 4 outputs by 64 rows. Live registers: 16 sums, 4 tables, codes, ones, a temporary, of
 * 32. 32 operations and 8 loads for 1,024 lookups; 16 rows by themselves take 8 and 5 for 256.
 *
 * encode: 64 rows a step; comparisons give a mask, 5 operations a level.
 *
 * dense: four taps of 16 positions a register, interleaved likewise: one vpdpbusd, the weights
 * broadcast by its memory operand, for 64 multiplications. */
#include "kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

enum {
  LANES = 16,        /* i32 in a register: rows, or positions */
  AHEAD_BYTES = 2048 /* how far ahead tables are fetched, also past the last */
};

/* The last 32 rows, in half a register: a masked load of a whole one that reaches past its array is
 * exact but, where the next page is missing, takes thousands of cycles (core/PERFORMANCE.md, try
 * 8). */
INLINE void avx512_encode_last(const uint8_t *value, const uint8_t *masks,
                               const struct halut_read read[HALUT_LEVELS], __m128i threshold,
                               size_t row, uint8_t *codes) {
  const __m256i one = _mm256_set1_epi8(1), tree = _mm256_broadcastsi128_si256(threshold);
  __m256i node = one;
#pragma GCC unroll 4
  for (int level = 0; level < HALUT_LEVELS; level++) {
    __m256i x = _mm256_loadu_si256((const __m256i *)(value + read[level].at + row));
    if (masks)
      x = _mm256_and_si256(x,
                           _mm256_loadu_si256((const __m256i *)(masks + read[level].mask + row)));
    __mmask32 right = _mm256_cmpgt_epu8_mask(x, _mm256_shuffle_epi8(tree, node));
    node = _mm256_add_epi8(node, node);
    node = _mm256_mask_add_epi8(node, right, node, one);
  }
  _mm256_storeu_si256((__m256i *)codes, _mm256_and_si256(node, _mm256_set1_epi8(15)));
}

/* One codebook. */
INLINE void avx512_encode(const uint8_t *value, const uint8_t *masks,
                          const struct halut_read read[HALUT_LEVELS],
                          const uint8_t threshold[HALUT_PROTOTYPES], size_t rows, uint8_t *codes) {
  const __m512i one = _mm512_set1_epi8(1), low = _mm512_set1_epi8(15);
  const __m128i heap = _mm_loadu_si128((const __m128i *)threshold);
  const __m512i tree = _mm512_broadcast_i32x4(heap);
  for (size_t row = 0; row < rows; row += 64) {
    if (rows - row < 64) {
      avx512_encode_last(value, masks, read, heap, row, codes + row);
      break;
    }
    __m512i node = one;
#pragma GCC unroll 4
    for (int level = 0; level < HALUT_LEVELS; level++) {
      __m512i x = _mm512_loadu_si512(value + read[level].at + row);
      if (masks) x = _mm512_and_si512(x, _mm512_loadu_si512(masks + read[level].mask + row));
      __mmask64 right = _mm512_cmpgt_epu8_mask(x, _mm512_shuffle_epi8(tree, node));
      node = _mm512_add_epi8(node, node);
      node = _mm512_mask_add_epi8(node, right, node, one);
    }
    _mm512_storeu_si512(codes + row, _mm512_and_si512(node, low));
  }
}

void halut_encode_avx512(const uint8_t *value, const uint8_t *masks,
                         const struct halut_read *read, const uint8_t *threshold,
                         uint32_t codebooks, size_t rows, uint8_t *codes, size_t stride) {
  for (; codebooks; codebooks--, codes += stride) {
    if (masks)
      avx512_encode(value, masks, read, threshold, rows, codes);
    else
      avx512_encode(value, NULL, read, threshold, rows, codes);
    read += HALUT_LEVELS;
    threshold += HALUT_PROTOTYPES;
  }
}

/* 16 bytes from each of four places, interleaved: byte 4 * i + j is byte i of from[j]. */
INLINE __m512i avx512_interleave(const uint8_t *const from[4]) {
  const __m512i order = _mm512_add_epi32(
      _mm512_set1_epi32(0x30201000),
      _mm512_mullo_epi32(_mm512_set1_epi32(0x01010101),
                         _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)));
  __m512i bytes = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)from[0]));
  bytes = _mm512_inserti32x4(bytes, _mm_loadu_si128((const __m128i *)from[1]), 1);
  bytes = _mm512_inserti32x4(bytes, _mm_loadu_si128((const __m128i *)from[2]), 2);
  bytes = _mm512_inserti32x4(bytes, _mm_loadu_si128((const __m128i *)from[3]), 3);
  return _mm512_permutexvar_epi8(order, bytes);
}

/* Codes of each four codebooks, [4][HALUT_CODE_BLOCK], to [HALUT_CODE_BLOCK][4]. A codebook that
 * only pads may hold anything: it becomes some place in its own table, of zeros. */
static void avx512_arrange(const struct halut_packed *packed, uint8_t *codes) {
  const __m512i code = _mm512_set1_epi8(15), place = _mm512_set1_epi32(0x30201000);
  for (uint32_t c = 0; c < packed->lut->codebooks; c += 4, codes += 4 * HALUT_CODE_BLOCK) {
    __m512i row[HALUT_CODE_BLOCK / LANES];
#pragma GCC unroll 8
    for (size_t v = 0; v < HALUT_CODE_BLOCK / LANES; v++) {
      const uint8_t *from = codes + LANES * v;
      const uint8_t *const four[4] = {from, from + HALUT_CODE_BLOCK, from + 2 * HALUT_CODE_BLOCK,
                                      from + 3 * HALUT_CODE_BLOCK};
      row[v] = _mm512_or_si512(_mm512_and_si512(avx512_interleave(four), code), place);
    }
#pragma GCC unroll 8
    for (size_t v = 0; v < HALUT_CODE_BLOCK / LANES; v++)
      _mm512_storeu_si512(codes + 4 * LANES * v, row[v]);
  }
}

/* Sums of HALUT_QUAD_OUTPUTS outputs from m on at `vectors` times 16 rows, in row order. `codes`
 * are the arranged ones of the first of these rows. */
INLINE void avx512_tile(const struct halut_packed *packed, uint32_t m, const uint8_t *codes,
                        const int vectors, __m512i sum[HALUT_QUAD_OUTPUTS][4]) {
  const uint32_t quads = (packed->lut->codebooks + 3) / 4;
  const int8_t *table = packed->quad + (size_t)m * quads * 4 * HALUT_PROTOTYPES;
  const __m512i ones = _mm512_set1_epi8(1);
#pragma GCC unroll 4
  for (int i = 0; i < HALUT_QUAD_OUTPUTS; i++)
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++) sum[i][v] = _mm512_setzero_si512();
  for (uint32_t q = 0; q < quads; q++) {
    for (int i = 0; i < HALUT_QUAD_OUTPUTS * 4 * HALUT_PROTOTYPES; i += HALUT_ALIGN)
      __builtin_prefetch(table + AHEAD_BYTES + i);
    const __m512i t0 = _mm512_loadu_si512(table), t1 = _mm512_loadu_si512(table + 64);
    const __m512i t2 = _mm512_loadu_si512(table + 128), t3 = _mm512_loadu_si512(table + 192);
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++) {
      const __m512i at = _mm512_loadu_si512(codes + 4 * LANES * v);
      sum[0][v] = _mm512_dpbusd_epi32(sum[0][v], ones, _mm512_permutexvar_epi8(at, t0));
      sum[1][v] = _mm512_dpbusd_epi32(sum[1][v], ones, _mm512_permutexvar_epi8(at, t1));
      sum[2][v] = _mm512_dpbusd_epi32(sum[2][v], ones, _mm512_permutexvar_epi8(at, t2));
      sum[3][v] = _mm512_dpbusd_epi32(sum[3][v], ones, _mm512_permutexvar_epi8(at, t3));
    }
    table += HALUT_QUAD_OUTPUTS * 4 * HALUT_PROTOTYPES;
    codes += 4 * HALUT_CODE_BLOCK;
  }
}

INLINE void avx512_sum_tile(const struct halut_packed *packed, uint32_t m, const uint8_t *codes,
                            const int vectors, int32_t *acc, size_t stride) {
  const uint32_t left = packed->lut->outputs - m;
  __m512i sum[HALUT_QUAD_OUTPUTS][4];
  avx512_tile(packed, m, codes, vectors, sum);
#pragma GCC unroll 4
  for (uint32_t i = 0; i < HALUT_QUAD_OUTPUTS; i++)
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++)
      if (i < left) _mm512_storeu_si512(acc + i * stride + LANES * (size_t)v, sum[i][v]);
}

static void avx512_sum(const struct halut_packed *packed, const uint8_t *codes, uint32_t rows,
                       int32_t *acc, size_t stride) {
  for (uint32_t m = 0; m < packed->lut->outputs; m += HALUT_QUAD_OUTPUTS) {
    uint32_t row = 0;
    for (; row + 64 <= rows; row += 64)
      avx512_sum_tile(packed, m, codes + 4 * (size_t)row, 4, acc + m * stride + row, stride);
    for (; row < rows; row += 16)
      avx512_sum_tile(packed, m, codes + 4 * (size_t)row, 1, acc + m * stride + row, stride);
  }
}

/* Sum + bias must not wrap, and past this bias it is out of range, whatever the sum. */
enum { BIAS_MAX = 1 << 30 };
static_assert(HALUT_CODEBOOKS_MAX * 128 < BIAS_MAX - UINT16_MAX, "a sum does not reach back");

INLINE __m512i avx512_bias(int32_t bias) {
  return _mm512_set1_epi32(bias > BIAS_MAX ? BIAS_MAX : bias < -BIAS_MAX ? -BIAS_MAX : bias);
}

/* 32 sums as words below 256; packing leaves rows 0-3, 16-19, 4-7, ... */
INLINE __m512i avx512_requant(__m512i first, __m512i second, __m512i bias, uint16_t scale) {
  __m512i words =
      _mm512_packus_epi32(_mm512_add_epi32(first, bias), _mm512_add_epi32(second, bias));
  words = _mm512_mulhi_epu16(words, _mm512_set1_epi16((short)scale));
  return _mm512_min_epu16(words, _mm512_set1_epi16(255));
}

/* 64 rows in order. */
INLINE __m512i avx512_pack64(const __m512i sum[4], __m512i bias, uint16_t scale) {
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  __m512i low = avx512_requant(sum[0], sum[1], bias, scale);
  __m512i high = avx512_requant(sum[2], sum[3], bias, scale);
  return _mm512_permutexvar_epi32(order, _mm512_packus_epi16(low, high));
}

INLINE __m128i avx512_pack16(__m512i sum, __m512i bias, uint16_t scale) {
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
  __m512i words = avx512_requant(sum, sum, bias, scale);
  words = _mm512_permutexvar_epi32(order, _mm512_packus_epi16(words, words));
  return _mm512_castsi512_si128(words);
}

INLINE void avx512_map_tile(const struct halut_packed *packed, uint32_t m, const uint8_t *codes,
                            const int vectors, const struct halut_requant *requant, uint8_t *out,
                            size_t stride) {
  const uint32_t left = packed->lut->outputs - m;
  __m512i sum[HALUT_QUAD_OUTPUTS][4];
  avx512_tile(packed, m, codes, vectors, sum);
#pragma GCC unroll 4
  for (uint32_t i = 0; i < HALUT_QUAD_OUTPUTS; i++) {
    if (i >= left) break;
    const __m512i bias = avx512_bias(requant->bias[m + i]);
    const uint16_t scale = requant->scale[m + i];
    if (vectors == 4)
      _mm512_storeu_si512(out + i * stride, avx512_pack64(sum[i], bias, scale));
    else
      _mm_storeu_si128((__m128i *)(out + i * stride), avx512_pack16(sum[i][0], bias, scale));
  }
}

static void avx512_map(const struct halut_packed *packed, const uint8_t *codes, uint32_t rows,
                       const struct halut_requant *requant, uint8_t *out, size_t stride) {
  for (uint32_t m = 0; m < packed->lut->outputs; m += HALUT_QUAD_OUTPUTS) {
    uint32_t row = 0;
    for (; row + 64 <= rows; row += 64)
      avx512_map_tile(packed, m, codes + 4 * (size_t)row, 4, requant, out + m * stride + row,
                      stride);
    for (; row < rows; row += 16)
      avx512_map_tile(packed, m, codes + 4 * (size_t)row, 1, requant, out + m * stride + row,
                      stride);
  }
}

const struct halut_accumulate halut_accumulate_avx512 = {.layout = HALUT_LAYOUT_QUADS,
                                                         .arrange = avx512_arrange,
                                                         .sum = avx512_sum,
                                                         .map = avx512_map};

enum { DENSE_QUADS = 16 }; /* fours of taps that are interleaved at once: 2 KiB */
static_assert(4 * DENSE_QUADS * UINT8_MAX * 128 < BIAS_MAX - UINT16_MAX, "nor does one of these");

void halut_dense_avx512(const struct halut_weights *weights, const uint8_t *const *source,
                        const struct halut_requant *requant, uint8_t *out, size_t stride) {
  static const uint8_t none[HALUT_DENSE_BLOCK];
  const uint32_t taps = weights->taps, quads = (taps + 3) / 4;
  __m512i value[DENSE_QUADS][2];
  if (quads > DENSE_QUADS) {
    halut_dense_ref(weights, source, requant, out, stride);
    return;
  }
  for (uint32_t q = 0; q < quads; q++)
    for (uint32_t half = 0; half < 2; half++) {
      const uint8_t *four[4];
      for (uint32_t i = 0; i < 4; i++)
        four[i] = (4 * q + i < taps ? source[4 * q + i] : none) + LANES * half;
      value[q][half] = avx512_interleave(four);
    }
  for (uint32_t m = 0; m < weights->outputs; m++, out += stride) {
    const int8_t *weight = weights->quad + (size_t)m * quads * 4;
    __m512i first = _mm512_setzero_si512(), second = first;
    for (uint32_t q = 0; q < quads; q++, weight += 4) {
      int32_t four;
      memcpy(&four, weight, sizeof four);
      first = _mm512_dpbusd_epi32(first, value[q][0], _mm512_set1_epi32(four));
      second = _mm512_dpbusd_epi32(second, value[q][1], _mm512_set1_epi32(four));
    }
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 0, 0, 0, 0, 0, 0, 0, 0);
    __m512i words =
        avx512_requant(first, second, avx512_bias(requant->bias[m]), requant->scale[m]);
    words = _mm512_permutexvar_epi32(order, _mm512_packus_epi16(words, words));
    _mm256_storeu_si256((__m256i *)out, _mm512_castsi512_si256(words));
  }
}

#endif
