/* pool.h: worker threads between the loop and the work.
 *
 * submit() is called on the loop thread and never blocks on work: the item waits in a batcher. A
 * worker takes a batch, runs it, and gives all of it back at once; done() of each item is called on
 * the loop thread, then settled() once. Workers never touch anything of the loop but the pool's
 * wake-up.
 *
 * While nothing waits, a worker may ask an idle one to serve its helper (core/helper.h), until its
 * batch is done or work comes that no other idle worker would take.
 *
 * Lock rule: the pool's one mutex guards the batcher, the idle count and who helps whom, nothing
 * else, and is never held while work runs or callbacks are called. Finished items travel on a
 * lock-free list.
 */
#ifndef HALUT_POOL_H
#define HALUT_POOL_H

#include <uv.h>

#include "../core/helper.h"
#include "batcher.h"

struct halut_pool_options {
  uint32_t workers; /* 1.. */
  bool lends;       /* idle workers help */
  struct halut_batch_limits limits;
  /* Worker thread. Items that were late have status HALUT_ETIMEOUT and only need an answer. */
  void (*run)(void *self, uint32_t worker, struct halut_item **items, uint32_t count);
  /* Loop thread, after the done() calls of one wake-up. */
  void (*settled)(void *self);
  void *self;
};

struct halut_pool;

/* HALUT_EINVALID, HALUT_ENOMEM, HALUT_EIO (no thread). */
int halut_pool_open(uv_loop_t *loop, const struct halut_pool_options *options,
                    struct halut_pool **out, struct halut_diag *diag)
    __attribute__((warn_unused_result));

/* Loop thread. HALUT_EBUSY or HALUT_ETIMEOUT: not accepted, done() will never be called. */
int halut_pool_submit(struct halut_pool *pool, struct halut_item *item, uint64_t now_ns)
    __attribute__((warn_unused_result));

/* Worker thread, within run(): the worker's helper, which an idle worker is on its way to or serves
 * already, until run() returns; NULL if all are busy, work waits or the pool does not lend. */
struct halut_helper *halut_pool_help(struct halut_pool *pool, uint32_t worker);

uint32_t halut_pool_waiting(struct halut_pool *pool, uint32_t lane); /* loop thread */
uint32_t
halut_pool_pending(const struct halut_pool *pool); /* loop thread: accepted, not yet done */

/* Loop thread, once pending is 0: joins the workers and closes the wake-up handle; the pool is
 * freed when the loop has run its close callback, so run the loop once more. NULL is fine. */
void halut_pool_close(struct halut_pool *pool);

#endif
