/* DESIGN: the AVX2 kernels at half the width: 16 rows a step, one per byte, one table a register.
 * Sums of up to 64 rows are live at once: 8 registers, up to 3 tables and temporaries, of 16. Where
 * SSE4.1 would be needed (min and pack of unsigned words), saturating subtraction and a shifted
 * signed pack do the same. Bound by decoding: 7 instructions for 16 lookups, as a shuffle destroys
 * its table and an addition its operand. */
#include "kernels.h"

#if defined(__x86_64__)
#include <stdbool.h>
#include <string.h>
#include <tmmintrin.h>

#define INLINE static inline __attribute__((always_inline))

INLINE __m128i sse_load(const void *from) { return _mm_loadu_si128(from); }

INLINE __m128i sse_level(__m128i node, __m128i value, __m128i tree) {
  const __m128i one = _mm_set1_epi8(1);
  __m128i right = _mm_min_epu8(_mm_subs_epu8(value, _mm_shuffle_epi8(tree, node)), one);
  return _mm_add_epi8(_mm_add_epi8(node, node), right);
}

void halut_encode_ssse3(const uint8_t *value, const uint8_t *masks,
                        const struct halut_read *read, const uint8_t *threshold,
                        uint32_t codebooks, size_t rows, uint8_t *codes, size_t stride) {
  const __m128i low = _mm_set1_epi8(15);
  for (; codebooks; codebooks--, codes += stride) {
    const __m128i tree = sse_load(threshold);
    for (size_t row = 0; row < rows; row += 16) {
      __m128i node = _mm_set1_epi8(1);
      for (int level = 0; level < HALUT_LEVELS; level++) {
        __m128i x = sse_load(value + read[level].at + row);
        if (masks) x = _mm_and_si128(x, sse_load(masks + read[level].mask + row));
        node = sse_level(node, x, tree);
      }
      _mm_storeu_si128((__m128i *)(codes + row), _mm_and_si128(node, low));
    }
    read += HALUT_LEVELS;
    threshold += HALUT_PROTOTYPES;
  }
}

/* Sums of some times 16 rows: words are even + 256 * odd rows, mod 2^16. */
struct sse_sums {
  __m128i words[4], odd[4];
};

INLINE __m128i sse_lookup(__m128i table, const uint8_t *codes) {
  return _mm_shuffle_epi8(table, sse_load(codes));
}

INLINE void sse_widen(struct sse_sums *sums, int v, __m128i bytes) {
  sums->words[v] = _mm_add_epi16(sums->words[v], bytes);
  sums->odd[v] = _mm_add_epi16(sums->odd[v], _mm_srli_epi16(bytes, 8));
}

/* Adds a run; codes lie `apart` times HALUT_SUM_ROWS from each other. */
INLINE void sse_run(const struct halut_packed *packed, const struct halut_run *run,
                    const uint8_t *codes, size_t apart, const int vectors,
                    struct sse_sums *sums) {
  const uint8_t *table = packed->table + run->entry * HALUT_PROTOTYPES;
  const uint16_t *at = packed->at + run->entry;
  for (uint32_t i = run->threes; i; i--, table += 96, at += 6)
    for (int twin = 0; twin < 2; twin++) {
      const uint8_t *c0 = codes + at[twin] * apart, *c1 = codes + at[2 + twin] * apart;
      const uint8_t *c2 = codes + at[4 + twin] * apart;
      const __m128i t0 = sse_load(table + 16 * twin), t1 = sse_load(table + 32 + 16 * twin);
      const __m128i t2 = sse_load(table + 64 + 16 * twin);
#pragma GCC unroll 4
      for (int v = 0; v < vectors; v++) {
        const __m128i two = _mm_add_epi8(sse_lookup(t0, c0 + 16 * v), sse_lookup(t1, c1 + 16 * v));
        sse_widen(sums, v, _mm_add_epi8(two, sse_lookup(t2, c2 + 16 * v)));
      }
    }
  for (uint32_t i = run->twos; i; i--, table += 64, at += 4)
    for (int twin = 0; twin < 2; twin++) {
      const uint8_t *c0 = codes + at[twin] * apart, *c1 = codes + at[2 + twin] * apart;
      const __m128i t0 = sse_load(table + 16 * twin), t1 = sse_load(table + 32 + 16 * twin);
#pragma GCC unroll 4
      for (int v = 0; v < vectors; v++)
        sse_widen(sums, v,
                  _mm_add_epi8(sse_lookup(t0, c0 + 16 * v), sse_lookup(t1, c1 + 16 * v)));
    }
  for (uint32_t i = 2 * run->ones; i; i--, table += 16, at++) {
    const uint8_t *c0 = codes + at[0] * apart;
    const __m128i t0 = sse_load(table);
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++) sse_widen(sums, v, sse_lookup(t0, c0 + 16 * v));
  }
}

/* Eight u16 in row order, plus `base`, into (first) or onto acc. */
INLINE void sse_put(__m128i words, __m128i base, bool first, int32_t *acc) {
  const __m128i none = _mm_setzero_si128();
  __m128i a = _mm_add_epi32(_mm_unpacklo_epi16(words, none), base);
  __m128i b = _mm_add_epi32(_mm_unpackhi_epi16(words, none), base);
  if (!first) {
    a = _mm_add_epi32(a, sse_load(acc));
    b = _mm_add_epi32(b, sse_load(acc + 4));
  }
  _mm_storeu_si128((__m128i *)acc, a);
  _mm_storeu_si128((__m128i *)(acc + 4), b);
}

INLINE void sse_sums_clear(struct sse_sums *sums, const int vectors) {
#pragma GCC unroll 4
  for (int v = 0; v < vectors; v++) sums->words[v] = sums->odd[v] = _mm_setzero_si128();
}

INLINE __m128i sse_even(const struct sse_sums *sums, int v) {
  return _mm_sub_epi16(sums->words[v], _mm_slli_epi16(sums->odd[v], 8));
}

INLINE void sse_sum_rows(const struct halut_packed *packed, uint32_t m, const uint8_t *codes,
                         size_t apart, const int vectors, int32_t *acc) {
  for (uint32_t r = 0; r < packed->runs; r++) {
    struct sse_sums sums;
    sse_sums_clear(&sums, vectors);
    sse_run(packed, halut_run_of(packed, m, r), codes, apart, vectors, &sums);
    const __m128i base = _mm_set1_epi32(r ? 0 : packed->base[m].least);
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++) {
      const __m128i even = sse_even(&sums, v), odd = sums.odd[v];
      sse_put(_mm_unpacklo_epi16(even, odd), base, r == 0, acc + 16 * v);
      sse_put(_mm_unpackhi_epi16(even, odd), base, r == 0, acc + 16 * v + 8);
    }
  }
}

static void sse_sum_output(const struct halut_packed *packed, uint32_t m, const uint8_t *codes,
                           size_t apart, uint32_t rows, int32_t *acc) {
  uint32_t row = 0;
  for (; row + 64 <= rows; row += 64) sse_sum_rows(packed, m, codes + row, apart, 4, acc + row);
  for (; row < rows; row += 16) sse_sum_rows(packed, m, codes + row, apart, 1, acc + row);
}

static void ssse3_sum(const struct halut_packed *packed, const uint8_t *codes, uint32_t rows,
                      int32_t *acc, size_t stride) {
  const size_t apart = halut_code_stride(&halut_accumulate_ssse3, rows) / HALUT_SUM_ROWS;
  for (uint32_t m = 0; m < packed->lut->outputs; m++, acc += stride)
    sse_sum_output(packed, m, codes, apart, rows, acc);
}

/* A halut_shift, and the scale. */
struct sse_scale {
  __m128i less, more, scale;
};

/* min(255, words * scale >> 16) of unsigned words. */
INLINE __m128i sse_scaled(__m128i words, __m128i scale) {
  __m128i scaled = _mm_mulhi_epu16(words, scale);
  return _mm_sub_epi16(scaled, _mm_subs_epu16(scaled, _mm_set1_epi16(255)));
}

INLINE __m128i sse_requant(__m128i sum, const struct sse_scale *s) {
  return sse_scaled(_mm_adds_epu16(_mm_subs_epu16(sum, s->less), s->more), s->scale);
}

INLINE void sse_map_rows(const struct halut_packed *packed, uint32_t m, const uint8_t *codes,
                         size_t apart, const int vectors, const struct sse_scale *scale,
                         uint8_t *out) {
  struct sse_sums sums;
  sse_sums_clear(&sums, vectors);
  for (uint32_t r = 0; r < packed->runs; r++)
    sse_run(packed, halut_run_of(packed, m, r), codes, apart, vectors, &sums);
#pragma GCC unroll 4
  for (int v = 0; v < vectors; v++) {
    __m128i even = sse_requant(sse_even(&sums, v), scale), odd = sse_requant(sums.odd[v], scale);
    _mm_storeu_si128((__m128i *)(out + 16 * v), _mm_or_si128(even, _mm_slli_epi16(odd, 8)));
  }
}

static void ssse3_map(const struct halut_packed *packed, const uint8_t *codes, uint32_t rows,
                      const struct halut_requant *requant, uint8_t *out, size_t stride) {
  const size_t apart = halut_code_stride(&halut_accumulate_ssse3, rows) / HALUT_SUM_ROWS;
  for (uint32_t m = 0; m < packed->lut->outputs; m++, out += stride) {
    if (packed->base[m].range > UINT16_MAX) {
      int32_t acc[HALUT_CODE_BLOCK];
      sse_sum_output(packed, m, codes, apart, rows, acc);
      for (uint32_t i = 0; i < rows; i++)
        out[i] = halut_requantise(acc[i], requant->bias[m], requant->scale[m]);
      continue;
    }
    const struct halut_shift shift =
        halut_shift_of((int64_t)requant->bias[m] + packed->base[m].least);
    const struct sse_scale scale = {_mm_set1_epi16((short)shift.less),
                                    _mm_set1_epi16((short)shift.more),
                                    _mm_set1_epi16((short)requant->scale[m])};
    uint32_t row = 0;
    for (; row + 64 <= rows; row += 64)
      sse_map_rows(packed, m, codes + row, apart, 4, &scale, out + row);
    for (; row < rows; row += 16)
      sse_map_rows(packed, m, codes + row, apart, 1, &scale, out + row);
  }
}

const struct halut_accumulate halut_accumulate_ssse3 = {
    .layout = HALUT_LAYOUT_BYTES, .sum = ssse3_sum, .map = ssse3_map};

/* 2x2 maximum: rows pairwise, then even with odd columns. */
void halut_pool2_ssse3(const uint8_t *in, uint32_t height, uint32_t width, uint8_t *out) {
  const __m128i low = _mm_set1_epi16(255);
  for (uint32_t y = 0; y < height / 2; y++, in += 2 * (size_t)width, out += width / 2) {
    uint32_t x = 0;
    for (; x + 16 <= width; x += 16) {
      __m128i most = _mm_max_epu8(sse_load(in + x), sse_load(in + width + x));
      most = _mm_and_si128(_mm_max_epu8(most, _mm_srli_epi16(most, 8)), low);
      _mm_storel_epi64((__m128i *)(out + x / 2), _mm_packus_epi16(most, most));
    }
    for (; x + 8 <= width; x += 8) {
      __m128i most = _mm_max_epu8(_mm_loadl_epi64((const __m128i *)(in + x)),
                                  _mm_loadl_epi64((const __m128i *)(in + width + x)));
      most = _mm_and_si128(_mm_max_epu8(most, _mm_srli_epi16(most, 8)), low);
      int four = _mm_cvtsi128_si32(_mm_packus_epi16(most, most));
      memcpy(out + x / 2, &four, sizeof four);
    }
    for (; x < width; x += 2) {
      uint8_t a = in[x] > in[x + 1] ? in[x] : in[x + 1];
      uint8_t b = in[width + x] > in[width + x + 1] ? in[width + x] : in[width + x + 1];
      out[x / 2] = a > b ? a : b;
    }
  }
}

/* In 16 bits, because a + b - zero is not one saturating step after another. */
void halut_add_ssse3(uint8_t *y, const uint8_t *other, size_t count, uint8_t zero) {
  const __m128i less = _mm_set1_epi16(zero), none = _mm_setzero_si128();
  size_t i = 0;
  for (; i + 16 <= count; i += 16) {
    __m128i a = sse_load(y + i), b = sse_load(other + i);
    __m128i low = _mm_add_epi16(_mm_unpacklo_epi8(a, none), _mm_unpacklo_epi8(b, none));
    __m128i high = _mm_add_epi16(_mm_unpackhi_epi8(a, none), _mm_unpackhi_epi8(b, none));
    low = _mm_sub_epi16(low, less);
    high = _mm_sub_epi16(high, less);
    _mm_storeu_si128((__m128i *)(y + i), _mm_packus_epi16(low, high));
  }
  for (; i < count; i++) {
    int sum = y[i] + other[i] - zero;
    y[i] = (uint8_t)(sum < 0 ? 0 : sum > UINT8_MAX ? UINT8_MAX : sum);
  }
}

enum {
  DENSE_PAIRS = 32,        /* pairs of taps that are widened at once: 4 KiB a half */
  DENSE_BIAS_MAX = 1 << 30 /* past it sum + bias might not fit an int32 */
};
static_assert(2 * DENSE_PAIRS * UINT8_MAX * 128 <= DENSE_BIAS_MAX - 32768, "sum + bias fits");

/* 16 positions of two taps as 16 pairs of words. */
INLINE void sse_dense_widen(const uint8_t *one, const uint8_t *two, __m128i to[4]) {
  const __m128i none = _mm_setzero_si128();
  __m128i a = sse_load(one), b = two ? sse_load(two) : none;
  __m128i low = _mm_unpacklo_epi8(a, b), high = _mm_unpackhi_epi8(a, b);
  to[0] = _mm_unpacklo_epi8(low, none);
  to[1] = _mm_unpackhi_epi8(low, none);
  to[2] = _mm_unpacklo_epi8(high, none);
  to[3] = _mm_unpackhi_epi8(high, none);
}

/* clamp(sum + bias, 0, 65535) of two: a signed pack of what is 32768 less. */
INLINE __m128i sse_dense_words(__m128i a, __m128i b, int32_t bias) {
  const __m128i more = _mm_set1_epi32(bias - 32768);
  __m128i words = _mm_packs_epi32(_mm_add_epi32(a, more), _mm_add_epi32(b, more));
  return _mm_xor_si128(words, _mm_set1_epi16(INT16_MIN));
}

/* 16 positions of all outputs; pmaddwd multiplies words and adds two neighbours. */
static void sse_dense_half(const struct halut_weights *weights, const uint8_t *const *source,
                           uint32_t first, const struct halut_requant *requant, uint8_t *out,
                           size_t stride) {
  const uint32_t taps = weights->taps, pairs = (taps + 1) / 2;
  __m128i value[DENSE_PAIRS][4];
  for (uint32_t p = 0; p < pairs; p++)
    sse_dense_widen(source[2 * p] + first, 2 * p + 1 < taps ? source[2 * p + 1] + first : NULL,
                    value[p]);
  for (uint32_t m = 0; m < weights->outputs; m++, out += stride) {
    const int16_t *pair = weights->pair + (size_t)m * pairs * 2;
    __m128i sum[4];
#pragma GCC unroll 4
    for (int v = 0; v < 4; v++) sum[v] = _mm_setzero_si128();
    for (uint32_t p = 0; p < pairs; p++) {
      int32_t both;
      memcpy(&both, pair + (size_t)2 * p, sizeof both);
      const __m128i weight = _mm_set1_epi32(both);
#pragma GCC unroll 4
      for (int v = 0; v < 4; v++)
        sum[v] = _mm_add_epi32(sum[v], _mm_madd_epi16(value[p][v], weight));
    }
    int32_t bias = requant->bias[m];
    if (bias <= DENSE_BIAS_MAX && bias >= -DENSE_BIAS_MAX) {
      const __m128i scale = _mm_set1_epi16((short)requant->scale[m]);
      __m128i low = sse_scaled(sse_dense_words(sum[0], sum[1], bias), scale);
      __m128i high = sse_scaled(sse_dense_words(sum[2], sum[3], bias), scale);
      _mm_storeu_si128((__m128i *)out, _mm_packus_epi16(low, high));
      continue;
    }
    int32_t exact[16];
    for (int v = 0; v < 4; v++) _mm_storeu_si128((__m128i *)(exact + 4 * v), sum[v]);
    for (int i = 0; i < 16; i++) out[i] = halut_requantise(exact[i], bias, requant->scale[m]);
  }
}

void halut_dense_ssse3(const struct halut_weights *weights, const uint8_t *const *source,
                       const struct halut_requant *requant, uint8_t *out, size_t stride) {
  if (weights->taps > 2 * DENSE_PAIRS) {
    halut_dense_ref(weights, source, requant, out, stride);
    return;
  }
  for (uint32_t first = 0; first < HALUT_DENSE_BLOCK; first += 16)
    sse_dense_half(weights, source, first, requant, out + first, stride);
}

void halut_linear_ssse3(const int8_t *weight, const int32_t *bias, uint32_t outputs,
                        uint32_t inputs, const uint8_t *x, int32_t *y) {
  const __m128i none = _mm_setzero_si128();
  for (uint32_t m = 0; m < outputs; m++, weight += inputs) {
    __m128i sum = none;
    uint32_t i = 0;
    for (; i + 16 <= inputs; i += 16) {
      __m128i a = sse_load(x + i), b = sse_load(weight + i), sign = _mm_cmpgt_epi8(none, b);
      sum = _mm_add_epi32(
          sum, _mm_madd_epi16(_mm_unpacklo_epi8(a, none), _mm_unpacklo_epi8(b, sign)));
      sum = _mm_add_epi32(
          sum, _mm_madd_epi16(_mm_unpackhi_epi8(a, none), _mm_unpackhi_epi8(b, sign)));
    }
    sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4e));
    sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xb1));
    int64_t total = (int64_t)bias[m] + _mm_cvtsi128_si32(sum);
    for (; i < inputs; i++) total += weight[i] * x[i];
    y[m] = (int32_t)total;
  }
}

#endif
