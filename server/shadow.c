/* DESIGN: a pool of its own with one worker. SCHED_IDLE gives that thread only the time that nobody
 * else wants, so a slow backend beside busy workers delays nothing but itself. */
#include "shadow.h"

#include <assert.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../core/clock.h"
#include "../models/compare.h"
#include "../models/rows.h"
#include "pool.h"

struct halut_shadow {
  struct halut_shadow_options options;
  struct halut_pool *pool;
  uint64_t offered;
  _Atomic bool closing;
  bool is_idle; /* the thread's priority has been lowered; it alone looks */
};

struct sample {
  struct halut_item item; /* first: the pool hands it back */
  struct halut_shadow *shadow;
  struct halut_catalog *catalog;
  struct halut_entry *entry;
  int backend; /* that answered */
  uint32_t rows;
  char *in, *out, *again; /* out: the answer; again: of the other backend */
  bool ran, differs;
  int error;
  char text[256]; /* what to report */
};

static void sample_free(struct sample *sample) {
  halut_catalog_drop(sample->catalog);
  free(sample->in);
  free(sample->out);
  free(sample->again);
  free(sample);
}

/* ---- on the thread ---- */

static void difference_text(struct sample *sample, const struct halut_comparison *compared) {
  const struct halut_model_info *info = sample->entry->info;
  const struct halut_catalog_options *options = &sample->catalog->options;
  const struct halut_difference *first = &compared->first;
  if (compared->identical)
    snprintf(sample->text, sizeof sample->text,
             "shadow: model %s: an answer of %s differs from %s, and did not come again",
             info->name, options->backends[sample->backend]->name,
             options->backends[1 - sample->backend]->name);
  else
    snprintf(sample->text, sizeof sample->text,
             "shadow: model %s: %s element %u is %.9g on %s, %.9g on %s", info->name,
             info->kind == HALUT_NETWORK ? info->nodes[first->node].name : "output",
             first->element, first->value[0], options->backends[0]->name, first->value[1],
             options->backends[1]->name);
}

/* Where do they differ? Both are asked again. */
static void difference_find(struct sample *sample, struct halut_seat *seat) {
  struct halut_comparison compared = {.identical = true};
  struct halut_compared pair = {.session = {seat->session[0], seat->session[1]},
                                .info = sample->entry->info,
                                .batch_max = sample->catalog->options.batch_max};
  void *out[HALUT_COMPARED] = {sample->out, sample->again};
  sample->differs = true;
  sample->error = halut_compare(&pair, sample->in, sample->rows, out, &compared);
  difference_text(sample, &compared);
}

static void sample_run(void *self, uint32_t worker, struct halut_item **items, uint32_t count) {
  struct halut_shadow *shadow = self;
  struct sample *sample = (struct sample *)items[0];
  struct sched_param none = {0};
  (void)worker;
  assert(count == 1);
  if (!shadow->is_idle)
    shadow->is_idle = pthread_setschedparam(pthread_self(), SCHED_IDLE, &none) == 0;
  if (atomic_load(&shadow->closing))
    return;
  struct halut_seat *seat = &sample->entry->seats[shadow->options.seat];
  struct halut_rows rows = {.session = seat->session[1 - sample->backend],
                            .info = sample->entry->info,
                            .batch_max = sample->catalog->options.batch_max};
  sample->ran = true;
  sample->error = halut_rows_run(&rows, sample->in, sample->rows, sample->again, NULL);
  if (sample->error != HALUT_OK)
    snprintf(sample->text, sizeof sample->text, "shadow: model %s on %s: %s", rows.info->name,
             sample->catalog->options.backends[1 - sample->backend]->name,
             halut_error_text(sample->error));
  else if (memcmp(sample->out, sample->again, sample->entry->out_bytes * sample->rows) != 0)
    difference_find(sample, seat);
}

/* ---- on the loop ---- */

static void sample_done(struct halut_item *item) {
  struct sample *sample = (struct sample *)item;
  struct halut_shadow *shadow = sample->shadow;
  struct halut_metrics *metrics = shadow->options.metrics;
  if (!sample->ran) {
    metrics->shadow_dropped++;
  } else if (sample->error != HALUT_OK && !sample->differs) {
    metrics->shadow_failures++;
  } else {
    metrics->shadow_runs++;
    metrics->comparisons++;
    metrics->mismatches += sample->differs;
  }
  if (sample->text[0] != '\0')
    shadow->options.report(shadow->options.self, sample->text);
  sample_free(sample);
}

static void shadow_free(struct halut_shadow *shadow) {
  halut_pool_close(shadow->pool);
  free(shadow);
}

static void on_settled(void *self) {
  struct halut_shadow *shadow = self;
  if (atomic_load(&shadow->closing) && halut_pool_pending(shadow->pool) == 0)
    shadow_free(shadow);
}

int halut_shadow_open(uv_loop_t *loop, const struct halut_shadow_options *options,
                      struct halut_shadow **out, struct halut_diag *diag) {
  struct halut_shadow *shadow = calloc(1, sizeof *shadow);
  if (shadow == NULL)
    return halut_fail(diag, HALUT_ENOMEM, 0, "no memory for the shadow");
  shadow->options = *options;
  struct halut_pool_options pool = {
      .workers = 1,
      .limits = {.lanes = 1, .batch_max = 1, .queue_max = HALUT_SHADOW_QUEUE_MAX},
      .run = sample_run,
      .settled = on_settled,
      .self = shadow};
  int error = halut_pool_open(loop, &pool, &shadow->pool, diag);
  if (error != HALUT_OK) {
    free(shadow);
    return error;
  }
  *out = shadow;
  return HALUT_OK;
}

static char *copy(const void *from, size_t bytes) {
  char *made = malloc(bytes);
  if (made != NULL)
    memcpy(made, from, bytes);
  return made;
}

/* NULL without memory, or if one row is too much. */
static struct sample *sample_make(struct halut_shadow *shadow, const struct halut_job *job) {
  size_t rows = HALUT_SHADOW_BYTES_MAX / job->entry->in_bytes;
  rows = rows > HALUT_SHADOW_ROWS_MAX ? HALUT_SHADOW_ROWS_MAX : rows;
  rows = rows > job->rows ? job->rows : rows;
  struct sample *sample = rows > 0 ? calloc(1, sizeof *sample) : NULL;
  if (sample == NULL)
    return NULL;
  *sample = (struct sample){.item = {.deadline_ns = UINT64_MAX, .done = sample_done},
                            .shadow = shadow,
                            .catalog = halut_catalog_hold(job->catalog),
                            .entry = job->entry,
                            .backend = job->backend,
                            .rows = (uint32_t)rows,
                            .in = copy(job->in, job->entry->in_bytes * rows),
                            .out = copy(job->out, job->entry->out_bytes * rows),
                            .again = malloc(job->entry->out_bytes * rows)};
  if (sample->in != NULL && sample->out != NULL && sample->again != NULL)
    return sample;
  sample_free(sample);
  return NULL;
}

void halut_shadow_offer(struct halut_shadow *shadow, const struct halut_job *job) {
  if (shadow == NULL || ++shadow->offered % shadow->options.every != 0)
    return;
  struct sample *sample = sample_make(shadow, job);
  if (sample != NULL && halut_pool_submit(shadow->pool, &sample->item, halut_clock_ns()) == 0)
    return;
  shadow->options.metrics->shadow_dropped++;
  if (sample != NULL)
    sample_free(sample);
}

void halut_shadow_close(struct halut_shadow *shadow) {
  if (shadow == NULL)
    return;
  atomic_store(&shadow->closing, true);
  if (halut_pool_pending(shadow->pool) == 0)
    shadow_free(shadow);
}
