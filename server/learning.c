/* DESIGN: a body of samples is read on a thread of its own, so that a mistake in it is
 * answered 400 at once, and only a job that can be learned is queued. Its place in the queue is
 * taken before its body is read: the memory of bodies under way is bounded too. */
#include "learning.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../core/clock.h"
#include "handlers.h"
#include "multipart.h"

/* A body being read. */
struct halut_intake {
  struct halut_intake *next;
  uv_thread_t thread;
  atomic_bool finished;
  struct halut_app *app;
  struct halut_request *request;
  struct halut_lesson_limits limits;
  char boundary[71];
  struct halut_lesson *lesson;
  int error;
  bool is_read_only;
  struct halut_diag diag;
};

/* ---- a job as JSON ---- */

/* A number as JSON has it, which knows no infinity. */
static void real_write(const char *key, double value, struct halut_json_out *out) {
  if (isfinite(value))
    halut_json_out_format(out, ",\"%s\":%.9g", key, value);
  else
    halut_json_out_format(out, ",\"%s\":null", key);
}

static void result_write(const struct halut_task *task, double seconds,
                         struct halut_json_out *out) {
  const struct halut_task_result *result = &task->result;
  halut_json_out_format(out,
                        ",\"result\":{\"model\":\"%s\",\"version\":%u,\"file\":\"%s\","
                        "\"columns\":%u,\"outputs\":%u,\"codebooks\":%u,\"learn_rows\":%zu,"
                        "\"heldout_rows\":%zu",
                        task->name, result->version, result->file, task->columns, task->outputs,
                        task->codebooks, result->learn_rows, result->heldout_rows);
  real_write("mse", result->mse, out);
  real_write("mse_float", result->mse_float, out);
  real_write("mse_int8", result->mse_int8, out);
  real_write("nmse", result->nmse, out);
  real_write("r2", 1.0 - result->nmse, out);
  halut_json_out_format(out, ",\"seconds\":%.3f,\"file_bytes\":%llu}", seconds,
                        (unsigned long long)result->file_bytes);
}

void halut_task_write(const struct halut_task *task, struct halut_json_out *out) {
  uint64_t end_ns = task->ended_ns != 0 ? task->ended_ns : halut_clock_ns();
  double seconds = task->started_ns != 0 ? (double)(end_ns - task->started_ns) * 1e-9 : 0.0;
  halut_json_out_format(
      out,
      "{\"id\":\"%s\",\"name\":\"%s\",\"state\":\"%s\",\"stage\":\"%s\",\"progress\":%.4f,"
      "\"seconds\":%.3f",
      task->id, task->name, halut_task_state_name(task->state),
      task->state == HALUT_TASK_DONE ? "done" : atomic_load(&task->stage),
      (double)atomic_load(&task->progress_ppm) * 1e-6, seconds);
  if (task->state == HALUT_TASK_FAILED) {
    halut_json_out_format(out, ",\"error\":");
    halut_json_out_string(out, task->diag.text);
  }
  if (task->state == HALUT_TASK_DONE)
    result_write(task, seconds, out);
  halut_json_out_format(out, "}");
}

/* ---- POST /v1/learn ---- */

static void intake_free(void *context) {
  struct halut_intake *intake = context;
  halut_lesson_free(intake->lesson);
  free(intake);
}

static void intake_read(struct halut_intake *intake) {
  struct halut_request *request = intake->request;
  if (access(intake->app->config.models, W_OK) != 0) {
    intake->is_read_only = true;
    halut_fail(&intake->diag, HALUT_EIO, 0, "models: %.100s cannot be written: %s",
               intake->app->config.models, strerror(errno));
    return;
  }
  intake->error = halut_request_inflate(intake->request, &intake->diag);
  if (intake->error != HALUT_OK)
    return;
  intake->error = halut_lesson_read(request->body != NULL ? (const char *)request->body : "",
                                    request->body_bytes, intake->boundary, &intake->limits,
                                    &intake->lesson, &intake->diag);
}

static void intake_work(void *self) {
  struct halut_intake *intake = self;
  struct halut_app *app = intake->app;
  intake_read(intake);
  atomic_store(&intake->finished, true);
  uv_async_send(&app->learning.taken_in);
}

/* Also one that was unloaded: the file of the product would load it again. */
static bool is_network(const struct halut_catalog *catalog, const char *name) {
  bool is_one = halut_catalog_find(catalog, HALUT_NETWORK, name, 0, NULL) != NULL;
  for (uint32_t i = 0; i < catalog->note_count && !is_one; i++)
    is_one = catalog->notes[i].is_network && strcmp(catalog->notes[i].name, name) == 0;
  return is_one;
}

/* What is wrong with a lesson that was read: a status, or 0. */
static unsigned intake_judge(struct halut_intake *intake) {
  const struct halut_catalog *catalog = intake->app->catalog;
  struct halut_diag *diag = &intake->diag;
  if (intake->is_read_only)
    return 507;
  if (intake->error != HALUT_OK)
    return halut_job_status(intake->error);
  if (is_network(catalog, intake->lesson->name)) {
    halut_fail(diag, HALUT_EINVALID, 0, "name: a network is called \"%s\": choose another",
               intake->lesson->name);
    return 409;
  }
  if (catalog->count >= HALUT_CATALOG_MAX) {
    halut_fail(diag, HALUT_ELIMIT, 0, "%d models are being served, which is the most",
               HALUT_CATALOG_MAX);
    return 507;
  }
  return 0;
}

static void intake_submit(struct halut_intake *intake) {
  struct halut_learning *learning = &intake->app->learning;
  struct halut_reply *reply = &intake->request->reply;
  struct halut_task *task = NULL;
  struct halut_json_out out = {0};
  int error = halut_learner_submit(learning->learner, intake->lesson, &task, &intake->diag);
  if (error != HALUT_OK) {
    halut_learner_release(learning->learner);
    intake->app->metrics.rejected_learning += error == HALUT_EBUSY;
    halut_reply_error(reply, 503, "%s", intake->diag.text);
    return;
  }
  intake->lesson = NULL; /* the task's */
  halut_json_out_format(&out, "{\"id\":\"%s\",\"state\":\"queued\",\"url\":\"/v1/jobs/%s\"}\n",
                        task->id, task->id);
  reply->body = halut_json_out_take(&out, &reply->bytes);
  if (reply->body == NULL) {
    (void)!halut_learner_cancel(learning->learner, task);
    halut_reply_error(reply, 503, "no memory for the reply; try again");
    return;
  }
  reply->owned = true;
  reply->status = 202;
  reply->type = "application/json";
  halut_reply_header(reply, "Location", "/v1/jobs/%s", task->id);
}

static void intake_done(struct halut_intake *intake) {
  unsigned code = intake_judge(intake);
  uv_thread_join(&intake->thread);
  if (code == 0) {
    intake_submit(intake);
  } else {
    halut_learner_release(intake->app->learning.learner);
    halut_reply_error(&intake->request->reply, code, "%s", intake->diag.text);
  }
  halut_http_resume(intake->request);
}

static void intakes_on_wake(uv_async_t *handle) {
  struct halut_app *app = handle->data;
  for (struct halut_intake **link = &app->learning.intakes; *link != NULL;) {
    struct halut_intake *intake = *link;
    if (atomic_load(&intake->finished)) {
      *link = intake->next;
      intake_done(intake);
    } else {
      link = &intake->next;
    }
  }
  halut_http_run(app->http);
}

static struct halut_intake *intake_new(struct halut_app *app, struct halut_request *request) {
  struct halut_intake *intake = calloc(1, sizeof *intake);
  if (intake == NULL)
    return NULL;
  intake->app = app;
  intake->request = request;
  intake->limits = (struct halut_lesson_limits){.rows_max = app->config.learn_rows_max,
                                                .codebooks_max = app->config.learn_codebooks_max,
                                                .width_max = app->config.learn_width_max,
                                                .memory_max = app->config.learn_memory_max,
                                                .depth_max = app->limits.depth_max,
                                                .threads = (uint32_t)app->config.learn_threads};
  request->context = intake;
  request->context_free = intake_free;
  return intake;
}

void halut_handle_learn(void *self, struct halut_request *request) {
  static const char *const none[] = {NULL};
  struct halut_app *app = self;
  struct halut_learner *learner = app->learning.learner;
  if (!halut_query_only(request, none))
    return;
  if (learner == NULL) {
    halut_request_error(request, 403, "learning is off here (learn)");
    return;
  }
  if (app->draining) {
    app->metrics.rejected_unready++;
    halut_request_error(request, 503, "shutting down");
    return;
  }
  if (halut_learner_reserve(learner) != HALUT_OK) {
    app->metrics.rejected_learning++;
    halut_request_error(request, 503, "%llu jobs wait or run already (learn-jobs-max); try again",
                        (unsigned long long)app->config.learn_jobs_max);
    return;
  }
  struct halut_intake *intake = intake_new(app, request);
  int error = intake == NULL ? HALUT_ENOMEM
                             : halut_multipart_boundary(
                                   halut_request_header(request, "Content-Type"), intake->boundary);
  if (error == HALUT_EINVALID) {
    halut_learner_release(learner);
    halut_request_error(request, 400,
                        "Content-Type: multipart/form-data without a usable boundary");
    return;
  }
  if (error == HALUT_ENOMEM || uv_thread_create(&intake->thread, intake_work, intake) != 0) {
    halut_learner_release(learner);
    halut_request_error(request, 503, "no memory for the request; try again");
    return;
  }
  intake->next = app->learning.intakes;
  app->learning.intakes = intake;
  halut_request_park(request);
}

/* ---- /v1/jobs ---- */

/* The task of the path; NULL after an answer. */
static struct halut_task *task_of(struct halut_app *app, struct halut_request *request) {
  struct halut_task *task = NULL;
  if (app->learning.learner != NULL)
    task = halut_learner_find(app->learning.learner, request->capture[0].text,
                              request->capture[0].bytes);
  if (task == NULL)
    halut_request_error(request, 404, "no job with the id \"%.*s\"; ended ones are forgotten",
                        (int)(request->capture[0].bytes < 40 ? request->capture[0].bytes : 40),
                        request->capture[0].text);
  return task;
}

static void task_answer(struct halut_request *request, const struct halut_task *task) {
  struct halut_json_out out = {0};
  halut_task_write(task, &out);
  halut_json_out_format(&out, "\n");
  halut_answer(request, 200, "application/json", &out);
}

void halut_handle_jobs(void *self, struct halut_request *request) {
  struct halut_app *app = self;
  struct halut_json_out out = {0};
  const char *comma = "";
  bool is_on = app->learning.learner != NULL;
  halut_json_out_format(&out, "{\"learning\":%s,\"jobs\":[", is_on ? "true" : "false");
  for (const struct halut_task *task = is_on ? halut_learner_tasks(app->learning.learner) : NULL;
       task != NULL; task = task->next) {
    halut_json_out_format(&out, "%s", comma);
    halut_task_write(task, &out);
    comma = ",";
  }
  halut_json_out_format(&out, "]}\n");
  halut_answer(request, 200, "application/json", &out);
}

void halut_handle_job(void *self, struct halut_request *request) {
  const struct halut_task *task = task_of(self, request);
  if (task != NULL)
    task_answer(request, task);
}

void halut_handle_job_cancel(void *self, struct halut_request *request) {
  struct halut_app *app = self;
  struct halut_task *task = task_of(app, request);
  if (task == NULL)
    return;
  if (halut_learner_cancel(app->learning.learner, task) != HALUT_OK)
    halut_request_error(request, 409, "too late: the model of job %s is being saved", task->id);
  else
    task_answer(request, task);
}

void halut_handle_job_events(void *self, struct halut_request *request) {
  struct halut_app *app = self;
  struct halut_task *task = task_of(app, request);
  if (task == NULL)
    return;
  if (request->is_head) {
    const struct halut_reply reply = {.status = 200, .type = "text/event-stream"};
    halut_request_reply(request, &reply);
  } else if (app->learning.events.count >= app->config.learn_streams_max) {
    app->metrics.rejected_learning++;
    halut_request_error(request, 503, "%llu clients follow jobs already (learn-streams-max)",
                        (unsigned long long)app->config.learn_streams_max);
  } else if (halut_events_follow(&app->learning.events, request, task) != HALUT_OK) {
    halut_request_error(request, 503, "no memory for the stream; try again");
  }
}

/* ---- between learner and catalogue ---- */

/* The newest that a file is known to have, be it served or not: two files of one version are in the
 * way of the next start. */
static uint32_t learning_version(void *self, const char *name) {
  const struct halut_app *app = self;
  const struct halut_catalog *catalog = app->catalog;
  const struct halut_entry *entry = halut_catalog_find(catalog, HALUT_PRODUCT, name, 0, NULL);
  uint32_t version = entry != NULL ? entry->info->version : 0;
  for (uint32_t i = 0; i < catalog->note_count; i++)
    if (strcmp(catalog->notes[i].name, name) == 0 && catalog->notes[i].version > version)
      version = catalog->notes[i].version;
  return version;
}

static void learning_changed(void *self, struct halut_task *task) {
  struct halut_app *app = self;
  halut_events_tell(&app->learning.events, task);
  if (halut_task_has_ended(task))
    halut_app_log(app, HALUT_LOG_INFO, "job %s (%s): %s%s%s", task->id, task->name,
                  halut_task_state_name(task->state), task->diag.text[0] != '\0' ? ": " : "",
                  task->diag.text);
}

/* While draining there is no reload: the file is served from the next start on. */
static void learning_saved(void *self, struct halut_task *task) {
  struct halut_app *app = self;
  app->learning.loading = task;
  if (app->draining)
    halut_learning_reloaded(app, NULL);
  else
    halut_app_load(app, task->name);
}

void halut_learning_reloaded(struct halut_app *app, const char *why) {
  struct halut_task *task = app->learning.loading;
  char text[HALUT_TASK_FILE_MAX + HALUT_REPORT_MAX + 32], path[1024];
  if (task == NULL)
    return;
  app->learning.loading = NULL;
  const struct halut_entry *entry =
      halut_catalog_find(app->catalog, HALUT_PRODUCT, task->name, task->result.version, NULL);
  bool is_served =
      app->draining || (entry != NULL && strcmp(entry->file, task->result.file) == 0);
  if (!is_served) { /* nor may it be in the way of the next start */
    snprintf(path, sizeof path, "%s/%s", app->config.models, task->result.file);
    unlink(path);
    snprintf(text, sizeof text, "%s cannot be served: %s", task->result.file,
             why != NULL ? why : "the reload did not take it");
  }
  halut_learner_loaded(app->learning.learner, task, is_served ? NULL : text);
}

/* ---- open and close ---- */

int halut_learning_open(struct halut_app *app, struct halut_diag *diag) {
  static const enum halut_learner_priority priorities[] = {
      [HALUT_PRIORITY_IDLE] = HALUT_LEARNER_IDLE,
      [HALUT_PRIORITY_LOW] = HALUT_LEARNER_LOW,
      [HALUT_PRIORITY_NORMAL] = HALUT_LEARNER_NORMAL};
  const struct halut_config *config = &app->config;
  struct halut_learner_options options = {.directory = config->models,
                                          .jobs_max = config->learn_jobs_max,
                                          .memory_max = config->learn_memory_max,
                                          .timeout_ms = config->learn_timeout_ms,
                                          .kept_max = config->learn_kept_max,
                                          .kept_ms = config->learn_kept_ms,
                                          .versions_max = config->learn_versions_max,
                                          .priority = priorities[config->learn_priority],
                                          .version = learning_version,
                                          .saved = learning_saved,
                                          .changed = learning_changed,
                                          .self = app};
  if (config->learn == HALUT_LEARN_OFF)
    return HALUT_OK;
  int error = halut_learner_open(&app->loop, &options, &app->learning.learner, diag);
  if (error != HALUT_OK)
    return error;
  halut_events_open(&app->learning.events, &app->loop);
  app->learning.taken_in.data = app;
  if (uv_async_init(&app->loop, &app->learning.taken_in, intakes_on_wake) == 0)
    return HALUT_OK;
  halut_learning_close(app);
  return halut_fail(diag, HALUT_EIO, 0, "no wake-up for samples");
}

void halut_learning_drain(struct halut_app *app) {
  if (app->learning.learner == NULL)
    return;
  halut_learner_stop(app->learning.learner);
  if (!app->is_reloading)
    halut_learning_reloaded(app, NULL);
}

void halut_learning_close(struct halut_app *app) {
  if (app->learning.learner == NULL)
    return;
  halut_events_close(&app->learning.events);
  if (app->learning.taken_in.type == UV_ASYNC)
    uv_close((uv_handle_t *)&app->learning.taken_in, NULL);
  halut_learner_close(app->learning.learner);
  app->learning.learner = NULL; /* a reload may still be under way */
  app->learning.loading = NULL;
}
