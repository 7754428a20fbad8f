#include "batcher.h"

#include <assert.h>
#include <stdlib.h>

#include "../core/halut.h"

struct lane {
  struct halut_item *head, *tail;
  uint32_t waiting;
};

struct halut_batcher {
  struct halut_batch_limits limits;
  uint32_t turn; /* the lane that is looked at first */
  uint32_t waiting;
  struct lane lanes[HALUT_LANES_MAX];
};

int halut_batcher_open(const struct halut_batch_limits *limits, struct halut_batcher **out) {
  if (limits->lanes < 1 || limits->lanes > HALUT_LANES_MAX)
    return HALUT_EINVALID;
  if (limits->batch_max < 1 || limits->batch_max > HALUT_TAKE_MAX)
    return HALUT_EINVALID;
  if (limits->queue_max < 1)
    return HALUT_EINVALID;
  struct halut_batcher *batcher = calloc(1, sizeof *batcher);
  if (batcher == NULL)
    return HALUT_ENOMEM;
  batcher->limits = *limits;
  *out = batcher;
  return 0;
}

int halut_batcher_submit(struct halut_batcher *batcher, struct halut_item *item, uint64_t now_ns) {
  assert(item->lane < batcher->limits.lanes);
  struct lane *lane = &batcher->lanes[item->lane];
  if (item->deadline_ns <= now_ns)
    return HALUT_ETIMEOUT;
  if (lane->waiting >= batcher->limits.queue_max)
    return HALUT_EBUSY;
  item->next = NULL;
  item->status = HALUT_OK;
  if (lane->head == NULL)
    lane->head = item;
  else
    lane->tail->next = item;
  lane->tail = item;
  lane->waiting++;
  batcher->waiting++;
  return 0;
}

static struct halut_item *lane_pop(struct halut_batcher *batcher, struct lane *lane) {
  struct halut_item *item = lane->head;
  lane->head = item->next;
  if (lane->head == NULL)
    lane->tail = NULL;
  item->next = NULL;
  lane->waiting--;
  batcher->waiting--;
  return item;
}

static struct lane *next_lane(struct halut_batcher *batcher) {
  for (uint32_t i = 0; i < batcher->limits.lanes; i++) {
    uint32_t index = (batcher->turn + i) % batcher->limits.lanes;
    if (batcher->lanes[index].waiting == 0)
      continue;
    batcher->turn = (index + 1) % batcher->limits.lanes;
    return &batcher->lanes[index];
  }
  return NULL;
}

uint32_t halut_batcher_take(struct halut_batcher *batcher, uint64_t now_ns, uint32_t idle,
                            struct halut_item *items[HALUT_TAKE_MAX]) {
  struct lane *lane = next_lane(batcher);
  if (lane == NULL)
    return 0;
  /* A share for this worker and each idle one, rounded up so that the last item is never left
   * behind. */
  uint64_t share = ((uint64_t)lane->waiting + idle) / ((uint64_t)idle + 1);
  uint32_t wanted = batcher->limits.batch_max;
  if (share < wanted)
    wanted = (uint32_t)share;
  uint32_t count = 0, fresh = 0;
  while (fresh < wanted && count < HALUT_TAKE_MAX && lane->head != NULL) {
    struct halut_item *item = lane_pop(batcher, lane);
    item->status = item->deadline_ns <= now_ns ? HALUT_ETIMEOUT : HALUT_OK;
    if (item->status == HALUT_OK)
      fresh++;
    items[count++] = item;
  }
  return count;
}

uint32_t halut_batcher_waiting(const struct halut_batcher *batcher) {
  return batcher->waiting;
}

uint32_t halut_batcher_lane_waiting(const struct halut_batcher *batcher, uint32_t lane) {
  assert(lane < batcher->limits.lanes);
  return batcher->lanes[lane].waiting;
}

void halut_batcher_close(struct halut_batcher *batcher) {
  if (batcher == NULL)
    return;
  assert(batcher->waiting == 0);
  free(batcher);
}
