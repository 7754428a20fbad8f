/* DESIGN: the jobs of a batch are read first; then those of one model on one backend are laid end
 * to end into the worker's seat, batch_max inputs at a time, across the borders of jobs: forty
 * requests of one image and one request of forty images cost the same. Jobs that want to see inside
 * (inspect.h) run alone, before the rest. */
#include "job.h"

#include <string.h>

#include "../core/clock.h"
#include "../models/rows.h"
#include "inspect.h"

enum {
  GONE_AFTER_NS = 20000000, /* a job that waited longer is asked whether its peer is still there */
  HELP_LOOKUPS = 1 << 21    /* of a product: fewer take less time than waking another worker */
};

static void job_drop(struct halut_job *job) {
  job->peer_left = true;
  halut_job_fail(job, HALUT_ECANCELED, "the peer has left");
}

static void job_read(struct halut_job *job) {
  struct halut_diag diag = {0};
  int error = HALUT_OK;
  uint64_t start = halut_clock_ns();
  job->phase_ns[HALUT_JOB_QUEUE] = start - job->item.arrived_ns;
  if (job->item.status != HALUT_OK)
    halut_job_fail(job, HALUT_ETIMEOUT, "the request waited longer than compute-timeout-ms");
  else if (start - job->item.arrived_ns > GONE_AFTER_NS && halut_request_gone(job->request))
    job_drop(job);
  else if ((error = halut_request_inflate(job->request, &diag)) != HALUT_OK)
    halut_job_fail(job, error, "%s", diag.text);
  else
    job->form->read(job);
  job->no_room = job->no_room || error == HALUT_ENOMEM;
  if (!job->failed && job->wait_max_ns > 0 && job->phase_ns[HALUT_JOB_QUEUE] > job->wait_max_ns)
    halut_job_fail(job, HALUT_ETIMEOUT, "the request waited longer than its timeout");
  job->phase_ns[HALUT_JOB_DECODE] = halut_clock_ns() - start;
}

/* A place in the inputs of a list of jobs, past those that failed. */
struct cursor {
  struct halut_job **jobs;
  uint32_t count, job, row;
};

/* Copies up to `room` rows between the seat and the jobs from the cursor on; returns how many. */
static uint32_t rows_move(struct cursor *at, void *seat, size_t bytes, uint32_t room, bool is_in) {
  uint32_t moved = 0;
  while (moved < room && at->job < at->count) {
    struct halut_job *job = at->jobs[at->job];
    if (job->failed) {
      at->job++;
      at->row = 0;
      continue;
    }
    uint32_t rows = job->rows - at->row < room - moved ? job->rows - at->row : room - moved;
    char *there = (char *)(is_in ? job->in : job->out) + at->row * bytes;
    char *here = (char *)seat + moved * bytes;
    memcpy(is_in ? here : there, is_in ? there : here, rows * bytes);
    moved += rows;
    at->row += rows;
    if (at->row == job->rows) {
      at->job++;
      at->row = 0;
    }
  }
  return moved;
}

/* Fails those that are late, of the jobs from the cursor on: what was computed of them is lost. */
static void late_fail(const struct cursor *at) {
  const uint64_t now = halut_clock_ns();
  for (uint32_t i = at->job; i < at->count; i++)
    if (!at->jobs[i]->failed && at->jobs[i]->item.deadline_ns <= now) {
      at->jobs[i]->item.status = HALUT_ETIMEOUT;
      halut_job_fail(at->jobs[i], HALUT_ETIMEOUT,
                     "the request took longer than compute-timeout-ms");
    }
}

/* The worker's helper, if what is computed in one go is worth it: every network is. */
static struct halut_helper *group_help(struct halut_pool *pool, uint32_t worker,
                                       struct halut_job **jobs, uint32_t count) {
  const struct halut_model_info *info = jobs[0]->entry->info;
  const uint32_t batch_max = jobs[0]->catalog->options.batch_max;
  uint64_t rows = 0;
  for (uint32_t i = 0; i < count; i++)
    rows += jobs[i]->rows;
  rows = rows < batch_max ? rows : batch_max;
  bool is_worth =
      info->kind == HALUT_NETWORK || rows * info->lut.codebooks * info->lut.outputs >= HELP_LOOKUPS;
  return is_worth ? halut_pool_help(pool, worker) : NULL;
}

/* All jobs are of one entry and backend. */
static void group_run(struct halut_pool *pool, uint32_t worker, struct halut_job **jobs,
                      uint32_t count) {
  struct halut_entry *entry = jobs[0]->entry;
  struct halut_seat *seat = &entry->seats[worker];
  struct halut_session *session = seat->session[jobs[0]->backend];
  struct cursor in = {.jobs = jobs, .count = count}, out = in;
  struct halut_stats stats = {0};
  uint64_t start = halut_clock_ns();
  uint32_t total = 0;
  int error = HALUT_OK;
  halut_session_help(session, group_help(pool, worker, jobs, count));
  for (;;) {
    late_fail(&in); /* both cursors are at the same place here */
    uint32_t rows =
        rows_move(&in, seat->in, entry->in_bytes, jobs[0]->catalog->options.batch_max, true);
    if (rows == 0)
      break;
    struct halut_tensor x = halut_rows_in(entry->info, seat->in, rows);
    struct halut_tensor y = halut_rows_out(entry->info, seat->out, rows);
    error = halut_session_run(session, &x, &y, &stats);
    if (error != HALUT_OK)
      break;
    rows_move(&out, seat->out, entry->out_bytes, rows, false);
    total += rows;
  }
  halut_session_help(session, NULL);
  uint64_t end = halut_clock_ns();
  for (uint32_t i = 0; i < count; i++) {
    struct halut_job *job = jobs[i];
    job->phase_ns[HALUT_JOB_COMPUTE] = end - start;
    job->run_rows = total;
    job->batch_rows = i == 0 ? total : 0; /* the batch is counted once */
    if (error != HALUT_OK && !job->failed)
      halut_job_fail(job, error, "computing failed: %s", halut_job_reason(error));
    if (job->failed)
      continue;
    job->stats = (struct halut_stats){stats.lookups * job->rows / total,
                                      stats.helped_lookups * job->rows / total,
                                      stats.device_cycles * job->rows / total,
                                      stats.device_stalls * job->rows / total,
                                      stats.device_table_bytes * job->rows / total,
                                      stats.device_encodes * job->rows / total,
                                      stats.encode_ns,
                                      stats.accumulate_ns};
  }
}

static void job_write(struct halut_job *job) {
  uint64_t start = halut_clock_ns();
  job->form->write(job);
  halut_request_deflate(job->request);
  job->phase_ns[HALUT_JOB_REPLY] = halut_clock_ns() - start;
}

void halut_compute(struct halut_pool *pool, uint32_t worker, struct halut_item **items,
                   uint32_t count) {
  struct halut_job *ready[HALUT_TAKE_MAX], *group[HALUT_TAKE_MAX];
  uint32_t left = 0;
  for (uint32_t i = 0; i < count; i++) {
    struct halut_job *job = (struct halut_job *)items[i];
    job_read(job);
    if (!job->failed && halut_inspect_alone(job))
      halut_inspect_run(worker, job);
    else if (!job->failed)
      ready[left++] = job;
    if (!job->failed && halut_inspect_alone(job))
      job_write(job);
  }
  while (left > 0) {
    uint32_t taken = 0, kept = 0;
    for (uint32_t i = 0; i < left; i++)
      if (ready[i]->entry == ready[0]->entry && ready[i]->backend == ready[0]->backend && i > 0)
        group[++taken] = ready[i];
      else if (i > 0)
        ready[kept++ + 1] = ready[i];
    group[0] = ready[0];
    memmove(ready, ready + 1, kept * sizeof *ready);
    left = kept;
    group_run(pool, worker, group, taken + 1);
    for (uint32_t i = 0; i <= taken; i++)
      if (!group[i]->failed)
        job_write(group[i]);
  }
}
