/* DESIGN: the AVX2 kernels at half the width: 16 rows a step, one per byte, one table a register.
 * Where SSE4.1 would be needed (min and pack of unsigned words), saturating subtraction does the
 * same. Bound by the two shuffles and four additions of a lookup of 16 rows. */
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

void halut_encode_ssse3(const uint8_t *const source[HALUT_LEVELS], const uint8_t *const *mask,
                        const uint8_t threshold[HALUT_PROTOTYPES], size_t rows, uint8_t *codes,
                        size_t stride) {
  const __m128i tree = sse_load(threshold), low = _mm_set1_epi8(15);
  for (size_t row = 0; row < rows; row += 16) {
    __m128i node = _mm_set1_epi8(1);
    for (int level = 0; level < HALUT_LEVELS; level++) {
      __m128i value = sse_load(source[level] + row);
      if (mask) value = _mm_and_si128(value, sse_load(mask[level] + row));
      node = sse_level(node, value, tree);
    }
    uint8_t *to = codes + row / HALUT_CODE_BLOCK * stride + row % HALUT_CODE_BLOCK;
    _mm_storeu_si128((__m128i *)to, _mm_and_si128(node, low));
  }
}

/* Sums of 32 rows: even and odd rows of each half apart, u16. */
struct sse_sums {
  __m128i even[2], odd[2];
};

INLINE __m128i sse_lookup(const uint8_t *table, const uint8_t *codes, int half) {
  return _mm_shuffle_epi8(sse_load(table), sse_load(codes + 16 * half));
}

INLINE void sse_widen(struct sse_sums *sums, int half, __m128i bytes) {
  sums->even[half] = _mm_add_epi16(sums->even[half], bytes); /* even + 256 * odd, until the end */
  sums->odd[half] = _mm_add_epi16(sums->odd[half], _mm_srli_epi16(bytes, 8));
}

INLINE struct sse_sums sse_run(const struct halut_packed *packed, const struct halut_run *run,
                               const uint8_t *codes) {
  const uint8_t *table = packed->table + run->entry * HALUT_PROTOTYPES;
  const uint32_t *at = packed->at + run->entry;
  const __m128i none = _mm_setzero_si128();
  struct sse_sums sums = {{none, none}, {none, none}};
  for (uint32_t i = run->quads; i; i--, table += 64, at += 4)
    for (int half = 0; half < 2; half++) {
      __m128i a = _mm_add_epi8(sse_lookup(table, codes + at[0], half),
                               sse_lookup(table + 16, codes + at[1], half));
      __m128i b = _mm_add_epi8(sse_lookup(table + 32, codes + at[2], half),
                               sse_lookup(table + 48, codes + at[3], half));
      sse_widen(&sums, half, _mm_add_epi8(a, b));
    }
  for (uint32_t i = run->pairs; i; i--, table += 32, at += 2)
    for (int half = 0; half < 2; half++)
      sse_widen(&sums, half,
                _mm_add_epi8(sse_lookup(table, codes + at[0], half),
                             sse_lookup(table + 16, codes + at[1], half)));
  for (uint32_t i = run->singles; i; i--, table += 16, at++)
    for (int half = 0; half < 2; half++)
      sse_widen(&sums, half, sse_lookup(table, codes + at[0], half));
  for (int half = 0; half < 2; half++)
    sums.even[half] = _mm_sub_epi16(sums.even[half], _mm_slli_epi16(sums.odd[half], 8));
  return sums;
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

static void sse_sum_rows(const struct halut_packed *packed, uint32_t m, const uint8_t *codes,
                         int32_t *acc) {
  uint32_t start = packed->run_start[m];
  for (uint32_t r = start; r < packed->run_start[m + 1]; r++) {
    struct sse_sums sums = sse_run(packed, &packed->run[r], codes);
    const __m128i base = _mm_set1_epi32(packed->run[r].base);
    for (int half = 0; half < 2; half++) {
      sse_put(_mm_unpacklo_epi16(sums.even[half], sums.odd[half]), base, r == start,
              acc + 16 * half);
      sse_put(_mm_unpackhi_epi16(sums.even[half], sums.odd[half]), base, r == start,
              acc + 16 * half + 8);
    }
  }
}

static void ssse3_sum(const struct halut_packed *packed, const uint8_t *codes, uint32_t rows,
                      int32_t *acc, size_t stride) {
  for (uint32_t m = 0; m < packed->lut->outputs; m++, acc += stride)
    for (uint32_t row = 0; row < rows; row += 32) sse_sum_rows(packed, m, codes + row, acc + row);
}

/* clamp(sum + bias, 0, 65535) is a saturating subtraction and a saturating addition, one of 0. */
struct sse_scale {
  __m128i less, more, scale;
};

INLINE __m128i sse_requant(__m128i sum, const struct sse_scale *s) {
  sum = _mm_adds_epu16(_mm_subs_epu16(sum, s->less), s->more);
  __m128i scaled = _mm_mulhi_epu16(sum, s->scale);
  return _mm_sub_epi16(scaled, _mm_subs_epu16(scaled, _mm_set1_epi16(255))); /* at most 255 */
}

static void sse_map_rows(const struct halut_packed *packed, const struct halut_run *run,
                         const uint8_t *codes, const struct sse_scale *scale, uint8_t *out) {
  struct sse_sums sums = sse_run(packed, run, codes);
  for (int half = 0; half < 2; half++) {
    __m128i even = sse_requant(sums.even[half], scale), odd = sse_requant(sums.odd[half], scale);
    _mm_storeu_si128((__m128i *)(out + 16 * half), _mm_or_si128(even, _mm_slli_epi16(odd, 8)));
  }
}

static void ssse3_map(const struct halut_packed *packed, const uint8_t *codes, uint32_t rows,
                      const struct halut_requant *requant, uint8_t *out, size_t stride) {
  for (uint32_t m = 0; m < packed->lut->outputs; m++, out += stride) {
    uint32_t start = packed->run_start[m];
    if (packed->run_start[m + 1] - start > 1) { /* the sum may not fit a u16 */
      int32_t acc[32];
      for (uint32_t row = 0; row < rows; row += 32) {
        sse_sum_rows(packed, m, codes + row, acc);
        for (uint32_t i = 0; i < 32; i++)
          out[row + i] = halut_requantise(acc[i], requant->bias[m], requant->scale[m]);
      }
      continue;
    }
    const struct halut_run *run = &packed->run[start];
    int64_t bias = (int64_t)requant->bias[m] + run->base;
    int64_t less = bias < 0 ? -bias : 0, more = bias > 0 ? bias : 0;
    const struct sse_scale scale = {
        _mm_set1_epi16((short)(uint16_t)(less < UINT16_MAX ? less : UINT16_MAX)),
        _mm_set1_epi16((short)(uint16_t)(more < UINT16_MAX ? more : UINT16_MAX)),
        _mm_set1_epi16((short)requant->scale[m])};
    for (uint32_t row = 0; row < rows; row += 32)
      sse_map_rows(packed, run, codes + row, &scale, out + row);
  }
}

const struct halut_accumulate halut_accumulate_ssse3 = {
    .layout = HALUT_LAYOUT_BYTES, .sum = ssse3_sum, .map = ssse3_map};

#endif
