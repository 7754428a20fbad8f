/* learner.h: learning jobs: a bounded queue, one job at a time on a thread of its own, its result a
 * file in the model directory.
 *
 * Owns the tasks and their samples. Everything is called on the loop thread, and nothing waits but
 * halut_learner_close. The thread tells the loop how far it is by two atomics and a wake-up.
 *
 * A task moves QUEUED -> RUNNING -> DONE, FAILED or CANCELLED; a queued one may be cancelled too. A
 * running one is cancelled at once for those who look, and its thread ends at its next step.
 */
#ifndef HALUT_LEARNER_H
#define HALUT_LEARNER_H

#include <stdatomic.h>
#include <uv.h>

#include "lesson.h"

#define HALUT_TASK_STATE_MAP(XX)                                                                   \
  XX(QUEUED, "queued")                                                                             \
  XX(RUNNING, "running") XX(DONE, "done") XX(FAILED, "failed") XX(CANCELLED, "cancelled")

enum halut_task_state {
#define XX(id, name) HALUT_TASK_##id,
  HALUT_TASK_STATE_MAP(XX)
#undef XX
      HALUT_TASK_STATES
};

/* How the thread competes with everything else on the machine: IDLE takes only time that nothing
 * else wants, LOW is nice 10. */
enum halut_learner_priority { HALUT_LEARNER_IDLE = 0, HALUT_LEARNER_LOW, HALUT_LEARNER_NORMAL };

enum { HALUT_TASK_ID_MAX = 32, HALUT_TASK_FILE_MAX = HALUT_NAME_MAX + 32 };

/* What became of a task: its file and its error on held-out rows (learn.h says what each means). */
struct halut_task_result {
  uint32_t version;
  char file[HALUT_TASK_FILE_MAX]; /* in the model directory */
  uint64_t file_bytes;
  size_t learn_rows, heldout_rows;
  double mse, mse_float, mse_int8, nmse; /* nmse: NaN if the product is constant */
};

struct halut_task {
  struct halut_task *next; /* younger */
  char id[HALUT_TASK_ID_MAX], name[HALUT_NAME_MAX];
  uint32_t columns, outputs, codebooks;
  enum halut_task_state state;
  uint64_t started_ns, ended_ns;   /* 0: not yet */
  struct halut_diag diag;          /* FAILED: why */
  struct halut_task_result result; /* DONE */
  uint32_t holds;                  /* event streams that look at it: not forgotten while any do */
  struct halut_lesson *lesson;     /* until it has ended */
  _Atomic(const char *) stage;     /* static text */
  atomic_uint progress_ppm;        /* of the whole */
};

struct halut_learner_options {
  const char *directory; /* where the result goes; borrowed */
  enum halut_learner_priority priority;
  uint64_t jobs_max;          /* waiting, running or being read */
  uint64_t memory_max;        /* bytes: samples of all, and the work of the largest */
  uint64_t timeout_ms;        /* of running */
  uint64_t kept_max, kept_ms; /* ended tasks, and for how long they can be asked for */
  uint64_t versions_max;      /* older versions of a learned model that are left in the directory */
  /* The highest version of that name that is being served, 0 for none. */
  uint32_t (*version)(void *self, const char *name);
  /* A file has been saved: serve it, then call halut_learner_loaded. */
  void (*saved)(void *self, struct halut_task *task);
  /* Its state, stage or progress is another. */
  void (*changed)(void *self, struct halut_task *task);
  void *self;
};

struct halut_learner;

/* HALUT_ENOMEM, HALUT_EIO. */
int halut_learner_open(uv_loop_t *loop, const struct halut_learner_options *options,
                       struct halut_learner **out, struct halut_diag *diag)
    __attribute__((warn_unused_result));

/* Takes a place among jobs_max for a task whose body is still to be read; HALUT_EBUSY. The place is
 * given back, or goes over to the task in halut_learner_submit. */
int halut_learner_reserve(struct halut_learner *learner) __attribute__((warn_unused_result));
void halut_learner_release(struct halut_learner *learner);

/* Queues a lesson at the place that was taken for it; it starts when the loop comes round.
 * HALUT_EBUSY (memory_max is in use; *diag says
 * so), HALUT_ECANCELED (stopped), HALUT_ENOMEM: the place and the lesson are then still the
 * caller's. */
int halut_learner_submit(struct halut_learner *learner, struct halut_lesson *lesson,
                         struct halut_task **out, struct halut_diag *diag)
    __attribute__((warn_unused_result));

/* The oldest task that is remembered, or NULL; forgets what is past kept_max and kept_ms. */
struct halut_task *halut_learner_tasks(struct halut_learner *learner);
struct halut_task *halut_learner_find(struct halut_learner *learner, const char *id, size_t bytes);

/* Nothing happens to a task that has ended. HALUT_EBUSY: too late, its file is being saved. */
int halut_learner_cancel(struct halut_learner *learner, struct halut_task *task)
    __attribute__((warn_unused_result));

/* Ends a task that `saved` was called for; `why` is NULL if its file is being served. */
void halut_learner_loaded(struct halut_learner *learner, struct halut_task *task, const char *why);

/* Cancels all, and takes no more. */
void halut_learner_stop(struct halut_learner *learner);
/* Waits for the thread, which ends at its next step after halut_learner_stop. Freed once the loop
 * has run its close callback. NULL is fine. */
void halut_learner_close(struct halut_learner *learner);

const char *halut_task_state_name(enum halut_task_state state);
bool halut_task_has_ended(const struct halut_task *task);
/* Tasks in a state: for QUEUED and RUNNING at the moment, else since the start. */
uint64_t halut_learner_count(const struct halut_learner *learner, enum halut_task_state state);

#endif
