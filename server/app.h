/* app.h: the daemon's parts in one place, for the handlers and for main.
 *
 * Owned and used by the loop thread alone.
 */
#ifndef HALUT_APP_H
#define HALUT_APP_H

#include <stdio.h>
#include <uv.h>

#include "catalog.h"
#include "config.h"
#include "http.h"
#include "job.h"
#include "learning.h"
#include "metrics.h"
#include "pool.h"
#include "shadow.h"

/* What is printed; may change while running. */
struct halut_app_logging {
  bool is_on[HALUT_LOG_DEBUG + 1]; /* by level */
  int64_t verbosity;               /* as it was asked for; 1 and more is HALUT_LOG_DEBUG */
  bool is_stamped;                 /* lines begin with the time */
};

enum { HALUT_SIGNALS = 5 };

struct halut_app {
  struct halut_config config;
  struct halut_job_limits limits;
  _Atomic uint64_t tensor_bytes; /* of all jobs */
  uint32_t workers;
  uv_loop_t loop;
  uv_signal_t signals[HALUT_SIGNALS];
  uv_thread_t reloader;
  uv_async_t reloaded;
  bool is_reloading, has_reloader, reload_again, draining;
  const char *load_next; /* the model to load after the reload that is under way, or NULL */
  struct halut_cors cors;
  struct halut_tls *tls;         /* NULL: off */
  struct halut_keys *keys;       /* NULL: none, see auth.h */
  struct halut_catalog *catalog; /* what new requests get; NULL until loaded */
  struct halut_http *http;
  struct halut_pool *pool;
  struct halut_shadow *shadow; /* NULL: off */
  struct halut_metrics metrics;
  struct halut_learning learning;
  FILE *access_log; /* NULL: off */
  struct halut_app_logging logging;
  uint64_t started_ns;
  struct halut_reload { /* made on a thread of its own, swapped in by the loop */
    struct halut_catalog *old, *made;
    struct halut_keys *keys; /* NULL if there are none, or their file has a problem */
    struct halut_tls *tls;   /* the same */
    uint32_t problems;
    char report[HALUT_REPORT_MAX];
    struct halut_diag diag;
    int error;
    char only[HALUT_NAME_MAX];     /* the one model to load; "": all, the keys, the certificate */
    struct halut_request *request; /* parked until it is done, or NULL */
    void (*answer)(const struct halut_app *app, struct halut_reply *reply);
  } reload;
};

/* The routing table, for http.h. */
extern const struct halut_route halut_routes[];
extern const size_t halut_route_count;

/* What a request may do, before its body is read (auth.h). */
bool halut_app_admit(void *self, struct halut_request *request);

/* After a request has ended: counts it and writes its line of the access log. */
void halut_app_ended(void *self, const struct halut_request *request, bool sent);
void halut_app_dropped(void *self, const char *reason);

/* Loads the model directory, keys and certificate anew, once more after a reload under way. */
void halut_app_reload(struct halut_app *app);
/* Loads the files of one model, even if it was unloaded, at once or after what is under way; then
 * halut_learning_reloaded is called. `name` is borrowed until then. */
void halut_app_load(struct halut_app *app, const char *name);
/* The same for all models ("") or one by name, for a request: parks it, calls `answer` with
 * app->reload as it came out to fill the reply, and resumes it. Answers 503 if a reload is under
 * way. */
void halut_app_reload_for(struct halut_app *app, struct halut_request *request, const char *only,
                          void (*answer)(const struct halut_app *app, struct halut_reply *reply));
/* What a reload needs of the loop. HALUT_EIO. Close it on the loop, once; that waits for a reload
 * under way. */
int halut_app_reload_open(struct halut_app *app) __attribute__((warn_unused_result));
void halut_app_reload_close(struct halut_app *app);

/* Sets app->logging as the configuration says. */
void halut_app_log_open(struct halut_app *app);
/* One level more or less than the least important that is printed now, all above it too. Stays
 * between error and debug, and says where it is. */
void halut_app_log_shift(struct halut_app *app, bool is_more);
void halut_app_log(const struct halut_app *app, uint32_t level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
