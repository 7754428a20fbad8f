/* DESIGN: a block of HALUT_CODE_BLOCK rows goes from floats to floats before the next one begins,
 * and within it a few outputs from codes to floats, so that the sums stay in the first-level cache.
 * The floats of the next block are the only thing that comes from far away, and fetching them takes
 * about as long as all the computing: they are prefetched evenly, the first half of them while this
 * block is quantised, the other while it is summed. A result that no cache keeps is written past
 * them: fetching its lines only to overwrite them took a seventh of the time of a tall product.
 *
 * A few rows would leave most of each vector empty and yet read every table. They are done one by
 * one: codes without vectors, then only the entries that they choose. */
#include "matmul_cpu.h"

#include <math.h>
#include <stdlib.h>

enum {
  ROWS_FEW = 2, /* done one by one, or if the outputs are many, ROWS_FEW_WIDE of them */
  ROWS_FEW_WIDE = 8,
  OUTPUTS_WIDE = 512,
  SUM_OUTPUTS = HALUT_QUAD_OUTPUTS, /* summed between two rounds of prefetching */
  PUT_OUTPUTS = 16,                 /* made floats at a time */
  LARGE_BYTES = 1 << 20             /* a result of so many leaves the second-level cache */
};
static_assert(PUT_OUTPUTS % SUM_OUTPUTS == 0, "sums are whole when they are made floats");

int halut_matmul_scratch_fit(struct halut_matmul_scratch *scratch, const struct halut_lut *lut,
                             struct halut_diag *diag) {
  if (lut->codebooks <= scratch->codebooks) return HALUT_OK;
  struct halut_matmul_scratch grown = {.codebooks = lut->codebooks};
  const size_t block = (size_t)lut->codebooks * HALUT_CODE_BLOCK;
  grown.value = halut_alloc(block * HALUT_LEVELS);
  grown.codes = halut_alloc(block + 3 * HALUT_CODE_BLOCK); /* a fourth of a group may be missing */
  grown.acc = halut_alloc(PUT_OUTPUTS * HALUT_CODE_BLOCK * sizeof(int32_t));
  grown.at = calloc(lut->codebooks, sizeof *grown.at);
  grown.read = calloc((size_t)lut->codebooks * HALUT_LEVELS, sizeof *grown.read);
  if (!grown.value || !grown.codes || !grown.acc || !grown.at || !grown.read) {
    halut_matmul_scratch_close(&grown);
    return halut_fail(diag, HALUT_ENOMEM, 0, "no memory for %u codebooks", lut->codebooks);
  }
  for (uint32_t i = 0; i < lut->codebooks * HALUT_LEVELS; i++)
    grown.read[i].at = (ptrdiff_t)i * HALUT_CODE_BLOCK;
  halut_matmul_scratch_close(scratch);
  *scratch = grown;
  return HALUT_OK;
}

void halut_matmul_scratch_close(struct halut_matmul_scratch *scratch) {
  free(scratch->value);
  free(scratch->read);
  free(scratch->codes);
  free(scratch->acc);
  free(scratch->at);
  *scratch = (struct halut_matmul_scratch){0};
}

/* Sums and floats of all outputs of a block, fetching `ahead` meanwhile. */
static void block_sum(const struct halut_packed *packed, const struct halut_kernels *kernels,
                      struct halut_matmul_scratch *scratch, const struct halut_floats *floats,
                      size_t rows, struct halut_ahead ahead, float *y, bool is_large) {
  const uint32_t outputs = packed->lut->outputs;
  const uint32_t wide = (uint32_t)halut_sum_rows(rows);
  const size_t share = ahead.bytes / ((outputs + SUM_OUTPUTS - 1) / SUM_OUTPUTS);
  for (uint32_t m = 0; m < outputs; m += PUT_OUTPUTS) {
    const uint32_t puts = outputs - m < PUT_OUTPUTS ? outputs - m : PUT_OUTPUTS;
    for (uint32_t s = 0; s < puts; s += SUM_OUTPUTS) {
      const uint32_t sums = puts - s < SUM_OUTPUTS ? puts - s : SUM_OUTPUTS;
      struct halut_slice slice;
      halut_ahead_fetch(&ahead, share);
      halut_pack_slice(packed, m + s, sums, &slice);
      kernels->accumulate->sum(&slice.packed, scratch->codes, wide,
                               scratch->acc + s * HALUT_CODE_BLOCK, HALUT_CODE_BLOCK);
    }
    kernels->dequantise(scratch->acc, HALUT_CODE_BLOCK, floats->scale + m, floats->bias + m, puts,
                        rows, y + m, outputs, is_large);
  }
}

/* kernels.h: quantise, of one value. */
static int32_t value_of(float x, float low, float inverse) {
  const float above = x - low;
  float scaled = above * inverse;
  scaled = scaled > 0 ? scaled : 0; /* a NaN too */
  return (int32_t)lrintf(scaled < UINT8_MAX ? scaled : UINT8_MAX);
}

static void row_encode(const struct halut_lut *lut, const struct halut_affine *affine,
                       const float *x, size_t step, uint32_t stride, uint32_t *at) {
  for (uint32_t c = 0; c < lut->codebooks; c++) {
    const uint8_t *threshold = lut->threshold + (size_t)c * HALUT_PROTOTYPES;
    uint32_t node = 1;
    for (uint32_t i = c * HALUT_LEVELS; i < (c + 1) * HALUT_LEVELS; i++)
      node = 2 * node + (value_of(x[affine->split[i] * step], affine->low[i], affine->inverse[i]) >
                         threshold[node]);
    at[c] = (c * HALUT_PROTOTYPES + node - HALUT_PROTOTYPES) * stride;
  }
}

static void rows_run(const struct halut_packed *entries, const struct halut_kernels *kernels,
                     struct halut_matmul_scratch *scratch, const struct halut_floats *floats,
                     struct halut_matrix x, size_t rows, float *y) {
  const struct halut_lut *lut = entries->lut;
  for (size_t row = 0; row < rows; row++) {
    row_encode(lut, floats->affine, x.at + row * x.row_step, x.column_step, entries->row_stride,
               scratch->at);
    kernels->row(entries->entry, scratch->at, lut->codebooks, floats->scale, floats->bias,
                 lut->outputs, y + row * lut->outputs);
  }
}

void halut_matmul_cpu_run(const struct halut_packed *packed, const struct halut_packed *entries,
                          const struct halut_kernels *kernels, struct halut_matmul_scratch *scratch,
                          const struct halut_floats *floats, struct halut_matrix x, size_t rows,
                          float *y) {
  const struct halut_lut *lut = packed->lut;
  const size_t few = lut->outputs >= OUTPUTS_WIDE ? ROWS_FEW_WIDE : ROWS_FEW;
  const bool is_large = rows * lut->outputs * sizeof *y >= LARGE_BYTES;
  for (size_t row = 0; row < rows; row += HALUT_CODE_BLOCK) {
    const size_t left = rows - row, here = left < HALUT_CODE_BLOCK ? left : HALUT_CODE_BLOCK;
    const size_t next = left - here < HALUT_CODE_BLOCK ? left - here : HALUT_CODE_BLOCK;
    const struct halut_matrix from = {x.at + row * x.row_step, x.row_step, x.column_step};
    if (here <= few) {
      rows_run(entries, kernels, scratch, floats, from, here, y + row * lut->outputs);
      break;
    }
    const size_t half = from.column_step == 1 ? next * from.row_step * sizeof *from.at / 2 : 0;
    const struct halut_ahead first = {(const char *)(from.at + here * from.row_step), half};
    const struct halut_ahead second = {first.at + half, half};
    halut_quantise(kernels, floats->affine, from, here, scratch->value, HALUT_CODE_BLOCK, first);
    uint64_t since = halut_clock_ns();
    kernels->encode(scratch->value, NULL, scratch->read, lut->threshold, lut->codebooks,
                    halut_pad_rows(here), scratch->codes,
                    halut_code_stride(kernels->accumulate, halut_sum_rows(here)));
    halut_clock_lap(&scratch->stages.encode_ns, &since);
    if (kernels->accumulate->arrange) kernels->accumulate->arrange(packed, scratch->codes);
    block_sum(packed, kernels, scratch, floats, here, second, y + row * lut->outputs, is_large);
    halut_clock_lap(&scratch->stages.accumulate_ns, &since);
  }
}
