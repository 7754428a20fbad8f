#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../core/clock.h"
#include "cli.h"
#include "graph.h"
#include "learned_file.h"
#include "npy.h"

struct learn_args {
  const char *a, *b, *target, *output, *name;
  uint64_t codebooks, prototypes, candidates, tree_rows, seed, rows, threads;
  double ridge, heldout;
  bool by_input, by_output, json;
};

/* What a run holds, to be released together. */
struct learn_run {
  const struct halut_command *command;
  const struct learn_args *args;
  struct halut_npy a, b, target;
  float *a_copy, *b_copy, *target_copy; /* where the file is not aligned float32 */
  const float *a_f32, *b_f32, *target_f32;
  uint8_t *a_u8_copy; /* where the file is in Fortran order */
  const uint8_t *a_u8;
  size_t rows;
  struct halut_learned learned;
  struct halut_progress bar;
  char phase[32];
};

static void run_close(struct learn_run *run) {
  halut_npy_close(&run->a);
  halut_npy_close(&run->b);
  halut_npy_close(&run->target);
  free(run->a_copy);
  free(run->a_u8_copy);
  free(run->b_copy);
  free(run->target_copy);
  halut_learned_free(&run->learned);
}

/* Opens a matrix and, unless it can be used as it lies, copies its first `rows` rows as floats. */
static int matrix_open(const struct halut_command *command, const char *path,
                       struct halut_npy *npy) {
  struct halut_diag diag = {0};
  int error = halut_npy_open(path, npy, &diag);
  if (error)
    return halut_cli_fail(command, path, error, &diag);
  if (npy->rank > 2 || npy->count == 0)
    return halut_cli_error(command, HALUT_EXIT_FAILURE, "%s: %s", path,
                           npy->count ? "has more than two dimensions" : "is empty");
  return HALUT_EXIT_OK;
}

static int matrix_floats(const struct halut_command *command, const char *path,
                         const struct halut_npy *npy, size_t count, float **copy,
                         const float **out) {
  *out = halut_npy_in_place(npy);
  if (*out)
    return HALUT_EXIT_OK;
  *copy = malloc(count * sizeof **copy);
  if (!*copy)
    return halut_cli_error(command, HALUT_EXIT_FAILURE, "%s: no memory for %zu values", path,
                           count);
  halut_npy_floats(npy, 0, count, *copy);
  *out = *copy;
  return HALUT_EXIT_OK;
}

static int matrix_bytes(const struct halut_command *command, const char *path,
                        const struct halut_npy *npy, size_t count, uint8_t **copy,
                        const uint8_t **out) {
  *out = npy->by_column ? NULL : npy->data;
  if (*out)
    return HALUT_EXIT_OK;
  *copy = malloc(count);
  if (!*copy)
    return halut_cli_error(command, HALUT_EXIT_FAILURE, "%s: no memory for %zu values", path,
                           count);
  halut_npy_bytes(npy, 0, count, *copy);
  *out = *copy;
  return HALUT_EXIT_OK;
}

static int run_open(struct learn_run *run) {
  const struct learn_args *args = run->args;
  const struct halut_command *command = run->command;
  int code = matrix_open(command, args->a, &run->a);
  code = code ? code : matrix_open(command, args->b, &run->b);
  if (!code && args->target)
    code = matrix_open(command, args->target, &run->target);
  if (code)
    return code;
  if (run->a.rank != 2)
    return halut_cli_error(command, HALUT_EXIT_FAILURE,
                           "%s: samples must have two dimensions, rows and columns", args->a);
  if (run->b.dim[0] != run->a.dim[1])
    return halut_cli_error(command, HALUT_EXIT_FAILURE,
                           "%s has %u rows, but %s has %u columns: they must be as many", args->b,
                           run->b.dim[0], args->a, run->a.dim[1]);
  if (args->target && (run->target.dim[0] != run->a.dim[0] || run->target.dim[1] != run->b.dim[1]))
    return halut_cli_error(command, HALUT_EXIT_FAILURE, "%s is %u x %u, but %s times %s is %u x %u",
                           args->target, run->target.dim[0], run->target.dim[1], args->a, args->b,
                           run->a.dim[0], run->b.dim[1]);
  if (args->codebooks > run->a.dim[1])
    return halut_cli_error(command, HALUT_EXIT_USAGE,
                           "--codebooks %" PRIu64 ": %s has %u columns, and each is in one",
                           args->codebooks, args->a, run->a.dim[1]);
  if (args->rows > run->a.dim[0])
    return halut_cli_error(command, HALUT_EXIT_FAILURE, "--rows %" PRIu64 ": %s has %u", args->rows,
                           args->a, run->a.dim[0]);
  run->rows = args->rows ? (size_t)args->rows : run->a.dim[0];
  if (run->a.type == HALUT_NPY_U8)
    code = matrix_bytes(command, args->a, &run->a, run->rows * run->a.dim[1], &run->a_u8_copy,
                        &run->a_u8);
  else
    code = matrix_floats(command, args->a, &run->a, run->rows * run->a.dim[1], &run->a_copy,
                         &run->a_f32);
  code = code ? code
              : matrix_floats(command, args->b, &run->b, run->b.count, &run->b_copy, &run->b_f32);
  if (!code && args->target)
    code = matrix_floats(command, args->target, &run->target, run->rows * run->target.dim[1],
                         &run->target_copy, &run->target_f32);
  return code;
}

static int run_progress(void *self, const char *phase, size_t done, size_t total) {
  struct learn_run *run = self;
  if (strcmp(run->phase, phase) != 0) {
    if (run->phase[0])
      halut_progress_end(&run->bar);
    snprintf(run->phase, sizeof run->phase, "%s", phase);
    halut_progress_begin(&run->bar, run->phase, "steps", total);
  }
  halut_progress_show(&run->bar, done);
  return 0;
}

static int run_learn(struct learn_run *run) {
  const struct learn_args *args = run->args;
  struct halut_learn_options options = {.codebooks = (uint32_t)args->codebooks,
                                        .ridge = args->ridge,
                                        .candidates = (uint32_t)args->candidates,
                                        .prototypes = (uint32_t)args->prototypes,
                                        .tree_rows = (size_t)args->tree_rows,
                                        .seed = args->seed,
                                        .heldout = args->heldout,
                                        .threads = (uint32_t)args->threads,
                                        .by_output = !args->by_input,
                                        .progress = run_progress,
                                        .self = run};
  struct halut_diag diag = {0};
  int error = halut_learn(run->a_f32, run->a_u8, run->rows, run->a.dim[1], run->b_f32,
                          run->b.dim[1], run->target_f32, &options, &run->learned, &diag);
  if (run->phase[0])
    halut_progress_end(&run->bar);
  return error ? halut_cli_fail(run->command, NULL, error, &diag) : HALUT_EXIT_OK;
}

/* The name of the model: as given, or the output file's without folder and ending. */
static int run_name(const struct halut_command *command, const struct learn_args *args,
                    char name[HALUT_NAME_MAX]) {
  const char *slash = strrchr(args->output, '/');
  const char *text = args->name ? args->name : slash ? slash + 1 : args->output;
  const char *dot = args->name ? NULL : strrchr(text, '.');
  const size_t bytes = dot && dot != text ? (size_t)(dot - text) : strlen(text);
  if (bytes < HALUT_NAME_MAX) {
    memcpy(name, text, bytes);
    name[bytes] = '\0';
    if (halut_name_ok(name))
      return HALUT_EXIT_OK;
  }
  return halut_cli_error(
      command, HALUT_EXIT_USAGE,
      "%s \"%.*s\": 1 to %d of A-Z a-z 0-9 _ . - are possible, and no dot first%s",
      args->name ? "--name" : "name", (int)bytes, text, HALUT_NAME_MAX - 1,
      args->name ? "" : " (give one with --name)");
}

static int run_write(struct learn_run *run, const char *name) {
  const struct learn_args *args = run->args;
  size_t held = run->learned.heldout_rows, columns = run->a.dim[1];
  size_t first = held ? run->rows - held : 0, count = run->rows - first;
  count = count < 4 ? count : 4; /* so few, as the input of a wide product is most of the file */
  float *golden = malloc(count * columns * sizeof *golden);
  if (!golden)
    return halut_cli_error(run->command, HALUT_EXIT_FAILURE, "no memory for the golden example");
  halut_npy_floats(&run->a, first * columns, count * columns, golden);
  char about[192];
  snprintf(about, sizeof about,
           "learned from %zu rows, %s samples, ridge %g, splits by the error of %s%s",
           run->rows - held, halut_npy_type_name(run->a.type), args->ridge,
           args->by_input ? "a" : "the product",
           args->target ? ", tables fitted to a given target" : "");
  struct halut_diag diag = {0};
  int error = halut_learned_write(&run->learned, args->output, name, 1, about, golden,
                                  (uint32_t)count, &diag);
  free(golden);
  return error ? halut_cli_fail(run->command, args->output, error, &diag) : HALUT_EXIT_OK;
}

static void report_line(const struct halut_learned *p, const char *what, double mse) {
  char text[3][HALUT_NUMBER_TEXT];
  const double share = mse / p->variance;
  printf("  %-28s %12s %10s %10s\n", what, halut_cli_number(mse, false, text[0]),
         halut_cli_number(share, true, text[1]), halut_cli_number(1.0 - share, true, text[2]));
}

static int report_text(const struct learn_run *run, const char *name, double seconds) {
  const struct halut_learned *p = &run->learned;
  printf("%s: %u columns, %u codebooks, %u outputs, tables of %zu bytes; learned from %zu rows in "
         "%.2f s\n",
         name, p->columns, p->codebooks, p->outputs,
         (size_t)p->outputs * p->codebooks * HALUT_PROTOTYPES, run->rows - p->heldout_rows,
         seconds);
  if (p->heldout_rows)
    printf("On %zu held-out rows:              MSE       NMSE        R^2\n", p->heldout_rows);
  else
    puts("On the learning rows:                 MSE       NMSE        R^2");
  report_line(p, "as served (int8 tables)", p->mse);
  report_line(p, "with float tables", p->mse_float);
  report_line(p, "mean of each output", p->mse_mean);
  report_line(p, "exact product of 8-bit a, b", p->mse_int8);
  return halut_cli_finish(run->command);
}

static int report_json(const struct learn_run *run, const char *name, double seconds) {
  const struct halut_learned *p = &run->learned;
  double nmse = halut_learned_nmse(p);
  return halut_cli_json(
      run->command,
      json_pack("{s:s, s:o, s:i, s:i, s:i, s:I, s:I, s:f, s:o, s:o, s:o, s:o, s:o, s:o, s:o}",
                "name", name, "file", halut_cli_text(run->args->output), "columns", (int)p->columns,
                "codebooks", (int)p->codebooks, "outputs", (int)p->outputs, "learn_rows",
                (json_int_t)(run->rows - p->heldout_rows), "heldout_rows",
                (json_int_t)p->heldout_rows, "seconds", seconds, "mse", halut_cli_real(p->mse),
                "mse_float", halut_cli_real(p->mse_float), "mse_mean", halut_cli_real(p->mse_mean),
                "mse_int8", halut_cli_real(p->mse_int8), "variance", halut_cli_real(p->variance),
                "nmse", halut_cli_real(nmse), "r2", halut_cli_real(1.0 - nmse)));
}

static int learn_main(const struct halut_command *command, int argc, char **argv) {
  struct learn_args args = {.ridge = 1.0, .heldout = 0.1};
  int count, code;
  if (!halut_cli_parse(command, argc, argv, &args, &count, &code))
    return code;
  if (!args.a || !args.b || !args.output || !args.codebooks)
    return halut_cli_error(command, HALUT_EXIT_USAGE,
                           "--a, --b, --codebooks and --output are needed; see --help");
  if (args.by_input && args.by_output)
    return halut_cli_error(command, HALUT_EXIT_USAGE,
                           "--by-input and --by-output exclude each other");
  if (args.prototypes & (args.prototypes - 1)) /* 0 is the default */
    return halut_cli_error(command, HALUT_EXIT_USAGE,
                           "--prototypes takes 2, 4, 8 or 16, not %" PRIu64, args.prototypes);
  if (!halut_cli_output(command, args.output))
    return HALUT_EXIT_USAGE;
  struct learn_run run = {.command = command, .args = &args};
  char name[HALUT_NAME_MAX];
  code = run_name(command, &args, name);
  if (code)
    return code;
  uint64_t began = halut_clock_ns();
  code = run_open(&run);
  code = code ? code : run_learn(&run);
  double seconds = (double)(halut_clock_ns() - began) * 1e-9;
  code = code ? code : run_write(&run, name);
  if (!code)
    code = args.json ? report_json(&run, name, seconds) : report_text(&run, name, seconds);
  run_close(&run);
  return code;
}

#define AT(member) offsetof(struct learn_args, member)
static const struct halut_option options[] = {
    {"a", 0, "FILE", "samples of a, .npy of float32, float64 or uint8", HALUT_OPTION_TEXT, AT(a), 0,
     0},
    {"b", 0, "FILE", "the matrix b, .npy, as many rows as a has columns", HALUT_OPTION_TEXT, AT(b),
     0, 0},
    {"codebooks", 'C', "N", "parts that the columns are cut into", HALUT_OPTION_COUNT,
     AT(codebooks), 1, HALUT_LEARN_CODEBOOKS_MAX},
    {"prototypes", 'K', "N", "leaves of a tree that are used: 2, 4, 8 or 16 (default 16)",
     HALUT_OPTION_COUNT, AT(prototypes), 2, 16},
    {"output", 'o', "FILE", "model file to write", HALUT_OPTION_TEXT, AT(output), 0, 0},
    {"name", 0, "NAME", "name of the model (default: of the file)", HALUT_OPTION_TEXT, AT(name), 0,
     0},
    {"target", 0, "FILE", "fit the tables to this instead of a times b", HALUT_OPTION_TEXT,
     AT(target), 0, 0},
    {"rows", 0, "N", "use only the first N rows of a (default: all)", HALUT_OPTION_COUNT, AT(rows),
     1, 4294967295.0},
    {"heldout", 0, "SHARE", "last part of the rows, kept for the report (default 0.1)",
     HALUT_OPTION_REAL, AT(heldout), 0, 0.5},
    {"ridge", 0, "LAMBDA", "shrink the tables towards the plain bucket means (default 1)",
     HALUT_OPTION_REAL, AT(ridge), 0, 1e300},
    {"by-output", 0, NULL, "choose splits by the error of the product (the default)",
     HALUT_OPTION_FLAG, AT(by_output), 0, 0},
    {"by-input", 0, NULL, "choose splits by the error of a, as the Maddness paper does",
     HALUT_OPTION_FLAG, AT(by_input), 0, 0},
    {"candidates", 0, "N", "columns tried at each tree level (default: all of the codebook's)",
     HALUT_OPTION_COUNT, AT(candidates), 1, 65536},
    {"tree-rows", 0, "N", "rows that the trees see (default: all)", HALUT_OPTION_COUNT,
     AT(tree_rows), 1, 4294967295.0},
    {"seed", 0, "N", "chooses these rows (default 0)", HALUT_OPTION_COUNT, AT(seed), 0,
     9007199254740992.0},
    {"threads", 't', "N",
     "threads (default: one for each processor it may use); the result does not depend on it",
     HALUT_OPTION_COUNT, AT(threads), 1, 256},
    {"json", 0, NULL, "print the report as one JSON object", HALUT_OPTION_FLAG, AT(json), 0, 0},
    {0}};

const struct halut_command halut_command_learn = {
    .name = "learn",
    .operands = "",
    .summary = "Learn a product a times b from samples of a and from b",
    .details =
        "Cuts the columns of a into codebooks, learns a tree of 16 leaves for each and a table of "
        "what\n"
        "each leaf adds to each output, and reports the error on rows that learning did not see.\n"
        "A uint8 a is taken as it is: its thresholds are whole numbers.\n",
    .options = options,
    .run = learn_main};
