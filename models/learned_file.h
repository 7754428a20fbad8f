/* learned_file.h: a learned product as a model file, with a golden example. May be called from any
 * thread. */
#ifndef HALUT_LEARNED_FILE_H
#define HALUT_LEARNED_FILE_H

#include "learn.h"

enum { HALUT_LEARNED_GOLDEN_MAX = 16 };

/* Computes rows of the product as FORMAT.md states it, by plain loops that share nothing with the
 * kernels. x: [rows][columns], y: [rows][outputs]. */
void halut_learned_apply(const struct halut_learned *learned, const float *x, size_t rows,
                         float *y);

/* Writes `path` as FORMAT.md says, whole or not at all, as `version` (1 and up) of the model
 * `name`. `golden`: up to HALUT_LEARNED_GOLDEN_MAX rows of input whose outputs are computed and
 * stored beside them. `description` may be NULL. Errors: HALUT_EINVALID (the name), HALUT_EIO,
 * HALUT_ELIMIT, HALUT_ENOMEM. */
int halut_learned_write(const struct halut_learned *learned, const char *path, const char *name,
                        uint32_t version, const char *description, const float *golden,
                        uint32_t golden_rows, struct halut_diag *diag)
    __attribute__((warn_unused_result));

/* Mean squared error over variance: 0 is exact, 1 is no better than each output's mean. NaN if all
 * is constant. */
double halut_learned_nmse(const struct halut_learned *learned);

#endif
