/* DESIGN: 32 rows a step, one per byte.
 *
 * encode: the node number of each row is the index of a byte shuffle that fetches its threshold. 19
 * vector operations and 4 loads for 32 codes, 23 and 8 with masks.
 *
 * accumulate: one output, 128 rows. A table fills both halves of a register and is the source of
 * four shuffles whose indices, the codes, come from memory. To widen 32 u8 exactly, add them as 16
 * words (mod 2^16: even + 256 * odd) and, apart, their odd bytes; in the end even = words - 256 *
 * odd. Picking the odd bytes by vpmaddubsw with (0, 1) keeps the shuffle ports free. Live
 * registers: 8 sums, up to 3 tables, 1 constant, 2 temporaries. Bound by vector operations: 16 for
 * 128 lookups that are not added as u8, 24 for 256 in groups of two, 32 for 384 in groups of three.
 * Of 16 rows twins of groups are read at once, one in each half of a register.
 *
 * Outputs that have more runs than one leave their sums in memory until the next. */
#include "kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>
#include <stdbool.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

enum { AHEAD_BYTES = 4096 }; /* how far ahead tables are fetched, into the second-level cache */

INLINE __m256i avx2_load(const void *from) { return _mm256_loadu_si256(from); }

INLINE __m256i avx2_table(const uint8_t *table) {
  return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)table));
}

INLINE __m256i avx2_level(__m256i node, __m256i value, __m256i threshold) {
  const __m256i one = _mm256_set1_epi8(1);
  __m256i at = _mm256_shuffle_epi8(threshold, node);
  __m256i right = _mm256_min_epu8(_mm256_subs_epu8(value, at), one);
  return _mm256_add_epi8(_mm256_add_epi8(node, node), right);
}

INLINE void avx2_encode(const uint8_t *value, const uint8_t *masks, const struct halut_read *read,
                        const uint8_t *threshold, uint32_t codebooks, size_t rows, uint8_t *codes,
                        size_t stride) {
  const __m256i one = _mm256_set1_epi8(1), two = _mm256_set1_epi8(2), low = _mm256_set1_epi8(15);
  for (; codebooks; codebooks--, codes += stride) {
    const __m256i tree = avx2_table(threshold);
    const __m256i root = _mm256_set1_epi8((char)threshold[1]);
    const uint8_t *s0 = value + read[0].at, *s1 = value + read[1].at;
    const uint8_t *s2 = value + read[2].at, *s3 = value + read[3].at;
    const uint8_t *m0 = NULL, *m1 = NULL, *m2 = NULL, *m3 = NULL;
    if (masks) {
      m0 = masks + read[0].mask;
      m1 = masks + read[1].mask;
      m2 = masks + read[2].mask;
      m3 = masks + read[3].mask;
    }
    for (size_t row = 0; row < rows; row += 32) {
      __m256i v0 = avx2_load(s0 + row), v1 = avx2_load(s1 + row);
      __m256i v2 = avx2_load(s2 + row), v3 = avx2_load(s3 + row);
      if (masks) {
        v0 = _mm256_and_si256(v0, avx2_load(m0 + row));
        v1 = _mm256_and_si256(v1, avx2_load(m1 + row));
        v2 = _mm256_and_si256(v2, avx2_load(m2 + row));
        v3 = _mm256_and_si256(v3, avx2_load(m3 + row));
      }
      __m256i node = _mm256_add_epi8(_mm256_min_epu8(_mm256_subs_epu8(v0, root), one), two);
      node = avx2_level(node, v1, tree);
      node = avx2_level(node, v2, tree);
      node = avx2_level(node, v3, tree);
      _mm256_storeu_si256((__m256i *)(codes + row), _mm256_and_si256(node, low));
    }
    read += HALUT_LEVELS;
    threshold += HALUT_PROTOTYPES;
  }
}

void halut_encode_avx2(const uint8_t *value, const uint8_t *masks,
                       const struct halut_read *read, const uint8_t *threshold,
                       uint32_t codebooks, size_t rows, uint8_t *codes, size_t stride) {
  if (masks)
    avx2_encode(value, masks, read, threshold, codebooks, rows, codes, stride);
  else
    avx2_encode(value, NULL, read, threshold, codebooks, rows, codes, stride);
}

/* Sums of 128 rows or, then only the first, fewer: words are even + 256 * odd rows, mod 2^16. */
struct avx2_sums {
  __m256i words[4], odd[4];
};

/* Those that are used of `from`, or zeros; the others stay undefined and cost nothing. */
INLINE void avx2_sums_set(struct avx2_sums *to, const struct avx2_sums *from, const int vectors) {
  const int used = vectors ? vectors : 1;
#pragma GCC unroll 4
  for (int v = 0; v < used; v++) {
    to->words[v] = from ? from->words[v] : _mm256_setzero_si256();
    to->odd[v] = from ? from->odd[v] : _mm256_setzero_si256();
  }
}

/* Codes of a block, `scale` times HALUT_SUM_ROWS apart, of which a kernel reads some rows. */
struct avx2_codes {
  const uint8_t *first;
  size_t scale;
};

/* One line a step is enough to wake the processor's own prefetching; of 64 rows the loads are too
 * many already. */
INLINE void avx2_ahead(const uint8_t *table) { __builtin_prefetch(table + AHEAD_BYTES, 0, 2); }

/* The constant by which vpmaddubsw picks odd bytes, in a register: gcc 12 otherwise loads it at
 * every use, and loads are what there are too few of. */
INLINE __m256i avx2_pick_odd(void) {
  __m256i pick = _mm256_set1_epi16(0x0100);
  __asm__("" : "+x"(pick));
  return pick;
}

/* Adds a run to the sums of `vectors` times 32 rows. */
INLINE void avx2_run(const struct halut_packed *packed, const struct halut_run *run,
                     struct avx2_codes codes, const int vectors, struct avx2_sums *sums) {
  const uint8_t *table = packed->table + run->entry * HALUT_PROTOTYPES;
  const uint16_t *at = packed->at + run->entry;
  const __m256i pick = avx2_pick_odd();
  const __m256i none = _mm256_setzero_si256();
#define START(v, of) ((v) < vectors ? sums->of[v] : none)
  __m256i w0 = START(0, words), w1 = START(1, words), w2 = START(2, words), w3 = START(3, words);
  __m256i h0 = START(0, odd), h1 = START(1, odd), h2 = START(2, odd), h3 = START(3, odd);
#undef START
/* Tells the compiler that both sums are in registers here. gcc 12 otherwise copies or spills some
 * of them at each step, at 128 rows 8 to 18 % slower (core/PERFORMANCE.md). */
#define KEEP(w, h) __asm__("" : "+x"(w), "+x"(h))
#define CODES(i) (codes.first + at[i] * codes.scale)
#define LOOKUP(t, c, v) _mm256_shuffle_epi8(t, avx2_load((c) + 32 * (v)))
#define WIDEN(v, bytes)                                                                            \
  if ((v) < vectors) {                                                                             \
    const __m256i sum = bytes;                                                                     \
    w##v = _mm256_add_epi16(w##v, sum);                                                            \
    h##v = _mm256_add_epi16(h##v, _mm256_maddubs_epi16(sum, pick));                                \
    KEEP(w##v, h##v);                                                                              \
  }
#define EACH(BYTES)                                                                                \
  WIDEN(0, BYTES(0))                                                                               \
  WIDEN(1, BYTES(1))                                                                               \
  WIDEN(2, BYTES(2))                                                                               \
  WIDEN(3, BYTES(3))
#define BYTES1(v) LOOKUP(t0, c0, v)
#define BYTES2(v) _mm256_add_epi8(BYTES1(v), LOOKUP(t1, c1, v))
#define BYTES3(v) _mm256_add_epi8(BYTES2(v), LOOKUP(t2, c2, v))
  for (uint32_t i = run->threes; i; i--, table += 96, at += 6) {
    if (vectors == 4) avx2_ahead(table);
#pragma GCC unroll 2
    for (int twin = 0; twin < 2; twin++) {
      const uint8_t *c0 = CODES(twin), *c1 = CODES(2 + twin), *c2 = CODES(4 + twin);
      const __m256i t0 = avx2_table(table + 16 * twin), t1 = avx2_table(table + 32 + 16 * twin);
      const __m256i t2 = avx2_table(table + 64 + 16 * twin);
      EACH(BYTES3)
    }
  }
  for (uint32_t i = run->twos; i; i--, table += 64, at += 4) {
    if (vectors == 4) avx2_ahead(table);
#pragma GCC unroll 2
    for (int twin = 0; twin < 2; twin++) {
      const uint8_t *c0 = CODES(twin), *c1 = CODES(2 + twin);
      const __m256i t0 = avx2_table(table + 16 * twin), t1 = avx2_table(table + 32 + 16 * twin);
      EACH(BYTES2)
    }
  }
  for (uint32_t i = run->ones; i; i--, table += 32, at += 2) {
    if (vectors == 4) avx2_ahead(table);
#pragma GCC unroll 2
    for (int twin = 0; twin < 2; twin++) {
      const uint8_t *c0 = CODES(twin);
      const __m256i t0 = avx2_table(table + 16 * twin);
      EACH(BYTES1)
    }
  }
#undef BYTES3
#undef BYTES2
#undef BYTES1
#undef EACH
#undef WIDEN
#undef LOOKUP
#undef CODES
#undef KEEP
  const struct avx2_sums made = {{w0, w1, w2, w3}, {h0, h1, h2, h3}};
  avx2_sums_set(sums, &made, vectors);
}

INLINE __m256i avx2_two(const uint8_t *low, const uint8_t *high) {
  return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)low)),
                                 _mm_loadu_si128((const __m128i *)high), 1);
}

/* Adds a run to the sums of 16 rows, those of one twin in each half. */
INLINE void avx2_run_half(const struct halut_packed *packed, const struct halut_run *run,
                          struct avx2_codes codes, struct avx2_sums *sums) {
  const uint8_t *table = packed->table + run->entry * HALUT_PROTOTYPES;
  const uint16_t *at = packed->at + run->entry;
  const __m256i pick = avx2_pick_odd();
  __m256i words = sums->words[0], odd = sums->odd[0];
#define CODES(i) (codes.first + at[i] * codes.scale)
#define LOOKUP(i)                                                                                  \
  _mm256_shuffle_epi8(avx2_load(table + 16 * (i)), avx2_two(CODES(i), CODES((i) + 1)))
#define WIDEN(bytes)                                                                               \
  const __m256i sum = bytes;                                                                       \
  words = _mm256_add_epi16(words, sum);                                                            \
  odd = _mm256_add_epi16(odd, _mm256_maddubs_epi16(sum, pick));
  for (uint32_t i = run->threes; i; i--, table += 96, at += 6) {
    avx2_ahead(table);
    WIDEN(_mm256_add_epi8(_mm256_add_epi8(LOOKUP(0), LOOKUP(2)), LOOKUP(4)))
  }
  for (uint32_t i = run->twos; i; i--, table += 64, at += 4) {
    avx2_ahead(table);
    WIDEN(_mm256_add_epi8(LOOKUP(0), LOOKUP(2)))
  }
  for (uint32_t i = run->ones; i; i--, table += 32, at += 2) {
    avx2_ahead(table);
    WIDEN(LOOKUP(0))
  }
#undef WIDEN
#undef LOOKUP
#undef CODES
  sums->words[0] = words;
  sums->odd[0] = odd;
}

/* `vectors` 0: of 16 rows. */
INLINE void avx2_run_any(const struct halut_packed *packed, const struct halut_run *run,
                         struct avx2_codes codes, const int vectors, struct avx2_sums *sums) {
  if (vectors)
    avx2_run(packed, run, codes, vectors, sums);
  else
    avx2_run_half(packed, run, codes, sums);
}

INLINE __m256i avx2_even(__m256i words, __m256i odd) {
  return _mm256_sub_epi16(words, _mm256_slli_epi16(odd, 8));
}

/* Sums of 16 rows: even and odd rows apart, u16. */
struct avx2_half {
  __m128i even, odd;
};

INLINE struct avx2_half avx2_half(const struct avx2_sums *sums) {
  const __m256i even = avx2_even(sums->words[0], sums->odd[0]), odd = sums->odd[0];
  return (struct avx2_half){
      _mm_add_epi16(_mm256_castsi256_si128(even), _mm256_extracti128_si256(even, 1)),
      _mm_add_epi16(_mm256_castsi256_si128(odd), _mm256_extracti128_si256(odd, 1))};
}

/* 16 u16 in row order, plus `base`, into (first) or onto acc. */
INLINE void avx2_put(__m128i low, __m128i high, __m256i base, bool first, int32_t *acc) {
  __m256i a = _mm256_add_epi32(_mm256_cvtepu16_epi32(low), base);
  __m256i b = _mm256_add_epi32(_mm256_cvtepu16_epi32(high), base);
  if (!first) {
    a = _mm256_add_epi32(a, avx2_load(acc));
    b = _mm256_add_epi32(b, avx2_load(acc + 8));
  }
  _mm256_storeu_si256((__m256i *)acc, a);
  _mm256_storeu_si256((__m256i *)(acc + 8), b);
}

INLINE void avx2_put_sums(const struct avx2_sums *sums, const int vectors, __m256i base, bool first,
                          int32_t *acc) {
  if (!vectors) {
    const struct avx2_half half = avx2_half(sums);
    avx2_put(_mm_unpacklo_epi16(half.even, half.odd), _mm_unpackhi_epi16(half.even, half.odd), base,
             first, acc);
  }
#pragma GCC unroll 4
  for (int v = 0; v < vectors; v++) {
    const __m256i even = avx2_even(sums->words[v], sums->odd[v]);
    __m256i low = _mm256_unpacklo_epi16(even, sums->odd[v]);  /* rows 0-7, 16-23 */
    __m256i high = _mm256_unpackhi_epi16(even, sums->odd[v]); /* rows 8-15, 24-31 */
    avx2_put(_mm256_castsi256_si128(low), _mm256_castsi256_si128(high), base, first, acc + 32 * v);
    avx2_put(_mm256_extracti128_si256(low, 1), _mm256_extracti128_si256(high, 1), base, first,
             acc + 32 * v + 16);
  }
}

INLINE void avx2_sum_rows(const struct halut_packed *packed, struct avx2_codes codes,
                          const int vectors, int32_t *acc, size_t stride) {
  for (uint32_t r = 0; r < packed->runs; r++)
    for (uint32_t m = 0; m < packed->lut->outputs; m++) {
      struct avx2_sums sums;
      avx2_sums_set(&sums, NULL, vectors);
      const int32_t base = r ? 0 : packed->base[m].least;
      avx2_run_any(packed, halut_run_of(packed, m, r), codes, vectors, &sums);
      avx2_put_sums(&sums, vectors, _mm256_set1_epi32(base), r == 0, acc + m * stride);
    }
}

static void avx2_sum(const struct halut_packed *packed, const uint8_t *codes, uint32_t rows,
                     int32_t *acc, size_t stride) {
  const size_t apart = halut_code_stride(&halut_accumulate_avx2, rows);
  const struct avx2_codes from = {codes, apart / HALUT_SUM_ROWS};
  const uint32_t last = rows & 64, half = rows & 96;
  if (rows & 128) avx2_sum_rows(packed, (struct avx2_codes){codes, 8}, 4, acc, stride);
  if (rows & 64) avx2_sum_rows(packed, from, 2, acc, stride);
  if (rows & 32)
    avx2_sum_rows(packed, (struct avx2_codes){codes + last, from.scale}, 1, acc + last, stride);
  if (rows & 16)
    avx2_sum_rows(packed, (struct avx2_codes){codes + half, from.scale}, 0, acc + half, stride);
}

/* A halut_shift, and the scale. */
struct avx2_scale {
  __m256i less, more, scale;
};

INLINE __m256i avx2_requant(__m256i sum, struct avx2_scale s) {
  sum = _mm256_adds_epu16(_mm256_subs_epu16(sum, s.less), s.more);
  return _mm256_min_epu16(_mm256_mulhi_epu16(sum, s.scale), _mm256_set1_epi16(255));
}

INLINE struct avx2_scale avx2_scale_make(int64_t bias, uint16_t scale) {
  const struct halut_shift shift = halut_shift_of(bias);
  return (struct avx2_scale){_mm256_set1_epi16((short)shift.less),
                             _mm256_set1_epi16((short)shift.more),
                             _mm256_set1_epi16((short)scale)};
}

INLINE void avx2_map_sums(const struct avx2_sums *sums, const int vectors, struct avx2_scale scale,
                          uint8_t *out) {
  if (!vectors) {
    const struct avx2_half half = avx2_half(sums);
    __m256i both = _mm256_inserti128_si256(_mm256_castsi128_si256(half.even), half.odd, 1);
    both = avx2_requant(both, scale);
    const __m128i odd = _mm_slli_epi16(_mm256_extracti128_si256(both, 1), 8);
    _mm_storeu_si128((__m128i *)out, _mm_or_si128(_mm256_castsi256_si128(both), odd));
  }
#pragma GCC unroll 4
  for (int v = 0; v < vectors; v++) {
    const __m256i even = avx2_requant(avx2_even(sums->words[v], sums->odd[v]), scale);
    const __m256i odd = avx2_requant(sums->odd[v], scale);
    _mm256_storeu_si256((__m256i *)(out + 32 * v),
                        _mm256_or_si256(even, _mm256_slli_epi16(odd, 8)));
  }
}

enum { WIDE_BIAS_MAX = 1 << 30 }; /* past it the result is 0 or 65535 whatever the sum */
static_assert(HALUT_CODEBOOKS_MAX * 128 < WIDE_BIAS_MAX - UINT16_MAX, "a sum does not reach back");

/* Of sums that a u16 may not hold. */
static void avx2_map_wide(const int32_t *acc, uint32_t rows, int32_t bias, uint16_t scale,
                          uint8_t *out) {
  const int32_t most = bias < WIDE_BIAS_MAX ? bias : WIDE_BIAS_MAX;
  const __m256i more = _mm256_set1_epi32(most > -WIDE_BIAS_MAX ? most : -WIDE_BIAS_MAX);
  for (uint32_t i = 0; i < rows; i += 16) {
    const __m256i low = _mm256_add_epi32(avx2_load(acc + i), more);
    const __m256i high = _mm256_add_epi32(avx2_load(acc + i + 8), more);
    __m256i words = _mm256_permute4x64_epi64(_mm256_packus_epi32(low, high), 0xd8);
    words = _mm256_mulhi_epu16(words, _mm256_set1_epi16((short)scale));
    words = _mm256_min_epu16(words, _mm256_set1_epi16(255));
    words = _mm256_permute4x64_epi64(_mm256_packus_epi16(words, words), 0x08);
    _mm_storeu_si128((__m128i *)(out + i), _mm256_castsi256_si128(words));
  }
}

/* What outputs have come to until their next run: 32-bit sums where a u16 may not hold them. */
struct avx2_kept {
  struct avx2_sums sums[HALUT_RUN_OUTPUTS];
  int32_t acc[HALUT_RUN_OUTPUTS][HALUT_CODE_BLOCK];
};

/* Run r of output m, and after the last the result. */
INLINE void avx2_map_run(const struct halut_packed *packed, uint32_t m, uint32_t r,
                         struct avx2_codes codes, const int vectors, struct avx2_sums *kept,
                         int32_t *acc, const struct halut_requant *requant, uint8_t *out) {
  const struct halut_base *base = &packed->base[m];
  const bool is_wide = base->range > UINT16_MAX, is_last = r + 1 == packed->runs;
  const int32_t bias = requant->bias[m];
  struct avx2_sums sums;
  avx2_sums_set(&sums, r > 0 && !is_wide ? kept : NULL, vectors);
  avx2_run_any(packed, halut_run_of(packed, m, r), codes, vectors, &sums);
  if (is_wide) {
    avx2_put_sums(&sums, vectors, _mm256_set1_epi32(r ? 0 : base->least), r == 0, acc);
    if (is_last)
      avx2_map_wide(acc, vectors ? 32U * (uint32_t)vectors : 16, bias, requant->scale[m], out);
  } else if (is_last) {
    avx2_map_sums(&sums, vectors, avx2_scale_make((int64_t)bias + base->least, requant->scale[m]),
                  out);
  } else {
    avx2_sums_set(kept, &sums, vectors);
  }
}

INLINE void avx2_map_rows(const struct halut_packed *packed, struct avx2_codes codes,
                          const int vectors, const struct halut_requant *requant, uint8_t *out,
                          size_t stride) {
  struct avx2_kept kept;
  const uint32_t outputs = packed->lut->outputs;
  for (uint32_t first = 0; first < outputs; first += HALUT_RUN_OUTPUTS) {
    const uint32_t left = outputs - first;
    const uint32_t last = first + (left < HALUT_RUN_OUTPUTS ? left : HALUT_RUN_OUTPUTS);
    for (uint32_t r = 0; r < packed->runs; r++)
      for (uint32_t m = first; m < last; m++)
        avx2_map_run(packed, m, r, codes, vectors, &kept.sums[m - first], kept.acc[m - first],
                     requant, out + m * stride);
  }
}

/* Constants make the places of codes cheap: one case for each number of rows that maps have. */
static void avx2_map(const struct halut_packed *packed, const uint8_t *codes, uint32_t rows,
                     const struct halut_requant *requant, uint8_t *out, size_t stride) {
  const size_t scale = halut_code_stride(&halut_accumulate_avx2, rows) / HALUT_SUM_ROWS;
  const uint32_t last = rows & 64, half = rows & 96;
  if (rows == 128)
    avx2_map_rows(packed, (struct avx2_codes){codes, 8}, 4, requant, out, stride);
  else if (rows == 64)
    avx2_map_rows(packed, (struct avx2_codes){codes, 4}, 2, requant, out, stride);
  else if (rows == 16)
    avx2_map_rows(packed, (struct avx2_codes){codes, 1}, 0, requant, out, stride);
  else {
    if (last) avx2_map_rows(packed, (struct avx2_codes){codes, scale}, 2, requant, out, stride);
    if (rows & 32)
      avx2_map_rows(packed, (struct avx2_codes){codes + last, scale}, 1, requant, out + last,
                    stride);
    if (rows & 16)
      avx2_map_rows(packed, (struct avx2_codes){codes + half, scale}, 0, requant, out + half,
                    stride);
  }
}

enum { FEW_CODEBOOKS = 256 }; /* whose u8 a u16 holds */

/* Sums of HALUT_QUAD_OUTPUTS outputs, from tables that begin at `table`. */
INLINE void avx2_few_sums(const uint8_t *table, const uint8_t *codes, uint32_t codebooks,
                          struct avx2_sums sums[HALUT_QUAD_OUTPUTS]) {
  const __m256i pick = avx2_pick_odd();
#pragma GCC unroll 4
  for (int i = 0; i < HALUT_QUAD_OUTPUTS; i++) avx2_sums_set(&sums[i], NULL, 0);
  for (uint32_t c = 0; c < codebooks; c += 2, codes += 32, table += 32 * HALUT_QUAD_OUTPUTS) {
    const __m256i both = avx2_load(codes);
    avx2_ahead(table);
    avx2_ahead(table + 64);
#pragma GCC unroll 4
    for (int i = 0; i < HALUT_QUAD_OUTPUTS; i++) {
      const __m256i bytes = _mm256_shuffle_epi8(avx2_load(table + 32 * i), both);
      sums[i].words[0] = _mm256_add_epi16(sums[i].words[0], bytes);
      sums[i].odd[0] = _mm256_add_epi16(sums[i].odd[0], _mm256_maddubs_epi16(bytes, pick));
    }
  }
}

/* 16 rows fill half a register: the tables of two codebooks do, and their codes lie as they do. In
 * no order but that of the codebooks there is nothing to look up first, and four outputs share the
 * codes: the tables, which nothing shares, come as fast as they can. */
static void avx2_map_few(const struct halut_packed *packed, const uint8_t *codes,
                         const struct halut_requant *requant, uint8_t *out, size_t stride) {
  const struct halut_lut *lut = packed->lut;
  const uint8_t *table = packed->table;
  for (uint32_t m = 0; m < lut->outputs; m += HALUT_QUAD_OUTPUTS) {
    int32_t acc[HALUT_QUAD_OUTPUTS][HALUT_SUM_ROWS];
    const uint32_t left = lut->outputs - m;
    for (uint32_t c = 0; c < lut->codebooks; c += FEW_CODEBOOKS) {
      struct avx2_sums sums[HALUT_QUAD_OUTPUTS];
      const uint32_t rest = lut->codebooks - c;
      const uint32_t here = rest < FEW_CODEBOOKS ? rest : FEW_CODEBOOKS;
      avx2_few_sums(table, codes + (size_t)c * HALUT_SUM_ROWS, here, sums);
      table += (size_t)(here + 1) / 2 * 32 * HALUT_QUAD_OUTPUTS;
#pragma GCC unroll 4
      for (uint32_t i = 0; i < HALUT_QUAD_OUTPUTS; i++) {
        const int32_t base = c == 0 && i < left ? packed->base[m + i].least : 0;
        avx2_put_sums(&sums[i], 0, _mm256_set1_epi32(base), c == 0, acc[i]);
      }
    }
    for (uint32_t i = 0; i < HALUT_QUAD_OUTPUTS && i < left; i++)
      avx2_map_wide(acc[i], HALUT_SUM_ROWS, requant->bias[m + i], requant->scale[m + i],
                    out + (m + i) * stride);
  }
}

const struct halut_accumulate halut_accumulate_avx2 = {.layout = HALUT_LAYOUT_BYTES,
                                                       .sum = avx2_sum,
                                                       .map = avx2_map,
                                                       .map_few = avx2_map_few};

/* The larger of each two neighbours, as words. */
INLINE __m256i avx2_neighbours(__m256i bytes) {
  return _mm256_and_si256(_mm256_max_epu8(bytes, _mm256_srli_epi16(bytes, 8)),
                          _mm256_set1_epi16(255));
}

/* Two rows of 32 as words. */
INLINE __m256i avx2_pool32(const uint8_t *in, size_t width) {
  return avx2_neighbours(_mm256_max_epu8(avx2_load(in), avx2_load(in + width)));
}

/* Four rows of 16 as two of words. */
INLINE __m256i avx2_pool16(const uint8_t *in) {
  const __m256i a = avx2_load(in), b = avx2_load(in + 32);
  return avx2_neighbours(_mm256_max_epu8(_mm256_permute2x128_si256(a, b, 0x20),
                                         _mm256_permute2x128_si256(a, b, 0x31)));
}

/* Eight rows of 8, of which each lane gets two after another: 0 and 4, 2 and 6. */
INLINE __m128i avx2_pool8(const uint8_t *in) {
  const __m256i a = avx2_load(in), b = avx2_load(in + 32);
  const __m256i most = avx2_neighbours(
      _mm256_max_epu8(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b)));
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 0, 4, 1, 5);
  return _mm256_castsi256_si128(
      _mm256_permutevar8x32_epi32(_mm256_packus_epi16(most, most), order));
}

/* Words of two vectors as bytes, in order. */
INLINE __m256i avx2_narrow(__m256i one, __m256i two) {
  return _mm256_permute4x64_epi64(_mm256_packus_epi16(one, two), 0xd8);
}

/* Columns `first` and on of two rows. */
static void avx2_pool_rest(const uint8_t *in, uint32_t width, uint32_t first, uint8_t *out) {
  uint32_t x = first;
  for (; x + 8 <= width; x += 8) {
    const __m128i most = _mm_max_epu8(_mm_loadl_epi64((const __m128i *)(in + x)),
                                      _mm_loadl_epi64((const __m128i *)(in + width + x)));
    const __m128i words = _mm256_castsi256_si128(avx2_neighbours(_mm256_zextsi128_si256(most)));
    const int four = _mm_cvtsi128_si32(_mm_packus_epi16(words, words));
    memcpy(out + x / 2, &four, sizeof four);
  }
  for (; x < width; x += 2) {
    uint8_t a = in[x] > in[x + 1] ? in[x] : in[x + 1];
    uint8_t b = in[width + x] > in[width + x + 1] ? in[width + x] : in[width + x + 1];
    out[x / 2] = a > b ? a : b;
  }
}

/* 2x2 maximum: rows pairwise, then neighbours. The widths of our own maps fill whole vectors. */
void halut_pool2_avx2(const uint8_t *in, uint32_t height, uint32_t width, uint8_t *out) {
  uint32_t y = 0;
  if (width == 16)
    for (; y + 8 <= height; y += 8, in += 128, out += 32)
      _mm256_storeu_si256((__m256i *)out, avx2_narrow(avx2_pool16(in), avx2_pool16(in + 64)));
  if (width == 8)
    for (; y + 8 <= height; y += 8, in += 64, out += 16)
      _mm_storeu_si128((__m128i *)out, avx2_pool8(in));
  if (width == 32)
    for (; y + 4 <= height; y += 4, in += 128, out += 32)
      _mm256_storeu_si256((__m256i *)out,
                          avx2_narrow(avx2_pool32(in, 32), avx2_pool32(in + 64, 32)));
  const uint32_t whole = width / 64 * 64;
  for (; y + 2 <= height; y += 2, in += 2 * (size_t)width, out += width / 2) {
    for (uint32_t x = 0; x < whole; x += 64)
      _mm256_storeu_si256(
          (__m256i *)(out + x / 2),
          avx2_narrow(avx2_pool32(in + x, width), avx2_pool32(in + x + 32, width)));
    avx2_pool_rest(in, width, whole, out);
  }
}

/* In 16 bits, because a + b - zero is not one saturating step after another. */
void halut_add_avx2(uint8_t *y, const uint8_t *other, size_t count, uint8_t zero) {
  const __m256i less = _mm256_set1_epi16(zero);
  size_t i = 0;
  for (; i + 32 <= count; i += 32) {
    __m256i a = avx2_load(y + i), b = avx2_load(other + i), none = _mm256_setzero_si256();
    __m256i low = _mm256_add_epi16(_mm256_unpacklo_epi8(a, none), _mm256_unpacklo_epi8(b, none));
    __m256i high = _mm256_add_epi16(_mm256_unpackhi_epi8(a, none), _mm256_unpackhi_epi8(b, none));
    low = _mm256_sub_epi16(low, less);
    high = _mm256_sub_epi16(high, less);
    _mm256_storeu_si256((__m256i *)(y + i), _mm256_packus_epi16(low, high));
  }
  for (; i < count; i++) {
    int sum = y[i] + other[i] - zero;
    y[i] = (uint8_t)(sum < 0 ? 0 : sum > UINT8_MAX ? UINT8_MAX : sum);
  }
}

enum {
  DENSE_PAIRS = 32,         /* pairs of taps that are widened at once: 8 KiB */
  DENSE_BIAS_MAX = 1 << 30, /* past it sum + bias might not fit an int32 */
  DENSE_TAPS_FAST = 32768   /* 32,768 * 255 * 128 <= 2^30 */
};

/* Two taps of 32 positions as 32 pairs of words: positions 0-3 and 16-19 first, as unpacking leaves
 * them. */
INLINE void avx2_widen(const uint8_t *one, const uint8_t *two, __m256i *to) {
  const __m256i none = _mm256_setzero_si256();
  __m256i a = avx2_load(one), b = two ? avx2_load(two) : none;
  __m256i low = _mm256_unpacklo_epi8(a, b), high = _mm256_unpackhi_epi8(a, b);
  to[0] = _mm256_unpacklo_epi8(low, none);
  to[1] = _mm256_unpackhi_epi8(low, none);
  to[2] = _mm256_unpacklo_epi8(high, none);
  to[3] = _mm256_unpackhi_epi8(high, none);
}

INLINE void avx2_dense_put(const __m256i sum[4], int32_t bias, uint16_t scale, uint8_t *out) {
  const __m256i more = _mm256_set1_epi32(bias), by = _mm256_set1_epi16((short)scale);
  const __m256i most = _mm256_set1_epi16(255);
  __m256i low = _mm256_packus_epi32(_mm256_add_epi32(sum[0], more), _mm256_add_epi32(sum[1], more));
  __m256i high =
      _mm256_packus_epi32(_mm256_add_epi32(sum[2], more), _mm256_add_epi32(sum[3], more));
  low = _mm256_min_epu16(_mm256_mulhi_epu16(low, by), most);
  high = _mm256_min_epu16(_mm256_mulhi_epu16(high, by), most);
  _mm256_storeu_si256((__m256i *)out, _mm256_packus_epi16(low, high));
}

/* vpmaddwd multiplies words and adds two neighbours: exact for u8 by i8. Every pair of taps is
 * widened once and serves all outputs. */
void halut_dense_avx2(const struct halut_weights *weights, const uint8_t *const *source,
                      const struct halut_requant *requant, uint8_t *out, size_t stride) {
  const uint32_t pairs = (weights->taps + 1) / 2;
  __m256i value[DENSE_PAIRS][4];
  if (pairs > DENSE_PAIRS) {
    halut_dense_ref(weights, source, requant, out, stride);
    return;
  }
  for (uint32_t p = 0; p < pairs; p++)
    avx2_widen(source[2 * p], 2 * p + 1 < weights->taps ? source[2 * p + 1] : NULL, value[p]);
  for (uint32_t m = 0; m < weights->outputs; m++, out += stride) {
    const int16_t *pair = weights->pair + (size_t)m * pairs * 2;
    __m256i sum[4] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256(),
                      _mm256_setzero_si256()};
    for (uint32_t p = 0; p < pairs; p++) {
      int32_t both;
      memcpy(&both, pair + (size_t)2 * p, sizeof both);
      const __m256i weight = _mm256_set1_epi32(both);
#pragma GCC unroll 4
      for (int v = 0; v < 4; v++)
        sum[v] = _mm256_add_epi32(sum[v], _mm256_madd_epi16(value[p][v], weight));
    }
    int32_t bias = requant->bias[m];
    if (bias <= DENSE_BIAS_MAX && bias >= -DENSE_BIAS_MAX) {
      avx2_dense_put(sum, bias, requant->scale[m], out);
      continue;
    }
    for (int i = 0; i < HALUT_DENSE_BLOCK; i++) {
      int64_t exact = 0;
      for (uint32_t t = 0; t < weights->taps; t++)
        exact += weights->raw[(size_t)m * weights->taps + t] * source[t][i];
      out[i] = halut_requantise(exact, bias, requant->scale[m]);
    }
  }
}
static_assert(2 * DENSE_PAIRS <= DENSE_TAPS_FAST, "sums of the fast path stay under 2^30");

void halut_linear_avx2(const int8_t *weight, const int32_t *bias, uint32_t outputs, uint32_t inputs,
                       const uint8_t *x, int32_t *y) {
  for (uint32_t m = 0; m < outputs; m++, weight += inputs) {
    __m256i sum = _mm256_setzero_si256();
    uint32_t i = 0;
    for (; i + 16 <= inputs; i += 16) {
      __m256i a = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(x + i)));
      __m256i b = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(weight + i)));
      sum = _mm256_add_epi32(sum, _mm256_madd_epi16(a, b));
    }
    __m128i half = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
    half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0x4e));
    half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0xb1));
    int64_t total = (int64_t)bias[m] + _mm_cvtsi128_si32(half);
    for (; i < inputs; i++) total += weight[i] * x[i];
    y[m] = (int32_t)total;
  }
}

#endif
