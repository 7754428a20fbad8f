#include "explain.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ops.h"

enum { TILE_ROWS = 256 };
static_assert(TILE_ROWS % HALUT_ROW_BLOCK == 0, "tiles are padded");

int halut_explain_find(const struct halut_model_info *info, const char *name, uint32_t *node_out,
                       struct halut_diag *diag) {
  char names[128] = "";
  size_t used = 0;
  for (uint32_t n = 0; n < info->node_count; n++) {
    const struct halut_node *node = &info->nodes[n];
    if (node->op != HALUT_OP_HALUT)
      continue;
    if (strcmp(node->name, name) == 0) {
      *node_out = n;
      return HALUT_OK;
    }
    if (used < sizeof names)
      used += (size_t)snprintf(names + used, sizeof names - used, "%s%s", used > 0 ? ", " : "",
                               node->name);
  }
  return halut_fail(diag, HALUT_ENOTFOUND, 0, "no learned layer named \"%.40s\"; there is: %s",
                    name, used > 0 ? names : "none");
}

void halut_explain_shape(const struct halut_model_info *info, uint32_t node, uint32_t shape[3]) {
  uint32_t value = info->nodes[node].in[0];
  shape[0] = value > 0 ? info->nodes[value - 1].channels : info->channels;
  shape[1] = value > 0 ? info->nodes[value - 1].height : info->height;
  shape[2] = value > 0 ? info->nodes[value - 1].width : info->width;
}

/* ---- what a layer read and made ---- */

/* A batch comes in parts, each reported with its own number of images: `at` is how far we are. */
struct watch {
  uint32_t node, source; /* source: the node it reads, UINT32_MAX for the image */
  uint8_t *in_at, *out_at;
};

static void watch_node(void *self, uint32_t node, const struct halut_tensor *value) {
  struct watch *watch = self;
  size_t bytes = (size_t)value->dim[0] * value->dim[1] * value->dim[2] * value->dim[3];
  if (node == watch->source) {
    memcpy(watch->in_at, value->data, bytes);
    watch->in_at += bytes;
  } else if (node == watch->node) {
    memcpy(watch->out_at, value->data, bytes);
    watch->out_at += bytes;
  }
}

int halut_explain_run(const struct halut_rows *self, uint32_t node, const uint8_t *in,
                      uint32_t rows, int32_t *out, struct halut_stats *stats,
                      struct halut_layer_maps *maps) {
  const struct halut_node *layer = &self->info->nodes[node];
  uint32_t shape[3];
  halut_explain_shape(self->info, node, shape);
  size_t in_bytes = (size_t)shape[0] * shape[1] * shape[2] * rows;
  size_t out_bytes = (size_t)layer->channels * layer->height * layer->width * rows;
  struct halut_layer_maps made = {malloc(in_bytes), malloc(out_bytes)};
  if (made.in == NULL || made.out == NULL) {
    halut_explain_free(&made);
    return HALUT_ENOMEM;
  }
  struct watch watch = {.node = node, .in_at = made.in, .out_at = made.out};
  watch.source = layer->in[0] > 0 ? layer->in[0] - 1 : UINT32_MAX;
  if (layer->in[0] == 0)
    memcpy(made.in, in, in_bytes);
  halut_session_observe(self->session, watch_node, &watch, 1);
  int error = halut_rows_run(self, in, rows, out, stats);
  halut_session_observe(self->session, NULL, NULL, 0);
  if (error != HALUT_OK) {
    halut_explain_free(&made);
    return error;
  }
  *maps = made;
  return HALUT_OK;
}

void halut_explain_free(struct halut_layer_maps *maps) {
  free(maps->in);
  free(maps->out);
  *maps = (struct halut_layer_maps){0};
}

/* ---- codes ---- */

/* value [codebooks][HALUT_LEVELS][padded] to codes [rows][codebooks]. */
static void encode(const struct halut_lut *lut, const uint8_t *value, size_t rows, uint8_t *codes) {
  size_t padded = halut_pad_rows(rows);
  for (uint32_t c = 0; c < lut->codebooks; c++)
    for (size_t row = 0; row < rows; row++) {
      uint32_t at = 1;
      for (uint32_t level = 0; level < HALUT_LEVELS; level++)
        at = 2 * at + (value[((size_t)c * HALUT_LEVELS + level) * padded + row] >
                       lut->threshold[c * HALUT_PROTOTYPES + at]);
      codes[row * lut->codebooks + c] = (uint8_t)(at - HALUT_PROTOTYPES);
    }
}

int halut_explain_codes(const struct halut_node *node, const uint8_t *in, uint32_t rows,
                        uint8_t *codes) {
  size_t total = (size_t)rows * node->height * node->width;
  uint8_t *value =
      aligned_alloc(HALUT_ALIGN, (size_t)node->lut.codebooks * HALUT_LEVELS * TILE_ROWS);
  if (value == NULL)
    return HALUT_ENOMEM;
  for (size_t row = 0; row < total; row += TILE_ROWS) {
    size_t tile = total - row < TILE_ROWS ? total - row : TILE_ROWS;
    halut_ops_gather(&node->conv, node->lut.codebooks, in, row, tile, value);
    encode(&node->lut, value, tile, codes + row * node->lut.codebooks);
  }
  free(value);
  return HALUT_OK;
}

/* Every step rounded to float; ties to even; a NaN gives 0. */
static uint8_t quantise(const struct halut_model_info *info, const float *x, size_t read) {
  float value = rintf((x[info->split[read]] - info->low[read]) * info->inverse[read]);
  value = value >= 255 ? 255 : value >= 0 ? value : 0;
  return (uint8_t)value;
}

void halut_explain_product(const struct halut_model_info *info, const float *x, uint32_t rows,
                           uint8_t *codes) {
  const struct halut_lut *lut = &info->lut;
  for (size_t row = 0; row < rows; row++)
    for (size_t c = 0; c < lut->codebooks; c++) {
      uint32_t at = 1;
      for (size_t level = 0; level < HALUT_LEVELS; level++)
        at = 2 * at + (quantise(info, x + row * info->columns, c * HALUT_LEVELS + level) >
                       lut->threshold[c * HALUT_PROTOTYPES + at]);
      codes[row * lut->codebooks + c] = (uint8_t)(at - HALUT_PROTOTYPES);
    }
}

void halut_explain_path(const struct halut_node *node, const uint8_t *in, uint32_t y, uint32_t x,
                        uint32_t codebook, uint32_t m, struct halut_path *out) {
  const struct halut_conv *conv = &node->conv;
  const struct halut_lut *lut = &node->lut;
  uint32_t at = 1;
  for (uint32_t level = 0; level < HALUT_LEVELS; level++) {
    struct halut_decision *step = &out->level[level];
    uint32_t column = conv->split[codebook * HALUT_LEVELS + level];
    uint32_t taps = conv->kernel_h * conv->kernel_w, tap = column % taps;
    step->channel = column / taps;
    step->y = (int32_t)(y * conv->stride_h + tap / conv->kernel_w) - (int32_t)conv->pad_h;
    step->x = (int32_t)(x * conv->stride_w + tap % conv->kernel_w) - (int32_t)conv->pad_w;
    bool is_inside = step->y >= 0 && step->y < (int32_t)conv->height && step->x >= 0 &&
                     step->x < (int32_t)conv->width;
    step->value = is_inside ? in[((size_t)step->channel * conv->height + (uint32_t)step->y) *
                                     conv->width +
                                 (uint32_t)step->x]
                            : 0;
    step->threshold = lut->threshold[codebook * HALUT_PROTOTYPES + at];
    step->node = (uint8_t)at;
    step->right = step->value > step->threshold;
    at = 2 * at + step->right;
  }
  out->code = (uint8_t)(at - HALUT_PROTOTYPES);
  out->entry =
      lut->table[((size_t)m * lut->codebooks + codebook) * HALUT_PROTOTYPES + out->code];
}
