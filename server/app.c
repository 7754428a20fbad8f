#include "app.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../core/clock.h"

enum { STAMP_MAX = 40 };

/* ISO 8601, UTC, to the millisecond. */
static void time_stamp(char out[STAMP_MAX]) {
  struct timespec now;
  struct tm parts;
  clock_gettime(CLOCK_REALTIME, &now);
  gmtime_r(&now.tv_sec, &parts);
  size_t used = strftime(out, STAMP_MAX, "%Y-%m-%dT%H:%M:%S", &parts);
  snprintf(out + used, STAMP_MAX - used, ".%03ldZ", now.tv_nsec / 1000000);
}

static void log_set(struct halut_app *app, uint32_t most) {
  for (uint32_t level = 0; level <= HALUT_LOG_DEBUG; level++)
    app->logging.is_on[level] = level <= most;
  app->logging.verbosity = app->logging.is_on[HALUT_LOG_DEBUG];
}

void halut_app_log_open(struct halut_app *app) {
  log_set(app, app->config.log_level);
}

void halut_app_log_shift(struct halut_app *app, bool is_more) {
  uint32_t most = HALUT_LOG_DEBUG;
  while (most > HALUT_LOG_ERROR && !app->logging.is_on[most])
    most--;
  if (is_more && most < HALUT_LOG_DEBUG)
    most++;
  else if (!is_more && most > HALUT_LOG_ERROR)
    most--;
  log_set(app, most);
  /* At the one level that is on now whatever was asked for. */
  halut_app_log(app, HALUT_LOG_ERROR, "log level: %s", halut_config_word("log-level", most));
}

void halut_app_log(const struct halut_app *app, uint32_t level, const char *format, ...) {
  va_list arguments;
  if (!app->logging.is_on[level])
    return;
  if (app->logging.is_stamped) {
    char stamp[STAMP_MAX];
    time_stamp(stamp);
    fprintf(stderr, "%s ", stamp);
  }
  fputs("halutd: ", stderr);
  va_start(arguments, format);
  vfprintf(stderr, format, arguments);
  va_end(arguments);
  fputc('\n', stderr);
}

static void access_write(struct halut_app *app, const struct halut_request *request, bool sent,
                         uint64_t ns) {
  struct halut_json_out out = {0};
  char stamp[STAMP_MAX];
  size_t bytes = 0;
  time_stamp(stamp);
  halut_json_out_format(&out, "{\"time\":\"%s\",\"id\":", stamp);
  halut_json_out_string(&out, request->id);
  if (request->trace[0] != '\0')
    halut_json_out_format(&out, ",\"traceparent\":\"%s\"", request->trace);
  if (request->key_name[0] != '\0') {
    halut_json_out_format(&out, ",\"key\":");
    halut_json_out_string(&out, request->key_name);
  }
  halut_json_out_format(&out, ",\"method\":");
  halut_json_out_string(&out, request->verb);
  halut_json_out_format(&out, ",\"path\":");
  halut_json_out_string(&out, request->path);
  halut_json_out_format(
      &out, ",\"status\":%u,\"sent\":%s,\"bytes_in\":%zu,\"bytes_out\":%zu,\"us\":%" PRIu64 "}\n",
      request->reply.status, sent ? "true" : "false", request->received_bytes,
      request->is_head ? 0 : request->reply.bytes, ns / 1000);
  char *line = halut_json_out_take(&out, &bytes);
  if (line != NULL)
    fwrite(line, 1, bytes, app->access_log);
  free(line);
  fflush(app->access_log);
}

/* ---- admission ---- */

/* A page of another site that a browser on this machine shows may send requests here, too; one
 * whose name now leads here does so as its own site. */
static bool is_from_page(const struct halut_app *app, const struct halut_request *request) {
  const char *origin = halut_request_header(request, "Origin");
  const char *host = halut_request_header(request, "Host");
  if (origin != NULL)
    return !halut_cors_is_local(origin) && !halut_cors_allows(&app->cors, origin);
  return host != NULL && halut_cors_is_domain(host);
}

bool halut_app_admit(void *self, struct halut_request *request) {
  struct halut_app *app = self;
  struct halut_verdict verdict;
  const struct halut_claim claim = {.authorization = halut_request_header(request, "Authorization"),
                                    .api_key = halut_request_header(request, "X-API-Key"),
                                    .is_local = halut_request_is_local(request),
                                    .is_from_page = is_from_page(app, request)};
  halut_auth_check(app->keys, request->route->scope, &claim, &verdict);
  memcpy(request->key_name, verdict.name, sizeof request->key_name);
  if (verdict.status == 0)
    return true;
  app->metrics.rejected_auth++;
  halut_request_fail(request, verdict.status, "%s", verdict.reason);
  if (verdict.status == 401)
    halut_reply_header(&request->reply, "WWW-Authenticate", "Bearer realm=\"halutd\"");
  return false;
}

void halut_app_ended(void *self, const struct halut_request *request, bool sent) {
  struct halut_app *app = self;
  uint64_t ns = halut_clock_ns() - request->arrived_ns;
  size_t route =
      request->route != NULL ? (size_t)(request->route - halut_routes) : HALUT_ROUTES_MAX;
  if (sent) {
    halut_metrics_request(&app->metrics, route, request->reply.status, ns);
    app->metrics.body_bytes_out += request->is_head ? 0 : request->reply.bytes;
  } else {
    app->metrics.requests_aborted++;
  }
  app->metrics.body_bytes_in += request->received_bytes;
  if (app->access_log != NULL)
    access_write(app, request, sent, ns);
}

void halut_app_dropped(void *self, const char *reason) {
  struct halut_app *app = self;
  if (strcmp(reason, "connections-per-address-max") == 0 || strcmp(reason, "no-memory") == 0)
    app->metrics.connections_refused++;
  else if (strcmp(reason, "connections-max") == 0 || strcmp(reason, "no-descriptor") == 0)
    app->metrics.connections_waited++;
  else if (strcmp(reason, "body-total-max") == 0)
    app->metrics.rejected_memory++;
  else
    app->metrics.connections_cut++;
  halut_app_log(app, HALUT_LOG_DEBUG, "dropped at %s", reason);
}

/* ---- reload ---- */

static void reload_problem(void *self, const char *text) {
  struct halut_app *app = self;
  size_t used = strlen(app->reload.report);
  snprintf(app->reload.report + used, sizeof app->reload.report - used, "%s\n", text);
}

static void reload_certificate(struct halut_app *app) {
  struct halut_diag diag = {0};
  char text[sizeof diag.text + 32];
  if (halut_tls_open(app->config.tls_cert, app->config.tls_key, &app->reload.tls, &diag) ==
      HALUT_OK)
    return;
  snprintf(text, sizeof text, "tls-cert, tls-key: %s", diag.text);
  reload_problem(app, text);
}

static void reload_files(struct halut_app *app) {
  struct halut_reload *reload = &app->reload;
  if (reload->only[0] != '\0') {
    reload->error = halut_catalog_load(reload->old, reload->only, &reload->made, &reload->problems,
                                       reload->report, &reload->diag);
    return;
  }
  reload->error = halut_catalog_open(&reload->old->options, reload->old, &reload->made,
                                     &reload->problems, reload->report, &reload->diag);
  if (strcmp(app->config.keys_file, "off") != 0)
    reload->keys = halut_keys_open(app->config.keys_file, reload_problem, app);
  if (app->tls != NULL)
    reload_certificate(app);
}

static void reload_work(void *self) {
  struct halut_app *app = self;
  reload_files(app);
  uv_async_send(&app->reloaded);
}

/* Keys, certificate and models are three things: what is wrong with one does not hold back another.
 */
static void reload_keys(struct halut_app *app) {
  if (strcmp(app->config.keys_file, "off") == 0 || app->reload.only[0] != '\0')
    return;
  if (app->reload.keys == NULL) {
    app->metrics.reload_failures++;
    halut_app_log(app, HALUT_LOG_ERROR, "reload failed, the keys are what they were");
    return;
  }
  halut_keys_close(app->keys);
  app->keys = app->reload.keys;
  app->reload.keys = NULL;
  halut_app_log(app, HALUT_LOG_INFO, "reloaded: %u keys", halut_keys_count(app->keys));
}

static void reload_tls(struct halut_app *app) {
  if (app->draining) { /* there are no new connections, nor perhaps an http any more */
    halut_tls_drop(app->reload.tls);
    return;
  }
  if (app->tls == NULL || app->reload.only[0] != '\0')
    return;
  if (app->reload.tls == NULL) {
    app->metrics.reload_failures++;
    halut_app_log(app, HALUT_LOG_ERROR, "reload failed, the certificate is what it was");
    return;
  }
  halut_tls_drop(app->tls);
  app->tls = app->reload.tls;
  app->reload.tls = NULL;
  halut_http_certify(app->http, app->tls);
  halut_app_log(app, HALUT_LOG_INFO, "reloaded: the certificate");
}

/* The file that has the name now: the old one may have been moved away. */
static void reload_access_log(struct halut_app *app) {
  if (app->access_log == NULL || app->access_log == stdout || app->reload.only[0] != '\0')
    return;
  FILE *file = fopen(app->config.access_log, "ae");
  if (file == NULL) {
    halut_app_log(app, HALUT_LOG_ERROR, "access-log: %s: %s; the one that is open goes on",
                  app->config.access_log, strerror(errno));
    return;
  }
  fclose(app->access_log);
  app->access_log = file;
}

static void reload_start(struct halut_app *app, const char *only);

/* After a reload: what was asked for meanwhile. */
static void reload_next(struct halut_app *app) {
  const char *name = app->load_next;
  if (app->reload_again && !app->draining) {
    halut_app_reload(app);
  } else if (name != NULL && !app->draining) {
    app->load_next = NULL;
    reload_start(app, name);
  } else {
    halut_learning_reloaded(app, app->reload.report[0] != '\0' ? app->reload.report : NULL);
  }
}

static void reload_done(struct halut_app *app) {
  app->is_reloading = false;
  if (app->has_reloader)
    uv_thread_join(&app->reloader);
  if (app->reload.report[0] != '\0')
    halut_app_log(app, HALUT_LOG_ERROR, "reload:\n%s", app->reload.report);
  reload_keys(app);
  reload_tls(app);
  reload_access_log(app);
  if (app->reload.error != HALUT_OK) {
    app->metrics.reload_failures++;
    halut_app_log(app, HALUT_LOG_ERROR, "reload failed, serving what was loaded: %s",
                  app->reload.diag.text);
  } else {
    if (app->reload.problems > 0)
      app->metrics.reload_failures++;
    app->metrics.reloads++;
    halut_catalog_drop(app->catalog);
    app->catalog = app->reload.made;
    halut_app_log(app, HALUT_LOG_INFO, "reloaded: %u models", app->catalog->count);
  }
  halut_catalog_drop(app->reload.old);
  app->reload.old = NULL;
  struct halut_request *request = app->reload.request;
  app->reload.request = NULL;
  if (request != NULL)
    app->reload.answer(app, &request->reply);
  reload_next(app);
  if (request == NULL)
    return;
  halut_http_resume(request);
  halut_http_run(app->http); /* may ask for the next reload */
}

/* Not on the loop's pool, whose threads libuv makes when first asked, and ends the program if it
 * cannot. */
static void reload_start(struct halut_app *app, const char *only) {
  app->is_reloading = true;
  app->reload_again = false;
  app->reload = (struct halut_reload){.old = halut_catalog_hold(app->catalog),
                                      .request = app->reload.request,
                                      .answer = app->reload.answer};
  snprintf(app->reload.only, sizeof app->reload.only, "%s", only);
  app->has_reloader = uv_thread_create(&app->reloader, reload_work, app) == 0;
  if (app->has_reloader)
    return;
  app->reload.error = halut_fail(&app->reload.diag, HALUT_ENOMEM, 0, "no memory for a thread");
  uv_async_send(&app->reloaded);
}

static void reload_on_wake(uv_async_t *handle) {
  struct halut_app *app = handle->data;
  if (app->is_reloading)
    reload_done(app);
}

int halut_app_reload_open(struct halut_app *app) {
  app->reloaded.data = app;
  return uv_async_init(&app->loop, &app->reloaded, reload_on_wake) == 0 ? HALUT_OK : HALUT_EIO;
}

void halut_app_reload_close(struct halut_app *app) {
  if (app->is_reloading)
    reload_done(app);
  uv_close((uv_handle_t *)&app->reloaded, NULL);
}

void halut_app_reload(struct halut_app *app) {
  if (app->draining)
    return;
  app->reload_again = true; /* what is under way may have looked already */
  if (!app->is_reloading)
    reload_start(app, "");
}

void halut_app_load(struct halut_app *app, const char *name) {
  if (app->is_reloading)
    app->load_next = name;
  else if (!app->draining)
    reload_start(app, name);
}

void halut_app_reload_for(struct halut_app *app, struct halut_request *request, const char *only,
                          void (*answer)(const struct halut_app *app, struct halut_reply *reply)) {
  if (app->draining || app->is_reloading) {
    halut_request_error(request, 503,
                        app->draining ? "shutting down" : "a reload is under way; try again");
    return;
  }
  halut_request_park(request);
  app->reload.request = request;
  app->reload.answer = answer;
  reload_start(app, only);
}
