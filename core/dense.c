/* DESIGN: the map is copied once into planes whose padding is written out, so that each tap of the
 * kernel is one pointer into it. With stride 1 a kernel then reads HALUT_DENSE_BLOCK neighbours of
 * a row straight from there; with another stride they are gathered first, because only the stem of
 * a network comes here.
 *
 * Two threads have a desk each: for half the images of a batch, or half the rows of one. */
#include "dense.h"

#include <stdlib.h>
#include <string.h>

#include "kernels.h"

enum {
  DESKS = 2,
  SPLIT_ROWS = 4 /* a map of fewer is done before the helper has begun */
};

/* What one thread needs. */
struct desk {
  uint8_t *padded;        /* [channels][plane], and room to read a block past the end */
  uint8_t *gather;        /* [taps][HALUT_DENSE_BLOCK] */
  uint8_t *tile;          /* [outputs][HALUT_DENSE_BLOCK] */
  const uint8_t **source; /* [taps] */
};

struct halut_dense {
  struct halut_conv conv;
  struct halut_requant requant;
  struct halut_weights weights;
  struct halut_kernels kernels;
  size_t pitch, plane; /* bytes of a padded row and of a padded channel */
  struct desk desk[DESKS];
};

static int dense_check(const struct halut_conv *conv, uint32_t outputs, struct halut_diag *diag) {
  if (!outputs || !conv->channels || !conv->kernel_h || !conv->kernel_w || !conv->stride_h ||
      !conv->stride_w) {
    return halut_fail(diag, HALUT_ESHAPE, 0, "dense convolution with a size of 0");
  }
  if (conv->pad_h > UINT16_MAX || conv->pad_w > UINT16_MAX || conv->height > UINT16_MAX ||
      conv->width > UINT16_MAX || conv->kernel_h > UINT8_MAX || conv->kernel_w > UINT8_MAX) {
    return halut_fail(diag, HALUT_ELIMIT, 0, "dense convolution: map, kernel or padding too large");
  }
  uint32_t high = conv->height + 2 * conv->pad_h, wide = conv->width + 2 * conv->pad_w;
  if (conv->kernel_h > high || conv->kernel_w > wide ||
      conv->out_h != (high - conv->kernel_h) / conv->stride_h + 1 ||
      conv->out_w != (wide - conv->kernel_w) / conv->stride_w + 1) {
    return halut_fail(diag, HALUT_ESHAPE, 0, "dense convolution: %ux%u does not give %ux%u",
                      conv->height, conv->width, conv->out_h, conv->out_w);
  }
  const uint64_t padded = (uint64_t)conv->channels * high * wide;
  if (padded > HALUT_DENSE_PADDED_MAX) {
    return halut_fail(diag, HALUT_ELIMIT, 0, "dense convolution: %llu padded values, at most %d",
                      (unsigned long long)padded, HALUT_DENSE_PADDED_MAX);
  }
  uint64_t taps = (uint64_t)conv->channels * conv->kernel_h * conv->kernel_w;
  if (taps > HALUT_TAPS_MAX) {
    return halut_fail(diag, HALUT_ELIMIT, 0, "dense convolution: %llu taps, at most %d",
                      (unsigned long long)taps, HALUT_TAPS_MAX);
  }
  return HALUT_OK;
}

static int desk_open(const struct halut_dense *dense, const uint8_t *zero, struct desk *desk,
                     struct halut_diag *diag) {
  const size_t channels = dense->conv.channels, taps = dense->weights.taps;
  desk->padded = halut_alloc(channels * dense->plane + HALUT_DENSE_BLOCK);
  desk->gather = halut_alloc(taps * HALUT_DENSE_BLOCK);
  desk->tile = halut_alloc((size_t)dense->weights.outputs * HALUT_DENSE_BLOCK);
  desk->source = calloc(taps, sizeof *desk->source);
  if (!desk->padded || !desk->gather || !desk->tile || !desk->source)
    return halut_fail(diag, HALUT_ENOMEM, 0, "no memory for a dense convolution");
  for (size_t c = 0; c < channels; c++)
    memset(desk->padded + c * dense->plane, zero ? zero[c] : 0, dense->plane);
  return HALUT_OK;
}

int halut_dense_open(const struct halut_conv *conv, uint32_t outputs, const int8_t *weight,
                  const struct halut_requant *requant, const uint8_t *zero, uint32_t cpu_flags,
                  struct halut_dense **out, struct halut_diag *diag) {
  int error = dense_check(conv, outputs, diag);
  if (error) return error;
  struct halut_dense *dense = calloc(1, sizeof *dense);
  if (!dense) return halut_fail(diag, HALUT_ENOMEM, 0, "no memory for a dense convolution");
  uint32_t taps = conv->channels * conv->kernel_h * conv->kernel_w;
  dense->conv = *conv;
  dense->requant = *requant;
  halut_kernels_init(&dense->kernels, cpu_flags);
  dense->pitch = (size_t)conv->width + 2 * conv->pad_w;
  dense->plane = dense->pitch * ((size_t)conv->height + 2 * conv->pad_h);
  error = halut_weights_pack(weight, outputs, taps, &dense->weights, diag);
  if (error) goto fail;
  for (int i = 0; i < DESKS && !error; i++) error = desk_open(dense, zero, &dense->desk[i], diag);
  if (error) goto fail;
  *out = dense;
  return HALUT_OK;
fail:
  halut_dense_close(dense);
  return error;
}

/* The inside of the planes; their edges were written at open and stay. */
static void dense_fill(const struct halut_dense *dense, const struct desk *desk,
                       const uint8_t *in) {
  const struct halut_conv *conv = &dense->conv;
  for (uint32_t c = 0; c < conv->channels; c++) {
    for (uint32_t y = 0; y < conv->height; y++) {
      memcpy(desk->padded + c * dense->plane + (y + conv->pad_h) * dense->pitch + conv->pad_w,
             in + ((size_t)c * conv->height + y) * conv->width, conv->width);
    }
  }
}

/* Points every tap at its values for outputs (y, x) to (y, x + count - 1). */
static void dense_aim(const struct halut_dense *dense, const struct desk *desk, uint32_t y,
                      uint32_t x, uint32_t count) {
  const struct halut_conv *conv = &dense->conv;
  uint32_t t = 0;
  for (uint32_t c = 0; c < conv->channels; c++) {
    for (uint32_t ky = 0; ky < conv->kernel_h; ky++) {
      for (uint32_t kx = 0; kx < conv->kernel_w; kx++, t++) {
        const uint8_t *from = desk->padded + c * dense->plane +
                              ((size_t)y * conv->stride_h + ky) * dense->pitch +
                              (size_t)x * conv->stride_w + kx;
        desk->source[t] = from;
        if (conv->stride_w == 1) continue;
        uint8_t *gather = desk->gather + (size_t)t * HALUT_DENSE_BLOCK;
        for (uint32_t i = 0; i < count; i++) gather[i] = from[(size_t)i * conv->stride_w];
        desk->source[t] = gather;
      }
    }
  }
}

/* A row of outputs of one image. */
static void dense_row(const struct halut_dense *dense, const struct desk *desk, uint32_t y,
                      uint8_t *out) {
  const struct halut_conv *conv = &dense->conv;
  const size_t out_plane = (size_t)conv->out_h * conv->out_w;
  for (uint32_t x = 0; x < conv->out_w; x += HALUT_DENSE_BLOCK) {
    uint32_t wide = conv->out_w - x < HALUT_DENSE_BLOCK ? conv->out_w - x : HALUT_DENSE_BLOCK;
    uint8_t *to = out + (size_t)y * conv->out_w + x;
    dense_aim(dense, desk, y, x, wide);
    if (wide == HALUT_DENSE_BLOCK) {
      dense->kernels.dense(&dense->weights, desk->source, &dense->requant, to, out_plane);
      continue;
    }
    dense->kernels.dense(&dense->weights, desk->source, &dense->requant, desk->tile,
                         HALUT_DENSE_BLOCK);
    for (uint32_t m = 0; m < dense->weights.outputs; m++)
      memcpy(to + m * out_plane, desk->tile + (size_t)m * HALUT_DENSE_BLOCK, wide);
  }
}

/* What one thread does: rows first .. last - 1 of `count` images. */
struct dense_part {
  const struct halut_dense *dense;
  const struct desk *desk;
  const uint8_t *in;
  uint32_t count, first, last;
  uint8_t *out;
};

static void dense_part_run(void *self) {
  const struct dense_part *part = self;
  const struct halut_conv *conv = &part->dense->conv;
  const size_t in_bytes = (size_t)conv->channels * conv->height * conv->width;
  const size_t out_bytes = (size_t)part->dense->weights.outputs * conv->out_h * conv->out_w;
  for (uint32_t i = 0; i < part->count; i++) {
    dense_fill(part->dense, part->desk, part->in + i * in_bytes);
    for (uint32_t y = part->first; y < part->last; y++)
      dense_row(part->dense, part->desk, y, part->out + i * out_bytes);
  }
}

void halut_dense_conv(struct halut_dense *dense, struct halut_helper *helper, const uint8_t *in,
                      uint32_t count, uint8_t *out) {
  const struct halut_conv *conv = &dense->conv;
  struct dense_part own = {dense, &dense->desk[0], in, count, 0, conv->out_h, out};
  if (!halut_helper_is_served(helper) || (count == 1 && conv->out_h < SPLIT_ROWS)) {
    dense_part_run(&own);
    return;
  }
  struct dense_part other = own;
  other.desk = &dense->desk[1];
  if (count > 1) {
    own.count = count / 2;
    other.count -= own.count;
    other.in += (size_t)own.count * conv->channels * conv->height * conv->width;
    other.out += (size_t)own.count * dense->weights.outputs * conv->out_h * conv->out_w;
  } else {
    own.last = other.first = conv->out_h / 2;
  }
  halut_helper_share(helper, dense_part_run, &own, &other);
}

void halut_dense_close(struct halut_dense *dense) {
  if (!dense) return;
  halut_weights_unpack(&dense->weights);
  for (int i = 0; i < DESKS; i++) {
    free(dense->desk[i].padded);
    free(dense->desk[i].gather);
    free(dense->desk[i].tile);
    free(dense->desk[i].source);
  }
  free(dense);
}

void halut_dense_linear(const int8_t *weight, const int32_t *bias, uint32_t outputs,
                        uint32_t inputs, uint32_t cpu_flags, const uint8_t *x, uint32_t count,
                        int32_t *y) {
  struct halut_kernels kernels;
  halut_kernels_init(&kernels, cpu_flags);
  for (uint32_t i = 0; i < count; i++) {
    kernels.linear(weight, bias, outputs, inputs, x + (size_t)i * inputs, y + (size_t)i * outputs);
  }
}
