/* test: each allocation of opening models, of a catalogue and of learning fails in turn */
#include <glob.h>
#include <jansson.h>
#include <unistd.h>

#include "../models/backends.h"
#include "../models/learn.h"
#include "../models/learned_file.h"
#include "../server/batcher.h"
#include "../server/catalog.h"
#include "oom.h"

static glob_t files, files_run; /* small ones to sweep; all that runs must not allocate on */

/* ---- models and sessions ---- */

static int open_model(void *self) {
  struct halut_model *model = NULL;
  int error = halut_model_open(self, &model, &last);
  if (error != 0)
    ck_assert_msg(model == NULL && last.text[0] != '\0', "%s: no reason", (char *)self);
  halut_model_close(model);
  return error;
}

START_TEST(opens_models) {
  sweep(files.gl_pathv[_i], open_model, files.gl_pathv[_i]);
}
END_TEST

struct opening {
  const char *path;
  const struct halut_backend_ops *ops;
};

static int open_session(void *self) {
  const struct opening *opening = self;
  struct halut_model *model = NULL;
  struct halut_session *session = NULL;
  /* The model anew each time, for it keeps what sessions share. */
  int error = halut_model_open(opening->path, &model, &last);
  if (error == 0)
    error = halut_session_open(model, opening->ops, NULL, 3, &session, &last);
  if (error != 0)
    ck_assert_msg(session == NULL && last.text[0] != '\0', "%s: no reason", opening->ops->name);
  halut_session_close(session);
  halut_model_close(model);
  return error;
}

START_TEST(opens_sessions) {
  struct opening opening = {.path = files.gl_pathv[_i]};
  char what[300];
  for (size_t b = 0; halut_backends[b] != NULL; b++) {
    opening.ops = halut_backends[b];
    /* The constructor that Verilator writes holds a plain pointer over calls that throw. */
    may_leak = strcmp(opening.ops->name, "rtl") == 0;
    snprintf(what, sizeof what, "%s on %s", files.gl_pathv[_i], opening.ops->name);
    sweep(what, open_session, &opening);
  }
  may_leak = false;
}
END_TEST

/* What the backend of a session is told. */
static const char *const run_options[] = {NULL, "threads=2", "cpu=avx2", "cpu=ssse3", "cpu=ref"};
enum { RUN_OPTIONS = sizeof run_options / sizeof *run_options };

enum { COUNTED = 1000000, RUN_BATCH = 3 };

static long runs_count(struct halut_session *session, const struct halut_tensor *in,
                       struct halut_tensor *out) {
  fail_at = COUNTED; /* Check's assertions allocate, so none before it is read */
  int error = halut_session_run(session, in, out, NULL);
  long made = COUNTED - fail_at;
  fail_at = 0;
  ck_assert_int_eq(error, 0);
  return made;
}

/* Neither the first run of a session nor a later one asks for memory, and a second session on the
 * same model asks for none for tables. */
START_TEST(runs_without_allocating) {
  const char *path = files_run.gl_pathv[_i / RUN_OPTIONS];
  const char *options = run_options[_i % RUN_OPTIONS];
  struct halut_model *model = NULL;
  struct halut_session *session[2] = {NULL};
  struct halut_tensor in, out;
  long opened[2];
  if (!CAN_FAIL)
    return;
  ck_assert_int_eq(halut_model_open(path, &model, &last), 0);
  for (int i = 0; i < 2; i++) {
    fail_at = COUNTED;
    int error =
        halut_session_open(model, &halut_backend_cpu, options, RUN_BATCH, &session[i], &last);
    opened[i] = COUNTED - fail_at;
    fail_at = 0;
    ck_assert_int_eq(error, 0);
  }
  ck_assert_int_eq(halut_model_golden(model, &in, &out), 0);
  in.dim[0] = out.dim[0] = in.dim[0] < RUN_BATCH ? in.dim[0] : RUN_BATCH;
  out.data = malloc((size_t)out.dim[0] * out.dim[1] * 4);
  ck_assert_ptr_nonnull(out.data);
  ck_assert_int_gt(opened[0], opened[1]);
  for (int run = 0; run < 2; run++) {
    long made = runs_count(session[0], &in, &out);
    ck_assert_msg(made == 0, "%s on cpu:%s: run %d made %ld allocations", path,
                  options ? options : "", run, made);
  }
  free(out.data);
  halut_session_close(session[0]);
  halut_session_close(session[1]);
  halut_model_close(model);
}
END_TEST

/* ---- catalogues ---- */

static struct halut_catalog *old; /* what a reload starts from, or NULL */

/* Files that cannot be opened are the catalogue's report; those that memory ran out for are here an
 * error of the whole. */
static int open_catalog(void *self) {
  static char report[HALUT_REPORT_MAX];
  struct halut_catalog_options options = {.directory = self,
                                          .backends = {&halut_backend_cpu},
                                          .backend_count = 1,
                                          .workers = 2,
                                          .batch_max = 4};
  struct halut_catalog *catalog = NULL;
  uint32_t problems = 0;
  int error = halut_catalog_open(&options, old, &catalog, &problems, report, &last);
  if (problems > 0)
    ck_assert_msg(strstr(report, "memory") != NULL, "%s", report);
  else if (error != 0)
    ck_assert_msg(strstr(last.text, "memory") != NULL, "%s", last.text);
  halut_catalog_drop(catalog);
  return error != 0 || problems > 0 ? HALUT_ENOMEM : 0;
}

/* A directory with two models, in `folder` (a mkdtemp template). */
static void folder_make(char *folder) {
  static const char *const names[] = {"product-small", "residual"};
  char top[1024], from[1200], to[300];
  ck_assert_ptr_nonnull(getcwd(top, sizeof top));
  ck_assert_ptr_nonnull(mkdtemp(folder));
  for (size_t i = 0; i < 2; i++) {
    snprintf(from, sizeof from, "%s/models/golden/%s.safetensors", top, names[i]);
    snprintf(to, sizeof to, "%s/%s.safetensors", folder, names[i]);
    ck_assert_int_eq(symlink(from, to), 0);
  }
}

static void folder_remove(const char *folder) {
  char path[300];
  for (size_t i = 0; i < 2; i++) {
    snprintf(path, sizeof path, "%s/%s.safetensors", folder, i == 0 ? "product-small" : "residual");
    unlink(path);
  }
  rmdir(folder);
}

START_TEST(opens_catalogues) {
  char folder[] = "/tmp/halut-oom-XXXXXX";
  folder_make(folder);
  sweep("a catalogue", open_catalog, folder);
  folder_remove(folder);
}
END_TEST

/* A reload that fails leaves the old catalogue as it was, and its models usable. */
START_TEST(reloads_catalogues) {
  char folder[] = "/tmp/halut-oom-XXXXXX";
  static char report[HALUT_REPORT_MAX];
  uint32_t problems = 0;
  folder_make(folder);
  struct halut_catalog_options options = {.directory = folder,
                                          .backends = {&halut_backend_cpu},
                                          .backend_count = 1,
                                          .workers = 2,
                                          .batch_max = 4};
  ck_assert_int_eq(halut_catalog_open(&options, NULL, &old, &problems, report, &last), 0);
  sweep("a reload", open_catalog, folder);
  ck_assert_uint_eq(old->count, 2);
  for (uint32_t i = 0; i < old->count; i++)
    ck_assert_uint_eq(old->entries[i]->references, 1);
  halut_catalog_drop(old);
  old = NULL;
  folder_remove(folder);
}
END_TEST

/* ---- learning ---- */

enum { ROWS = 64, COLUMNS = 8, OUTPUTS = 3 };

static int learn(void *self) {
  static float a[ROWS * COLUMNS], b[COLUMNS * OUTPUTS];
  const char *path = self;
  struct halut_learn_options options = {.codebooks = 2, .ridge = 1, .heldout = 0.1, .threads = 1};
  struct halut_learned learned = {0};
  for (size_t i = 0; i < ROWS * COLUMNS; i++)
    a[i] = (float)(i * 7919 % 257) / 257.0f;
  for (size_t i = 0; i < COLUMNS * OUTPUTS; i++)
    b[i] = (float)(i % 5) - 2.0f;
  int error = halut_learn(a, NULL, ROWS, COLUMNS, b, OUTPUTS, NULL, &options, &learned, &last);
  if (error == 0) {
    error = halut_learned_write(&learned, path, "oom", 1, "a text", a, 2, &last);
    if ((access(path, F_OK) == 0) != (error == 0)) /* whole or not at all */
      abort();                                      /* an assertion of Check would allocate */
    unlink(path);
  }
  halut_learned_free(&learned);
  return error;
}

START_TEST(learns_and_saves) {
  char folder[] = "/tmp/halut-oom-XXXXXX", path[64];
  ck_assert_ptr_nonnull(mkdtemp(folder));
  snprintf(path, sizeof path, "%s/oom.safetensors", folder);
  sweep("learning", learn, path);
  ck_assert_int_eq(rmdir(folder), 0); /* nothing is left beside it */
}
END_TEST

/* ---- the queue ---- */

static int open_batcher(void *self) {
  (void)self;
  struct halut_batch_limits limits = {.lanes = 2, .batch_max = 8, .queue_max = 16};
  struct halut_batcher *batcher = NULL;
  int error = halut_batcher_open(&limits, &batcher);
  halut_batcher_close(batcher);
  return error;
}

START_TEST(opens_queues) {
  sweep("a queue", open_batcher, NULL);
}
END_TEST

int main(void) {
  if (glob("models/golden/*.safetensors", 0, NULL, &files) != 0 || files.gl_pathc < 8) {
    fputs("models/golden is not here or lacks files; run from the top folder\n", stderr);
    return EXIT_FAILURE;
  }
  if (glob("models/golden/*.safetensors", 0, NULL, &files_run) != 0 ||
      glob("models/*.safetensors", GLOB_APPEND, NULL, &files_run) != 0)
    return EXIT_FAILURE;
  json_object_seed(1);
  Suite *suite = suite_create("oom");
  TCase *all = tcase_create("all");
  tcase_set_timeout(all, 250);
  tcase_add_loop_test(all, opens_models, 0, (int)files.gl_pathc);
  tcase_add_loop_test(all, opens_sessions, 0, (int)files.gl_pathc);
  tcase_add_loop_test(all, runs_without_allocating, 0,
                      (int)files_run.gl_pathc * RUN_OPTIONS);
  tcase_add_test(all, opens_catalogues);
  tcase_add_test(all, reloads_catalogues);
  tcase_add_test(all, learns_and_saves);
  tcase_add_test(all, opens_queues);
  suite_add_tcase(suite, all);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  globfree(&files);
  globfree(&files_run);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
