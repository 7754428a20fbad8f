/* learning.h: learning over the API: what the daemon does with a job beside learning.
 *
 * Loop thread. Between the routes (handlers in learning.c), the learner, the event streams and the
 * catalogue, into which a result is loaded by a reload of the model directory.
 */
#ifndef HALUT_LEARNING_H
#define HALUT_LEARNING_H

#include "events.h"
#include "json.h"
#include "learner.h"

struct halut_app;
struct halut_intake;

struct halut_learning {
  struct halut_learner *learner; /* NULL: learning is off */
  struct halut_intake *intakes; /* bodies being read */
  uv_async_t taken_in;
  struct halut_events events;
  struct halut_task *loading; /* its file waits for a reload, or NULL */
};

/* Does nothing where the configuration has learning off. HALUT_ENOMEM, HALUT_EIO. */
int halut_learning_open(struct halut_app *app, struct halut_diag *diag)
    __attribute__((warn_unused_result));
/* Cancels all jobs, which ends their streams. */
void halut_learning_drain(struct halut_app *app);
void halut_learning_close(struct halut_app *app);

/* After a reload: `why` it failed, or NULL. */
void halut_learning_reloaded(struct halut_app *app, const char *why);

/* The task as a JSON object. */
void halut_task_write(const struct halut_task *task, struct halut_json_out *out);

#endif
