#include "job.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../core/clock.h"
#include "../core/energy.h"
#include "inspect.h"

/* One list: what a client did wrong is 4xx, what it may try again is 503, the rest is ours. */
unsigned halut_job_status(int error) {
  switch (error) {
  case HALUT_EINVALID:
  case HALUT_ESHAPE:
  case HALUT_EFORMAT:
    return 400;
  case HALUT_ENOTFOUND:
    return 404;
  case HALUT_ELIMIT:
    return 413;
  case HALUT_ENOMEM:
  case HALUT_EBUSY:
  case HALUT_ECANCELED:
    return 503;
  case HALUT_ETIMEOUT:
    return 504;
  default:
    return 500;
  }
}

/* A session has no deadline but that of a device. */
const char *halut_job_reason(int error) {
  return error == HALUT_ETIMEOUT
             ? "the accelerator does not answer: not done within its cycle budget"
             : halut_error_text(error);
}

void halut_job_fail(struct halut_job *job, int error, const char *format, ...) {
  char text[512];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  job->failed = true;
  halut_request_fail(job->request, halut_job_status(error), "%s", text);
}

bool halut_job_finite(struct halut_job *job, const char *name, const char *other,
                      const float *values, size_t columns) {
  for (size_t i = 0; i < job->rows * columns; i++)
    if (!isfinite(values[i])) {
      halut_job_fail(job, HALUT_EINVALID, "%s[%zu][%zu] is %s, which JSON cannot carry: ask for %s",
                     name, i / columns, i % columns, isnan(values[i]) ? "NaN" : "infinite", other);
      return false;
    }
  return true;
}

void halut_job_json_rest(struct halut_job *job, const struct halut_json *json, const char *where) {
  struct halut_diag diag = {0};
  int error = job->failed ? HALUT_OK : halut_json_rest(json, &diag);
  if (error != HALUT_OK)
    halut_job_fail(job, error == HALUT_ENOMEM ? error : HALUT_EINVALID, "%s%s", where, diag.text);
}

void halut_job_json_end(struct halut_job *job, struct halut_json *json) {
  if (json != NULL)
    halut_job_json_rest(job, json, "");
  halut_json_close(json);
}

void halut_job_uncount(struct halut_job *job) {
  if (job->counted != NULL)
    atomic_fetch_sub(&job->counted->pending, 1);
  job->counted = NULL;
}

bool halut_job_count(struct halut_job *job, struct halut_entry *entry) {
  uint32_t most = job->limits->model_queue_max;
  if (job->counted == entry)
    return true;
  halut_job_uncount(job);
  if (atomic_fetch_add(&entry->pending, 1) >= most && most > 0) {
    atomic_fetch_sub(&entry->pending, 1);
    return false;
  }
  job->counted = entry;
  return true;
}

static bool is_served(const struct halut_catalog *catalog, enum halut_kind kind) {
  uint32_t i = 0;
  while (i < catalog->count && catalog->entries[i]->info->kind != kind)
    i++;
  return i < catalog->count;
}

bool halut_job_choose(struct halut_job *job, const char *name) {
  struct halut_diag diag = {0};
  job->entry = halut_catalog_find(job->catalog, job->kind, name, job->version, &diag);
  if (job->entry == NULL)
    halut_job_fail(
        job, name == NULL && is_served(job->catalog, job->kind) ? HALUT_EINVALID : HALUT_ENOTFOUND,
        "%s", diag.text);
  else if (!halut_job_count(job, job->entry)) {
    job->crowded = true; /* which model it is was in the body, so that this is known now only */
    halut_job_fail(job, HALUT_EBUSY, HALUT_JOB_CROWDED, job->entry->info->name,
                   job->limits->model_queue_max);
  }
  return !job->failed;
}

bool halut_job_backend(struct halut_job *job, const char *backend) {
  int index = backend == NULL ? job->backend : halut_catalog_backend(job->catalog, backend);
  if (index < 0)
    halut_job_fail(job, HALUT_EINVALID, "backend: \"%.32s\" is not open here", backend);
  else
    job->backend = index;
  return index >= 0;
}

bool halut_job_options(struct halut_job *job, const json_t *object) {
  struct halut_diag diag = {0};
  const char *model = NULL, *backend = NULL;
  if (halut_json_get_text(object, "model", false, &model, &diag) != HALUT_OK ||
      halut_json_get_text(object, "backend", false, &backend, &diag) != HALUT_OK) {
    halut_job_fail(job, HALUT_EINVALID, "%s", diag.text);
    return false;
  }
  return halut_inspect_options(job, object) && halut_job_backend(job, backend) &&
         halut_job_choose(job, model != NULL ? model : job->model_name);
}

/* Counts the job with `bytes` instead of what it was counted with before. */
static bool bytes_count(struct halut_job *job, uint64_t bytes, uint64_t count, const char *what) {
  const uint64_t most = job->limits->tensor_total_max;
  if (bytes > most) {
    halut_job_fail(job, HALUT_ELIMIT, "%llu %s need %llu bytes, tensor-total-max is %llu",
                   (unsigned long long)count, what, (unsigned long long)bytes,
                   (unsigned long long)most);
    return false;
  }
  const uint64_t more = bytes - job->tensor_bytes; /* or less: it wraps */
  if (atomic_fetch_add(job->limits->tensor_bytes, more) + more <= most) {
    job->tensor_bytes = bytes;
    return true;
  }
  atomic_fetch_sub(job->limits->tensor_bytes, more);
  job->no_room = true;
  halut_job_fail(job, HALUT_EBUSY,
                 "%llu bytes for %llu %s: all requests together exceed tensor-total-max; try again",
                 (unsigned long long)bytes, (unsigned long long)count, what);
  return false;
}

/* A reply holds the result once more. */
static bool tensors_count(struct halut_job *job, uint32_t rows) {
  return bytes_count(job, (job->entry->in_bytes + 2 * job->entry->out_bytes) * (uint64_t)rows, rows,
                     "rows");
}

void *halut_job_values(struct halut_job *job, size_t count, size_t each) {
  if (!bytes_count(job, count * each, count, "numbers"))
    return NULL;
  void *values = malloc(count > 0 ? count * each : 1);
  if (values == NULL)
    halut_job_fail(job, HALUT_ENOMEM, "no memory for %zu numbers; try again", count);
  return values;
}

static bool tensors_take(struct halut_job *job, uint32_t rows, void *in) {
  job->rows = rows;
  job->in = in;
  job->out = malloc(job->entry->out_bytes * rows);
  if (job->in == NULL || job->out == NULL)
    halut_job_fail(job, HALUT_ENOMEM, "no memory for %u rows; try again", rows);
  return !job->failed;
}

bool halut_job_adopt(struct halut_job *job, uint32_t rows, void *in) {
  if (tensors_count(job, rows))
    return tensors_take(job, rows, in);
  free(in);
  return false;
}

bool halut_job_seat(struct halut_job *job, uint32_t rows) {
  return tensors_count(job, rows) && tensors_take(job, rows, malloc(job->entry->in_bytes * rows));
}

void halut_job_write_head(const struct halut_job *job, struct halut_json_out *out) {
  halut_json_out_format(out, "{\"model\":\"%s\",\"version\":%u,\"backend\":\"%s\"",
                        job->entry->info->name, job->entry->info->version,
                        job->catalog->options.backends[job->backend]->name);
}

/* What the accelerator did for this job: of its own backend, or of the one compared with. */
static void device_write(const struct halut_job *job, struct halut_json_out *out) {
  const struct halut_stats *stats = &job->stats;
  int backend = job->backend;
  if (stats->device_cycles == 0 && job->inspect != NULL && job->inspect->compare) {
    backend = 1 - backend;
    stats = &job->inspect->compared.stats[backend];
  }
  if (stats->device_cycles == 0)
    return;
  halut_json_out_format(out,
                        ",\"device\":{\"backend\":\"%s\",\"cycles\":%" PRIu64 ",\"stalls\":%" PRIu64
                        ",\"utilisation\":%.4f,\"lookups\":%" PRIu64 ",\"table_bytes\":%" PRIu64
                        ",\"energy_uj\":%.6f}",
                        job->catalog->options.backends[backend]->name, stats->device_cycles,
                        stats->device_stalls,
                        1.0 - (double)stats->device_stalls / (double)stats->device_cycles,
                        stats->lookups, stats->device_table_bytes, halut_energy(stats) * 1e-6);
}

void halut_job_write_tail(const struct halut_job *job, struct halut_json_out *out) {
  halut_json_out_format(
      out, ",\"timing_us\":{\"decode\":%" PRIu64 ",\"queue\":%" PRIu64 ",\"compute\":%" PRIu64 "}",
      job->phase_ns[HALUT_JOB_DECODE] / 1000, job->phase_ns[HALUT_JOB_QUEUE] / 1000,
      job->phase_ns[HALUT_JOB_COMPUTE] / 1000);
  halut_inspect_write(job, out);
  device_write(job, out);
  halut_json_out_format(out, "}\n");
}

void halut_job_reply(struct halut_job *job, struct halut_json_out *out) {
  struct halut_reply *reply = &job->request->reply;
  reply->body = halut_json_out_take(out, &reply->bytes);
  if (reply->body == NULL) {
    halut_job_fail(job, HALUT_ENOMEM, "no memory for the reply; try again");
    return;
  }
  reply->owned = true;
  reply->status = 200;
  reply->type = "application/json";
}

void halut_job_free(struct halut_job *job) {
  if (job == NULL)
    return;
  if (job->detail_free != NULL)
    job->detail_free(job->detail);
  free(job->in);
  free(job->out);
  atomic_fetch_sub(job->limits->tensor_bytes, job->tensor_bytes);
  halut_inspect_free(job->inspect);
  free(job);
}
