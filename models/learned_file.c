#include "learned_file.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "graph.h"
#include "safetensors.h"

void halut_learned_apply(const struct halut_learned *p, const float *x, size_t rows, float *y) {
  for (size_t row = 0; row < rows; row++)
    for (size_t m = 0; m < p->outputs; m++) {
      int32_t sum = 0;
      for (size_t c = 0; c < p->codebooks; c++) {
        size_t node = 1;
        for (size_t level = c * HALUT_LEVELS; level < (c + 1) * HALUT_LEVELS; level++) {
          float shifted = x[row * p->columns + p->split[level]] - p->low[level];
          float value = rintf(shifted * p->inverse[level]);
          int whole = value >= 255.0f ? 255 : value > 0.0f ? (int)value : 0;
          node = 2 * node + (whole > p->threshold[c * HALUT_PROTOTYPES + node]);
        }
        sum += p->table[(m * p->codebooks + c) * HALUT_PROTOTYPES + node - HALUT_PROTOTYPES];
      }
      float scaled = (float)sum * p->scale[m];
      y[row * p->outputs + m] = scaled + p->bias[m];
    }
}

double halut_learned_nmse(const struct halut_learned *learned) {
  return learned->variance > 0.0 ? learned->mse / learned->variance : (double)NAN;
}

static struct halut_named_tensor file_tensor(const char *name, const void *data,
                                             enum halut_dtype dtype, uint32_t rank, uint32_t rows,
                                             uint32_t columns, uint32_t depth) {
  void *view = (void *)(uintptr_t)data; /* the writer only reads it */
  return (struct halut_named_tensor){.name = name,
                                     .tensor = {view, dtype, rank, {rows, columns, depth, 1}}};
}

int halut_learned_write(const struct halut_learned *p, const char *path, const char *name,
                        uint32_t version, const char *description, const float *golden,
                        uint32_t golden_rows, struct halut_diag *diag) {
  if (!halut_name_ok(name))
    return halut_fail(diag, HALUT_EINVALID, 0,
                      "name \"%.70s\": 1 to 63 of A-Z a-z 0-9 _ . - are possible, and no dot first",
                      name);
  assert(golden_rows <= HALUT_LEARNED_GOLDEN_MAX);
  float *answer = calloc((size_t)golden_rows * p->outputs + 1, sizeof *answer);
  if (!answer)
    return halut_fail(diag, HALUT_ENOMEM, 0, "out of memory for the golden example");
  halut_learned_apply(p, golden, golden_rows, answer);
  struct halut_named_tensor tensors[] = {
      file_tensor("split", p->split, HALUT_U32, 2, p->codebooks, HALUT_LEVELS, 1),
      file_tensor("low", p->low, HALUT_F32, 2, p->codebooks, HALUT_LEVELS, 1),
      file_tensor("inverse", p->inverse, HALUT_F32, 2, p->codebooks, HALUT_LEVELS, 1),
      file_tensor("threshold", p->threshold, HALUT_U8, 2, p->codebooks, HALUT_PROTOTYPES, 1),
      file_tensor("table", p->table, HALUT_I8, 3, p->outputs, p->codebooks, HALUT_PROTOTYPES),
      file_tensor("scale", p->scale, HALUT_F32, 1, p->outputs, 1, 1),
      file_tensor("bias", p->bias, HALUT_F32, 1, p->outputs, 1, 1),
      file_tensor("golden.input", golden, HALUT_F32, 2, golden_rows, p->columns, 1),
      file_tensor("golden.output", answer, HALUT_F32, 2, golden_rows, p->outputs, 1)};
  size_t count = sizeof tensors / sizeof *tensors - (golden_rows ? 0 : 2);
  char columns[16], number[16], nmse[32];
  snprintf(columns, sizeof columns, "%u", p->columns);
  snprintf(number, sizeof number, "%u", version);
  snprintf(nmse, sizeof nmse, "%.9g", halut_learned_nmse(p));
  struct halut_text_pair metadata[7] = {{"halut.format", "1"},
                                        {"halut.kind", "product"},
                                        {"halut.name", name},
                                        {"halut.version", number},
                                        {"halut.columns", columns}};
  size_t keys = 5;
  /* Of a target that is all but constant it says nothing; a NaN is not less either. */
  if (halut_learned_nmse(p) <= (double)FLT_MAX)
    metadata[keys++] = (struct halut_text_pair){"halut.nmse", nmse};
  if (description)
    metadata[keys++] = (struct halut_text_pair){"halut.description", description};
  int error = halut_safetensors_write(path, tensors, count, metadata, keys, diag);
  free(answer);
  return error;
}
