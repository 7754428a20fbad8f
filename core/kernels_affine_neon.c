/* DESIGN: as kernels_affine_ssse3.c. Rounding to an integer takes NaN to 0 and keeps what is too
 * large or too small for the packing, which ends it at 0 and at 255. */
#include "kernels.h"

#if defined(__aarch64__)
#include <arm_neon.h>

#define INLINE static inline __attribute__((always_inline))

INLINE int16x8_t quantise8(const float *x, float32x4_t low, float32x4_t inverse) {
  const float32x4_t first = vmulq_f32(vsubq_f32(vld1q_f32(x), low), inverse);
  const float32x4_t second = vmulq_f32(vsubq_f32(vld1q_f32(x + 4), low), inverse);
  return vqmovn_high_s32(vqmovn_s32(vcvtnq_s32_f32(first)), vcvtnq_s32_f32(second));
}

INLINE uint8x16_t quantise16(const float *x, float32x4_t low, float32x4_t inverse) {
  return vqmovun_high_s16(vqmovun_s16(quantise8(x, low, inverse)), quantise8(x + 8, low, inverse));
}

void halut_quantise_neon(const struct halut_affine *affine, const float *x, size_t step,
                         size_t rows, uint8_t *value, size_t stride, struct halut_ahead ahead) {
  (void)ahead;
  for (size_t row = 0; row < rows; row += HALUT_ROW_BLOCK, x += HALUT_ROW_BLOCK * step) {
    size_t here = rows - row < HALUT_ROW_BLOCK ? rows - row : HALUT_ROW_BLOCK;
    for (uint32_t i = 0; i < affine->reads; i++) {
      float column[HALUT_ROW_BLOCK] = {0};
      const float *from = x + affine->split[i];
      for (size_t r = 0; r < here; r++) column[r] = from[r * step];
      const float32x4_t low = vdupq_n_f32(affine->low[i]);
      const float32x4_t inverse = vdupq_n_f32(affine->inverse[i]);
      uint8_t *to = value + i * stride + row;
      vst1q_u8(to, quantise16(column, low, inverse));
      vst1q_u8(to + 16, quantise16(column + 16, low, inverse));
      for (size_t r = here; r < HALUT_ROW_BLOCK; r++) to[r] = 0;
    }
  }
}

void halut_quantise_columns_neon(const struct halut_affine *affine, const float *x, size_t step,
                                 size_t rows, uint8_t *value, size_t stride) {
  for (uint32_t i = 0; i < affine->reads; i++) {
    const float32x4_t low = vdupq_n_f32(affine->low[i]), inverse = vdupq_n_f32(affine->inverse[i]);
    const float *from = x + affine->split[i] * step;
    uint8_t *to = value + i * stride;
    for (size_t row = 0; row < halut_pad_rows(rows); row += 16) {
      float last[16] = {0};
      for (size_t r = row; r < rows && row + 16 > rows; r++) last[r - row] = from[r];
      vst1q_u8(to + row, quantise16(row + 16 > rows ? last : from + row, low, inverse));
    }
    for (size_t row = rows; row < halut_pad_rows(rows); row++) to[row] = 0;
  }
}

/* Four outputs of four rows. */
INLINE void dequantise4(const int32_t *acc, size_t stride, const float *scale, const float *bias,
                        float *y, size_t y_stride) {
  float32x4_t v[4];
#pragma GCC unroll 4
  for (uint32_t m = 0; m < 4; m++) {
    const float32x4_t sum = vcvtq_f32_s32(vld1q_s32(acc + m * stride));
    v[m] = vaddq_f32(vmulq_n_f32(sum, scale[m]), vdupq_n_f32(bias[m]));
  }
  const float32x4x2_t early = vzipq_f32(v[0], v[2]), late = vzipq_f32(v[1], v[3]);
#pragma GCC unroll 2
  for (uint32_t half = 0; half < 2; half++) {
    const float32x4x2_t row = vzipq_f32(early.val[half], late.val[half]);
    vst1q_f32(y + 2 * half * y_stride, row.val[0]);
    vst1q_f32(y + (2 * half + 1) * y_stride, row.val[1]);
  }
}

void halut_dequantise_neon(const int32_t *acc, size_t stride, const float *scale,
                           const float *bias, uint32_t outputs, size_t rows, float *y,
                           size_t y_stride, bool is_large) {
  (void)is_large;
  const size_t whole_rows = rows / 4 * 4;
  const uint32_t whole = outputs / 4 * 4;
  for (size_t row = 0; row < whole_rows; row += 4)
    for (uint32_t m = 0; m < whole; m += 4)
      dequantise4(acc + m * stride + row, stride, scale + m, bias + m, y + row * y_stride + m,
                  y_stride);
  for (size_t row = 0; row < rows; row++)
    for (uint32_t m = row < whole_rows ? whole : 0; m < outputs; m++) {
      const float scaled = (float)acc[m * stride + row] * scale[m];
      y[row * y_stride + m] = scaled + bias[m];
    }
}

#endif
