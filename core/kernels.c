#include "kernels.h"

void halut_kernels_init(struct halut_kernels *kernels, uint32_t cpu_flags) {
  *kernels = (struct halut_kernels){0};
  /* An entry is taken if nothing faster was and every flag it needs is there. */
#define HALUT_KERNEL(kind, name, flags)                                                            \
  if (!kernels->kind && ((uint32_t)(flags) & ~cpu_flags) == 0)                                     \
    kernels->kind = HALUT_KERNEL_##kind(name);
#define HALUT_KERNEL_encode(name) halut_encode_##name
#define HALUT_KERNEL_accumulate(name) &halut_accumulate_##name
#define HALUT_KERNEL_pool2(name) halut_pool2_##name
#define HALUT_KERNEL_add(name) halut_add_##name
#define HALUT_KERNEL_dense(name) halut_dense_##name
#define HALUT_KERNEL_linear(name) halut_linear_##name
#define HALUT_KERNEL_quantise(name) halut_quantise_##name
#define HALUT_KERNEL_quantise_columns(name) halut_quantise_columns_##name
#define HALUT_KERNEL_dequantise(name) halut_dequantise_##name
#define HALUT_KERNEL_row(name) halut_row_##name
#include "kernels.inc"
#undef HALUT_KERNEL
  assert(kernels->encode);
  assert(kernels->accumulate);
  assert(kernels->pool2);
  assert(kernels->add);
  assert(kernels->dense);
  assert(kernels->linear);
  assert(kernels->quantise);
  assert(kernels->quantise_columns);
  assert(kernels->dequantise);
  assert(kernels->row);
}
