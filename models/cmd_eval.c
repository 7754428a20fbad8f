/* DESIGN: each thread has a session of its own and takes the next batch of images until none is
 * left; logits go to their images' places in one array. All figures are computed from that array
 * afterwards, so they do not depend on who computed what when. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../core/clock.h"
#include "../core/cpu.h"
#include "cifar.h"
#include "cli.h"
#include "safetensors.h"

enum { THREADS_MAX = 256, LIMIT_MAX = 1000000, WATCH_MS = 100 };

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
              "logits are hashed as little-endian bytes");

struct eval_args {
  const char *data, *split, *backend, *cpu;
  uint64_t limit, threads, batch;
  bool json;
};

static const struct halut_option options[] = {
    {"data", 'd', "DIR", "folder of the official binary CIFAR-10 files (required)",
     HALUT_OPTION_TEXT, offsetof(struct eval_args, data), 0, 0},
    {"split", 's', "NAME", "test (default; reads test_batch.bin only), train or validation",
     HALUT_OPTION_TEXT, offsetof(struct eval_args, split), 0, 0},
    {"backend", 'b', "NAME[:KEY=VALUE,...]", "which backend computes (default cpu)",
     HALUT_OPTION_TEXT, offsetof(struct eval_args, backend), 0, 0},
    {"cpu", 0, "NAME", "best instruction set to use: ref, ssse3, avx2, avx512, neon",
     HALUT_OPTION_TEXT, offsetof(struct eval_args, cpu), 0, 0},
    {"limit", 'n', "N", "stop after N images (default all)", HALUT_OPTION_COUNT,
     offsetof(struct eval_args, limit), 1, LIMIT_MAX},
    {"threads", 't', "N", "threads (default one for each processor it may use)", HALUT_OPTION_COUNT,
     offsetof(struct eval_args, threads), 1, THREADS_MAX},
    {"batch", 'B', "N", "images given to a session at once (default 64)", HALUT_OPTION_COUNT,
     offsetof(struct eval_args, batch), 1, HALUT_BATCH_MAX},
    {"json", 'j', NULL, "print one JSON object; shares are from 0 to 1", HALUT_OPTION_FLAG,
     offsetof(struct eval_args, json), 0, 0},
    {0}};

struct eval {
  const struct halut_command *command;
  const char *path; /* of the model */
  const struct halut_model *model;
  const struct halut_cifar *data;
  struct eval_args args;
  uint32_t images, classes;
  int32_t *logits; /* [images][classes] */
  uint8_t *labels; /* [images] */
  atomic_uint_fast32_t next, done;
  atomic_int failed;   /* the first error */
  atomic_uint running; /* threads */
  pthread_mutex_t mutex;
  pthread_cond_t finished;
};

struct worker {
  struct eval *eval;
  struct halut_session *session;
  struct halut_stats stats;
  uint8_t *images; /* [batch][3][32][32] */
  pthread_t thread;
  bool started;
};

struct result {
  double seconds, cpu_seconds;
  struct halut_stats stats;
  uint32_t top1, top5;
  uint32_t seen[HALUT_CIFAR_CLASSES], right[HALUT_CIFAR_CLASSES];
  uint32_t *confusion; /* [HALUT_CIFAR_CLASSES][classes]: of a label, how often each class was
                          predicted */
  char sha256[65];
};

static void *worker_main(void *self) {
  struct worker *worker = self;
  struct eval *eval = worker->eval;
  uint32_t batch = (uint32_t)eval->args.batch;
  while (!atomic_load(&eval->failed)) {
    uint32_t first = (uint32_t)atomic_fetch_add(&eval->next, batch);
    if (first >= eval->images)
      break;
    uint32_t count = eval->images - first < batch ? eval->images - first : batch;
    halut_cifar_read(eval->data, first, count, worker->images, NULL);
    struct halut_tensor in = {.data = worker->images,
                              .dtype = HALUT_U8,
                              .rank = 4,
                              .dim = {count, 3, HALUT_CIFAR_SIDE, HALUT_CIFAR_SIDE}};
    struct halut_tensor out = {.data = eval->logits + (size_t)first * eval->classes,
                               .dtype = HALUT_I32,
                               .rank = 2,
                               .dim = {count, eval->classes, 1, 1}};
    int rc = halut_session_run(worker->session, &in, &out, &worker->stats), none = 0;
    if (rc)
      atomic_compare_exchange_strong(&eval->failed, &none, rc);
    atomic_fetch_add(&eval->done, count);
  }
  pthread_mutex_lock(&eval->mutex);
  if (atomic_fetch_sub(&eval->running, 1) == 1)
    pthread_cond_signal(&eval->finished);
  pthread_mutex_unlock(&eval->mutex);
  return NULL;
}

/* Shows progress until no thread runs. */
static void workers_watch(struct eval *eval) {
  struct halut_progress progress;
  halut_progress_begin(&progress, "eval", "images", eval->images);
  pthread_mutex_lock(&eval->mutex);
  while (atomic_load(&eval->running) > 0) {
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += WATCH_MS * 1000000L;
    if (until.tv_nsec >= 1000000000L) {
      until.tv_nsec -= 1000000000L;
      until.tv_sec++;
    }
    pthread_cond_timedwait(&eval->finished, &eval->mutex, &until);
    halut_progress_show(&progress, atomic_load(&eval->done));
  }
  pthread_mutex_unlock(&eval->mutex);
  halut_progress_end(&progress);
}

static int workers_open(struct eval *eval, struct worker *workers) {
  int exit_code = HALUT_EXIT_FAILURE;
  for (uint32_t i = 0; i < eval->args.threads; i++) {
    workers[i].eval = eval;
    workers[i].images = malloc(eval->args.batch * HALUT_CIFAR_IMAGE_BYTES);
    if (!workers[i].images)
      return halut_cli_error(eval->command, exit_code, "no memory for a batch");
    if (!halut_cli_session(eval->command, eval->path, eval->model, eval->args.backend,
                           eval->args.cpu, (uint32_t)eval->args.batch, &workers[i].session,
                           &exit_code))
      return exit_code;
  }
  return HALUT_EXIT_OK;
}

static int workers_run(struct eval *eval, struct worker *workers, struct result *result) {
  uint64_t began = halut_clock_ns();
  double cpu_began = halut_cli_cpu_seconds();
  atomic_store(&eval->running, (unsigned)eval->args.threads);
  for (uint32_t i = 0; i < eval->args.threads; i++) {
    workers[i].started = pthread_create(&workers[i].thread, NULL, worker_main, &workers[i]) == 0;
    if (!workers[i].started) {
      atomic_fetch_sub(&eval->running, 1);
      atomic_store(&eval->failed, HALUT_ENOMEM);
    }
  }
  workers_watch(eval);
  for (uint32_t i = 0; i < eval->args.threads; i++) {
    if (workers[i].started)
      pthread_join(workers[i].thread, NULL);
    result->stats.lookups += workers[i].stats.lookups;
    result->stats.device_cycles += workers[i].stats.device_cycles;
    result->stats.device_stalls += workers[i].stats.device_stalls;
    result->stats.device_table_bytes += workers[i].stats.device_table_bytes;
    result->stats.device_encodes += workers[i].stats.device_encodes;
  }
  result->seconds = (double)(halut_clock_ns() - began) * 1e-9;
  result->cpu_seconds = halut_cli_cpu_seconds() - cpu_began;
  int failed = atomic_load(&eval->failed);
  return failed ? halut_cli_fail(eval->command, NULL, failed, NULL) : HALUT_EXIT_OK;
}

/* How many classes come before `label`: larger logit, or the same and a smaller index. */
static uint32_t label_rank(const int32_t *logits, uint32_t classes, uint32_t label) {
  uint32_t rank = 0;
  for (uint32_t c = 0; c < classes; c++)
    rank += logits[c] > logits[label] || (logits[c] == logits[label] && c < label);
  return rank;
}

static void logits_score(const struct eval *eval, struct result *result) {
  for (uint32_t i = 0; i < eval->images; i++) {
    const int32_t *logits = eval->logits + (size_t)i * eval->classes;
    uint32_t label = eval->labels[i], rank = label_rank(logits, eval->classes, label), best = 0;
    for (uint32_t c = 1; c < eval->classes; c++)
      best = logits[c] > logits[best] ? c : best;
    result->top1 += rank == 0;
    result->top5 += rank < 5;
    result->seen[label]++;
    result->right[label] += rank == 0;
    result->confusion[(size_t)label * eval->classes + best]++;
  }
  halut_sha256_hex(eval->logits, (size_t)eval->images * eval->classes * sizeof(int32_t),
                   result->sha256);
}

static double share(uint32_t part, uint32_t whole) {
  return whole ? (double)part / whole : 0;
}

static int result_json(const struct eval *eval, const struct result *result) {
  const struct halut_model_info *info = halut_model_info(eval->model);
  json_t *classes = json_array(), *confusion = json_array();
  for (uint32_t label = 0; label < HALUT_CIFAR_CLASSES; label++) {
    json_t *row = json_array();
    for (uint32_t c = 0; c < eval->classes; c++)
      json_array_append_new(row,
                            json_integer(result->confusion[(size_t)label * eval->classes + c]));
    json_array_append_new(confusion, row);
    json_array_append_new(classes,
                          json_pack("{s:s, s:i, s:i, s:f}", "label", info->labels[label], "images",
                                    (int)result->seen[label], "right", (int)result->right[label],
                                    "accuracy", share(result->right[label], result->seen[label])));
  }
  return halut_cli_json(
      eval->command,
      json_pack("{s:s, s:I, s:s, s:s, s:s, s:s, s:I, s:I, s:i, s:f, s:f, s:f, s:f, s:f, s:s, s:I, "
                "s:I, s:o, s:o}",
                "model", info->name, "version", (json_int_t)info->version, "sha256", info->sha256,
                "backend", eval->args.backend, "cpu",
                halut_cli_cpu_used(eval->args.backend, eval->args.cpu), "split", eval->args.split,
                "threads", (json_int_t)eval->args.threads, "batch",
                (json_int_t)eval->args.batch, "images", (int)eval->images, "top1",
                share(result->top1, eval->images), "top5", share(result->top5, eval->images),
                "seconds", result->seconds, "images_per_second", eval->images / result->seconds,
                "cpu_seconds_per_image", result->cpu_seconds / eval->images, "logits_sha256",
                result->sha256, "lookups", (json_int_t)result->stats.lookups, "device_cycles",
                (json_int_t)result->stats.device_cycles, "classes", classes, "confusion",
                confusion));
}

static int result_text(const struct eval *eval, const struct result *result) {
  const struct halut_model_info *info = halut_model_info(eval->model);
  printf("%s version %u on %s (%s), %u images of split %s\n", info->name, info->version,
         eval->args.backend, halut_cli_cpu_used(eval->args.backend, eval->args.cpu), eval->images,
         eval->args.split);
  printf("top-1 %.2f%%   top-5 %.2f%%   %.0f images/s (%llu threads, batches of %llu)\n",
         100 * share(result->top1, eval->images), 100 * share(result->top5, eval->images),
         eval->images / result->seconds, (unsigned long long)eval->args.threads,
         (unsigned long long)eval->args.batch);
  if (result->stats.device_cycles > 0)
    printf("accelerator: %.0f cycles an image, %.1f lookups a cycle\n",
           (double)result->stats.device_cycles / eval->images,
           (double)result->stats.lookups / (double)result->stats.device_cycles);
  printf("logits SHA-256 %s\n\n%-12s %8s   predicted as\n%-12s %8s  ", result->sha256, "", "",
         "label", "right");
  for (uint32_t c = 0; c < eval->classes; c++) {
    putchar(' ');
    halut_cli_print(stdout, info->labels[c], 6, 6);
  }
  putchar('\n');
  for (uint32_t label = 0; label < HALUT_CIFAR_CLASSES; label++) {
    halut_cli_print(stdout, info->labels[label], -12, 12);
    printf(" %7.2f%%  ", 100 * share(result->right[label], result->seen[label]));
    for (uint32_t c = 0; c < eval->classes; c++)
      printf(" %6u", result->confusion[(size_t)label * eval->classes + c]);
    putchar('\n');
  }
  return halut_cli_finish(eval->command);
}

static int eval_compute(struct eval *eval, struct worker *workers, struct result *result) {
  eval->logits = calloc((size_t)eval->images * eval->classes, sizeof(int32_t));
  eval->labels = malloc(eval->images);
  result->confusion = calloc((size_t)HALUT_CIFAR_CLASSES * eval->classes, sizeof(uint32_t));
  if (!eval->logits || !eval->labels || !result->confusion)
    return halut_cli_error(eval->command, HALUT_EXIT_FAILURE, "no memory for %u images",
                           eval->images);
  halut_cifar_read(eval->data, 0, eval->images, NULL, eval->labels);
  int exit_code = workers_open(eval, workers);
  if (!exit_code)
    exit_code = workers_run(eval, workers, result);
  if (exit_code)
    return exit_code;
  logits_score(eval, result);
  return eval->args.json ? result_json(eval, result) : result_text(eval, result);
}

/* Does the model fit the data? */
static bool model_fits(const struct halut_command *command, const char *path,
                       const struct halut_model_info *info) {
  if (info->kind != HALUT_NETWORK) {
    halut_cli_error(command, HALUT_EXIT_FAILURE, "%s: a product has no classes to evaluate", path);
    return false;
  }
  if (info->channels != 3 || info->height != HALUT_CIFAR_SIDE || info->width != HALUT_CIFAR_SIDE ||
      info->classes < HALUT_CIFAR_CLASSES) {
    halut_cli_error(command, HALUT_EXIT_FAILURE,
                    "%s: takes %ux%ux%u images to %u classes; CIFAR-10 has 3x32x32 and 10", path,
                    info->channels, info->height, info->width, info->classes);
    return false;
  }
  return true;
}

static int eval_run(const struct halut_command *command, int argc, char **argv) {
  struct eval eval = {.command = command,
                      .args = {.split = "test",
                               .backend = "cpu",
                               .limit = LIMIT_MAX,
                               .threads = halut_cpu_count(),
                               .batch = 64},
                      .mutex = PTHREAD_MUTEX_INITIALIZER,
                      .finished = PTHREAD_COND_INITIALIZER};
  struct result result = {0};
  struct worker *workers = NULL;
  struct halut_model *model = NULL;
  struct halut_cifar *data = NULL;
  struct halut_diag diag = {0};
  int count, exit_code;
  if (!halut_cli_parse(command, argc, argv, &eval.args, &count, &exit_code))
    return exit_code;
  if (!eval.args.data)
    return halut_cli_error(command, HALUT_EXIT_USAGE, "--data DIR is required");
  exit_code = HALUT_EXIT_FAILURE;
  if (!halut_cli_model(command, argv[0], &model) ||
      !model_fits(command, argv[0], halut_model_info(model)))
    goto done;
  int rc = halut_cifar_open(eval.args.data, eval.args.split, &data, &diag);
  if (rc) {
    halut_cli_fail(command, eval.args.data, rc, &diag);
    exit_code = rc == HALUT_EINVALID ? HALUT_EXIT_USAGE : HALUT_EXIT_FAILURE;
    goto done;
  }
  if (eval.args.threads > THREADS_MAX)
    eval.args.threads = THREADS_MAX;
  eval.model = model;
  eval.path = argv[0];
  eval.data = data;
  eval.images = halut_cifar_count(data);
  eval.images = eval.images > eval.args.limit ? (uint32_t)eval.args.limit : eval.images;
  eval.classes = halut_model_info(model)->classes;
  workers = calloc(eval.args.threads, sizeof(*workers));
  if (workers)
    exit_code = eval_compute(&eval, workers, &result);
  else
    halut_cli_error(command, exit_code, "no memory for the threads");
done:
  for (uint32_t i = 0; workers && i < eval.args.threads; i++) {
    halut_session_close(workers[i].session);
    free(workers[i].images);
  }
  free(workers);
  free(eval.logits);
  free(eval.labels);
  free(result.confusion);
  halut_cifar_close(data);
  halut_model_close(model);
  return exit_code;
}

const struct halut_command halut_command_eval = {
    .name = "eval",
    .operands = "MODEL",
    .summary = "Measure a network's accuracy on CIFAR-10",
    .details = "Prints top-1 and top-5 accuracy, accuracy by class, the confusion matrix, images a "
               "second\n"
               "and the SHA-256 over all integer logits (little-endian, in the order of the "
               "images), which\n"
               "is the same on every backend, instruction set, batch size and number of threads.",
    .options = options,
    .operands_min = 1,
    .operands_max = 1,
    .run = eval_run};
