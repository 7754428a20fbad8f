/* ops.h: everything a model computes that is neither a learned product nor a dense layer: plain
 * loops.
 *
 * All are pure: no allocation, no failure, any thread. FORMAT.md has their arithmetic. Maps are u8
 * [count][channels][height][width]. Outputs may not overlap inputs.
 */
#ifndef HALUT_OPS_H
#define HALUT_OPS_H

#include "model.h"

/* Gathers what the trees read at output positions first_row .. first_row + rows of all images,
 * counted image by image, line by line: value[codebook][level][padded], padded =
 * halut_pad_rows(rows). Padded rows are zeroed. */
void halut_ops_gather(const struct halut_conv *conv, uint32_t codebooks, const uint8_t *in,
                      size_t first_row, size_t rows, uint8_t *value);

/* acc[outputs][padded] of these rows to their places in out [count][outputs][positions]. */
void halut_ops_requantise(const struct halut_requant *requant, uint32_t outputs, const int32_t *acc,
                          size_t first_row, size_t rows, size_t positions, uint8_t *out);

/* `window` has channels, height, width, kernel, stride and output size. */
void halut_ops_maxpool(const struct halut_conv *window, const uint8_t *in, uint32_t count,
                       uint8_t *out);
void halut_ops_avgpool(const struct halut_conv *window, const uint8_t *in, uint32_t count,
                       uint8_t *out);

#endif
