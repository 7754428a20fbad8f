/* DESIGN: a product is done a block of HALUT_CODE_BLOCK rows at a time: encode every codebook, then
 * sum for every output while the codes are in the first-level cache.
 *
 * With threads=2 a helper takes half: of a batch half the images or rows, of one image half the
 * outputs. Then both encode, which is about a tenth of the work; nothing is exchanged between them
 * but the finished maps, and every number is computed as by one. */
#include "backend.h"

#include <stdlib.h>
#include <string.h>

#include "conv_cpu.h"
#include "helper.h"
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
  struct halut_conv_cpu conv; /* empty for a plain product */
};

struct halut_backend {
  struct halut_kernels kernels;
  struct cpu_layer *layer;
  uint32_t layer_count;
  uint8_t *codes; /* one block of the layer with the most codebooks */
  uint32_t codebooks_max;
  uint32_t threads;
  struct halut_helper *helper; /* NULL for one thread */
  struct halut_conv_scratch scratch[THREADS_MAX];
  struct halut_matmul_scratch matmul[THREADS_MAX];
};

static int cpu_options(const char *options, uint32_t *flags_out, uint32_t *threads_out,
                       struct halut_diag *diag) {
  uint32_t flags = halut_cpu_flags();
  while (options && *options) {
    size_t bytes = strcspn(options, ",");
    char name[32];
    if (strncmp(options, "threads=", 8) == 0) {
      if (bytes != 9 || options[8] < '1' || options[8] > '0' + THREADS_MAX)
        return halut_fail(diag, HALUT_EINVALID, 0, "cpu backend: \"%.*s\": 1 or 2 threads",
                          (int)(bytes > 64 ? 64 : bytes), options);
      *threads_out = (uint32_t)(options[8] - '0');
      options += bytes + (options[bytes] == ',');
      continue;
    }
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
  uint32_t flags = 0, threads = 1;
  int error = cpu_options(options, &flags, &threads, diag);
  if (error) return error;
  struct halut_backend *backend = calloc(1, sizeof *backend);
  if (!backend) return halut_fail(diag, HALUT_ENOMEM, 0, "no memory for the cpu backend");
  halut_kernels_init(&backend->kernels, flags);
  backend->threads = threads;
  if (threads > 1) error = halut_helper_open(&backend->helper, diag);
  if (error) {
    free(backend);
    return error;
  }
  *out = backend;
  return HALUT_OK;
}

static void cpu_close(struct halut_backend *backend) {
  if (!backend) return;
  for (uint32_t i = 0; i < backend->layer_count; i++) {
    halut_pack_put(backend->layer[i].packed);
    halut_conv_cpu_close(&backend->layer[i].conv);
  }
  halut_helper_close(backend->helper);
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
  for (uint32_t t = 0; t < backend->threads && !error; t++) {
    if (conv)
      error = halut_conv_scratch_fit(&backend->scratch[t], lut, conv, diag);
    else
      error = halut_matmul_scratch_fit(&backend->matmul[t], lut, diag);
  }
  if (!error && conv) error = halut_conv_cpu_open(conv, lut->codebooks, &layer->conv, diag);
  const enum halut_layout layout = backend->kernels.accumulate->layout;
  if (!error) error = halut_pack_get(lut, layout, &layer->packed, diag);
  if (error) {
    halut_conv_cpu_close(&layer->conv);
    return error;
  }
  *handle_out = backend->layer_count++;
  return HALUT_OK;
}

static int cpu_product(struct halut_backend *backend, uint32_t handle, const uint8_t *value,
                       size_t rows, int32_t *acc, struct halut_stats *stats) {
  assert(handle < backend->layer_count);
  const struct halut_packed *packed = backend->layer[handle].packed;
  const struct halut_lut *lut = packed->lut;
  const struct halut_accumulate *accumulate = backend->kernels.accumulate;
  size_t padded = halut_pad_rows(rows);
  for (size_t row = 0; row < padded; row += HALUT_CODE_BLOCK) {
    size_t wide = padded - row < HALUT_CODE_BLOCK ? padded - row : HALUT_CODE_BLOCK;
    for (uint32_t c = 0; c < lut->codebooks; c++) {
      const uint8_t *source[HALUT_LEVELS];
      for (int level = 0; level < HALUT_LEVELS; level++) {
        source[level] = value + ((size_t)c * HALUT_LEVELS + (size_t)level) * padded + row;
      }
      backend->kernels.encode(source, NULL, lut->threshold + (size_t)c * HALUT_PROTOTYPES, wide,
                              backend->codes + (size_t)c * HALUT_CODE_BLOCK, 0);
    }
    if (accumulate->arrange) accumulate->arrange(packed, backend->codes);
    accumulate->sum(packed, backend->codes, (uint32_t)wide, acc + row, padded);
  }
  if (stats) stats->lookups += (uint64_t)rows * lut->codebooks * lut->outputs;
  return HALUT_OK;
}

/* What one thread does of a convolution: `count` images, outputs first .. first + outputs - 1. */
struct conv_part {
  struct halut_backend *backend;
  const struct cpu_layer *layer;
  struct halut_conv_scratch *scratch;
  const uint8_t *in;
  uint32_t count;
  struct halut_epilogue epilogue;
  uint32_t first, outputs;
  uint8_t *out;
};

static void conv_part_run(void *self) {
  const struct conv_part *part = self;
  struct halut_slice slice;
  halut_pack_slice(part->layer->packed, part->first, part->outputs, &slice);
  halut_conv_cpu_run(&part->layer->conv, &slice.packed, &part->backend->kernels, part->scratch,
                     part->in, part->count, &part->epilogue, part->out);
}

/* Moves the later outputs of one image, or the later images, from one part to another. */
static struct conv_part conv_part_split(struct conv_part *part,
                                        struct halut_conv_scratch *scratch) {
  const struct halut_conv *conv = part->layer->conv.conv;
  const uint32_t pool = part->epilogue.pool;
  const size_t plane = (size_t)(conv->out_h / pool) * (conv->out_w / pool);
  struct conv_part later = *part;
  size_t skipped;
  later.scratch = scratch;
  if (part->count > 1) {
    part->count /= 2;
    later.count -= part->count;
    later.in += (size_t)part->count * conv->channels * conv->height * conv->width;
    skipped = part->count * part->outputs * plane;
  } else {
    part->outputs = part->outputs / 2 / SPLIT_OUTPUTS * SPLIT_OUTPUTS;
    later.first += part->outputs;
    later.outputs -= part->outputs;
    later.epilogue.requant.bias += part->outputs;
    later.epilogue.requant.scale += part->outputs;
    skipped = part->outputs * plane;
  }
  later.out += skipped;
  if (later.epilogue.other) later.epilogue.other += skipped;
  return later;
}

static void conv_run(struct conv_part *whole) {
  struct halut_backend *backend = whole->backend;
  const uint64_t lookups = (uint64_t)whole->layer->conv.positions * whole->count *
                           whole->layer->packed->lut->codebooks * whole->outputs;
  if (!backend->helper || lookups < SPLIT_LOOKUPS ||
      (whole->count == 1 && whole->outputs < 2 * SPLIT_OUTPUTS)) {
    conv_part_run(whole);
    return;
  }
  struct conv_part later = conv_part_split(whole, &backend->scratch[1]);
  halut_helper_start(backend->helper, conv_part_run, &later);
  conv_part_run(whole);
  halut_helper_wait(backend->helper);
}

static int cpu_conv(struct halut_backend *backend, uint32_t handle, const uint8_t *in,
                    uint32_t count, const struct halut_epilogue *epilogue, uint8_t *out,
                    struct halut_stats *stats) {
  assert(handle < backend->layer_count);
  const struct cpu_layer *layer = &backend->layer[handle];
  const struct halut_lut *lut = layer->packed->lut;
  assert(layer->conv.conv);
  struct conv_part whole = {backend, layer, &backend->scratch[0], in, count, *epilogue, 0,
                            lut->outputs, out};
  conv_run(&whole);
  if (stats)
    stats->lookups += (uint64_t)layer->conv.positions * count * lut->codebooks * lut->outputs;
  return HALUT_OK;
}

/* What one thread does of a product of floats. */
struct matmul_part {
  struct halut_backend *backend;
  const struct halut_packed *packed;
  struct halut_matmul_scratch *scratch;
  const struct halut_floats *floats;
  const float *x;
  size_t rows;
  float *y;
};

static void matmul_part_run(void *self) {
  const struct matmul_part *part = self;
  halut_matmul_cpu_run(part->packed, &part->backend->kernels, part->scratch, part->floats, part->x,
                       part->rows, part->y);
}

static void matmul_run(struct matmul_part *whole) {
  const struct halut_lut *lut = whole->packed->lut;
  const size_t blocks = whole->rows / HALUT_CODE_BLOCK;
  if (!whole->backend->helper || blocks < 2 ||
      (uint64_t)whole->rows * lut->codebooks * lut->outputs < SPLIT_LOOKUPS) {
    matmul_part_run(whole);
    return;
  }
  struct matmul_part later = *whole;
  whole->rows = (blocks + 1) / 2 * HALUT_CODE_BLOCK;
  later.scratch = &whole->backend->matmul[1];
  later.rows -= whole->rows;
  later.x += whole->rows * whole->floats->affine->columns;
  later.y += whole->rows * lut->outputs;
  halut_helper_start(whole->backend->helper, matmul_part_run, &later);
  matmul_part_run(whole);
  halut_helper_wait(whole->backend->helper);
}

static int cpu_matmul(struct halut_backend *backend, uint32_t handle,
                      const struct halut_floats *floats, const float *x, size_t rows, float *y,
                      struct halut_stats *stats) {
  assert(handle < backend->layer_count);
  const struct halut_packed *packed = backend->layer[handle].packed;
  struct matmul_part whole = {backend, packed, &backend->matmul[0], floats, x, rows, y};
  matmul_run(&whole);
  if (stats) stats->lookups += (uint64_t)rows * packed->lut->codebooks * packed->lut->outputs;
  return HALUT_OK;
}

const struct halut_backend_ops halut_backend_cpu = {.name = "cpu",
                                                    .open = cpu_open,
                                                    .close = cpu_close,
                                                    .load = cpu_load,
                                                    .product = cpu_product,
                                                    .conv = cpu_conv,
                                                    .matmul = cpu_matmul};
