/* dense.h: the layers that are multiplied, not looked up: int8 convolution and linear classifier.
 *
 * A halut_dense holds one layer and its scratch: one thread at a time. Results are the same on
 * every CPU.
 */
#ifndef HALUT_DENSE_H
#define HALUT_DENSE_H

#include "backend.h"
#include "halut.h"
#include "helper.h"

enum { HALUT_DENSE_PADDED_MAX = 1 << 28 }; /* values of an image with its padding */

struct halut_dense;

/* Prepares a convolution with `weight` int8 [outputs][channels][kernel_h][kernel_w]. conv->split is
 * not read. `zero` [channels] is what a padded value of each channel is, NULL for 0. Everything
 * pointed at must outlive it. `cpu_flags` limit the kernels: halut_cpu_flags(), or that masked by
 * halut_cpu_ceiling(). channels * kernel_h * kernel_w may be at most 65,536, so that sums fit an
 * int32. HALUT_ESHAPE if a size is wrong, HALUT_ELIMIT if it is too large, HALUT_ENOMEM. */
int halut_dense_open(const struct halut_conv *conv, uint32_t outputs, const int8_t *weight,
                     const struct halut_requant *requant, const uint8_t *zero, uint32_t cpu_flags,
                     struct halut_dense **out, struct halut_diag *diag)
    __attribute__((warn_unused_result));

/* in: u8 [count][channels][height][width]; out: u8 [count][outputs][out_h][out_w], the requantised
 * exact sums. They may not overlap. Who serves `helper` (NULL: nobody) takes half. Allocates
 * nothing. */
void halut_dense_conv(struct halut_dense *dense, struct halut_helper *helper, const uint8_t *in,
                      uint32_t count, uint8_t *out);

void halut_dense_close(struct halut_dense *dense); /* NULL is fine */

/* Linear layer: y[count][outputs] = bias[outputs] + weight int8 [outputs][inputs] . x u8
 * [count][inputs], exact as long as it fits an int32. Stateless. */
void halut_dense_linear(const int8_t *weight, const int32_t *bias, uint32_t outputs,
                        uint32_t inputs, uint32_t cpu_flags, const uint8_t *x, uint32_t count,
                        int32_t *y);

#endif
