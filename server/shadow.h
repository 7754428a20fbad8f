/* shadow.h: a sample of the answered jobs, computed once more on the other backend.
 *
 * Backends agree bit for bit; this looks whether they do, on live traffic, and costs requests
 * nothing: a job is offered after its answer was made, a thread of the lowest priority computes,
 * and what does not fit its short queue is dropped and counted. Loop thread alone.
 */
#ifndef HALUT_SHADOW_H
#define HALUT_SHADOW_H

#include <uv.h>

#include "job.h"

enum {
  HALUT_SHADOW_QUEUE_MAX = 8,       /* jobs waiting */
  HALUT_SHADOW_ROWS_MAX = 4,        /* of a job; more are left out */
  HALUT_SHADOW_BYTES_MAX = 1 << 20  /* of a job's input; a larger row is not taken */
};

struct halut_shadow;

struct halut_shadow_options {
  uint64_t every; /* one job in so many, 1.. */
  uint32_t seat;  /* of each entry, that no worker uses */
  struct halut_metrics *metrics;
  void (*report)(void *self, const char *text); /* a difference, or a backend that failed */
  void *self;
};

/* HALUT_ENOMEM, HALUT_EIO (no thread). */
int halut_shadow_open(uv_loop_t *loop, const struct halut_shadow_options *options,
                      struct halut_shadow **out, struct halut_diag *diag)
    __attribute__((warn_unused_result));

/* A job that was answered; it is copied from. NULL does nothing. */
void halut_shadow_offer(struct halut_shadow *shadow, const struct halut_job *job);

/* What waits is dropped; what is being computed is waited for by the loop. Frees itself. NULL is
 * fine. */
void halut_shadow_close(struct halut_shadow *shadow);

#endif
