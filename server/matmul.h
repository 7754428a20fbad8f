/* matmul.h: the parts of asking for a product and of answering, for the forms of other servers
 * (dialect_forms.c).
 *
 * Worker threads. Readers return false after a failure, whose reply they have made.
 */
#ifndef HALUT_MATMUL_H
#define HALUT_MATMUL_H

#include "job.h"

/* True, having read it, if the body is an .npy array: then job->is_npy is set, and the job may have
 * failed. */
bool halut_matmul_npy(struct halut_job *job);
/* Rows of numbers, which the body calls `name`, a key of halut_json_open. The model is chosen. */
bool halut_matmul_rows(struct halut_job *job, const struct halut_json *json, const json_t *list,
                       const char *name);
/* The reply is an .npy array. */
void halut_matmul_write_npy(struct halut_job *job);

#endif
