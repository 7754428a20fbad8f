/* DESIGN: 32 rows a step, one per byte.
 *
 * encode: the node number of each row is the index of a byte shuffle that fetches its threshold. 22
 * vector operations and 4 to 8 loads for 32 codes; at four operations a cycle, 5.5 cycles.
 *
 * accumulate: one output, 128 rows. A table fills both halves of a register and is the source of
 * four shuffles whose indices, the codes, come from memory. To widen 32 u8 exactly, add them as 16
 * words (mod 2^16: even + 256 * odd) and, apart, their odd bytes; in the end even = words - 256 *
 * odd. Picking the odd bytes by vpmaddubsw with (0, 1) keeps the shuffle ports free. Live
 * registers: 8 sums, up to 4 tables, 1 constant, 2 temporaries. Bound by vector operations: 16 for
 * 128 lookups when nothing can be added as u8, 28 for 256 in pairs, 52 for 512 in fours. The last
 * 16 rows of a block are read two tables at a time, one in each half of a register. */
#include "kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>
#include <stdbool.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

enum { AHEAD_BYTES = 1024 }; /* how far ahead tables are fetched where few rows share one */

INLINE __m256i avx2_load(const void *from) { return _mm256_loadu_si256(from); }

INLINE __m256i avx2_level(__m256i node, __m256i value, __m256i threshold) {
  const __m256i one = _mm256_set1_epi8(1);
  __m256i at = _mm256_shuffle_epi8(threshold, node);
  __m256i right = _mm256_min_epu8(_mm256_subs_epu8(value, at), one);
  return _mm256_add_epi8(_mm256_add_epi8(node, node), right);
}

INLINE void avx2_encode(const uint8_t *const source[HALUT_LEVELS], const uint8_t *const *mask,
                        const uint8_t threshold[HALUT_PROTOTYPES], size_t rows, uint8_t *codes,
                        size_t stride) {
  const __m256i one = _mm256_set1_epi8(1), two = _mm256_set1_epi8(2), low = _mm256_set1_epi8(15);
  const __m256i tree = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)threshold));
  const __m256i root = _mm256_set1_epi8((char)threshold[1]);
  const uint8_t *s0 = source[0], *s1 = source[1], *s2 = source[2], *s3 = source[3];
  const uint8_t *m0 = NULL, *m1 = NULL, *m2 = NULL, *m3 = NULL;
  if (mask) {
    m0 = mask[0];
    m1 = mask[1];
    m2 = mask[2];
    m3 = mask[3];
  }
  for (size_t start = 0; start < rows; start += HALUT_CODE_BLOCK, codes += stride) {
    size_t wide = rows - start < HALUT_CODE_BLOCK ? rows - start : HALUT_CODE_BLOCK;
    for (size_t i = 0; i < wide; i += 32) {
      size_t row = start + i;
      __m256i v0 = avx2_load(s0 + row), v1 = avx2_load(s1 + row);
      __m256i v2 = avx2_load(s2 + row), v3 = avx2_load(s3 + row);
      if (mask) {
        v0 = _mm256_and_si256(v0, avx2_load(m0 + row));
        v1 = _mm256_and_si256(v1, avx2_load(m1 + row));
        v2 = _mm256_and_si256(v2, avx2_load(m2 + row));
        v3 = _mm256_and_si256(v3, avx2_load(m3 + row));
      }
      __m256i node = _mm256_add_epi8(_mm256_min_epu8(_mm256_subs_epu8(v0, root), one), two);
      node = avx2_level(node, v1, tree);
      node = avx2_level(node, v2, tree);
      node = avx2_level(node, v3, tree);
      _mm256_storeu_si256((__m256i *)(codes + i), _mm256_and_si256(node, low));
    }
  }
}

void halut_encode_avx2(const uint8_t *const source[HALUT_LEVELS], const uint8_t *const *mask,
                       const uint8_t threshold[HALUT_PROTOTYPES], size_t rows, uint8_t *codes,
                       size_t stride) {
  if (mask) {
    avx2_encode(source, mask, threshold, rows, codes, stride);
  } else {
    avx2_encode(source, NULL, threshold, rows, codes, stride);
  }
}

/* Sums of `vectors` times 32 rows: even and odd rows apart, u16. */
struct avx2_sums {
  __m256i even[4], odd[4];
};

INLINE __m256i avx2_table(const uint8_t *table) {
  return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)table));
}

/* The constant by which vpmaddubsw picks odd bytes, in a register: gcc 12 otherwise loads it at
 * every use, and loads are what there are too few of. */
INLINE __m256i avx2_pick_odd(void) {
  __m256i pick = _mm256_set1_epi16(0x0100);
  __asm__("" : "+x"(pick));
  return pick;
}

/* `words` holds even + 256 * odd until the end. */
INLINE struct avx2_sums avx2_run(const struct halut_packed *packed, const struct halut_run *run,
                                 const uint8_t *codes, const int vectors) {
  const uint8_t *table = packed->table + run->entry * HALUT_PROTOTYPES;
  const uint32_t *at = packed->at + run->entry;
  const __m256i none = _mm256_setzero_si256(), pick = avx2_pick_odd();
  __m256i w0 = none, w1 = none, w2 = none, w3 = none, h0 = none, h1 = none, h2 = none, h3 = none;
/* Tells the compiler that both sums are in registers here. gcc 12 otherwise copies or spills some
 * of them at each step, at 128 rows 8 to 18 % slower (core/PERFORMANCE.md). */
#define KEEP(w, h) __asm__("" : "+x"(w), "+x"(h))
#define ODD(bytes) _mm256_maddubs_epi16(bytes, pick)
#define LOOKUP(t, c, v) _mm256_shuffle_epi8(t, avx2_load((c) + 32 * (v)))
#define WIDEN(v, bytes)                                                                            \
  if ((v) < vectors) {                                                                             \
    __m256i sum = bytes;                                                                           \
    w##v = _mm256_add_epi16(w##v, sum);                                                            \
    h##v = _mm256_add_epi16(h##v, ODD(sum));                                                       \
    KEEP(w##v, h##v);                                                                              \
  }
#define EACH(BYTES)                                                                                \
  WIDEN(0, BYTES(0))                                                                               \
  WIDEN(1, BYTES(1))                                                                               \
  WIDEN(2, BYTES(2))                                                                               \
  WIDEN(3, BYTES(3))
  for (uint32_t i = run->quads; i; i--, table += 64, at += 4) {
    const uint8_t *c0 = codes + at[0], *c1 = codes + at[1], *c2 = codes + at[2],
                  *c3 = codes + at[3];
    __m256i t0 = avx2_table(table), t1 = avx2_table(table + 16);
    __m256i t2 = avx2_table(table + 32), t3 = avx2_table(table + 48);
#define BYTES4(v)                                                                                  \
  _mm256_add_epi8(_mm256_add_epi8(LOOKUP(t0, c0, v), LOOKUP(t1, c1, v)),                           \
                  _mm256_add_epi8(LOOKUP(t2, c2, v), LOOKUP(t3, c3, v)))
    EACH(BYTES4)
  }
  for (uint32_t i = run->pairs; i; i--, table += 32, at += 2) {
    const uint8_t *c0 = codes + at[0], *c1 = codes + at[1];
    __m256i t0 = avx2_table(table), t1 = avx2_table(table + 16);
#define BYTES2(v) _mm256_add_epi8(LOOKUP(t0, c0, v), LOOKUP(t1, c1, v))
    EACH(BYTES2)
  }
  /* Fewer sums make a step too short for its own overhead: then two tables a step. */
  for (uint32_t i = vectors < 4 ? run->singles / 2 : 0; i; i--, table += 32, at += 2) {
    const uint8_t *c0 = codes + at[0], *c1 = codes + at[1];
    __m256i t0 = avx2_table(table), t1 = avx2_table(table + 16);
#define WIDEN_TWO(v)                                                                               \
  if ((v) < vectors) {                                                                             \
    __m256i one = LOOKUP(t0, c0, v), two = LOOKUP(t1, c1, v);                                      \
    w##v = _mm256_add_epi16(_mm256_add_epi16(w##v, one), two);                                     \
    h##v = _mm256_add_epi16(_mm256_add_epi16(h##v, ODD(one)), ODD(two));                           \
    KEEP(w##v, h##v);                                                                              \
  }
    WIDEN_TWO(0) WIDEN_TWO(1) WIDEN_TWO(2)
  }
  for (uint32_t i = vectors < 4 ? run->singles % 2 : run->singles; i; i--, table += 16, at++) {
    const uint8_t *c0 = codes + at[0];
    __m256i t0 = avx2_table(table);
#define BYTES1(v) LOOKUP(t0, c0, v)
    EACH(BYTES1)
  }
#undef BYTES4
#undef BYTES2
#undef BYTES1
#undef EACH
#undef WIDEN_TWO
#undef WIDEN
#undef ODD
#undef LOOKUP
#undef KEEP
  struct avx2_sums sums = {.odd = {h0, h1, h2, h3}};
  sums.even[0] = _mm256_sub_epi16(w0, _mm256_slli_epi16(h0, 8));
  sums.even[1] = _mm256_sub_epi16(w1, _mm256_slli_epi16(h1, 8));
  sums.even[2] = _mm256_sub_epi16(w2, _mm256_slli_epi16(h2, 8));
  sums.even[3] = _mm256_sub_epi16(w3, _mm256_slli_epi16(h3, 8));
  return sums;
}

/* Sums of 16 rows: even and odd rows apart, u16. */
struct avx2_half {
  __m128i even, odd;
};

INLINE __m256i avx2_two(const uint8_t *low, const uint8_t *high) {
  return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)low)),
                                 _mm_loadu_si128((const __m128i *)high), 1);
}

/* 16 rows fill half a register, so two tables, which lie side by side, are read at once. Only
 * fours are added as u8, and then as two and two; pairing across halves costs what it saves. */
INLINE struct avx2_half avx2_run_half(const struct halut_packed *packed,
                                      const struct halut_run *run, const uint8_t *codes) {
  const uint8_t *table = packed->table + run->entry * HALUT_PROTOTYPES;
  const uint32_t *at = packed->at + run->entry;
  const __m256i pick = avx2_pick_odd();
  __m256i words = _mm256_setzero_si256(), odd = words;
  for (uint32_t i = run->quads; i; i--, table += 64, at += 4) {
    __builtin_prefetch(table + AHEAD_BYTES);
    __m256i one = avx2_two(codes + at[0], codes + at[1]);
    __m256i two = avx2_two(codes + at[2], codes + at[3]);
    __m256i sum = _mm256_add_epi8(_mm256_shuffle_epi8(avx2_load(table), one),
                                  _mm256_shuffle_epi8(avx2_load(table + 32), two));
    words = _mm256_add_epi16(words, sum);
    odd = _mm256_add_epi16(odd, _mm256_maddubs_epi16(sum, pick));
  }
  uint32_t left = 2 * run->pairs + run->singles;
  for (; left >= 4; left -= 4, table += 64, at += 4) {
    __builtin_prefetch(table + AHEAD_BYTES);
    __m256i one = _mm256_shuffle_epi8(avx2_load(table), avx2_two(codes + at[0], codes + at[1]));
    __m256i two =
        _mm256_shuffle_epi8(avx2_load(table + 32), avx2_two(codes + at[2], codes + at[3]));
    words = _mm256_add_epi16(words, _mm256_add_epi16(one, two));
    odd = _mm256_add_epi16(odd, _mm256_add_epi16(_mm256_maddubs_epi16(one, pick),
                                                 _mm256_maddubs_epi16(two, pick)));
  }
  for (; left; left--, table += 16, at++) {
    __m128i one = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)table),
                                   _mm_loadu_si128((const __m128i *)(codes + at[0])));
    words = _mm256_add_epi16(words, _mm256_zextsi128_si256(one));
    odd = _mm256_add_epi16(odd, _mm256_zextsi128_si256(_mm_srli_epi16(one, 8)));
  }
  words = _mm256_sub_epi16(words, _mm256_slli_epi16(odd, 8));
  return (struct avx2_half){
      _mm_add_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)),
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

INLINE void avx2_sum_rows(const struct halut_packed *packed, uint32_t m, const uint8_t *codes,
                          const int vectors, int32_t *acc) {
  uint32_t start = packed->run_start[m];
  for (uint32_t r = start; r < packed->run_start[m + 1]; r++) {
    struct avx2_sums sums = avx2_run(packed, &packed->run[r], codes, vectors);
    const __m256i base = _mm256_set1_epi32(packed->run[r].base);
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++) {
      __m256i low = _mm256_unpacklo_epi16(sums.even[v], sums.odd[v]);   /* rows 0-7, 16-23 */
      __m256i high = _mm256_unpackhi_epi16(sums.even[v], sums.odd[v]);  /* rows 8-15, 24-31 */
      avx2_put(_mm256_castsi256_si128(low), _mm256_castsi256_si128(high), base, r == start,
               acc + 32 * v);
      avx2_put(_mm256_extracti128_si256(low, 1), _mm256_extracti128_si256(high, 1), base,
               r == start, acc + 32 * v + 16);
    }
  }
}

INLINE void avx2_sum_half(const struct halut_packed *packed, uint32_t m, const uint8_t *codes,
                          int32_t *acc) {
  uint32_t start = packed->run_start[m];
  for (uint32_t r = start; r < packed->run_start[m + 1]; r++) {
    struct avx2_half sums = avx2_run_half(packed, &packed->run[r], codes);
    avx2_put(_mm_unpacklo_epi16(sums.even, sums.odd), _mm_unpackhi_epi16(sums.even, sums.odd),
             _mm256_set1_epi32(packed->run[r].base), r == start, acc);
  }
}

static void avx2_sum_output(const struct halut_packed *packed, uint32_t m, const uint8_t *codes,
                            uint32_t rows, int32_t *acc) {
  if (rows & 128) avx2_sum_rows(packed, m, codes, 4, acc);
  if (rows & 64) avx2_sum_rows(packed, m, codes, 2, acc);
  if (rows & 32) avx2_sum_rows(packed, m, codes + (rows & 64), 1, acc + (rows & 64));
  if (rows & 16) avx2_sum_half(packed, m, codes + (rows & 96), acc + (rows & 96));
}

static void avx2_sum(const struct halut_packed *packed, const uint8_t *codes, uint32_t rows,
                     int32_t *acc, size_t stride) {
  for (uint32_t m = 0; m < packed->lut->outputs; m++, acc += stride)
    avx2_sum_output(packed, m, codes, rows, acc);
}

/* clamp(sum + bias, 0, 65535) of u16 sums is one saturating subtraction and one saturating
 * addition, of which one is of 0. */
struct avx2_scale {
  __m256i less, more, scale;
};

INLINE __m256i avx2_requant(__m256i sum, struct avx2_scale s) {
  sum = _mm256_adds_epu16(_mm256_subs_epu16(sum, s.less), s.more);
  return _mm256_min_epu16(_mm256_mulhi_epu16(sum, s.scale), _mm256_set1_epi16(255));
}

INLINE struct avx2_scale avx2_scale_make(int64_t bias, uint16_t scale) {
  int64_t less = bias < 0 ? -bias : 0, more = bias > 0 ? bias : 0;
  less = less < UINT16_MAX ? less : UINT16_MAX;
  more = more < UINT16_MAX ? more : UINT16_MAX;
  return (struct avx2_scale){_mm256_set1_epi16((short)(uint16_t)less),
                             _mm256_set1_epi16((short)(uint16_t)more),
                             _mm256_set1_epi16((short)scale)};
}

/* The output has one run. */
INLINE void avx2_map_rows(const struct halut_packed *packed, const struct halut_run *run,
                          const uint8_t *codes, const int vectors, int64_t bias, uint16_t scale,
                          uint8_t *out) {
  struct avx2_sums sums = avx2_run(packed, run, codes, vectors);
  const struct avx2_scale s = avx2_scale_make(bias, scale);
#pragma GCC unroll 4
  for (int v = 0; v < vectors; v++) {
    __m256i even = avx2_requant(sums.even[v], s), odd = avx2_requant(sums.odd[v], s);
    _mm256_storeu_si256((__m256i *)(out + 32 * v),
                        _mm256_or_si256(even, _mm256_slli_epi16(odd, 8)));
  }
}

INLINE void avx2_map_half(const struct halut_packed *packed, const struct halut_run *run,
                          const uint8_t *codes, int64_t bias, uint16_t scale, uint8_t *out) {
  struct avx2_half sums = avx2_run_half(packed, run, codes);
  __m256i both = _mm256_inserti128_si256(_mm256_castsi128_si256(sums.even), sums.odd, 1);
  both = avx2_requant(both, avx2_scale_make(bias, scale));
  __m128i odd = _mm_slli_epi16(_mm256_extracti128_si256(both, 1), 8);
  _mm_storeu_si128((__m128i *)out, _mm_or_si128(_mm256_castsi256_si128(both), odd));
}

static void avx2_map(const struct halut_packed *packed, const uint8_t *codes, uint32_t rows,
                     const struct halut_requant *requant, uint8_t *out, size_t stride) {
  for (uint32_t m = 0; m < packed->lut->outputs; m++, out += stride) {
    uint32_t start = packed->run_start[m];
    if (packed->run_start[m + 1] - start > 1) { /* the sum may not fit a u16 */
      _Alignas(32) int32_t acc[HALUT_CODE_BLOCK];
      avx2_sum_output(packed, m, codes, rows, acc);
      for (uint32_t i = 0; i < rows; i++) {
        out[i] = halut_requantise(acc[i], requant->bias[m], requant->scale[m]);
      }
      continue;
    }
    const struct halut_run *run = &packed->run[start];
    int64_t bias = (int64_t)requant->bias[m] + run->base;
    uint16_t scale = requant->scale[m];
    const uint32_t last = rows & 64, half = rows & 96;
    if (rows & 128) avx2_map_rows(packed, run, codes, 4, bias, scale, out);
    if (rows & 64) avx2_map_rows(packed, run, codes, 2, bias, scale, out);
    if (rows & 32) avx2_map_rows(packed, run, codes + last, 1, bias, scale, out + last);
    if (rows & 16) avx2_map_half(packed, run, codes + half, bias, scale, out + half);
  }
}

const struct halut_accumulate halut_accumulate_avx2 = {
    .layout = HALUT_LAYOUT_BYTES, .sum = avx2_sum, .map = avx2_map};

/* 2x2 maximum: rows pairwise, then even with odd columns. */
void halut_pool2_avx2(const uint8_t *in, uint32_t height, uint32_t width, uint8_t *out) {
  const __m256i low = _mm256_set1_epi16(255);
  for (uint32_t y = 0; y < height / 2; y++, in += 2 * (size_t)width, out += width / 2) {
    uint32_t x = 0;
    for (; x + 32 <= width; x += 32) {
      __m256i most = _mm256_max_epu8(avx2_load(in + x), avx2_load(in + width + x));
      most = _mm256_and_si256(_mm256_max_epu8(most, _mm256_srli_epi16(most, 8)), low);
      most = _mm256_permute4x64_epi64(_mm256_packus_epi16(most, most), 0x08);
      _mm_storeu_si128((__m128i *)(out + x / 2), _mm256_castsi256_si128(most));
    }
    for (; x + 16 <= width; x += 16) {
      __m128i most = _mm_max_epu8(_mm_loadu_si128((const __m128i *)(in + x)),
                                  _mm_loadu_si128((const __m128i *)(in + width + x)));
      most = _mm_and_si128(_mm_max_epu8(most, _mm_srli_epi16(most, 8)),
                           _mm256_castsi256_si128(low));
      _mm_storel_epi64((__m128i *)(out + x / 2), _mm_packus_epi16(most, most));
    }
    for (; x + 8 <= width; x += 8) {
      __m128i most = _mm_max_epu8(_mm_loadl_epi64((const __m128i *)(in + x)),
                                  _mm_loadl_epi64((const __m128i *)(in + width + x)));
      most = _mm_and_si128(_mm_max_epu8(most, _mm_srli_epi16(most, 8)),
                           _mm256_castsi256_si128(low));
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
