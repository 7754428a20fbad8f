#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../core/clock.h"
#include "handlers.h"
#include "inspect.h"

enum { VERSION_SHOWN_MAX = 15 };

void halut_answer(struct halut_request *request, unsigned status, const char *type,
                  struct halut_json_out *out) {
  struct halut_reply reply = {.status = status, .type = type, .owned = true};
  reply.body = halut_json_out_take(out, &reply.bytes);
  if (reply.body == NULL)
    halut_request_error(request, 503, "no memory for the reply; try again");
  else
    halut_request_reply(request, &reply);
}

bool halut_query_only(struct halut_request *request, const char *const *names) {
  bool is_twice = false;
  const char *stranger = halut_request_stranger(request, names, &is_twice);
  char list[128] = "";
  size_t used = 0;
  if (stranger == NULL)
    return true;
  if (is_twice) {
    halut_request_error(request, 400, "parameter \"%.32s\" is given twice", stranger);
    return false;
  }
  for (; *names != NULL && used < sizeof list; names++)
    used += (size_t)snprintf(list + used, sizeof list - used, "%s%s",
                             used == 0          ? ""
                             : names[1] != NULL ? ", "
                                                : " and ",
                             *names);
  halut_request_error(request, 400, "unknown parameter \"%.32s\"; there are %s", stranger, list);
  return false;
}

bool halut_settings_open(struct halut_app *app, struct halut_request *request,
                         struct halut_json **out) {
  static const char *const no_keys[] = {NULL};
  struct halut_diag diag = {0};
  *out = NULL;
  int error = halut_request_inflate(request, &diag);
  if (error == HALUT_ELIMIT)
    halut_fail(&diag, error, 0, "the body exceeds %d bytes when decompressed", HALUT_SETTINGS_MAX);
  if (error != HALUT_OK) {
    halut_request_error(request, halut_job_status(error), "%s", diag.text);
    return false;
  }
  if (request->body_bytes == 0)
    return true;
  error = halut_json_open((const char *)request->body, request->body_bytes, no_keys,
                          app->limits.depth_max, out, &diag);
  if (error != HALUT_OK)
    halut_request_error(request, error == HALUT_ENOMEM ? 503 : 400,
                        "failed to parse the request JSON buffer: %s", diag.text);
  return error == HALUT_OK;
}

bool halut_version_is(const char *text, size_t bytes, uint32_t *version) {
  char copy[16], *end = NULL;
  *version = 0;
  if (bytes == 0 || (bytes == 6 && memcmp(text, "latest", 6) == 0))
    return true;
  snprintf(copy, sizeof copy, "%.*s", (int)bytes, text);
  unsigned long number = strtoul(copy, &end, 10);
  if (bytes >= sizeof copy || copy[0] < '1' || copy[0] > '9' ||
      (*end != '\0' && strcmp(end, ".0") != 0) || number > UINT32_MAX)
    return false;
  *version = (uint32_t)number;
  return true;
}

bool halut_version_read(struct halut_request *request, size_t index, uint32_t *version) {
  const char *text = request->capture[index].text;
  size_t bytes = request->capture[index].bytes;
  int shown = bytes < VERSION_SHOWN_MAX ? (int)bytes : VERSION_SHOWN_MAX;
  bool is_version = halut_version_is(text, bytes, version);
  if (!is_version)
    halut_request_error(request, 404, "no version \"%.*s\": versions are whole numbers from 1",
                        shown, text);
  return is_version;
}

static void job_count(struct halut_app *app, struct halut_job *job) {
  const struct halut_model_info *info = job->entry->info;
  struct halut_tally *tally = halut_metrics_tally(
      &app->metrics, info->name, info->version, job->catalog->options.backends[job->backend]->name);
  if (tally == NULL)
    return;
  uint64_t total = halut_clock_ns() - job->request->arrived_ns, known = 0;
  if (job->batch_rows > 0) /* of others too, whatever became of this one */
    halut_tally_batch(tally, job->batch_rows);
  if (job->failed) {
    tally->failure++;
    tally->failed_ns += total;
    return;
  }
  struct timespec now;
  clock_gettime(CLOCK_REALTIME_COARSE, &now);
  tally->last_ms = (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
  tally->success++;
  tally->rows += job->rows;
  halut_tally_run(tally, job->run_rows, job->batch_rows > 0, job->phase_ns);
  for (size_t p = 0; p < HALUT_JOB_OVERHEAD; p++) {
    known += job->phase_ns[p];
    halut_histogram_add(&tally->phase[p], job->phase_ns[p]);
  }
  halut_histogram_add(&tally->phase[HALUT_JOB_OVERHEAD], total > known ? total - known : 0);
  halut_histogram_add(&tally->total, total);
  halut_tally_parts(tally, job->phase_ns[HALUT_JOB_COMPUTE], &job->stats);
  tally->stats.lookups += job->stats.lookups;
  tally->stats.helped_lookups += job->stats.helped_lookups;
  tally->stats.device_cycles += job->stats.device_cycles;
  tally->stats.device_stalls += job->stats.device_stalls;
  tally->stats.device_table_bytes += job->stats.device_table_bytes;
  tally->stats.device_encodes += job->stats.device_encodes;
}

/* Equal bits are the whole promise: a difference is an error of the machine or of the program. */
static void compare_count(struct halut_app *app, const struct halut_job *job) {
  const struct halut_comparison *compared = &job->inspect->compared;
  const struct halut_model_info *info = job->entry->info;
  app->metrics.comparisons++;
  if (compared->identical)
    return;
  app->metrics.mismatches++;
  halut_app_log(app, HALUT_LOG_ERROR,
                "backends differ on model %s: %s element %u is %.9g on %s, %.9g on %s", info->name,
                info->kind == HALUT_NETWORK ? info->nodes[compared->first.node].name : "output",
                compared->first.element, compared->first.value[0],
                job->catalog->options.backends[0]->name, compared->first.value[1],
                job->catalog->options.backends[1]->name);
}

static void job_free(void *context) {
  struct halut_job *job = context;
  halut_job_uncount(job);
  halut_catalog_drop(job->catalog);
  halut_job_free(job);
}

static void job_done(struct halut_item *item) {
  struct halut_job *job = (struct halut_job *)item;
  struct halut_app *app = job->app;
  if (item->status == HALUT_ETIMEOUT)
    app->metrics.timed_out++;
  app->metrics.canceled += job->peer_left;
  app->metrics.rejected_queue += job->crowded;
  app->metrics.rejected_memory += job->no_room;
  if (job->entry != NULL)
    job_count(app, job);
  if (!job->failed && job->inspect != NULL && job->inspect->compare)
    compare_count(app, job);
  else if (!job->failed && !app->draining)
    halut_shadow_offer(app->shadow, job);
  halut_job_uncount(job);
  halut_http_resume(job->request);
}

bool halut_job_query_backend(struct halut_job *job, struct halut_request *request) {
  const char *backend = halut_request_query(request, "backend");
  job->backend = halut_catalog_backend(job->catalog, backend);
  if (job->backend < 0)
    halut_request_error(request, 400, "backend: \"%.32s\" is not open here", backend);
  return job->backend >= 0;
}

bool halut_job_query(struct halut_job *job, struct halut_request *request) {
  const char *model = halut_request_query(request, "model");
  if (model != NULL && strlen(model) >= sizeof job->text) {
    halut_request_error(request, 404, "no model has so long a name");
    return false;
  }
  if (model != NULL) {
    memcpy(job->text, model, strlen(model) + 1);
    job->model_name = job->text;
  }
  return halut_job_query_backend(job, request);
}

struct halut_job *halut_job_new(struct halut_app *app, struct halut_request *request,
                                enum halut_kind kind, const struct halut_job_form *form) {
  /* While draining too: who has a connection by then is answered, and told that it was the last. */
  struct halut_job *job = calloc(1, sizeof *job);
  if (job == NULL) {
    halut_request_error(request, 503, "no memory for the request; try again");
    return NULL;
  }
  job->request = request;
  job->app = app;
  job->kind = kind;
  job->form = form;
  job->limits = &app->limits;
  job->catalog = halut_catalog_hold(app->catalog);
  request->context = job;
  request->context_free = job_free;
  return job;
}

/* JSON may name a model. What is compressed may be JSON, and so may what begins with a blank. */
static bool may_name(const struct halut_request *request) {
  return request->coding != HALUT_IDENTITY ||
         (request->body_bytes > 0 && memchr("{ \t\r\n", request->body[0], 5) != NULL);
}

/* The model it will be for, as far as is known before the body is read. */
static struct halut_entry *foreseen(const struct halut_job *job) {
  struct halut_entry *entry = job->entry;
  if (entry == NULL)
    entry = halut_catalog_only(job->catalog, job->kind, job->model_name, job->version, NULL);
  if (entry == NULL && !may_name(job->request))
    entry = halut_catalog_find(job->catalog, job->kind, job->model_name, job->version, NULL);
  return entry;
}

void halut_job_submit(struct halut_app *app, struct halut_job *job) {
  uint64_t now = halut_clock_ns();
  job->item.lane = job->kind == HALUT_NETWORK ? HALUT_LANE_NETWORK : HALUT_LANE_PRODUCT;
  job->item.arrived_ns = now;
  job->item.deadline_ns = now + app->config.compute_timeout_ms * 1000000u;
  job->item.done = job_done;
  struct halut_entry *entry = foreseen(job);
  if (entry != NULL && !halut_job_count(job, entry)) {
    app->metrics.rejected_queue++;
    halut_request_error(job->request, 503, HALUT_JOB_CROWDED, entry->info->name,
                        job->limits->model_queue_max);
    return;
  }
  int error = halut_pool_submit(app->pool, &job->item, now);
  if (error == HALUT_OK) {
    halut_request_park(job->request);
  } else {
    app->metrics.rejected_queue++;
    halut_request_error(job->request, 503, "%u requests are waiting already (queue-max); try again",
                        (unsigned)app->config.queue_max);
  }
}
