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

INLINE void quantise16(const float *x, float low, float inverse, uint8_t *to) {
  const float32x4_t l = vdupq_n_f32(low), i = vdupq_n_f32(inverse);
  vst1q_u8(to, vqmovun_high_s16(vqmovun_s16(quantise8(x, l, i)), quantise8(x + 8, l, i)));
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

#define AFFINE(kind) halut_##kind##_neon
#include "kernels_affine.inc"

#endif
