/* main.c: reads the settings, opens everything, serves, drains. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "../core/clock.h"
#include "../core/cpu.h"
#include "../core/version.h"
#include "../models/backends.h"
#include "app.h"
#include "dialects.h"
#include "health.h"
#include "systemd.h"
#include "user.h"

extern char **environ;

enum { DESCRIPTORS_RESERVED = 64 };

/* ---- settings that need the machine ---- */

static void choose_backends(const struct halut_config *config,
                            struct halut_catalog_options *options,
                            struct halut_config_problems *problems) {
  static const char *const wanted[][2] = {[HALUT_BACKEND_CPU] = {"cpu"},
                                          [HALUT_BACKEND_RTL] = {"rtl"},
                                          [HALUT_BACKEND_BOTH] = {"cpu", "rtl"}};
  for (size_t i = 0; i < 2 && wanted[config->backend][i] != NULL; i++) {
    const char *name = wanted[config->backend][i];
    const struct halut_backend_ops *ops = halut_backends_find(name);
    if (ops == NULL)
      halut_config_problem(problems, "backend: this build has no \"%s\" backend", name);
    else
      options->backends[options->backend_count++] = ops;
  }
}

/* Connections leave what everything else needs, of however few descriptors there may be. */
static void share_descriptors(struct halut_app *app) {
  struct rlimit limit;
  uint64_t *connections = &app->config.connections_max, most = *connections + DESCRIPTORS_RESERVED;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= most)
    return;
  limit.rlim_cur = limit.rlim_max < most ? limit.rlim_max : most;
  if (setrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= most)
    return;
  uint64_t left = limit.rlim_cur > DESCRIPTORS_RESERVED ? limit.rlim_cur - DESCRIPTORS_RESERVED : 1;
  halut_app_log(app, HALUT_LOG_ERROR,
                "connections-max is %llu, not %llu: there may be %llu descriptors, of which %d are "
                "for files",
                (unsigned long long)left, (unsigned long long)*connections,
                (unsigned long long)limit.rlim_cur, DESCRIPTORS_RESERVED);
  *connections = left;
}

static FILE *access_open(const struct halut_config *config,
                         struct halut_config_problems *problems) {
  if (strcmp(config->access_log, "off") == 0)
    return NULL;
  if (strcmp(config->access_log, "json") == 0)
    return stdout;
  FILE *file = fopen(config->access_log, "ae");
  if (file == NULL)
    halut_config_problem(problems, "access-log: %s: %s", config->access_log, strerror(errno));
  return file;
}

/* ---- the loop's events ---- */

static void events_close(struct halut_app *app) {
  for (size_t i = 0; i < HALUT_SIGNALS; i++)
    if (app->signals[i].loop != NULL) /* initialised */
      uv_close((uv_handle_t *)&app->signals[i], NULL);
  if (app->reloaded.loop != NULL)
    halut_app_reload_close(app);
}

static void on_drained(void *self) {
  struct halut_app *app = self;
  halut_http_close(app->http);
  halut_pool_close(app->pool);
  halut_shadow_close(app->shadow);
  halut_learning_close(app);
  events_close(app);
}

static void on_signal(uv_signal_t *handle, int number) {
  struct halut_app *app = handle->data;
  if (number == SIGHUP) {
    halut_app_reload(app);
    return;
  }
  if (number == SIGUSR1 || number == SIGUSR2) {
    halut_app_log_shift(app, number == SIGUSR1);
    return;
  }
  /* A second signal does not wait for clients any more. */
  uint64_t patience_ms = app->draining ? 0 : app->config.drain_timeout_ms;
  halut_app_log(app, HALUT_LOG_INFO, "signal %d: draining", number);
  app->draining = true;
  halut_systemd_notify("STOPPING=1");
  halut_learning_drain(app);
  halut_http_drain(app->http, patience_ms);
}

static void on_settled(void *self) {
  struct halut_app *app = self;
  halut_http_run(app->http);
}

static void on_batch(void *self, uint32_t worker, struct halut_item **items, uint32_t count) {
  struct halut_app *app = self;
  halut_compute(app->pool, worker, items, count);
}

static int events_open(struct halut_app *app) {
  static const int numbers[HALUT_SIGNALS] = {SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2};
  for (size_t i = 0; i < HALUT_SIGNALS; i++) {
    app->signals[i].data = app;
    if (uv_signal_init(&app->loop, &app->signals[i]) != 0 ||
        uv_signal_start(&app->signals[i], on_signal, numbers[i]) != 0)
      return HALUT_EIO;
  }
  return halut_app_reload_open(app);
}

/* ---- opening ---- */

/* The sockets are open and the files are read: what needed root is done. */
static int give_up_root(const struct halut_app *app, const struct halut_listener *listeners,
                        uint32_t count, struct halut_diag *diag) {
  struct halut_user user;
  if (strcmp(app->config.user, "off") == 0) {
    if (geteuid() == 0)
      halut_app_log(app, HALUT_LOG_WARNING, "running as root; `user` names whom to become");
    return HALUT_OK;
  }
  int error = halut_user_find(app->config.user, &user, diag);
  if (error != HALUT_OK)
    return error;
  for (uint32_t i = 0; i < count && geteuid() == 0; i++)
    if (listeners[i].unlink_path[0] != '\0' &&
        lchown(listeners[i].unlink_path, user.uid, user.gid) != 0)
      return halut_fail(diag, HALUT_EIO, 0, "%s: %s", listeners[i].unlink_path, strerror(errno));
  error = halut_user_become(&user, diag);
  if (error == HALUT_OK)
    halut_app_log(app, HALUT_LOG_INFO, "running as %s", user.name);
  return error;
}

static void on_shadow(void *self, const char *text) {
  halut_app_log(self, HALUT_LOG_ERROR, "%s", text);
}

/* Its seat is the one after the workers'. */
static int shadow_open(struct halut_app *app, struct halut_diag *diag) {
  struct halut_shadow_options options = {.every = app->config.shadow_every,
                                         .seat = app->workers,
                                         .metrics = &app->metrics,
                                         .report = on_shadow,
                                         .self = app};
  return options.every == 0 ? HALUT_OK
                            : halut_shadow_open(&app->loop, &options, &app->shadow, diag);
}

/* Two workers on one processor would only wait for each other. */
static bool is_lending(const struct halut_app *app) {
  enum { OFF, AUTO, ON };
  return app->config.lend == ON || (app->config.lend == AUTO && app->workers <= halut_cpu_count());
}

static int server_open(struct halut_app *app, struct halut_diag *diag) {
  struct halut_listener listeners[HALUT_LISTEN_MAX];
  const struct halut_config *config = &app->config;
  struct halut_pool_options pool = {.workers = app->workers,
                                    .lends = is_lending(app),
                                    .limits = {.lanes = HALUT_LANES,
                                               .batch_max = config->batch_max < HALUT_TAKE_MAX
                                                                ? (uint32_t)config->batch_max
                                                                : HALUT_TAKE_MAX,
                                               .queue_max = (uint32_t)config->queue_max},
                                    .run = on_batch,
                                    .settled = on_settled,
                                    .self = app};
  struct halut_http_options http = {
      .listeners = listeners,
      .headers = {(size_t)config->headers_max, (size_t)config->header_bytes_max},
      .requests_per_connection_max = (uint32_t)config->requests_per_connection_max,
      .connections_max = (uint32_t)config->connections_max,
      .connections_per_address_max = (uint32_t)config->connections_per_address_max,
      .request_timeout_ms = config->request_timeout_ms,
      .idle_timeout_ms = config->idle_timeout_ms,
      .body_max = config->body_max,
      .samples_max = config->learn_bytes_max,
      .body_total_max = config->body_total_max,
      .body_inflated_max = config->body_inflated_max,
      .cors = app->cors,
      .tls = app->tls,
      .routes = halut_routes,
      .route_count = halut_route_count,
      .admit = halut_app_admit,
      .wording = halut_dialect_wording,
      .ended = halut_app_ended,
      .dropped = halut_app_dropped,
      .drained = on_drained,
      .self = app};
  int error = halut_listeners_open(config, listeners, &http.listener_count, diag);
  if (error == HALUT_OK)
    error = give_up_root(app, listeners, http.listener_count, diag);
  if (error == HALUT_OK)
    error = halut_pool_open(&app->loop, &pool, &app->pool, diag);
  if (error == HALUT_OK)
    error = shadow_open(app, diag);
  if (error == HALUT_OK)
    error = halut_learning_open(app, diag);
  if (error == HALUT_OK)
    error = halut_http_open(&app->loop, &http, &app->http, diag);
  if (error != HALUT_OK) {
    for (uint32_t i = 0; i < http.listener_count; i++)
      halut_listener_close(&listeners[i]);
    halut_learning_close(app);
    halut_shadow_close(app->shadow);
    halut_pool_close(app->pool);
    return error;
  }
  for (uint32_t i = 0; i < http.listener_count; i++)
    printf("halutd: listening on %s\n", listeners[i].url);
  fflush(stdout);
  halut_systemd_notify("READY=1");
  return HALUT_OK;
}

static void keys_problem(void *self, const char *text) {
  halut_config_problem(self, "%s", text);
}

/* Who may ask, and who this is. */
static void access_check(struct halut_app *app, struct halut_config_problems *problems) {
  const struct halut_config *config = &app->config;
  struct halut_user user;
  struct halut_diag diag = {0};
  const char *bad = NULL;
  if (strcmp(config->keys_file, "off") != 0)
    app->keys = halut_keys_open(config->keys_file, keys_problem, problems);
  if (!halut_cors_read(config->cors_origins, &app->cors, &bad))
    halut_config_problem(problems,
                         "cors-origins: from \"%.40s\" on: must be at most %d origins as in "
                         "https://app.example.org, in small letters, without a path",
                         bad, HALUT_ORIGINS_MAX);
  if (strcmp(config->tls_cert, "off") != 0 && strcmp(config->tls_key, "off") != 0 &&
      halut_tls_open(config->tls_cert, config->tls_key, &app->tls, &diag) != HALUT_OK)
    halut_config_problem(problems, "tls-cert, tls-key: %s", diag.text);
  if (strcmp(config->user, "off") != 0 && halut_user_find(config->user, &user, &diag) != HALUT_OK)
    halut_config_problem(problems, "user: %s", diag.text);
}

static void access_close(struct halut_app *app) {
  halut_keys_close(app->keys);
  halut_tls_drop(app->tls);
}

static int report(const struct halut_config_problems *problems) {
  fprintf(stderr, "halutd: %u problem%s:\n%s", problems->count, problems->count == 1 ? "" : "s",
          problems->text);
  return 2;
}

/* Everything that can be wrong with the settings and the models is found before anything is served.
 */
static int models_open(struct halut_app *app, struct halut_config_problems *problems) {
  static char lines[HALUT_REPORT_MAX];
  struct halut_diag diag = {0};
  uint32_t bad = 0;
  struct halut_catalog_options options = {
      .directory = app->config.models,
      .favourite = strcmp(app->config.model_default, "off") == 0 ? NULL : app->config.model_default,
      .cpu = app->config.cpu == 0 ? NULL : halut_config_word("cpu", app->config.cpu),
      .workers = app->workers + (app->config.shadow_every > 0 ? 1 : 0),
      .batch_max = (uint32_t)app->config.batch_max};
  choose_backends(&app->config, &options, problems);
  if (options.backend_count == 0)
    return HALUT_EINVALID;
  int error = halut_catalog_open(&options, NULL, &app->catalog, &bad, lines, &diag);
  char *rest = NULL;
  for (char *line = strtok_r(lines, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest))
    halut_config_problem(problems, "%s", line);
  if (error != HALUT_OK && bad == 0)
    halut_config_problem(problems, "%s", diag.text);
  return error != HALUT_OK || bad > 0 ? HALUT_EINVALID : HALUT_OK;
}

static int serve(struct halut_app *app) {
  struct halut_diag diag = {0};
  if (events_open(app) != HALUT_OK || server_open(app, &diag) != HALUT_OK) {
    fprintf(stderr, "halutd: %s\n", diag.text[0] != '\0' ? diag.text : "cannot start");
    events_close(app);
    uv_run(&app->loop, UV_RUN_DEFAULT); /* what was closed is freed */
    return 1;
  }
  halut_app_log(app, HALUT_LOG_INFO, "%u models ready, %u workers", app->catalog->count,
                app->workers);
  uv_run(&app->loop, UV_RUN_DEFAULT);
  halut_app_log(app, HALUT_LOG_INFO, "drained");
  return 0;
}

static int mode_run(struct halut_config *config) {
  switch (config->mode) {
  case HALUT_MODE_HELP:
    halut_config_help(stdout);
    return 0;
  case HALUT_MODE_MAN:
    halut_config_man(stdout);
    return 0;
  case HALUT_MODE_VERSION:
    puts("halutd " HALUT_VERSION);
    return 0;
  case HALUT_MODE_PRINT:
    halut_config_print(config, stdout);
    return 0;
  case HALUT_MODE_HEALTH:
    return halut_health(config->health_url);
  default:
    return -1;
  }
}

int main(int argc, char **argv) {
  static struct halut_app app;
  static struct halut_config_problems problems;
  app.started_ns = halut_clock_ns();
  int unread = halut_config_read(argc, argv, environ, &app.config, &problems);
  int code = unread == HALUT_OK ? mode_run(&app.config) : -1;
  if (code >= 0)
    return code;
  json_object_seed(0);
  signal(SIGPIPE, SIG_IGN);
  signal(SIGUSR1, SIG_IGN); /* until there is a loop to take it */
  signal(SIGUSR2, SIG_IGN);
  signal(SIGXFSZ, SIG_IGN); /* a file that may not grow is an error of its writer */
  app.limits = (struct halut_job_limits){.pixels_max = app.config.image_pixels_max,
                                         .rows_max = app.config.rows_max,
                                         .depth_max = (uint32_t)app.config.json_depth_max,
                                         .model_queue_max = (uint32_t)app.config.model_queue_max,
                                         .tensor_total_max = app.config.tensor_total_max,
                                         .tensor_bytes = &app.tensor_bytes};
  app.workers = app.config.workers > 0 ? (uint32_t)app.config.workers : halut_cpu_count();
  halut_app_log_open(&app);
  app.access_log = access_open(&app.config, &problems);
  models_open(&app, &problems);
  access_check(&app, &problems);
  if (problems.count > 0) {
    halut_catalog_drop(app.catalog);
    access_close(&app);
    return report(&problems);
  }
  if (app.config.mode == HALUT_MODE_CHECK) {
    puts("halutd: the configuration and the models are in order");
    halut_catalog_drop(app.catalog);
    access_close(&app);
    return 0;
  }
  share_descriptors(&app);
  if (uv_loop_init(&app.loop) != 0) {
    fputs("halutd: cannot make an event loop\n", stderr);
    return 1;
  }
  code = serve(&app);
  halut_catalog_drop(app.catalog);
  access_close(&app);
  halut_metrics_close(&app.metrics);
  uv_loop_close(&app.loop);
  if (app.access_log != NULL && app.access_log != stdout)
    fclose(app.access_log);
  return code;
}
