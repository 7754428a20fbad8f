/* batcher.h: which waiting items run next. Pure policy: no clock, no thread, no I/O.
 *
 * Items wait in lanes, first come first served within one, and lanes take turns, so that a flood of
 * one kind of work cannot starve another. Batching is natural: a free worker takes what is waiting,
 * up to batch_max, and leaves a fair share for other workers that are idle. Nothing ever waits for
 * company.
 *
 * The caller locks. Items are borrowed while they wait; the caller owns them again once taken.
 */
#ifndef HALUT_BATCHER_H
#define HALUT_BATCHER_H

#include <stdint.h>

enum { HALUT_LANES_MAX = 8, HALUT_TAKE_MAX = 256 };

struct halut_item {
  struct halut_item *next; /* in at most one list at a time */
  uint32_t lane;           /* 0..lanes - 1 */
  int status; /* set by take: HALUT_OK, or HALUT_ETIMEOUT if it waited past its deadline */
  uint64_t arrived_ns, deadline_ns;
  void (*done)(
      struct halut_item *item); /* used by the pool: loop thread, once per accepted submit */
};

struct halut_batch_limits {
  uint32_t lanes;     /* 1..HALUT_LANES_MAX */
  uint32_t batch_max; /* 1..HALUT_TAKE_MAX */
  uint32_t queue_max; /* items waiting in one lane, 1.. */
};

struct halut_batcher;

/* HALUT_EINVALID, HALUT_ENOMEM. */
int halut_batcher_open(const struct halut_batch_limits *limits, struct halut_batcher **out)
    __attribute__((warn_unused_result));

/* HALUT_EBUSY: the lane is full; HALUT_ETIMEOUT: already late. Non-zero means not accepted. */
int halut_batcher_submit(struct halut_batcher *batcher, struct halut_item *item, uint64_t now_ns)
    __attribute__((warn_unused_result));

/* Moves the next batch to items[] and returns its size, 0 if nothing waits. All are of one lane.
 * `idle` is the number of other workers that could take a share right now. Late items come along
 * with their status set; they do not count against batch_max but do against HALUT_TAKE_MAX, the
 * length of items[]. */
uint32_t halut_batcher_take(struct halut_batcher *batcher, uint64_t now_ns, uint32_t idle,
                            struct halut_item *items[HALUT_TAKE_MAX]);

uint32_t halut_batcher_waiting(const struct halut_batcher *batcher);
uint32_t halut_batcher_lane_waiting(const struct halut_batcher *batcher, uint32_t lane);

void halut_batcher_close(
    struct halut_batcher *batcher); /* asserts that it is empty; NULL is fine */

#endif
