#include "pack.h"

#include <stdlib.h>
#include <string.h>

void *halut_alloc(size_t bytes) {
  size_t padded;
  if (__builtin_add_overflow(bytes, (size_t)HALUT_ALIGN, &padded)) return NULL;
  padded = padded / HALUT_ALIGN * HALUT_ALIGN;
  void *memory = aligned_alloc(HALUT_ALIGN, padded);
  if (memory) memset(memory, 0, padded);
  return memory;
}

int halut_pack(const struct halut_lut *lut, enum halut_layout layout, struct halut_packed *packed,
            struct halut_diag *diag) {
  (void)diag;
  *packed = (struct halut_packed){.lut = lut, .layout = layout};
  return HALUT_OK;
}

void halut_unpack(struct halut_packed *packed) {
  free(packed->memory);
  *packed = (struct halut_packed){0};
}

int halut_weights_pack(const int8_t *raw, uint32_t outputs, uint32_t taps, struct halut_weights *weights,
                    struct halut_diag *diag) {
  size_t pairs = ((size_t)taps + 1) / 2 * 2;
  size_t quads = ((size_t)taps + 3) / 4 * 4;
  *weights = (struct halut_weights){.outputs = outputs, .taps = taps, .raw = raw};
  weights->pair = halut_alloc(outputs * pairs * sizeof(int16_t));
  weights->quad = halut_alloc(outputs * quads);
  if (!weights->pair || !weights->quad) {
    halut_weights_unpack(weights);
    return halut_fail(diag, HALUT_ENOMEM, 0, "no memory for %u x %u weights", outputs, taps);
  }
  for (uint32_t m = 0; m < outputs; m++) {
    for (uint32_t t = 0; t < taps; t++) weights->pair[m * pairs + t] = raw[(size_t)m * taps + t];
    memcpy(weights->quad + m * quads, raw + (size_t)m * taps, taps);
  }
  return HALUT_OK;
}

void halut_weights_unpack(struct halut_weights *weights) {
  free(weights->pair);
  free(weights->quad);
  *weights = (struct halut_weights){0};
}
