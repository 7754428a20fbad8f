/* DESIGN: who wants help says so and wakes an idle worker, which serves it instead of waiting. Work
 * comes first: an idle worker that finds some leaves the other alone, and one that serves is
 * recalled when a batch finds nobody idle. It leaves between two parts, some tens of microseconds
 * later. */
#include "pool.h"

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "../core/clock.h"

enum help { ALONE, ASKING, HELPED }; /* HELPED: until the other worker is back */

struct worker {
  struct halut_pool *pool;
  uint32_t index;
  pthread_t thread;
  struct halut_helper *helper; /* NULL if the pool does not lend */
  enum help help;
  bool has_asked; /* for this batch: its own thread's */
};

struct halut_pool {
  struct halut_pool_options options;
  uv_async_t wake;
  uv_prepare_t tell;
  pthread_mutex_t mutex; /* guards batcher, idle, asking, quit, help of the workers */
  pthread_cond_t ready;
  struct halut_batcher *batcher;
  uint32_t idle, asking;
  bool quit;
  uint32_t started;                      /* worker threads that run */
  uint32_t pending;                      /* loop thread only, as the next two */
  uint32_t handles;                      /* that are not closed yet */
  bool is_told;                          /* nothing was submitted since the workers were woken */
  _Atomic(struct halut_item *) finished; /* newest first; taken whole by the loop */
  struct worker *workers;
};

/* ---- helping: with the mutex ---- */

static struct worker *worker_in(struct halut_pool *pool, enum help help) {
  for (uint32_t i = 0; i < pool->options.workers; i++)
    if (pool->workers[i].help == help)
      return &pool->workers[i];
  return NULL;
}

/* Serves one worker that asked, if there is one. */
static bool pool_lend(struct halut_pool *pool) {
  struct worker *other = pool->asking > 0 ? worker_in(pool, ASKING) : NULL;
  if (other == NULL)
    return false;
  pool->asking--;
  other->help = HELPED;
  halut_helper_meet(other->helper);
  pthread_mutex_unlock(&pool->mutex);
  halut_helper_serve(other->helper);
  pthread_mutex_lock(&pool->mutex);
  other->help = ALONE;
  return true;
}

static void pool_recall(struct halut_pool *pool) {
  uint32_t wanted = halut_batcher_waiting(pool->batcher);
  for (uint32_t i = 0; i < pool->options.workers && wanted > 0; i++)
    if (pool->workers[i].help == HELPED) {
      halut_helper_dismiss(pool->workers[i].helper);
      wanted--;
    }
}

struct halut_helper *halut_pool_help(struct halut_pool *pool, uint32_t worker) {
  struct worker *self = &pool->workers[worker];
  if (!pool->options.lends)
    return NULL;
  pthread_mutex_lock(&pool->mutex);
  bool asks = self->help == ALONE && pool->idle > pool->asking &&
              halut_batcher_waiting(pool->batcher) == 0;
  if (asks) {
    self->help = ASKING;
    pool->asking++;
    self->has_asked = true;
  }
  pthread_mutex_unlock(&pool->mutex);
  if (asks)
    pthread_cond_signal(&pool->ready);
  return self->has_asked ? self->helper : NULL;
}

/* The batch of `self` is done. */
static void help_end(struct worker *self) {
  if (!self->has_asked)
    return;
  pthread_mutex_lock(&self->pool->mutex);
  if (self->help == ASKING) {
    self->help = ALONE;
    self->pool->asking--;
  } else if (self->help == HELPED) {
    halut_helper_dismiss(self->helper);
  }
  pthread_mutex_unlock(&self->pool->mutex);
  self->has_asked = false;
}

/* ---- working ---- */

static uint32_t pool_wait(struct halut_pool *pool, struct halut_item **items) {
  uint32_t count = 0;
  pthread_mutex_lock(&pool->mutex);
  for (;;) {
    if (halut_batcher_waiting(pool->batcher) > 0) {
      count = halut_batcher_take(pool->batcher, halut_clock_ns(), pool->idle, items);
      break;
    }
    if (pool->quit)
      break;
    if (pool_lend(pool))
      continue;
    pool->idle++;
    pthread_cond_wait(&pool->ready, &pool->mutex);
    pool->idle--;
  }
  /* What this worker left is for the next idle one. */
  bool more = halut_batcher_waiting(pool->batcher) > 0 && pool->idle > 0;
  pthread_mutex_unlock(&pool->mutex);
  if (more)
    pthread_cond_signal(&pool->ready);
  return count;
}

static void pool_give_back(struct halut_pool *pool, struct halut_item **items, uint32_t count) {
  /* Chained newest first, so that the loop, which reverses the list, sees them in order. */
  for (uint32_t i = 1; i < count; i++)
    items[i]->next = items[i - 1];
  struct halut_item *seen = atomic_load_explicit(&pool->finished, memory_order_relaxed);
  do
    items[0]->next = seen;
  while (!atomic_compare_exchange_weak_explicit(&pool->finished, &seen, items[count - 1],
                                                memory_order_release, memory_order_relaxed));
  uv_async_send(&pool->wake);
}

static void *worker_main(void *self) {
  struct worker *worker = self;
  struct halut_pool *pool = worker->pool;
  struct halut_item *items[HALUT_TAKE_MAX];
  char name[16];
  snprintf(name, sizeof name, "worker-%u", worker->index);
  pthread_setname_np(pthread_self(), name);
  for (;;) {
    uint32_t count = pool_wait(pool, items);
    if (count == 0)
      return NULL;
    pool->options.run(pool->options.self, worker->index, items, count);
    help_end(worker);
    pool_give_back(pool, items, count);
  }
}

static void pool_on_wake(uv_async_t *handle) {
  struct halut_pool *pool = handle->data;
  struct halut_item *item = atomic_exchange_explicit(&pool->finished, NULL, memory_order_acquire);
  struct halut_item *first = NULL;
  if (item == NULL)
    return;
  while (item != NULL) {
    struct halut_item *next = item->next;
    item->next = first;
    first = item;
    item = next;
  }
  while (first != NULL) {
    item = first;
    first = item->next;
    assert(pool->pending > 0);
    pool->pending--;
    item->done(item);
  }
  pool->options.settled(pool->options.self);
}

static void pool_stop(struct halut_pool *pool) {
  pthread_mutex_lock(&pool->mutex);
  pool->quit = true;
  pthread_mutex_unlock(&pool->mutex);
  pthread_cond_broadcast(&pool->ready);
  for (uint32_t i = 0; i < pool->started; i++)
    pthread_join(pool->workers[i].thread, NULL);
  pool->started = 0;
}

/* Before the loop waits: all that came in one round of it wakes a worker once, and is one batch. */
static void pool_on_tell(uv_prepare_t *handle) {
  struct halut_pool *pool = handle->data;
  if (pool->is_told)
    return;
  pool->is_told = true;
  pthread_mutex_lock(&pool->mutex);
  bool wake = pool->idle > 0;
  if (!wake)
    pool_recall(pool);
  pthread_mutex_unlock(&pool->mutex);
  if (wake)
    pthread_cond_signal(&pool->ready);
}

static void pool_free(uv_handle_t *handle) {
  struct halut_pool *pool = handle->data;
  if (--pool->handles > 0)
    return;
  halut_batcher_close(pool->batcher);
  pthread_cond_destroy(&pool->ready);
  pthread_mutex_destroy(&pool->mutex);
  for (uint32_t i = 0; pool->workers != NULL && i < pool->options.workers; i++)
    halut_helper_close(pool->workers[i].helper);
  free(pool->workers);
  free(pool);
}

int halut_pool_open(uv_loop_t *loop, const struct halut_pool_options *options,
                    struct halut_pool **out, struct halut_diag *diag) {
  struct halut_pool *pool = calloc(1, sizeof *pool);
  if (pool == NULL)
    return halut_fail(diag, HALUT_ENOMEM, 0, "no memory for the worker pool");
  pool->options = *options;
  int error = halut_batcher_open(&options->limits, &pool->batcher);
  if (error != 0 || options->workers == 0) {
    free(pool);
    return halut_fail(diag, error != 0 ? error : HALUT_EINVALID, 0, "unusable limits of the queue");
  }
  pthread_mutex_init(&pool->mutex, NULL);
  pthread_cond_init(&pool->ready, NULL);
  pool->wake.data = pool->tell.data = pool;
  pool->is_told = true;
  pool->handles = 1;
  if (uv_async_init(loop, &pool->wake, pool_on_wake) != 0) {
    pool_free((uv_handle_t *)&pool->wake);
    return halut_fail(diag, HALUT_EIO, 0, "no wake-up handle for the worker pool");
  }
  pool->handles = 2;
  uv_prepare_init(loop, &pool->tell); /* never fails, nor does starting it */
  uv_prepare_start(&pool->tell, pool_on_tell);
  uv_unref((uv_handle_t *)&pool->tell);
  pool->workers = calloc(options->workers, sizeof *pool->workers);
  if (pool->workers == NULL) {
    error = halut_fail(diag, HALUT_ENOMEM, 0, "no memory for %u workers", options->workers);
    goto fail;
  }
  for (uint32_t i = 0; i < options->workers; i++) {
    pool->workers[i] = (struct worker){.pool = pool, .index = i};
    error = options->lends ? halut_helper_open(&pool->workers[i].helper, diag) : 0;
    if (error != 0)
      goto fail;
  }
  for (uint32_t i = 0; i < options->workers; i++) {
    if (pthread_create(&pool->workers[i].thread, NULL, worker_main, &pool->workers[i]) != 0) {
      error = halut_fail(diag, HALUT_EIO, 0, "worker thread %u cannot be started", i);
      goto fail;
    }
    pool->started++;
  }
  *out = pool;
  return 0;
fail:
  halut_pool_close(pool);
  return error;
}

int halut_pool_submit(struct halut_pool *pool, struct halut_item *item, uint64_t now_ns) {
  pthread_mutex_lock(&pool->mutex);
  int error = halut_batcher_submit(pool->batcher, item, now_ns);
  pthread_mutex_unlock(&pool->mutex);
  if (error != 0)
    return error;
  pool->pending++;
  pool->is_told = false;
  return 0;
}

uint32_t halut_pool_waiting(struct halut_pool *pool, uint32_t lane) {
  pthread_mutex_lock(&pool->mutex);
  uint32_t waiting = halut_batcher_lane_waiting(pool->batcher, lane);
  pthread_mutex_unlock(&pool->mutex);
  return waiting;
}

uint32_t halut_pool_pending(const struct halut_pool *pool) {
  return pool->pending;
}

void halut_pool_close(struct halut_pool *pool) {
  if (pool == NULL)
    return;
  assert(pool->pending == 0);
  pool_stop(pool);
  uv_close((uv_handle_t *)&pool->wake, pool_free);
  uv_close((uv_handle_t *)&pool->tell, pool_free);
}
