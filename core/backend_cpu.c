/* DESIGN: a product is done a block of HALUT_CODE_BLOCK rows at a time: encode every codebook, then
 * sum for every output while the codes are in the first-level cache.
 *
 * Who serves the helper takes half: of a batch half the images or rows; of one image half the rows
 * of its map, or where these are too few to cut, half the outputs. Then both encode, which is about
 * a tenth of the work of these layers; nothing is exchanged but the finished maps, and every number
 * is computed as by one. */
#include "backend.h"

#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "conv_cpu.h"
#include "kernels.h"
#include "matmul_cpu.h"
#include "pack.h"

enum {
  THREADS_MAX = 2,
  SPLIT_LOOKUPS = 1 << 15, /* fewer are done before the helper has begun */
  SPLIT_OUTPUTS = 8        /* outputs go to a thread in multiples of so many */
};
static_assert(SPLIT_OUTPUTS % HALUT_QUAD_OUTPUTS == 0, "tables can be sliced there");

struct cpu_layer {
  const struct halut_packed *packed; /* the lut's, or of this backend alone */
  const struct halut_packed *entries; /* of a plain product: the same for single rows */
  const struct halut_packed *few;     /* of small maps, else NULL: the same for one of them */
  struct halut_conv_cpu conv;         /* empty for a plain product */
};

struct halut_backend {
  struct halut_kernels kernels;
  struct cpu_layer *layer;
  uint32_t layer_count;
  uint8_t *codes; /* one block of the layer with the most codebooks */
  uint32_t codebooks_max;
  struct halut_helper *helper; /* borrowed; NULL: nobody helps */
  struct halut_conv_scratch scratch[THREADS_MAX];
  struct halut_matmul_scratch matmul[THREADS_MAX];
};

static int cpu_options(const char *options, uint32_t *flags_out, struct halut_diag *diag) {
  uint32_t flags = halut_cpu_flags();
  while (options && *options) {
    size_t bytes = strcspn(options, ",");
    char name[32];
    if (strncmp(options, "cpu=", 4) != 0) {
      return halut_fail(diag, HALUT_EINVALID, 0, "cpu backend: unknown option \"%.*s\"",
                     (int)(bytes > 64 ? 64 : bytes), options);
    }
    size_t name_bytes = bytes - 4 < sizeof name - 1 ? bytes - 4 : sizeof name - 1;
    memcpy(name, options + 4, name_bytes);
    name[name_bytes] = 0;
    uint32_t mask = 0;
    int error = halut_cpu_ceiling(name, &mask, diag);
    if (error) return error;
    flags &= mask;
    options += bytes + (options[bytes] == ',');
  }
  *flags_out = flags;
  return HALUT_OK;
}

static int cpu_open(const char *options, struct halut_backend **out, struct halut_diag *diag) {
  uint32_t flags = 0;
  int error = cpu_options(options, &flags, diag);
  if (error) return error;
  struct halut_backend *backend = calloc(1, sizeof *backend);
  if (!backend) return halut_fail(diag, HALUT_ENOMEM, 0, "no memory for the cpu backend");
  halut_kernels_init(&backend->kernels, flags);
  *out = backend;
  return HALUT_OK;
}

static void cpu_close(struct halut_backend *backend) {
  if (!backend) return;
  for (uint32_t i = 0; i < backend->layer_count; i++) {
    halut_pack_put(backend->layer[i].packed);
    halut_pack_put(backend->layer[i].entries);
    halut_pack_put(backend->layer[i].few);
    halut_conv_cpu_close(&backend->layer[i].conv);
  }
  for (uint32_t t = 0; t < THREADS_MAX; t++) {
    halut_conv_scratch_close(&backend->scratch[t]);
    halut_matmul_scratch_close(&backend->matmul[t]);
  }
  free(backend->layer);
  free(backend->codes);
  free(backend);
}

static int cpu_load(struct halut_backend *backend, const struct halut_lut *lut,
                    const struct halut_conv *conv, uint32_t *handle_out, struct halut_diag *diag) {
  if (!lut->codebooks || lut->codebooks > HALUT_CODEBOOKS_MAX || !lut->outputs ||
      lut->outputs > HALUT_OUTPUTS_MAX) {
    return halut_fail(diag, HALUT_ELIMIT, 0, "%u codebooks x %u outputs: each must be 1 to %d",
                      lut->codebooks, lut->outputs, HALUT_CODEBOOKS_MAX);
  }
  struct cpu_layer *layer =
      realloc(backend->layer, (backend->layer_count + 1) * sizeof *backend->layer);
  if (!layer)
    return halut_fail(diag, HALUT_ENOMEM, 0, "no memory for layer %u", backend->layer_count);
  backend->layer = layer;
  if (lut->codebooks > backend->codebooks_max) {
    uint8_t *codes = halut_alloc(halut_codes_bytes(lut->codebooks));
    if (!codes)
      return halut_fail(diag, HALUT_ENOMEM, 0, "no memory for %u codebooks", lut->codebooks);
    free(backend->codes);
    backend->codes = codes;
    backend->codebooks_max = lut->codebooks;
  }
  layer = &backend->layer[backend->layer_count];
  *layer = (struct cpu_layer){0};
  int error = HALUT_OK;
  for (uint32_t t = 0; t < THREADS_MAX && !error; t++) {
    if (conv)
      error = halut_conv_scratch_fit(&backend->scratch[t], lut, conv, diag);
    else
      error = halut_matmul_scratch_fit(&backend->matmul[t], lut, diag);
  }
  if (!error && conv) error = halut_conv_cpu_open(conv, lut->codebooks, &layer->conv, diag);
  const enum halut_layout layout = backend->kernels.accumulate->layout;
  if (!error && !conv) error = halut_pack_get(lut, HALUT_LAYOUT_ROWS, &layer->entries, diag);
  if (!error && conv && halut_conv_cpu_is_few(&layer->conv, &backend->kernels))
    error = halut_pack_get(lut, HALUT_LAYOUT_PAIRS, &layer->few, diag);
  if (!error) error = halut_pack_get(lut, layout, &layer->packed, diag);
  if (error) {
    halut_pack_put(layer->entries);
    halut_pack_put(layer->few);
    halut_conv_cpu_close(&layer->conv);
    return error;
  }
  *handle_out = backend->layer_count++;
  return HALUT_OK;
}

/* Moves to `stats` what the calling thread has taken since the last time; what `other` has is its
 * own too, unless a helper did it. */
static void stages_take(struct halut_stages *own, struct halut_stages *other, bool is_helped,
                        struct halut_stats *stats) {
  if (stats) {
    stats->encode_ns += own->encode_ns + (is_helped ? 0 : other->encode_ns);
    stats->accumulate_ns += own->accumulate_ns + (is_helped ? 0 : other->accumulate_ns);
  }
  *own = *other = (struct halut_stages){0};
}

static int cpu_product(struct halut_backend *backend, uint32_t handle, const uint8_t *value,
                       size_t rows, int32_t *acc, struct halut_stats *stats) {
  assert(handle < backend->layer_count);
  const struct halut_packed *packed = backend->layer[handle].packed;
  const struct halut_lut *lut = packed->lut;
  const struct halut_accumulate *accumulate = backend->kernels.accumulate;
  size_t padded = halut_pad_rows(rows);
  const struct halut_read read[HALUT_LEVELS] = {
      {0, 0}, {(ptrdiff_t)padded, 0}, {2 * (ptrdiff_t)padded, 0}, {3 * (ptrdiff_t)padded, 0}};
  struct halut_stages *stages = &backend->scratch[0].stages;
  uint64_t since = halut_clock_ns();
  for (size_t row = 0; row < padded; row += HALUT_CODE_BLOCK) {
    size_t wide = padded - row < HALUT_CODE_BLOCK ? padded - row : HALUT_CODE_BLOCK;
    const size_t apart = halut_code_stride(accumulate, wide);
    for (uint32_t c = 0; c < lut->codebooks; c++)
      backend->kernels.encode(value + (size_t)c * HALUT_LEVELS * padded + row, NULL, read,
                              lut->threshold + (size_t)c * HALUT_PROTOTYPES, 1, wide,
                              backend->codes + c * apart, apart);
    halut_clock_lap(&stages->encode_ns, &since);
    if (accumulate->arrange) accumulate->arrange(packed, backend->codes);
    accumulate->sum(packed, backend->codes, (uint32_t)wide, acc + row, padded);
    halut_clock_lap(&stages->accumulate_ns, &since);
  }
  stages_take(stages, &backend->scratch[1].stages, false, stats);
  if (stats) stats->lookups += (uint64_t)rows * lut->codebooks * lut->outputs;
  return HALUT_OK;
}

static void cpu_help(struct halut_backend *backend, struct halut_helper *helper) {
  backend->helper = helper;
}

/* What one thread does of a convolution: outputs first .. first + outputs - 1 of a part. */
struct conv_share {
  const struct halut_backend *backend;
  const struct cpu_layer *layer;
  struct halut_conv_scratch *scratch;
  struct halut_conv_part part;
  uint32_t first, outputs;
};

static void conv_share_run(void *self) {
  const struct conv_share *share = self;
  const struct cpu_layer *layer = share->layer;
  struct halut_slice slice, few;
  halut_pack_slice(layer->packed, share->first, share->outputs, &slice);
  if (layer->few) halut_pack_slice(layer->few, share->first, share->outputs, &few);
  const struct halut_conv_tables tables = {&slice.packed, layer->few ? &few.packed : NULL};
  halut_conv_cpu_run(&layer->conv, &tables, &share->backend->kernels, share->scratch, &share->part);
}

/* Moves what `part` writes, and adds, on by `bytes`. */
static void part_skip(struct halut_conv_part *part, size_t bytes) {
  part->out += bytes;
  if (part->epilogue.other) part->epilogue.other += bytes;
}

/* Moves the later images, or the later rows or outputs of one image, to the share returned. */
static struct conv_share conv_split(struct conv_share *own, struct halut_conv_scratch *scratch) {
  const struct halut_conv *conv = own->layer->conv.conv;
  const uint32_t pool = own->part.epilogue.pool, count = own->part.count / 2;
  const uint32_t middle = halut_conv_cpu_middle(&own->layer->conv, pool);
  const size_t plane = (size_t)(conv->out_h / pool) * (conv->out_w / pool);
  struct conv_share later = *own;
  later.scratch = scratch;
  if (count > 0) {
    own->part.count = count;
    later.part.count -= count;
    later.part.in += (size_t)count * conv->channels * conv->height * conv->width;
    part_skip(&later.part, count * own->outputs * plane);
  } else if (middle > 0) {
    own->part.last = later.part.first = middle;
  } else {
    own->outputs = own->outputs / 2 / SPLIT_OUTPUTS * SPLIT_OUTPUTS;
    later.first += own->outputs;
    later.outputs -= own->outputs;
    later.part.epilogue.requant.bias += own->outputs;
    later.part.epilogue.requant.scale += own->outputs;
    part_skip(&later.part, own->outputs * plane);
  }
  return later;
}

static uint64_t conv_lookups(const struct conv_share *share) {
  const struct halut_conv_part *part = &share->part;
  return (uint64_t)part->count * (part->last - part->first) * share->layer->conv.conv->out_w *
         share->layer->packed->lut->codebooks * share->outputs;
}

/* Returns how many lookups the helper has done. */
static uint64_t conv_run(struct halut_backend *backend, struct conv_share *own) {
  const bool is_cut = own->part.count > 1 || own->outputs >= 2 * SPLIT_OUTPUTS ||
                      halut_conv_cpu_middle(&own->layer->conv, own->part.epilogue.pool) > 0;
  if (!is_cut || conv_lookups(own) < SPLIT_LOOKUPS || !halut_helper_is_served(backend->helper)) {
    conv_share_run(own);
    return 0;
  }
  struct conv_share later = conv_split(own, &backend->scratch[1]);
  bool is_helped = halut_helper_share(backend->helper, conv_share_run, own, &later);
  return is_helped ? conv_lookups(&later) : 0;
}

static int cpu_conv(struct halut_backend *backend, uint32_t handle, const uint8_t *in,
                    uint32_t count, const struct halut_epilogue *epilogue, uint8_t *out,
                    struct halut_stats *stats) {
  assert(handle < backend->layer_count);
  const struct cpu_layer *layer = &backend->layer[handle];
  const struct halut_lut *lut = layer->packed->lut;
  assert(layer->conv.conv);
  const struct halut_conv_part whole = {in, count, 0, layer->conv.conv->out_h, *epilogue, out};
  struct conv_share own = {backend, layer, &backend->scratch[0], whole, 0, lut->outputs};
  const uint64_t lookups = conv_lookups(&own), helped = conv_run(backend, &own);
  if (stats) stats->lookups += lookups;
  if (stats) stats->helped_lookups += helped;
  stages_take(&backend->scratch[0].stages, &backend->scratch[1].stages, helped > 0, stats);
  return HALUT_OK;
}

/* What one thread does of a product of floats. */
struct matmul_part {
  const struct halut_backend *backend;
  const struct halut_packed *packed, *entries;
  struct halut_matmul_scratch *scratch;
  const struct halut_floats *floats;
  struct halut_matrix x;
  size_t rows;
  float *y;
};

static void matmul_part_run(void *self) {
  const struct matmul_part *part = self;
  halut_matmul_cpu_run(part->packed, part->entries, &part->backend->kernels, part->scratch,
                       part->floats, part->x, part->rows, part->y);
}

/* Returns how many rows the helper has done. */
static size_t matmul_run(struct halut_backend *backend, struct matmul_part *own) {
  const struct halut_lut *lut = own->packed->lut;
  const size_t blocks = own->rows / HALUT_CODE_BLOCK;
  if (blocks < 2 || (uint64_t)own->rows * lut->codebooks * lut->outputs < SPLIT_LOOKUPS ||
      !halut_helper_is_served(backend->helper)) {
    matmul_part_run(own);
    return 0;
  }
  struct matmul_part later = *own;
  own->rows = (blocks + 1) / 2 * HALUT_CODE_BLOCK;
  later.scratch = &backend->matmul[1];
  later.rows -= own->rows;
  later.x.at += own->rows * later.x.row_step;
  later.y += own->rows * lut->outputs;
  return halut_helper_share(backend->helper, matmul_part_run, own, &later) ? later.rows : 0;
}

static int cpu_matmul(struct halut_backend *backend, uint32_t handle,
                      const struct halut_floats *floats, struct halut_matrix x, size_t rows,
                      float *y, struct halut_stats *stats) {
  assert(handle < backend->layer_count);
  const struct cpu_layer *layer = &backend->layer[handle];
  const struct halut_packed *packed = layer->packed;
  const uint64_t row_lookups = (uint64_t)packed->lut->codebooks * packed->lut->outputs;
  struct matmul_part own = {backend, packed,         layer->entries, &backend->matmul[0],
                            floats,  x,      rows, y};
  const size_t helped = matmul_run(backend, &own);
  if (stats) stats->lookups += rows * row_lookups;
  if (stats) stats->helped_lookups += helped * row_lookups;
  stages_take(&backend->matmul[0].stages, &backend->matmul[1].stages, helped > 0, stats);
  return HALUT_OK;
}

const struct halut_backend_ops halut_backend_cpu = {.name = "cpu",
                                                    .open = cpu_open,
                                                    .close = cpu_close,
                                                    .load = cpu_load,
                                                    .product = cpu_product,
                                                    .conv = cpu_conv,
                                                    .matmul = cpu_matmul,
                                                    .help = cpu_help};
