#include <stdio.h>
#include <unistd.h>

#include "../core/clock.h"
#include "handlers.h"
#include "page.h"

void halut_handle_page(void *self, struct halut_request *request) {
  struct halut_page page;
  (void)self;
  if (!halut_page_find(request->path, &page)) {
    halut_request_error(request, 404, "no such file of the page: %s", request->path);
    return;
  }
  struct halut_reply reply = {
      .status = 200, .type = page.type, .body = (void *)(uintptr_t)page.data, .bytes = page.bytes};
  halut_reply_header(&reply, "Content-Security-Policy", "%s", halut_page_policy);
  halut_reply_header(&reply, "X-Content-Type-Options", "nosniff");
  halut_reply_header(&reply, "Cache-Control", "no-cache");
  halut_request_reply(request, &reply);
}

void halut_handle_health(void *self, struct halut_request *request) {
  const struct halut_app *app = self;
  struct halut_json_out out = {0};
  halut_json_out_format(&out, "{\"status\":\"%s\"}\n",
                        app->draining ? "draining" : "ready");
  halut_answer(request, app->draining ? 503 : 200, "application/json", &out);
}

void halut_handle_metrics(void *self, struct halut_request *request) {
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
  struct halut_gauges gauges = {.connections = halut_http_connections(app->http),
                                .parked = halut_http_parked(app->http),
                                .workers = app->workers,
                                .queue = {halut_pool_waiting(app->pool, HALUT_LANE_NETWORK),
                                          halut_pool_waiting(app->pool, HALUT_LANE_PRODUCT)},
                                .body_bytes = halut_http_body_bytes(app->http),
                                .tensor_bytes = app->tensor_bytes,
                                .event_streams = app->learning.events.count,
                                .uptime_ns = halut_clock_ns() - app->started_ns,
                                .resident_bytes = resident * (size_t)sysconf(_SC_PAGESIZE),
                                .models = app->catalog->count,
                                .certificate_expires_s = app->tls ? app->tls->expires_s : 0,
                                .ready = !app->draining,
                                .triton = app->config.metrics_triton != 0};
  for (int s = 0; app->learning.learner != NULL && s < HALUT_TASK_STATES; s++)
    gauges.learning[s] = halut_learner_count(app->learning.learner, (enum halut_task_state)s);
  for (size_t i = 0; i < halut_route_count; i++)
    patterns[i] = halut_routes[i].pattern;
  halut_metrics_print(&app->metrics, &gauges, patterns, halut_route_count, &out);
  halut_answer(request, 200, "text/plain; version=0.0.4; charset=utf-8", &out);
}
