/* DESIGN: one table says which path takes which method and what answers it. A handler either
 * answers at once from what the loop knows, or makes a job and parks the request. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "app.h"
#include "clock.h"
#include "multipart.h"
#include "page.h"

/* ---- answers of the loop ---- */

static void answer(struct halut_request *request, unsigned status, const char *type,
                   struct halut_json_out *out) {
  struct halut_reply reply = {.status = status, .type = type, .owned = true};
  reply.body = halut_json_out_take(out, &reply.bytes);
  if (reply.body == NULL)
    halut_request_error(request, 503, "no memory for the reply; try again");
  else
    halut_request_reply(request, &reply);
}

static bool is_ready(const struct halut_app *app) {
  return app->catalog != NULL && !app->draining;
}

static void handle_page(void *self, struct halut_request *request) {
  struct halut_page page;
  (void)self;
  if (!halut_page_find(request->path, &page)) {
    halut_request_error(request, 404, "no such file of the page: %s", request->path);
    return;
  }
  struct halut_reply reply = {.status = 200,
                              .type = page.type,
                              .body = (void *)(uintptr_t)page.data,
                              .bytes = page.bytes};
  halut_reply_header(&reply, "Content-Security-Policy", "%s", halut_page_policy);
  halut_reply_header(&reply, "X-Content-Type-Options", "nosniff");
  halut_reply_header(&reply, "Cache-Control", "no-cache");
  halut_request_reply(request, &reply);
}

static void handle_health(void *self, struct halut_request *request) {
  const struct halut_app *app = self;
  struct halut_json_out out = {0};
  halut_json_out_format(&out, "{\"status\":\"%s\"}\n",
                        app->draining ? "draining" : is_ready(app) ? "ready" : "loading");
  answer(request, is_ready(app) ? 200 : 503, "application/json", &out);
}

static void handle_metrics(void *self, struct halut_request *request) {
  struct halut_app *app = self;
  const char *patterns[HALUT_ROUTES_MAX];
  struct halut_json_out out = {0};
  size_t resident = 0, ignored = 0;
  FILE *statm = fopen("/proc/self/statm", "re");
  if (statm != NULL) {
    if (fscanf(statm, "%zu %zu", &ignored, &resident) != 2)
      resident = 0;
    fclose(statm);
  }
  struct halut_gauges gauges = {
      .connections = halut_http_connections(app->http),
      .parked = halut_http_parked(app->http),
      .workers = app->workers,
      .queue = {halut_pool_waiting(app->pool, HALUT_LANE_NETWORK),
                halut_pool_waiting(app->pool, HALUT_LANE_PRODUCT)},
      .body_bytes = halut_http_body_bytes(app->http),
      .uptime_ns = halut_clock_ns() - app->started_ns,
      .resident_bytes = resident * (size_t)sysconf(_SC_PAGESIZE),
      .models = app->catalog != NULL ? app->catalog->count : 0,
      .ready = is_ready(app)};
  for (size_t i = 0; i < halut_route_count; i++)
    patterns[i] = halut_routes[i].pattern;
  halut_metrics_print(&app->metrics, &gauges, patterns, halut_route_count, &out);
  answer(request, 200, "text/plain; version=0.0.4; charset=utf-8", &out);
}

static void entry_print(const struct halut_catalog *catalog, const struct halut_entry *entry,
                        struct halut_json_out *out) {
  const struct halut_model_info *info = entry->info;
  halut_json_out_format(out, "{\"name\":\"%s\",\"version\":%u,\"kind\":\"%s\"", info->name,
                        info->version, info->kind == HALUT_NETWORK ? "network" : "product");
  if (info->kind == HALUT_NETWORK) {
    halut_json_out_format(out,
                          ",\"channels\":%u,\"height\":%u,\"width\":%u,\"classes\":%u,\"labels\":[",
                          info->channels, info->height, info->width, info->classes);
    for (uint32_t i = 0; i < info->classes; i++) {
      halut_json_out_format(out, i > 0 ? "," : "");
      halut_json_out_string(out, info->labels[i]);
    }
    halut_json_out_format(out, "]");
  } else {
    halut_json_out_format(out, ",\"columns\":%u,\"outputs\":%u,\"codebooks\":%u", info->columns,
                          info->outputs, info->lut.codebooks);
    if (info->heldout_nmse == info->heldout_nmse)
      halut_json_out_format(out, ",\"nmse\":%.6g", info->heldout_nmse);
  }
  halut_json_out_format(out,
                        ",\"table_bytes\":%zu,\"file_bytes\":%zu,\"sha256\":\"%s\",\"backends\":[",
                        info->table_bytes, info->file_bytes, info->sha256);
  for (uint32_t b = 0; b < catalog->options.backend_count; b++)
    halut_json_out_format(out, "%s\"%s\"", b > 0 ? "," : "", catalog->options.backends[b]->name);
  halut_json_out_format(out, "]}");
}

static void handle_models(void *self, struct halut_request *request) {
  const struct halut_app *app = self;
  struct halut_json_out out = {0};
  halut_json_out_format(&out, "{\"models\":[");
  for (uint32_t i = 0; app->catalog != NULL && i < app->catalog->count; i++) {
    halut_json_out_format(&out, i > 0 ? "," : "");
    entry_print(app->catalog, app->catalog->entries[i], &out);
  }
  halut_json_out_format(&out, "]}\n");
  answer(request, 200, "application/json", &out);
}

static void handle_model(void *self, struct halut_request *request) {
  const struct halut_app *app = self;
  struct halut_json_out out = {0};
  char name[HALUT_NAME_MAX];
  snprintf(name, sizeof name, "%.*s", (int)request->capture[0].bytes, request->capture[0].text);
  struct halut_entry *entry = NULL;
  if (app->catalog != NULL && request->capture[0].bytes < sizeof name) {
    entry = halut_catalog_find(app->catalog, HALUT_NETWORK, name, 0, NULL);
    if (entry == NULL)
      entry = halut_catalog_find(app->catalog, HALUT_PRODUCT, name, 0, NULL);
  }
  if (entry == NULL) {
    halut_request_error(request, 404, "no model named \"%s\"", name);
    return;
  }
  entry_print(app->catalog, entry, &out);
  halut_json_out_format(&out, "\n");
  answer(request, 200, "application/json", &out);
}

/* ---- jobs ---- */

static void job_count(struct halut_app *app, struct halut_job *job) {
  const struct halut_model_info *info = job->entry->info;
  struct halut_tally *tally = halut_metrics_tally(
      &app->metrics, info->name, info->version, job->catalog->options.backends[job->backend]->name);
  if (tally == NULL)
    return;
  uint64_t total = halut_clock_ns() - job->request->arrived_ns, known = 0;
  if (job->failed) {
    tally->failure++;
    tally->failed_ns += total;
    return;
  }
  tally->success++;
  tally->rows += job->rows;
  if (job->batch_rows > 0)
    halut_tally_batch(tally, job->batch_rows);
  for (size_t p = 0; p < HALUT_JOB_OVERHEAD; p++) {
    known += job->phase_ns[p];
    halut_histogram_add(&tally->phase[p], job->phase_ns[p]);
  }
  halut_histogram_add(&tally->phase[HALUT_JOB_OVERHEAD], total > known ? total - known : 0);
  halut_histogram_add(&tally->total, total);
  tally->stats.lookups += job->stats.lookups;
  tally->stats.device_cycles += job->stats.device_cycles;
  tally->stats.device_stalls += job->stats.device_stalls;
  tally->stats.device_table_bytes += job->stats.device_table_bytes;
  tally->stats.device_encodes += job->stats.device_encodes;
}

static void job_free(void *context) {
  struct halut_job *job = context;
  halut_catalog_drop(job->catalog);
  halut_job_free(job);
}

static void job_done(struct halut_item *item) {
  struct halut_job *job = (struct halut_job *)item;
  struct halut_app *app = job->app;
  if (item->status == HALUT_ETIMEOUT)
    app->metrics.timed_out++;
  if (job->entry != NULL)
    job_count(app, job);
  halut_http_resume(job->request);
}

/* Query parameters, common to both kinds. False after an answer. */
static bool job_query(struct halut_job *job, struct halut_request *request) {
  const char *model = halut_request_query(request, "model");
  const char *backend = halut_request_query(request, "backend");
  if (model != NULL && strlen(model) >= sizeof job->text) {
    halut_request_error(request, 404, "no model has so long a name");
    return false;
  }
  if (model != NULL) {
    memcpy(job->text, model, strlen(model) + 1);
    job->model_name = job->text;
  }
  job->backend = halut_catalog_backend(job->catalog, backend);
  if (job->backend < 0)
    halut_request_error(request, 400, "backend: \"%.32s\" is not open here", backend);
  return job->backend >= 0;
}

static bool top_query(struct halut_job *job, struct halut_request *request) {
  const char *text = halut_request_query(request, "top"),
             *fit = halut_request_query(request, "fit");
  char *end = NULL;
  job->top = 5;
  if (text != NULL) {
    long top = strtol(text, &end, 10);
    if (end == text || *end != '\0' || top < 1 || top > 1000) {
      halut_request_error(request, 400, "top: must be a whole number in 1..1000, not \"%.32s\"",
                          text);
      return false;
    }
    job->top = (uint32_t)top;
  }
  job->squash = fit != NULL && strcmp(fit, "squash") == 0;
  if (fit == NULL || job->squash || strcmp(fit, "crop") == 0)
    return true;
  halut_request_error(request, 400, "fit: must be \"crop\" or \"squash\", not \"%.32s\"", fit);
  return false;
}

static struct halut_job *job_new(struct halut_app *app, struct halut_request *request,
                                 enum halut_kind kind) {
  if (!is_ready(app)) {
    app->metrics.rejected_unready++;
    halut_request_error(request, 503, app->draining ? "shutting down" : "no model is loaded yet");
    return NULL;
  }
  struct halut_job *job = calloc(1, sizeof *job);
  if (job == NULL) {
    halut_request_error(request, 503, "no memory for the request; try again");
    return NULL;
  }
  job->request = request;
  job->app = app;
  job->kind = kind;
  job->limits = &app->limits;
  job->catalog = halut_catalog_hold(app->catalog);
  request->context = job;
  request->context_free = job_free;
  return job;
}

static void job_submit(struct halut_app *app, struct halut_job *job) {
  uint64_t now = halut_clock_ns();
  job->item.lane = job->kind == HALUT_NETWORK ? HALUT_LANE_NETWORK : HALUT_LANE_PRODUCT;
  job->item.arrived_ns = now;
  job->item.deadline_ns = now + app->config.compute_timeout_ms * 1000000u;
  job->item.done = job_done;
  int error = halut_pool_submit(app->pool, &job->item, now);
  if (error == HALUT_OK) {
    halut_request_park(job->request);
  } else {
    app->metrics.rejected_queue++;
    halut_request_error(job->request, 503, "%u requests are waiting already (queue-max); try again",
                        (unsigned)app->config.queue_max);
  }
}

static void handle_classify(void *self, struct halut_request *request) {
  static const char *const names[] = {"model", "backend", "top", "fit", NULL};
  const char *stranger = halut_request_stranger(request, names);
  if (stranger != NULL) {
    halut_request_error(request, 400,
                        "unknown parameter \"%.32s\"; there are model, backend, top and fit",
                        stranger);
    return;
  }
  struct halut_job *job = job_new(self, request, HALUT_NETWORK);
  if (job == NULL || !job_query(job, request) || !top_query(job, request))
    return;
  if (halut_multipart_boundary(halut_request_header(request, "Content-Type"), job->boundary) ==
      HALUT_EINVALID)
    halut_request_error(request, 400,
                        "Content-Type: multipart/form-data without a usable boundary");
  else
    job_submit(self, job);
}

static void handle_matmul(void *self, struct halut_request *request) {
  static const char *const names[] = {"model", "backend", NULL};
  const char *stranger = halut_request_stranger(request, names);
  if (stranger != NULL) {
    halut_request_error(request, 400, "unknown parameter \"%.32s\"; there are model and backend",
                        stranger);
    return;
  }
  struct halut_job *job = job_new(self, request, HALUT_PRODUCT);
  if (job != NULL && job_query(job, request))
    job_submit(self, job);
}

const struct halut_route halut_routes[] = {
    {HALUT_GET, "/", handle_page, false},
    {HALUT_GET, "/page/{}", handle_page, false},
    {HALUT_GET, "/healthz", handle_health, false},
    {HALUT_GET, "/metrics", handle_metrics, false},
    {HALUT_GET, "/v1/models", handle_models, false},
    {HALUT_GET, "/v1/models/{}", handle_model, false},
    {HALUT_POST | HALUT_PUT, "/v1/classify", handle_classify, true},
    {HALUT_POST, "/v1/matmul", handle_matmul, true},
};
const size_t halut_route_count = sizeof halut_routes / sizeof halut_routes[0];
static_assert(sizeof halut_routes / sizeof halut_routes[0] <= HALUT_ROUTES_MAX,
              "a row of counters each");
