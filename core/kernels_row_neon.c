/* DESIGN: as kernels_row_avx2.c; an addition that widens takes eight outputs. */
#include "kernels.h"

#if defined(__aarch64__)
#include <arm_neon.h>

enum { LANES = 16 };

/* Four floats, or `count` of them. */
static void row_put(int32x4_t sum, const float *scale, const float *bias, uint32_t count,
                    float *y) {
  const float32x4_t value = vcvtq_f32_s32(sum);
  if (count >= 4) {
    vst1q_f32(y, vaddq_f32(vmulq_f32(value, vld1q_f32(scale)), vld1q_f32(bias)));
    return;
  }
  float some[4];
  vst1q_f32(some, value);
  for (uint32_t i = 0; i < count; i++) {
    const float scaled = some[i] * scale[i];
    y[i] = scaled + bias[i];
  }
}

void halut_row_neon(const int8_t *entry, const uint32_t *at, uint32_t codebooks,
                    const float *scale, const float *bias, uint32_t outputs, float *y) {
  for (uint32_t m = 0; m < outputs; m += LANES) {
    int32x4_t sum[4] = {vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0)};
    for (uint32_t c = 0; c < codebooks;) {
      const uint32_t end = codebooks - c > HALUT_SUM16_MAX ? c + HALUT_SUM16_MAX : codebooks;
      int16x8_t low = vdupq_n_s16(0), high = low;
      for (; c < end; c++) {
        const int8x16_t from = vld1q_s8(entry + at[c] + m);
        low = vaddw_s8(low, vget_low_s8(from));
        high = vaddw_high_s8(high, from);
      }
      sum[0] = vaddw_s16(sum[0], vget_low_s16(low));
      sum[1] = vaddw_high_s16(sum[1], low);
      sum[2] = vaddw_s16(sum[2], vget_low_s16(high));
      sum[3] = vaddw_high_s16(sum[3], high);
    }
    for (uint32_t i = 0; i < LANES && m + i < outputs; i += 4)
      row_put(sum[i / 4], scale + m + i, bias + m + i, outputs - m - i, y + m + i);
  }
}

#endif
