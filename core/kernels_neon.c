/* DESIGN: 16 rows a step, one per byte; the byte shuffle is TBL.
 *
 * encode: a comparison gives -1 for "right", which is subtracted: 4 operations a level.
 *
 * accumulate: one output, up to 128 rows. UADDW and UADDW2 widen while they add, so sums stay in
 * order. Live registers at 128 rows: 16 sums, up to 3 tables, temporaries, of 32. Operations for
 * 16 lookups: 3 when nothing can be added as u8, 2 1/2 in groups of two, 2 1/3 of three, and a load
 * each. */
#include "kernels.h"

#if defined(__aarch64__)
#include <arm_neon.h>
#include <stdbool.h>

#define INLINE static inline __attribute__((always_inline))

INLINE uint8x16_t neon_level(uint8x16_t node, uint8x16_t value, uint8x16_t tree) {
  uint8x16_t right = vcgtq_u8(value, vqtbl1q_u8(tree, node));
  return vsubq_u8(vaddq_u8(node, node), right);
}

void halut_encode_neon(const uint8_t *value, const uint8_t *masks,
                       const struct halut_read *read, const uint8_t *threshold,
                       uint32_t codebooks, size_t rows, uint8_t *codes, size_t stride) {
  const uint8x16_t low = vdupq_n_u8(15);
  for (; codebooks; codebooks--, codes += stride) {
    const uint8x16_t tree = vld1q_u8(threshold);
    for (size_t row = 0; row < rows; row += 16) {
      uint8x16_t node = vdupq_n_u8(1);
#pragma GCC unroll 4
      for (int level = 0; level < HALUT_LEVELS; level++) {
        uint8x16_t x = vld1q_u8(value + read[level].at + row);
        if (masks) x = vandq_u8(x, vld1q_u8(masks + read[level].mask + row));
        node = neon_level(node, x, tree);
      }
      vst1q_u8(codes + row, vandq_u8(node, low));
    }
    read += HALUT_LEVELS;
    threshold += HALUT_PROTOTYPES;
  }
}

/* Sums of `vectors` times 16 rows, u16 in row order. */
struct neon_sums {
  uint16x8_t low[8], high[8];
};

INLINE uint8x16_t neon_lookup(uint8x16_t table, const uint8_t *codes) {
  return vqtbl1q_u8(table, vld1q_u8(codes));
}

INLINE void neon_widen(struct neon_sums *sums, int v, uint8x16_t bytes) {
  sums->low[v] = vaddw_u8(sums->low[v], vget_low_u8(bytes));
  sums->high[v] = vaddw_high_u8(sums->high[v], bytes);
}

/* Adds a run; codes lie `apart` times HALUT_SUM_ROWS from each other. */
INLINE void neon_run(const struct halut_packed *packed, const struct halut_run *run,
                    const uint8_t *codes, size_t apart, const int vectors,
                    struct neon_sums *sums) {
  const uint8_t *table = packed->table + run->entry * HALUT_PROTOTYPES;
  const uint16_t *at = packed->at + run->entry;
  for (uint32_t i = run->threes; i; i--, table += 96, at += 6)
    for (int twin = 0; twin < 2; twin++) {
      const uint8_t *c0 = codes + at[twin] * apart, *c1 = codes + at[2 + twin] * apart;
      const uint8_t *c2 = codes + at[4 + twin] * apart;
      const uint8x16_t t0 = vld1q_u8(table + 16 * twin), t1 = vld1q_u8(table + 32 + 16 * twin);
      const uint8x16_t t2 = vld1q_u8(table + 64 + 16 * twin);
#pragma GCC unroll 8
      for (int v = 0; v < vectors; v++) {
        const uint8x16_t two = vaddq_u8(neon_lookup(t0, c0 + 16 * v), neon_lookup(t1, c1 + 16 * v));
        neon_widen(sums, v, vaddq_u8(two, neon_lookup(t2, c2 + 16 * v)));
      }
    }
  for (uint32_t i = run->twos; i; i--, table += 64, at += 4)
    for (int twin = 0; twin < 2; twin++) {
      const uint8_t *c0 = codes + at[twin] * apart, *c1 = codes + at[2 + twin] * apart;
      const uint8x16_t t0 = vld1q_u8(table + 16 * twin), t1 = vld1q_u8(table + 32 + 16 * twin);
#pragma GCC unroll 8
      for (int v = 0; v < vectors; v++)
        neon_widen(sums, v,
                  vaddq_u8(neon_lookup(t0, c0 + 16 * v), neon_lookup(t1, c1 + 16 * v)));
    }
  for (uint32_t i = 2 * run->ones; i; i--, table += 16, at++) {
    const uint8_t *c0 = codes + at[0] * apart;
    const uint8x16_t t0 = vld1q_u8(table);
#pragma GCC unroll 8
    for (int v = 0; v < vectors; v++) neon_widen(sums, v, neon_lookup(t0, c0 + 16 * v));
  }
}

/* Eight u16, plus `base`, into (first) or onto acc. */
INLINE void neon_put(uint16x8_t words, int32x4_t base, bool first, int32_t *acc) {
  int32x4_t a = vaddq_s32(vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(words))), base);
  int32x4_t b = vaddq_s32(vreinterpretq_s32_u32(vmovl_high_u16(words)), base);
  if (!first) {
    a = vaddq_s32(a, vld1q_s32(acc));
    b = vaddq_s32(b, vld1q_s32(acc + 4));
  }
  vst1q_s32(acc, a);
  vst1q_s32(acc + 4, b);
}

INLINE void neon_sums_clear(struct neon_sums *sums, const int vectors) {
#pragma GCC unroll 8
  for (int v = 0; v < vectors; v++) sums->low[v] = sums->high[v] = vdupq_n_u16(0);
}

INLINE void neon_sum_rows(const struct halut_packed *packed, uint32_t m, const uint8_t *codes,
                          size_t apart, const int vectors, int32_t *acc) {
  for (uint32_t r = 0; r < packed->runs; r++) {
    struct neon_sums sums;
    neon_sums_clear(&sums, vectors);
    neon_run(packed, halut_run_of(packed, m, r), codes, apart, vectors, &sums);
    const int32x4_t base = vdupq_n_s32(r ? 0 : packed->base[m].least);
#pragma GCC unroll 8
    for (int v = 0; v < vectors; v++) {
      neon_put(sums.low[v], base, r == 0, acc + 16 * v);
      neon_put(sums.high[v], base, r == 0, acc + 16 * v + 8);
    }
  }
}

static void neon_sum_output(const struct halut_packed *packed, uint32_t m, const uint8_t *codes,
                            size_t apart, uint32_t rows, int32_t *acc) {
  const uint32_t last = rows & 64, half = rows & 96;
  if (rows & 128) neon_sum_rows(packed, m, codes, apart, 8, acc);
  if (rows & 64) neon_sum_rows(packed, m, codes, apart, 4, acc);
  if (rows & 32) neon_sum_rows(packed, m, codes + last, apart, 2, acc + last);
  if (rows & 16) neon_sum_rows(packed, m, codes + half, apart, 1, acc + half);
}

static void neon_sum(const struct halut_packed *packed, const uint8_t *codes, uint32_t rows,
                     int32_t *acc, size_t stride) {
  const size_t apart = halut_code_stride(&halut_accumulate_neon, rows) / HALUT_SUM_ROWS;
  for (uint32_t m = 0; m < packed->lut->outputs; m++, acc += stride)
    neon_sum_output(packed, m, codes, apart, rows, acc);
}

/* A halut_shift, and the scale. */
struct neon_scale {
  uint16x8_t less, more;
  uint16_t scale;
};

INLINE uint8x8_t neon_scaled(uint16x8_t words, uint16_t scale) {
  uint16x4_t low = vshrn_n_u32(vmull_n_u16(vget_low_u16(words), scale), 16);
  return vqmovn_u16(vshrn_high_n_u32(low, vmull_high_n_u16(words, scale), 16));
}

INLINE uint8x8_t neon_requant(uint16x8_t sum, const struct neon_scale *s) {
  return neon_scaled(vqaddq_u16(vqsubq_u16(sum, s->less), s->more), s->scale);
}

INLINE void neon_map_rows(const struct halut_packed *packed, uint32_t m, const uint8_t *codes,
                          size_t apart, const int vectors, const struct neon_scale *scale,
                          uint8_t *out) {
  struct neon_sums sums;
  neon_sums_clear(&sums, vectors);
  for (uint32_t r = 0; r < packed->runs; r++)
    neon_run(packed, halut_run_of(packed, m, r), codes, apart, vectors, &sums);
#pragma GCC unroll 8
  for (int v = 0; v < vectors; v++)
    vst1q_u8(out + 16 * v, vcombine_u8(neon_requant(sums.low[v], scale),
                                       neon_requant(sums.high[v], scale)));
}

static void neon_map(const struct halut_packed *packed, const uint8_t *codes, uint32_t rows,
                     const struct halut_requant *requant, uint8_t *out, size_t stride) {
  const size_t apart = halut_code_stride(&halut_accumulate_neon, rows) / HALUT_SUM_ROWS;
  const uint32_t last = rows & 64, half = rows & 96;
  for (uint32_t m = 0; m < packed->lut->outputs; m++, out += stride) {
    if (packed->base[m].range > UINT16_MAX) {
      int32_t acc[HALUT_CODE_BLOCK];
      neon_sum_output(packed, m, codes, apart, rows, acc);
      for (uint32_t i = 0; i < rows; i++)
        out[i] = halut_requantise(acc[i], requant->bias[m], requant->scale[m]);
      continue;
    }
    const struct halut_shift shift =
        halut_shift_of((int64_t)requant->bias[m] + packed->base[m].least);
    const struct neon_scale scale = {vdupq_n_u16(shift.less), vdupq_n_u16(shift.more),
                                     requant->scale[m]};
    if (rows & 128) neon_map_rows(packed, m, codes, apart, 8, &scale, out);
    if (rows & 64) neon_map_rows(packed, m, codes, apart, 4, &scale, out);
    if (rows & 32) neon_map_rows(packed, m, codes + last, apart, 2, &scale, out + last);
    if (rows & 16) neon_map_rows(packed, m, codes + half, apart, 1, &scale, out + half);
  }
}

const struct halut_accumulate halut_accumulate_neon = {
    .layout = HALUT_LAYOUT_BYTES, .sum = neon_sum, .map = neon_map};

/* 2x2 maximum: rows pairwise, then neighbours. */
void halut_pool2_neon(const uint8_t *in, uint32_t height, uint32_t width, uint8_t *out) {
  for (uint32_t y = 0; y < height / 2; y++, in += 2 * (size_t)width, out += width / 2) {
    uint32_t x = 0;
    for (; x + 16 <= width; x += 16) {
      uint8x16_t most = vmaxq_u8(vld1q_u8(in + x), vld1q_u8(in + width + x));
      vst1_u8(out + x / 2, vpmax_u8(vget_low_u8(most), vget_high_u8(most)));
    }
    for (; x + 8 <= width; x += 8) {
      uint8x8_t most = vmax_u8(vld1_u8(in + x), vld1_u8(in + width + x));
      uint32_t four = vget_lane_u32(vreinterpret_u32_u8(vpmax_u8(most, most)), 0);
      __builtin_memcpy(out + x / 2, &four, sizeof four);
    }
    for (; x < width; x += 2) {
      uint8_t a = in[x] > in[x + 1] ? in[x] : in[x + 1];
      uint8_t b = in[width + x] > in[width + x + 1] ? in[width + x] : in[width + x + 1];
      out[x / 2] = a > b ? a : b;
    }
  }
}

/* In 16 bits, because a + b - zero is not one saturating step after another. */
void halut_add_neon(uint8_t *y, const uint8_t *other, size_t count, uint8_t zero) {
  const int16x8_t less = vdupq_n_s16(zero);
  size_t i = 0;
  for (; i + 16 <= count; i += 16) {
    uint8x16_t a = vld1q_u8(y + i), b = vld1q_u8(other + i);
    int16x8_t low = vreinterpretq_s16_u16(vaddl_u8(vget_low_u8(a), vget_low_u8(b)));
    int16x8_t high = vreinterpretq_s16_u16(vaddl_high_u8(a, b));
    vst1q_u8(y + i, vqmovun_high_s16(vqmovun_s16(vsubq_s16(low, less)), vsubq_s16(high, less)));
  }
  for (; i < count; i++) {
    int sum = y[i] + other[i] - zero;
    y[i] = (uint8_t)(sum < 0 ? 0 : sum > UINT8_MAX ? UINT8_MAX : sum);
  }
}

enum {
  DENSE_TAPS = 64,         /* that are widened at once: 4 KiB */
  DENSE_BIAS_MAX = 1 << 30 /* past it sum + bias might not fit an int32 */
};
static_assert(DENSE_TAPS * UINT8_MAX * 128 <= DENSE_BIAS_MAX, "sum + bias fits an int32");

INLINE void neon_dense_put(const int32x4_t sum[8], int32_t bias, uint16_t scale, uint8_t *out) {
  const int32x4_t more = vdupq_n_s32(bias);
#pragma GCC unroll 4
  for (int v = 0; v < 4; v++) {
    uint16x4_t low = vqmovun_s32(vaddq_s32(sum[2 * v], more));
    uint16x8_t words = vqmovun_high_s32(low, vaddq_s32(sum[2 * v + 1], more));
    vst1_u8(out + 8 * v, neon_scaled(words, scale));
  }
}

/* Every tap is widened once and serves all outputs. */
void halut_dense_neon(const struct halut_weights *weights, const uint8_t *const *source,
                      const struct halut_requant *requant, uint8_t *out, size_t stride) {
  const uint32_t taps = weights->taps;
  int16x8_t value[DENSE_TAPS][4];
  if (taps > DENSE_TAPS) {
    halut_dense_ref(weights, source, requant, out, stride);
    return;
  }
  for (uint32_t t = 0; t < taps; t++)
    for (int v = 0; v < 4; v++)
      value[t][v] = vreinterpretq_s16_u16(vmovl_u8(vld1_u8(source[t] + 8 * v)));
  for (uint32_t m = 0; m < weights->outputs; m++, out += stride) {
    const int8_t *weight = weights->raw + (size_t)m * taps;
    int32x4_t sum[8];
#pragma GCC unroll 8
    for (int v = 0; v < 8; v++) sum[v] = vdupq_n_s32(0);
    for (uint32_t t = 0; t < taps; t++) {
#pragma GCC unroll 4
      for (int v = 0; v < 4; v++) {
        sum[2 * v] = vmlal_n_s16(sum[2 * v], vget_low_s16(value[t][v]), weight[t]);
        sum[2 * v + 1] = vmlal_high_n_s16(sum[2 * v + 1], value[t][v], weight[t]);
      }
    }
    int32_t bias = requant->bias[m];
    if (bias <= DENSE_BIAS_MAX && bias >= -DENSE_BIAS_MAX) {
      neon_dense_put(sum, bias, requant->scale[m], out);
      continue;
    }
    int32_t exact[HALUT_DENSE_BLOCK];
    for (int v = 0; v < 8; v++) vst1q_s32(exact + 4 * v, sum[v]);
    for (int i = 0; i < HALUT_DENSE_BLOCK; i++)
      out[i] = halut_requantise(exact[i], bias, requant->scale[m]);
  }
}

void halut_linear_neon(const int8_t *weight, const int32_t *bias, uint32_t outputs, uint32_t inputs,
                       const uint8_t *x, int32_t *y) {
  for (uint32_t m = 0; m < outputs; m++, weight += inputs) {
    int32x4_t sum = vdupq_n_s32(0);
    uint32_t i = 0;
    for (; i + 8 <= inputs; i += 8) {
      int16x8_t a = vreinterpretq_s16_u16(vmovl_u8(vld1_u8(x + i)));
      int16x8_t b = vmovl_s8(vld1_s8(weight + i));
      sum = vmlal_high_s16(vmlal_s16(sum, vget_low_s16(a), vget_low_s16(b)), a, b);
    }
    int64_t total = (int64_t)bias[m] + vaddvq_s32(sum);
    for (; i < inputs; i++) total += weight[i] * x[i];
    y[m] = (int32_t)total;
  }
}

#endif
