/* sanitizers: asan, it has one thread */
/* check_models.c: every model of models/golden gives the bytes that reference.py computed, on every
 * backend, instruction set and batch size, fused and node by node. Runs from the top folder. */
#include <check.h>
#include <glob.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../core/cpu.h"
#include "../models/backends.h"
#include "../models/model.h"
#include "../models/session.h"

enum { GUARD_BYTES = 64, POISON = 0xa5, VALUES_BYTES = 1 << 20 };

static glob_t files;

/* A build without Verilator has the accelerator's backend, but cannot open it. */
static bool backend_missing(const struct halut_backend_ops *ops) {
  struct halut_backend *backend = NULL;
  struct halut_diag diag = {0};
  int rc = ops->open(NULL, &backend, &diag);
  ops->close(backend);
  if (rc == 0)
    return false;
  ck_assert_msg(ops != &halut_backend_cpu, "the CPU backend: %s", diag.text);
  printf("without backend %s: %s\n", ops->name, diag.text);
  return true;
}

/* Ceilings to try on a backend; others than the CPU one have none. The last entry is NULL. */
static const char *const ceilings[] = {"ref",
#define XX(flag, bit, name) name,
                                       HALUT_CPU_MAP(XX)
#undef XX
};
enum { CEILINGS = sizeof(ceilings) / sizeof(ceilings[0]) };

/* "cpu=NAME" for ceiling number i; NULL if this processor does not have it or the backend has no
 * ceilings. */
static const char *options_make(const struct halut_backend_ops *ops, size_t i, char text[32]) {
  uint32_t mask, below = 0;
  if (ops != &halut_backend_cpu)
    return NULL;
  ck_assert_int_eq(halut_cpu_ceiling(ceilings[i], &mask, NULL), 0);
  if (i > 0)
    ck_assert_int_eq(halut_cpu_ceiling(ceilings[i - 1], &below, NULL), 0);
  if (i > 0 && (mask & ~below & halut_cpu_flags()) == 0)
    return NULL;
  snprintf(text, 32, "cpu=%s", ceilings[i]);
  return text;
}

static struct halut_model *model_open(const char *path) {
  struct halut_model *model = NULL;
  struct halut_diag diag = {0};
  int rc = halut_model_open(path, &model, &diag);
  ck_assert_msg(rc == 0, "%s: %s: %s", path, halut_error_text(rc), diag.text);
  return model;
}

static struct halut_session *session_open(const struct halut_model *model,
                                          const struct halut_backend_ops *ops, const char *options,
                                          uint32_t batch_max) {
  struct halut_session *session = NULL;
  struct halut_diag diag = {0};
  int rc = halut_session_open(model, ops, options, batch_max, &session, &diag);
  ck_assert_msg(rc == 0, "%s %s: %s: %s", ops->name, options ? options : "", halut_error_text(rc),
                diag.text);
  return session;
}

static size_t item_bytes(const struct halut_tensor *tensor) {
  size_t bytes = halut_dtype_bytes(tensor->dtype);
  for (uint32_t i = 1; i < tensor->rank; i++)
    bytes *= tensor->dim[i];
  return bytes;
}

/* Runs the golden example in batches of `batch` and compares every byte, and that none beside was
 * written. */
static void golden_compare(struct halut_session *session, const struct halut_tensor *golden_in,
                           const struct halut_tensor *golden_out, uint32_t batch,
                           const char *what) {
  size_t in_bytes = item_bytes(golden_in), out_bytes = item_bytes(golden_out);
  for (uint32_t first = 0; first < golden_in->dim[0]; first += batch) {
    uint32_t left = golden_in->dim[0] - first, count = left < batch ? left : batch;
    struct halut_tensor in = *golden_in, out = *golden_out;
    in.dim[0] = out.dim[0] = count;
    /* Copies of exactly the size, so that a sanitizer sees reads past their ends. */
    in.data = malloc(in_bytes * count);
    uint8_t *memory = malloc(out_bytes * count + 2 * GUARD_BYTES);
    ck_assert_ptr_nonnull(in.data);
    ck_assert_ptr_nonnull(memory);
    memcpy(in.data, (const uint8_t *)golden_in->data + in_bytes * first, in_bytes * count);
    memset(memory, POISON, out_bytes * count + 2 * GUARD_BYTES);
    out.data = memory + GUARD_BYTES;
    ck_assert_int_eq(halut_session_run(session, &in, &out, NULL), 0);
    ck_assert_msg(memcmp(out.data, (const uint8_t *)golden_out->data + out_bytes * first,
                         out_bytes * count) == 0,
                  "%s: examples %u to %u in batches of %u differ", what, first, first + count - 1,
                  batch);
    for (size_t i = 0; i < GUARD_BYTES; i++) {
      ck_assert_uint_eq(memory[i], POISON);
      ck_assert_uint_eq(memory[GUARD_BYTES + out_bytes * count + i], POISON);
    }
    free(in.data);
    free(memory);
  }
}

static void observe_nothing(void *self, uint32_t node, const struct halut_tensor *value) {
  (void)node;
  (void)value;
  ++*(size_t *)self;
}

START_TEST(computes_its_golden_example) {
  const char *path = files.gl_pathv[_i];
  struct halut_model *model = model_open(path);
  struct halut_tensor in, out;
  ck_assert_msg(halut_model_golden(model, &in, &out) == 0, "%s has no golden example", path);
  const uint32_t batches[] = {1, 2, 3, in.dim[0], in.dim[0] + 5};
  for (size_t b = 0; halut_backends[b]; b++) {
    if (backend_missing(halut_backends[b]))
      continue;
    for (size_t c = 0; c < CEILINGS; c++) {
      char text[32], what[256];
      const char *options = options_make(halut_backends[b], c, text);
      if (!options && c > 0)
        continue;
      snprintf(what, sizeof(what), "%s on %s %s", path, halut_backends[b]->name,
               options ? options : "");
      for (size_t i = 0; i < sizeof(batches) / sizeof(batches[0]); i++) {
        struct halut_session *session = session_open(model, halut_backends[b], options, batches[i]);
        golden_compare(session, &in, &out, batches[i], what);
        size_t seen = 0;
        halut_session_observe(session, observe_nothing, &seen, 1);
        golden_compare(session, &in, &out, batches[i], what); /* the plain path */
        ck_assert_uint_gt(seen, 0);
        halut_session_close(session);
      }
    }
  }
  halut_model_close(model);
}
END_TEST

/* The values that an observer saw, node by node. */
struct seen {
  uint8_t *value[HALUT_NODES_MAX];
  size_t bytes[HALUT_NODES_MAX];
  uint32_t order[HALUT_NODES_MAX], count;
};

static void observe_keep(void *self, uint32_t node, const struct halut_tensor *value) {
  struct seen *seen = self;
  size_t bytes = item_bytes(value) * value->dim[0];
  ck_assert_uint_lt(bytes, VALUES_BYTES);
  ck_assert_ptr_null(seen->value[node]);
  seen->value[node] = malloc(bytes);
  ck_assert_ptr_nonnull(seen->value[node]);
  memcpy(seen->value[node], value->data, bytes);
  seen->bytes[node] = bytes;
  seen->order[seen->count++] = node;
}

static void seen_free(struct seen *seen) {
  for (uint32_t n = 0; n < HALUT_NODES_MAX; n++)
    free(seen->value[n]);
}

/* Runs the first golden image with an observer. */
static void golden_observe(const struct halut_model *model, const struct halut_backend_ops *ops,
                           const char *options, int plain, struct seen *seen) {
  struct halut_tensor in, out;
  ck_assert_int_eq(halut_model_golden(model, &in, &out), 0);
  struct halut_session *session = session_open(model, ops, options, 1);
  in.dim[0] = out.dim[0] = 1;
  out.data = malloc(item_bytes(&out));
  halut_session_observe(session, observe_keep, seen, plain);
  ck_assert_int_eq(halut_session_run(session, &in, &out, NULL), 0);
  uint32_t count = seen->count;
  halut_session_observe(session, NULL, NULL, 0);
  ck_assert_int_eq(halut_session_run(session, &in, &out, NULL), 0);
  ck_assert_uint_eq(seen->count, count); /* removed: not called again */
  free(out.data);
  halut_session_close(session);
}

START_TEST(shows_every_node_the_same_on_every_backend) {
  struct halut_model *model = model_open(files.gl_pathv[_i]);
  const struct halut_model_info *info = halut_model_info(model);
  struct seen wanted = {0};
  golden_observe(model, &halut_backend_cpu, "cpu=ref", 1, &wanted);
  if (info->kind == HALUT_NETWORK) {
    ck_assert_uint_eq(wanted.count, info->node_count);
    for (uint32_t n = 0; n < info->node_count; n++)
      ck_assert_uint_eq(wanted.order[n], n);
  }
  for (size_t b = 0; halut_backends[b]; b++) {
    if (backend_missing(halut_backends[b]))
      continue;
    for (int plain = 0; plain < 2; plain++) {
      struct seen is = {0};
      golden_observe(model, halut_backends[b], NULL, plain, &is);
      ck_assert_uint_gt(is.count, 0);
      for (uint32_t i = 0; i < is.count; i++) {
        uint32_t n = is.order[i];
        ck_assert_uint_eq(is.bytes[n], wanted.bytes[n]);
        ck_assert_msg(memcmp(is.value[n], wanted.value[n], is.bytes[n]) == 0,
                      "%s: node %u differs on %s", files.gl_pathv[_i], n, halut_backends[b]->name);
      }
      seen_free(&is);
    }
  }
  seen_free(&wanted);
  halut_model_close(model);
}
END_TEST

START_TEST(fuses_what_the_flagship_repeats) {
  struct halut_model *model = model_open("models/golden/residual.safetensors");
  struct seen seen = {0};
  golden_observe(model, &halut_backend_cpu, NULL, 0, &seen);
  /* conv, halut+pool, halut, halut+add, halut+pool, halut, halut+add, pool, linear */
  ck_assert_uint_eq(seen.count, 9);
  seen_free(&seen);
  halut_model_close(model);
}
END_TEST

START_TEST(counts_lookups) {
  for (size_t b = 0; halut_backends[b]; b++) {
    if (backend_missing(halut_backends[b]))
      continue;
    struct halut_model *model = model_open("models/golden/product-small.safetensors");
    struct halut_tensor in, out;
    struct halut_stats stats = {0};
    ck_assert_int_eq(halut_model_golden(model, &in, &out), 0);
    struct halut_session *session = session_open(model, halut_backends[b], NULL, in.dim[0]);
    out.data = malloc(item_bytes(&out) * out.dim[0]);
    ck_assert_int_eq(halut_session_run(session, &in, &out, &stats), 0);
    ck_assert_uint_eq(stats.lookups, 16 * 6 * 5); /* rows, codebooks, outputs */
    free(out.data);
    halut_session_close(session);
    halut_model_close(model);
  }
}
END_TEST

START_TEST(says_what_a_model_is) {
  struct halut_model *model = model_open("models/golden/residual.safetensors");
  const struct halut_model_info *info = halut_model_info(model);
  ck_assert_int_eq(info->kind, HALUT_NETWORK);
  ck_assert_str_eq(info->name, "golden-residual");
  ck_assert_uint_eq(info->version, 1);
  ck_assert_uint_eq(info->channels, 3);
  ck_assert_uint_eq(info->height, 16);
  ck_assert_uint_eq(info->width, 16);
  ck_assert_uint_eq(info->classes, 10);
  ck_assert_uint_eq(info->input_zero[1], 123);
  ck_assert_str_eq(info->labels[9], "class 9");
  ck_assert_uint_eq(info->table_bytes, (8 * 16 + 16 * 16 * 2 + 16 * 20 + 20 * 20 * 2) * 16);
  ck_assert_uint_eq(strlen(info->sha256), 64);
  ck_assert_int_eq(info->nodes[5].op, HALUT_OP_ADD);
  ck_assert_uint_eq(info->nodes[5].in[1], 3); /* the output of node 2 */
  halut_model_close(model);
}
END_TEST

/* Runs with one thing wrong; the session must refuse it, and still work after. */
START_TEST(refuses_tensors_that_do_not_fit) {
  struct halut_model *model = model_open("models/golden/residual.safetensors");
  struct halut_tensor in, out;
  ck_assert_int_eq(halut_model_golden(model, &in, &out), 0);
  struct halut_session *session = session_open(model, &halut_backend_cpu, NULL, 4);
  in.dim[0] = out.dim[0] = 4;
  void *wanted = out.data;
  out.data = malloc(item_bytes(&out) * 4);
  for (int i = 0; i < 9; i++) {
    struct halut_tensor bad_in = in, bad_out = out;
    switch (i) {
    case 0:
      bad_in.dim[0] = bad_out.dim[0] = 5;
      break;
    case 1:
      bad_in.dim[0] = bad_out.dim[0] = 0;
      break;
    case 2:
      bad_in.dtype = HALUT_I8;
      break;
    case 3:
      bad_in.rank = 3;
      break;
    case 4:
      bad_in.dim[2] = 15;
      break;
    case 5:
      bad_in.dim[1] = 1;
      break;
    case 6:
      bad_out.dim[0] = 3;
      break;
    case 7:
      bad_out.dim[1] = 11;
      break;
    case 8:
      bad_out.dtype = HALUT_F32;
      break;
    }
    ck_assert_msg(halut_session_run(session, &bad_in, &bad_out, NULL) == HALUT_ESHAPE, "case %d",
                  i);
  }
  ck_assert_int_eq(halut_session_run(session, &in, &out, NULL), 0);
  ck_assert_mem_eq(out.data, wanted, item_bytes(&out) * 4);
  free(out.data);
  halut_session_close(session);
  halut_model_close(model);
}
END_TEST

START_TEST(refuses_options_that_do_not_fit) {
  struct halut_model *model = model_open("models/golden/product-one.safetensors");
  struct halut_session *session = NULL;
  struct halut_diag diag = {0};
  ck_assert_int_eq(halut_session_open(model, &halut_backend_cpu, NULL, 0, &session, &diag),
                   HALUT_EINVALID);
  ck_assert_str_eq(diag.text, "batch of 0, not from 1 to 4096");
  ck_assert_int_eq(
      halut_session_open(model, &halut_backend_cpu, NULL, HALUT_BATCH_MAX + 1, &session, &diag),
      HALUT_EINVALID);
  ck_assert_int_eq(halut_session_open(model, &halut_backend_cpu, "cpu=mmx", 1, &session, &diag),
                   HALUT_EINVALID);
  ck_assert_msg(strstr(diag.text, "mmx") != NULL, "%s", diag.text);
  ck_assert_int_eq(halut_session_open(model, &halut_backend_cpu, "threads=3", 1, &session, &diag),
                   HALUT_EINVALID);
  ck_assert_msg(strstr(diag.text, "threads=3") != NULL, "%s", diag.text);
  struct halut_backend_ops alone = halut_backend_cpu;
  alone.help = NULL;
  ck_assert_int_eq(halut_session_open(model, &alone, "threads=2", 1, &session, &diag),
                   HALUT_EINVALID);
  ck_assert_msg(strstr(diag.text, "shares no work") != NULL, "%s", diag.text);
  char many[300];
  memset(many, ',', sizeof many);
  many[sizeof many - 1] = '\0';
  ck_assert_int_eq(halut_session_open(model, &halut_backend_cpu, many, 1, &session, &diag),
                   HALUT_EINVALID);
  ck_assert_int_eq(halut_session_open(model, &halut_backend_cpu, "speed=high", 1, &session, &diag),
                   HALUT_EINVALID);
  ck_assert_ptr_null(session);
  halut_session_close(NULL);
  halut_model_close(NULL);
  halut_model_close(model);
}
END_TEST

START_TEST(finds_backends_by_name) {
  ck_assert_ptr_eq(halut_backends_find("cpu"), &halut_backend_cpu);
  ck_assert_ptr_null(halut_backends_find("gpu"));
}
END_TEST

/* A helper thread changes no byte: of one image, of odd batches, of the shipped network's maps. */
START_TEST(shares_work_between_two_threads) {
  const char *paths[] = {files.gl_pathv[_i], "models/resnet9-cifar10.safetensors"};
  for (int p = 0; p < (_i == 0 ? 2 : 1); p++) {
    struct halut_model *model = model_open(paths[p]);
    struct halut_tensor in, out;
    ck_assert_int_eq(halut_model_golden(model, &in, &out), 0);
    struct halut_session *session = session_open(model, &halut_backend_cpu, "threads=2", in.dim[0]);
    for (uint32_t batch = 1; batch <= in.dim[0]; batch += 2)
      golden_compare(session, &in, &out, batch, paths[p]);
    halut_session_close(session);
    halut_model_close(model);
  }
}
END_TEST

/* The same floats of x as a part of a larger matrix, by rows or by columns, on each session. */
static void view_compare(struct halut_session *const session[2], const float *x, uint32_t rows,
                         const struct halut_model_info *info, bool by_column, const float *wanted) {
  const size_t across = by_column ? rows : info->columns, along = by_column ? info->columns : rows;
  const size_t step = across + rows % 3, outputs = (size_t)rows * info->outputs;
  float *larger = calloc(step * along, sizeof *larger), *is = malloc(outputs * sizeof *is);
  ck_assert(larger && is);
  const struct halut_matrix view = {larger, by_column ? 1 : step, by_column ? step : 1};
  for (size_t row = 0; row < rows; row++)
    for (size_t column = 0; column < info->columns; column++)
      larger[row * view.row_step + column * view.column_step] = x[row * info->columns + column];
  for (int s = 0; s < 2; s++) {
    memset(is, 0xff, outputs * sizeof *is);
    ck_assert_int_eq(halut_session_multiply(session[s], view, rows, is, NULL), 0);
    ck_assert_msg(memcmp(is, wanted, outputs * sizeof *is) == 0, "%s: %u rows by %s differ",
                  info->name, rows, by_column ? "columns" : "rows");
  }
  free(larger);
  free(is);
}

/* The fused product and its three steps give the same floats, whatever the number of rows and the
 * order that they lie in. */
START_TEST(fuses_products_exactly) {
  static const uint32_t counts[] = {1,  2,  3,   7,   8,   9,   16,  30,  31,
                                   32, 33, 127, 128, 129, 255, 256, 300, 700};
  enum { COUNTS = sizeof(counts) / sizeof(counts[0]), ROWS = 700 };
  struct halut_backend_ops plain = halut_backend_cpu;
  plain.matmul = NULL;
  struct halut_model *model = model_open(files.gl_pathv[_i]);
  const struct halut_model_info *info = halut_model_info(model);
  for (size_t ceiling = 0; ceiling < CEILINGS && info->kind == HALUT_PRODUCT; ceiling++) {
    char text[32];
    const char *options = options_make(&halut_backend_cpu, ceiling, text);
    if (!options)
      continue;
    snprintf(text + strlen(text), sizeof(text) - strlen(text), ",threads=%zu", ceiling % 2 + 1);
    struct halut_session *fused = session_open(model, &halut_backend_cpu, options, ROWS);
    struct halut_session *steps = session_open(model, &plain, "cpu=ref", ROWS);
    for (size_t i = 0; i < COUNTS; i++) {
      size_t values = (size_t)counts[i] * info->columns, outputs = counts[i] * info->outputs;
      float *x = malloc(values * sizeof *x), *is = malloc(outputs * sizeof *is);
      float *wanted = malloc(outputs * sizeof *wanted);
      ck_assert(x && is && wanted);
      for (size_t v = 0; v < values; v++)
        x[v] = v % 61 == 7 ? NAN : (float)(int)(v * 2654435761u >> 16 & 1023) / 8 - 32;
      struct halut_tensor in = {x, HALUT_F32, 2, {counts[i], info->columns, 1, 1}};
      struct halut_tensor out = {is, HALUT_F32, 2, {counts[i], info->outputs, 1, 1}};
      ck_assert_int_eq(halut_session_run(fused, &in, &out, NULL), 0);
      out.data = wanted;
      ck_assert_int_eq(halut_session_run(steps, &in, &out, NULL), 0);
      ck_assert_msg(memcmp(is, wanted, outputs * sizeof *is) == 0, "%s, %s: %u rows differ",
                    files.gl_pathv[_i], options, counts[i]);
      for (int by_column = 0; by_column < 2; by_column++)
        view_compare((struct halut_session *const[]){fused, steps}, x, counts[i], info, by_column,
                     wanted);
      free(x);
      free(is);
      free(wanted);
    }
    const struct halut_matrix neither = {(const float[4]){0}, 2, 2};
    const struct halut_matrix either = {neither.at, info->columns, 1};
    ck_assert_int_eq(halut_session_multiply(fused, neither, 1, NULL, NULL), HALUT_ESHAPE);
    ck_assert_int_eq(halut_session_multiply(fused, either, 0, NULL, NULL), HALUT_ESHAPE);
    ck_assert_int_eq(halut_session_multiply(fused, either, ROWS + 1, NULL, NULL), HALUT_ESHAPE);
    halut_session_close(fused);
    halut_session_close(steps);
  }
  halut_model_close(model);
}
END_TEST

/* A backend that fails when told, to see that a session passes its errors on and lives. */
static int fail_with;
static int failing_product(struct halut_backend *backend, uint32_t handle, const uint8_t *value,
                           size_t rows, int32_t *acc, struct halut_stats *stats) {
  return fail_with ? fail_with
                   : halut_backend_cpu.product(backend, handle, value, rows, acc, stats);
}

START_TEST(passes_faults_on_and_recovers) {
  struct halut_backend_ops failing = halut_backend_cpu;
  failing.name = "failing";
  failing.product = failing_product;
  failing.conv = NULL;
  failing.matmul = NULL;
  struct halut_model *model = model_open(files.gl_pathv[_i]);
  struct halut_tensor in, out;
  ck_assert_int_eq(halut_model_golden(model, &in, &out), 0);
  struct halut_session *session = session_open(model, &failing, NULL, in.dim[0]);
  struct halut_tensor undefined = out;
  undefined.data = malloc(item_bytes(&out) * out.dim[0]);
  const int faults[] = {HALUT_ETIMEOUT, HALUT_EDEVICE};
  for (int i = 0; i < 2; i++) {
    fail_with = faults[i];
    ck_assert_int_eq(halut_session_run(session, &in, &undefined, NULL), faults[i]);
    fail_with = 0;
    golden_compare(session, &in, &out, in.dim[0], "after a fault");
  }
  free(undefined.data);
  halut_session_close(session);
  halut_model_close(model);
}
END_TEST

int main(void) {
  if (glob("models/golden/*.safetensors", 0, NULL, &files) != 0 || files.gl_pathc < 8) {
    fputs("models/golden is not here or lacks files; run from the top folder\n", stderr);
    return EXIT_FAILURE;
  }
  int count = (int)files.gl_pathc;
  Suite *suite = suite_create("models");
  TCase *golden = tcase_create("golden");
  tcase_set_timeout(golden, 200);
  tcase_add_loop_test(golden, computes_its_golden_example, 0, count);
  tcase_add_loop_test(golden, shows_every_node_the_same_on_every_backend, 0, count);
  tcase_add_loop_test(golden, shares_work_between_two_threads, 0, count);
  tcase_add_loop_test(golden, fuses_products_exactly, 0, count);
  tcase_add_loop_test(golden, passes_faults_on_and_recovers, 0, count);
  tcase_add_test(golden, fuses_what_the_flagship_repeats);
  tcase_add_test(golden, counts_lookups);
  suite_add_tcase(suite, golden);
  TCase *limits = tcase_create("limits");
  tcase_add_test(limits, says_what_a_model_is);
  tcase_add_test(limits, refuses_tensors_that_do_not_fit);
  tcase_add_test(limits, refuses_options_that_do_not_fit);
  tcase_add_test(limits, finds_backends_by_name);
  suite_add_tcase(suite, limits);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  globfree(&files);
  return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
