/* DESIGN: the calling thread works too and is the only one that calls the progress function, so a
 * caller needs no lock. Items are handed out by one counter. If a thread cannot be made the others
 * do its share. */
#include <pthread.h>
#include <stdatomic.h>

#include "learn_parts.h"

struct halut_learn_pool_job {
  const struct halut_learn_pool *pool;
  const char *phase;
  size_t items;
  halut_learn_pool_fn *run;
  void *self;
  atomic_size_t next, done;
  atomic_int error;
};

struct pool_seat {
  struct halut_learn_pool_job *job;
  uint32_t worker;
  pthread_t thread;
};

static void pool_report(struct halut_learn_pool_job *job) {
  if (!job->pool->progress)
    return;
  if (job->pool->progress(job->pool->self, job->phase, atomic_load(&job->done), job->items)) {
    int none = 0;
    atomic_compare_exchange_strong(&job->error, &none, HALUT_ECANCELED);
  }
}

static void *pool_work(void *arg) {
  struct pool_seat *seat = arg;
  struct halut_learn_pool_job *job = seat->job;
  while (!atomic_load(&job->error)) {
    size_t item = atomic_fetch_add(&job->next, 1);
    if (item >= job->items)
      break;
    int error = job->run(job->self, seat->worker, item);
    int none = 0;
    if (error)
      atomic_compare_exchange_strong(&job->error, &none, error);
    atomic_fetch_add(&job->done, 1);
    if (seat->worker == 0)
      pool_report(job);
  }
  return NULL;
}

int halut_learn_pool_poll(const struct halut_learn_pool *pool, uint32_t worker) {
  if (worker == 0)
    pool_report(pool->job);
  return atomic_load(&pool->job->error);
}

int halut_learn_pool_run(struct halut_learn_pool *pool, const char *phase, size_t items,
                         halut_learn_pool_fn *run, void *self) {
  struct halut_learn_pool_job job = {
      .pool = pool, .phase = phase, .items = items, .run = run, .self = self};
  struct pool_seat seat[HALUT_LEARN_THREADS_MAX];
  pool->job = &job;
  assert(pool->threads >= 1);
  assert(pool->threads <= HALUT_LEARN_THREADS_MAX);
  uint32_t started = 1;
  while (started < pool->threads && started < items) {
    seat[started] = (struct pool_seat){.job = &job, .worker = started};
    if (pthread_create(&seat[started].thread, NULL, pool_work, &seat[started]))
      break;
    started++;
  }
  seat[0] = (struct pool_seat){.job = &job};
  pool_report(&job);
  pool_work(&seat[0]);
  for (uint32_t i = 1; i < started; i++)
    pthread_join(seat[i].thread, NULL);
  if (!atomic_load(&job.error))
    pool_report(&job);
  pool->job = NULL;
  return atomic_load(&job.error);
}
