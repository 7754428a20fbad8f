/* DESIGN: the loop owns the list of tasks and starts a thread for the oldest that waits, so that no
 * lock is needed: while a thread runs, what it touches of its task is its own (`run`), and the few
 * words that both read are atomic. The thread ends by setting `finished` and waking the loop, which
 * joins it, has the file loaded, and only then starts the next.
 *
 * Whether a task is cancelled or saved is decided once, by whoever moves `gate` away from OPEN:
 * a cancelled task leaves no file, and a file is never disowned. */
#include "learner.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../core/clock.h"
#include "../models/learned_file.h"

enum { GATE_OPEN, GATE_CANCELLED, GATE_SAVING };
enum {
  TELL_EVERY_NS = 100000000, /* of progress within a stage */
  GOLDEN_ROWS = 4,           /* in the file: so few, as the input of a wide product is most of it */
  NICE_LOW = 10,
  NICE_IDLE = 19 /* where the idle policy is not to be had */
};

struct halut_learner {
  struct halut_learner_options options;
  uv_async_t wake;
  struct halut_task *first, *last;
  uint64_t count[HALUT_TASK_STATES];
  uint64_t reserved;
  uint64_t ids;
  bool stopped;
  struct halut_task *task; /* the thread's, or being loaded */
  bool has_thread;
  uv_thread_t thread;
  struct { /* the thread's while there is one */
    struct halut_learner *learner;
    const struct halut_lesson *lesson;
    struct halut_task *task;
    uint32_t version; /* at least */
    uint64_t deadline_ns, told_ns;
    const char *stage;
    bool is_late;
    atomic_int gate;
    atomic_bool finished;
    int error;
    struct halut_diag diag;
    struct halut_task_result result;
  } run;
};

static void learner_next(struct halut_learner *learner);

const char *halut_task_state_name(enum halut_task_state state) {
  static const char *const names[HALUT_TASK_STATES] = {
#define XX(id, name) name,
      HALUT_TASK_STATE_MAP(XX)
#undef XX
  };
  return names[state];
}

bool halut_task_has_ended(const struct halut_task *task) {
  return task->state >= HALUT_TASK_DONE;
}

uint64_t halut_learner_count(const struct halut_learner *learner, enum halut_task_state state) {
  return learner->count[state];
}

/* ---- the thread ---- */

static void run_tell(struct halut_learner *learner, const char *stage, double share) {
  struct halut_task *task = learner->run.task;
  uint64_t now_ns = halut_clock_ns();
  unsigned ppm = (unsigned)(share * 1e6);
  if (atomic_load(&learner->run.gate) == GATE_CANCELLED)
    return; /* what has ended does not change */
  if (ppm > atomic_load(&task->progress_ppm))
    atomic_store(&task->progress_ppm, ppm);
  if (stage == learner->run.stage && now_ns - learner->run.told_ns < TELL_EVERY_NS)
    return;
  learner->run.stage = stage;
  learner->run.told_ns = now_ns;
  atomic_store(&task->stage, stage);
  uv_async_send(&learner->wake);
}

static int run_progress(void *self, const char *phase, size_t done, size_t total) {
  struct halut_learner *learner = self;
  /* Saving and loading are the rest. */
  run_tell(learner, phase, 0.98 * halut_learn_share(phase, done, total));
  learner->run.is_late = halut_clock_ns() > learner->run.deadline_ns;
  return learner->run.is_late || atomic_load(&learner->run.gate) != GATE_OPEN;
}

/* Holds for this thread and for those it makes; where the system refuses, learning competes. */
static void run_step_back(enum halut_learner_priority priority) {
  const struct sched_param none = {0};
  if (priority == HALUT_LEARNER_NORMAL ||
      (priority == HALUT_LEARNER_IDLE && sched_setscheduler(0, SCHED_IDLE, &none) == 0))
    return;
  setpriority(PRIO_PROCESS, (id_t)gettid(), priority == HALUT_LEARNER_LOW ? NICE_LOW : NICE_IDLE);
}

/* The version in a file name NAME@VERSION.safetensors, 0 for any other. */
static uint32_t file_version(const char *file, const char *name) {
  size_t length = strlen(name);
  unsigned long version;
  char *end = NULL;
  if (strncmp(file, name, length) != 0 || file[length] != '@' || file[length + 1] < '1' ||
      file[length + 1] > '9')
    return 0;
  errno = 0;
  version = strtoul(file + length + 1, &end, 10);
  return errno == 0 && version < UINT32_MAX && strcmp(end, ".safetensors") == 0 ? (uint32_t)version
                                                                                : 0;
}

/* The lowest and highest version below `below` that the directory has of the name (0: none), and
 * how many there are. */
static int folder_versions(const char *directory, const char *name, uint32_t below,
                           uint32_t *lowest_out, uint32_t *highest_out, uint64_t *count_out,
                           struct halut_diag *diag) {
  DIR *folder = opendir(directory);
  const struct dirent *item;
  *lowest_out = *highest_out = 0;
  *count_out = 0;
  if (folder == NULL)
    return halut_fail(diag, HALUT_EIO, 0, "model directory %s: %s", directory, strerror(errno));
  while ((item = readdir(folder)) != NULL) {
    uint32_t version = file_version(item->d_name, name);
    if (version == 0 || version >= below)
      continue;
    ++*count_out;
    *highest_out = version > *highest_out ? version : *highest_out;
    *lowest_out = *lowest_out == 0 || version < *lowest_out ? version : *lowest_out;
  }
  closedir(folder);
  return HALUT_OK;
}

static void file_path(char *path, size_t bytes, const char *directory, const char *name,
                      uint32_t version) {
  snprintf(path, bytes, "%s/%s@%u.safetensors", directory, name, version);
}

/* Leaves versions_max of those before `version`: the oldest go. */
static void run_prune(const struct halut_learner *learner, const char *name, uint32_t version) {
  uint32_t lowest, highest;
  uint64_t count;
  char path[1024];
  while (folder_versions(learner->options.directory, name, version, &lowest, &highest, &count,
                         NULL) == HALUT_OK &&
         count > learner->options.versions_max) {
    file_path(path, sizeof path, learner->options.directory, name, lowest);
    if (unlink(path) != 0)
      return;
  }
}

static int run_save(struct halut_learner *learner, const struct halut_learned *learned) {
  const struct halut_lesson *lesson = learner->run.lesson;
  const char *directory = learner->options.directory;
  struct halut_task_result *result = &learner->run.result;
  struct halut_diag *diag = &learner->run.diag;
  size_t held = learned->heldout_rows, first = held ? lesson->rows - held : 0;
  size_t golden = lesson->rows - first < GOLDEN_ROWS ? lesson->rows - first : GOLDEN_ROWS;
  uint32_t lowest, highest;
  uint64_t count;
  struct stat status;
  char path[1024], about[192];
  int error = folder_versions(directory, lesson->name, UINT32_MAX, &lowest, &highest, &count, diag);
  if (error != HALUT_OK)
    return error;
  uint32_t version = (highest > learner->run.version ? highest : learner->run.version) + 1;
  snprintf(about, sizeof about,
           "learned over the API from %zu rows, ridge %g, splits by the error of %s",
           lesson->rows - held, lesson->options.ridge,
           lesson->options.by_output ? "the product" : "a");
  file_path(path, sizeof path, directory, lesson->name, version);
  error = halut_learned_write(learned, path, lesson->name, version, about,
                              lesson->a + first * lesson->columns, (uint32_t)golden, diag);
  if (error != HALUT_OK)
    return error;
  run_prune(learner, lesson->name, version);
  *result = (struct halut_task_result){.version = version,
                                       .learn_rows = lesson->rows - held,
                                       .heldout_rows = held,
                                       .mse = learned->mse,
                                       .mse_float = learned->mse_float,
                                       .mse_int8 = learned->mse_int8,
                                       .nmse = halut_learned_nmse(learned)};
  snprintf(result->file, sizeof result->file, "%s", strrchr(path, '/') + 1);
  result->file_bytes = stat(path, &status) == 0 ? (uint64_t)status.st_size : 0;
  return HALUT_OK;
}

static void run_main(void *self) {
  struct halut_learner *learner = self;
  const struct halut_lesson *lesson = learner->run.lesson;
  struct halut_learn_options options = lesson->options;
  struct halut_learned learned = {0};
  int gate = GATE_OPEN;
  pthread_setname_np(pthread_self(), "learn");
  run_step_back(learner->options.priority);
  options.progress = run_progress;
  options.self = learner;
  int error = halut_learn(lesson->a, NULL, lesson->rows, lesson->columns, lesson->b,
                          lesson->outputs, NULL, &options, &learned, &learner->run.diag);
  if (error == HALUT_ECANCELED && learner->run.is_late)
    error = halut_fail(&learner->run.diag, HALUT_ETIMEOUT, 0,
                       "learning took longer than learn-timeout-ms");
  if (error == HALUT_OK && !atomic_compare_exchange_strong(&learner->run.gate, &gate, GATE_SAVING))
    error = HALUT_ECANCELED;
  if (error == HALUT_OK) {
    run_tell(learner, "saving", 0.98);
    error = run_save(learner, &learned);
  }
  halut_learned_free(&learned);
  learner->run.error = error;
  atomic_store(&learner->run.finished, true);
  uv_async_send(&learner->wake);
}

/* ---- tasks ---- */

static void task_free(struct halut_task *task) {
  halut_lesson_free(task->lesson);
  free(task);
}

static void task_move(struct halut_learner *learner, struct halut_task *task,
                      enum halut_task_state state) {
  if (!halut_task_has_ended(task))
    learner->count[task->state]--;
  learner->count[state]++;
  task->state = state;
  if (state == HALUT_TASK_RUNNING)
    task->started_ns = halut_clock_ns();
  if (halut_task_has_ended(task))
    task->ended_ns = halut_clock_ns();
  if (state == HALUT_TASK_DONE)
    atomic_store(&task->progress_ppm, 1000000);
  /* The thread may still read the lesson of a task that is cancelled. */
  if (halut_task_has_ended(task) && !(learner->has_thread && learner->task == task)) {
    halut_lesson_free(task->lesson);
    task->lesson = NULL;
  }
  learner->options.changed(learner->options.self, task);
}

static void learner_forget(struct halut_learner *learner) {
  uint64_t now_ns = halut_clock_ns(), ended = 0;
  for (const struct halut_task *task = learner->first; task != NULL; task = task->next)
    ended += halut_task_has_ended(task);
  for (struct halut_task **link = &learner->first; *link != NULL;) {
    struct halut_task *task = *link;
    bool is_old = halut_task_has_ended(task) &&
                  (ended > learner->options.kept_max ||
                   now_ns - task->ended_ns > learner->options.kept_ms * 1000000u);
    if (!is_old || task->holds > 0 || task == learner->task) {
      link = &task->next;
      continue;
    }
    ended--;
    *link = task->next;
    task_free(task);
  }
  learner->last = NULL;
  for (struct halut_task *task = learner->first; task != NULL; task = task->next)
    learner->last = task;
}

struct halut_task *halut_learner_tasks(struct halut_learner *learner) {
  learner_forget(learner);
  return learner->first;
}

struct halut_task *halut_learner_find(struct halut_learner *learner, const char *id, size_t bytes) {
  struct halut_task *task = halut_learner_tasks(learner);
  while (task != NULL && (strlen(task->id) != bytes || memcmp(task->id, id, bytes) != 0))
    task = task->next;
  return task;
}

/* ---- the queue ---- */

static void learner_fail(struct halut_learner *learner, struct halut_task *task, const char *why) {
  snprintf(task->diag.text, sizeof task->diag.text, "%.*s", (int)sizeof task->diag.text - 1, why);
  task_move(learner, task, HALUT_TASK_FAILED);
}

/* Starts the oldest task that waits, if nothing is being learned. */
static void learner_next(struct halut_learner *learner) {
  struct halut_task *task = learner->first;
  while (task != NULL && task->state != HALUT_TASK_QUEUED)
    task = task->next;
  if (learner->task != NULL || learner->stopped || task == NULL)
    return;
  learner->task = task;
  memset(&learner->run, 0, sizeof learner->run);
  learner->run.learner = learner;
  learner->run.lesson = task->lesson;
  learner->run.task = task;
  learner->run.version = learner->options.version(learner->options.self, task->name);
  learner->run.deadline_ns = halut_clock_ns() + learner->options.timeout_ms * 1000000u;
  atomic_store(&task->stage, "starting");
  task_move(learner, task, HALUT_TASK_RUNNING);
  learner->has_thread = uv_thread_create(&learner->thread, run_main, learner) == 0;
  if (learner->has_thread)
    return;
  learner->task = NULL;
  learner_fail(learner, task, "no thread to learn on");
  uv_async_send(&learner->wake); /* for the next one */
}

static void learner_settle(struct halut_learner *learner) {
  struct halut_task *task = learner->task;
  uv_thread_join(&learner->thread);
  learner->has_thread = false;
  if (halut_task_has_ended(task)) { /* cancelled meanwhile */
    halut_lesson_free(task->lesson);
    task->lesson = NULL;
    learner->task = NULL;
  } else if (learner->run.error != HALUT_OK) {
    learner->task = NULL;
    learner_fail(learner, task, learner->run.diag.text);
  } else {
    task->result = learner->run.result;
    atomic_store(&task->stage, "loading");
    atomic_store(&task->progress_ppm, 990000);
    learner->options.changed(learner->options.self, task);
    learner->options.saved(learner->options.self, task);
    return;
  }
  learner_next(learner);
}

void halut_learner_loaded(struct halut_learner *learner, struct halut_task *task, const char *why) {
  assert(learner->task == task && !learner->has_thread);
  learner->task = NULL;
  if (why != NULL)
    learner_fail(learner, task, why);
  else
    task_move(learner, task, HALUT_TASK_DONE);
  learner_next(learner);
}

static void learner_on_wake(uv_async_t *handle) {
  struct halut_learner *learner = handle->data;
  if (!learner->has_thread)
    learner_next(learner);
  else if (atomic_load(&learner->run.finished))
    learner_settle(learner);
  else if (learner->task->state == HALUT_TASK_RUNNING)
    learner->options.changed(learner->options.self, learner->task);
}

int halut_learner_reserve(struct halut_learner *learner) {
  if (learner->count[HALUT_TASK_QUEUED] + learner->count[HALUT_TASK_RUNNING] + learner->reserved >=
      learner->options.jobs_max)
    return HALUT_EBUSY;
  learner->reserved++;
  return HALUT_OK;
}

void halut_learner_release(struct halut_learner *learner) {
  assert(learner->reserved > 0);
  learner->reserved--;
}

/* Samples of all, and the work of the largest: only one is being learned. */
static bool memory_is_free(const struct halut_learner *learner, const struct halut_lesson *lesson) {
  uint64_t samples = lesson->sample_bytes, work = lesson->work_bytes;
  for (const struct halut_task *task = learner->first; task != NULL; task = task->next)
    if (task->lesson != NULL) {
      samples += task->lesson->sample_bytes;
      work = task->lesson->work_bytes > work ? task->lesson->work_bytes : work;
    }
  return samples + work <= learner->options.memory_max;
}

int halut_learner_submit(struct halut_learner *learner, struct halut_lesson *lesson,
                         struct halut_task **out, struct halut_diag *diag) {
  if (learner->stopped)
    return halut_fail(diag, HALUT_ECANCELED, 0, "shutting down");
  learner_forget(learner);
  if (!memory_is_free(learner, lesson))
    return halut_fail(diag, HALUT_EBUSY, 0,
                      "the jobs before this one take the memory it needs (learn-memory-max); try "
                      "again when they have ended");
  struct halut_task *task = calloc(1, sizeof *task);
  if (task == NULL)
    return halut_fail(diag, HALUT_ENOMEM, 0, "no memory for the job; try again");
  halut_learner_release(learner);
  snprintf(task->id, sizeof task->id, "%08" PRIx32 "-%" PRIu64, (uint32_t)halut_clock_ns(),
           ++learner->ids);
  snprintf(task->name, sizeof task->name, "%s", lesson->name);
  task->columns = lesson->columns;
  task->outputs = lesson->outputs;
  task->codebooks = lesson->options.codebooks;
  task->lesson = lesson;
  atomic_store(&task->stage, "waiting");
  if (learner->last != NULL)
    learner->last->next = task;
  else
    learner->first = task;
  learner->last = task;
  learner->count[HALUT_TASK_QUEUED]++;
  uv_async_send(&learner->wake);
  *out = task;
  return HALUT_OK;
}

int halut_learner_cancel(struct halut_learner *learner, struct halut_task *task) {
  int gate = GATE_OPEN;
  if (halut_task_has_ended(task))
    return HALUT_OK;
  if (task->state == HALUT_TASK_RUNNING &&
      !(learner->has_thread &&
        atomic_compare_exchange_strong(&learner->run.gate, &gate, GATE_CANCELLED)))
    return HALUT_EBUSY;
  task_move(learner, task, HALUT_TASK_CANCELLED);
  return HALUT_OK;
}

void halut_learner_stop(struct halut_learner *learner) {
  learner->stopped = true;
  for (struct halut_task *task = learner->first; task != NULL; task = task->next)
    (void)!halut_learner_cancel(learner, task);
}

/* ---- open and close ---- */

int halut_learner_open(uv_loop_t *loop, const struct halut_learner_options *options,
                       struct halut_learner **out, struct halut_diag *diag) {
  struct halut_learner *learner = calloc(1, sizeof *learner);
  if (learner == NULL)
    return halut_fail(diag, HALUT_ENOMEM, 0, "no memory for the learner");
  learner->options = *options;
  if (uv_async_init(loop, &learner->wake, learner_on_wake) != 0) {
    free(learner);
    return halut_fail(diag, HALUT_EIO, 0, "no wake-up for the learner");
  }
  learner->wake.data = learner;
  *out = learner;
  return HALUT_OK;
}

static void learner_on_close(uv_handle_t *handle) {
  struct halut_learner *learner = handle->data;
  while (learner->first != NULL) {
    struct halut_task *task = learner->first;
    learner->first = task->next;
    task_free(task);
  }
  free(learner);
}

void halut_learner_close(struct halut_learner *learner) {
  if (learner == NULL)
    return;
  if (learner->has_thread)
    uv_thread_join(&learner->thread);
  learner->has_thread = false;
  uv_close((uv_handle_t *)&learner->wake, learner_on_close);
}
