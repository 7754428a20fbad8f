/* The specification of every kernel: plain loops, nothing clever, never tuned. */
#include "kernels.h"

#include <math.h>

void halut_encode_ref(const uint8_t *value, const uint8_t *masks,
                      const struct halut_read *read, const uint8_t *threshold,
                      uint32_t codebooks, size_t rows, uint8_t *codes, size_t stride) {
  for (; codebooks; codebooks--) {
    for (size_t row = 0; row < rows; row++) {
      unsigned node = 1;
      for (int level = 0; level < HALUT_LEVELS; level++) {
        unsigned x = value[read[level].at + (ptrdiff_t)row];
        if (masks) x &= masks[read[level].mask + row];
        node = 2 * node + (x > threshold[node]);
      }
      codes[row] = (uint8_t)(node - HALUT_PROTOTYPES);
    }
    read += HALUT_LEVELS;
    threshold += HALUT_PROTOTYPES;
    codes += stride;
  }
}

static int32_t ref_sum(const struct halut_packed *packed, uint32_t m, const uint8_t *codes,
                       size_t apart, uint32_t row) {
  const struct halut_lut *lut = packed->lut;
  int32_t sum = 0;
  for (uint32_t c = 0; c < lut->codebooks; c++) {
    const int8_t *entry = lut->table + ((size_t)m * lut->codebooks + c) * HALUT_PROTOTYPES;
    sum += entry[codes[c * apart + row]];
  }
  return sum;
}

static void ref_sum_block(const struct halut_packed *packed, const uint8_t *codes, uint32_t rows,
                          int32_t *acc, size_t stride) {
  const size_t apart = halut_code_stride(&halut_accumulate_ref, rows);
  for (uint32_t m = 0; m < packed->lut->outputs; m++) {
    for (uint32_t row = 0; row < rows; row++)
      acc[m * stride + row] = ref_sum(packed, m, codes, apart, row);
  }
}

static void ref_map_block(const struct halut_packed *packed, const uint8_t *codes, uint32_t rows,
                          const struct halut_requant *requant, uint8_t *out, size_t stride) {
  const size_t apart = halut_code_stride(&halut_accumulate_ref, rows);
  for (uint32_t m = 0; m < packed->lut->outputs; m++) {
    for (uint32_t row = 0; row < rows; row++) {
      out[m * stride + row] = halut_requantise(ref_sum(packed, m, codes, apart, row),
                                               requant->bias[m], requant->scale[m]);
    }
  }
}

const struct halut_accumulate halut_accumulate_ref = {
    .layout = HALUT_LAYOUT_NONE, .sum = ref_sum_block, .map = ref_map_block};

void halut_pool2_ref(const uint8_t *in, uint32_t height, uint32_t width, uint8_t *out) {
  for (uint32_t y = 0; y < height / 2; y++) {
    for (uint32_t x = 0; x < width / 2; x++) {
      uint8_t most = 0;
      for (uint32_t i = 0; i < 4; i++) {
        uint8_t value = in[(size_t)(2 * y + i / 2) * width + 2 * x + i % 2];
        if (value > most) most = value;
      }
      out[(size_t)y * (width / 2) + x] = most;
    }
  }
}

void halut_add_ref(uint8_t *y, const uint8_t *other, size_t count, uint8_t zero) {
  for (size_t i = 0; i < count; i++) {
    int sum = y[i] + other[i] - zero;
    y[i] = (uint8_t)(sum < 0 ? 0 : sum > UINT8_MAX ? UINT8_MAX : sum);
  }
}

void halut_dense_ref(const struct halut_weights *weights, const uint8_t *const *source,
                  const struct halut_requant *requant, uint8_t *out, size_t stride) {
  for (uint32_t m = 0; m < weights->outputs; m++) {
    for (uint32_t i = 0; i < HALUT_DENSE_BLOCK; i++) {
      int64_t sum = 0;
      for (uint32_t t = 0; t < weights->taps; t++) {
        sum += weights->raw[(size_t)m * weights->taps + t] * source[t][i];
      }
      out[m * stride + i] = halut_requantise(sum, requant->bias[m], requant->scale[m]);
    }
  }
}

void halut_linear_ref(const int8_t *weight, const int32_t *bias, uint32_t outputs, uint32_t inputs,
                   const uint8_t *x, int32_t *y) {
  for (uint32_t m = 0; m < outputs; m++) {
    int64_t sum = bias[m];
    for (uint32_t i = 0; i < inputs; i++) sum += weight[(size_t)m * inputs + i] * x[i];
    y[m] = (int32_t)sum;
  }
}

static void quantise(const struct halut_affine *affine, const float *x, size_t row_step,
                     size_t column_step, size_t rows, uint8_t *value, size_t stride) {
  for (uint32_t i = 0; i < affine->reads; i++) {
    for (size_t row = 0; row < halut_pad_rows(rows); row++) {
      float scaled = 0;
      if (row < rows) {
        float above = x[row * row_step + affine->split[i] * column_step] - affine->low[i];
        scaled = rintf(above * affine->inverse[i]);
      }
      scaled = scaled > UINT8_MAX ? UINT8_MAX : scaled > 0 ? scaled : 0; /* NaN is 0 */
      value[i * stride + row] = (uint8_t)scaled;
    }
  }
}

void halut_quantise_ref(const struct halut_affine *affine, const float *x, size_t step,
                        size_t rows, uint8_t *value, size_t stride, struct halut_ahead ahead) {
  (void)ahead;
  quantise(affine, x, step, 1, rows, value, stride);
}

void halut_quantise_columns_ref(const struct halut_affine *affine, const float *x, size_t step,
                                size_t rows, uint8_t *value, size_t stride) {
  quantise(affine, x, 1, step, rows, value, stride);
}

void halut_dequantise_ref(const int32_t *acc, size_t stride, const float *scale, const float *bias,
                          uint32_t outputs, size_t rows, float *y, size_t y_stride, bool is_large) {
  (void)is_large;
  for (size_t row = 0; row < rows; row++) {
    for (uint32_t m = 0; m < outputs; m++) {
      float scaled = (float)acc[m * stride + row] * scale[m];
      y[row * y_stride + m] = scaled + bias[m];
    }
  }
}

void halut_row_ref(const int8_t *entry, const uint32_t *at, uint32_t codebooks, const float *scale,
                   const float *bias, uint32_t outputs, float *y) {
  for (uint32_t m = 0; m < outputs; m++) {
    int32_t sum = 0;
    for (uint32_t c = 0; c < codebooks; c++) sum += entry[at[c] + m];
    float scaled = (float)sum * scale[m];
    y[m] = scaled + bias[m];
  }
}
