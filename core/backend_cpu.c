/* DESIGN: a product is done a block of HALUT_CODE_BLOCK rows at a time: encode every codebook, then
 * sum for every output while the codes are in the first-level cache. */
#include "backend.h"

#include <stdlib.h>
#include <string.h>

#include "conv_cpu.h"
#include "kernels.h"
#include "matmul_cpu.h"
#include "pack.h"

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
  struct halut_conv_scratch scratch;
  struct halut_matmul_scratch matmul;
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
    halut_conv_cpu_close(&backend->layer[i].conv);
  }
  halut_conv_scratch_close(&backend->scratch);
  halut_matmul_scratch_close(&backend->matmul);
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
  if (conv) {
    error = halut_conv_scratch_fit(&backend->scratch, lut, conv, diag);
    if (!error) error = halut_conv_cpu_open(conv, &layer->conv, diag);
  }
  if (!error && !conv) error = halut_matmul_scratch_fit(&backend->matmul, lut, diag);
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

static int cpu_conv(struct halut_backend *backend, uint32_t handle, const uint8_t *in,
                    uint32_t count, const struct halut_epilogue *epilogue, uint8_t *out,
                    struct halut_stats *stats) {
  assert(handle < backend->layer_count);
  const struct cpu_layer *layer = &backend->layer[handle];
  const struct halut_lut *lut = layer->packed->lut;
  assert(layer->conv.conv);
  halut_conv_cpu_run(&layer->conv, layer->packed, &backend->kernels, &backend->scratch, in, count,
                     epilogue, out);
  if (stats)
    stats->lookups += (uint64_t)layer->conv.positions * count * lut->codebooks * lut->outputs;
  return HALUT_OK;
}

static int cpu_matmul(struct halut_backend *backend, uint32_t handle,
                      const struct halut_floats *floats, const float *x, size_t rows, float *y,
                      struct halut_stats *stats) {
  assert(handle < backend->layer_count);
  const struct halut_packed *packed = backend->layer[handle].packed;
  halut_matmul_cpu_run(packed, &backend->kernels, &backend->matmul, floats, x, rows, y);
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
