#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../core/clock.h"
#include "backends.h"
#include "blas.h"
#include "cli.h"
#include "npy.h"
#include "session.h"

struct matmul_args {
  const char *output, *compare, *backend, *cpu;
  uint64_t batch;
  bool json;
};

struct matmul_run {
  const struct halut_command *command;
  const struct matmul_args *args;
  const char *model_path, *a_path;
  struct halut_model *model;
  const struct halut_model_info *info;
  struct halut_session *session;
  struct halut_npy a, b;
  size_t rows;
  float *in;             /* a as floats by rows, if it is not in place by columns */
  struct halut_matrix x; /* a, wherever it is */
  float *out;            /* [rows][outputs] */
  float *b_f32;          /* [columns][outputs] to compare with */
  float *exact;          /* [rows][outputs] a times b */
  double seconds, exact_seconds, mse, variance;
  struct halut_stats stats;
};

static void run_close(struct matmul_run *run) {
  halut_session_close(run->session);
  halut_model_close(run->model);
  halut_npy_close(&run->a);
  halut_npy_close(&run->b);
  free(run->in);
  free(run->out);
  free(run->b_f32);
  free(run->exact);
}

static int run_open_session(struct matmul_run *run) {
  const struct matmul_args *args = run->args;
  struct halut_diag diag = {0};
  int error = halut_model_open(run->model_path, &run->model, &diag);
  if (error)
    return halut_cli_fail(run->command, run->model_path, error, &diag);
  run->info = halut_model_info(run->model);
  if (run->info->kind != HALUT_PRODUCT)
    return halut_cli_error(run->command, HALUT_EXIT_FAILURE,
                           "%s: a network, not a product: see halut classify", run->model_path);
  int code = HALUT_EXIT_OK;
  halut_cli_session(run->command, run->model_path, run->model, args->backend, args->cpu,
                    (uint32_t)args->batch, &run->session, &code);
  return code;
}

static int run_open_arrays(struct matmul_run *run) {
  const struct halut_command *command = run->command;
  struct halut_diag diag = {0};
  uint32_t columns = run->info->columns, outputs = run->info->outputs;
  int error = halut_npy_open(run->a_path, &run->a, &diag);
  if (error)
    return halut_cli_fail(command, run->a_path, error, &diag);
  if (run->a.rank > 2 || run->a.dim[run->a.rank - 1] != columns || run->a.count == 0)
    return halut_cli_error(command, HALUT_EXIT_FAILURE,
                           "%s: rows of %u values are needed, as %s was learned on them",
                           run->a_path, columns, run->model_path);
  run->rows = run->a.count / columns;
  const float *by_column = halut_npy_columns(&run->a);
  if (!by_column)
    run->in = aligned_alloc(HALUT_ALIGN, (run->a.count * sizeof *run->in + HALUT_ALIGN - 1) /
                                             HALUT_ALIGN * HALUT_ALIGN);
  run->out = malloc(run->rows * outputs * sizeof *run->out);
  if ((!run->in && !by_column) || !run->out)
    return halut_cli_error(command, HALUT_EXIT_FAILURE, "%s: no memory for %zu rows", run->a_path,
                           run->rows);
  run->x = by_column ? (struct halut_matrix){by_column, 1, run->rows}
                     : (struct halut_matrix){run->in, columns, 1};
  if (run->in)
    halut_npy_floats(&run->a, 0, run->a.count, run->in);
  if (!run->args->compare)
    return HALUT_EXIT_OK;
  error = halut_npy_open(run->args->compare, &run->b, &diag);
  if (error)
    return halut_cli_fail(command, run->args->compare, error, &diag);
  if (run->b.rank > 2 || run->b.dim[0] != columns || run->b.dim[1] != outputs)
    return halut_cli_error(command, HALUT_EXIT_FAILURE, "%s: a matrix of %u x %u is needed",
                           run->args->compare, columns, outputs);
  run->b_f32 = malloc(run->b.count * sizeof *run->b_f32);
  run->exact = malloc(run->rows * outputs * sizeof *run->exact);
  if (!run->b_f32 || !run->exact)
    return halut_cli_error(command, HALUT_EXIT_FAILURE, "%s: no memory to compare",
                           run->args->compare);
  halut_npy_floats(&run->b, 0, run->b.count, run->b_f32);
  return HALUT_EXIT_OK;
}

static int run_multiply(struct matmul_run *run) {
  uint32_t outputs = run->info->outputs;
  struct halut_progress bar;
  halut_progress_begin(&bar, "matmul", "rows", run->rows);
  uint64_t began = halut_clock_ns();
  int error = HALUT_OK;
  for (size_t row = 0; !error && row < run->rows; row += run->args->batch) {
    size_t left = run->rows - row;
    uint32_t count = (uint32_t)(left < run->args->batch ? left : run->args->batch);
    struct halut_matrix x = run->x;
    x.at += row * x.row_step;
    error = halut_session_multiply(run->session, x, count, run->out + row * outputs, &run->stats);
    halut_progress_show(&bar, row + count);
  }
  run->seconds = (double)(halut_clock_ns() - began) * 1e-9;
  halut_progress_end(&bar);
  return error ? halut_cli_fail(run->command, run->model_path, error, NULL) : HALUT_EXIT_OK;
}

/* The exact product in floats on one thread, as ours ran; and what ours is off by. */
static void run_compare(struct matmul_run *run) {
  size_t columns = run->info->columns, outputs = run->info->outputs;
  halut_blas_threads(1);
  uint64_t began = halut_clock_ns();
  const bool by_column = run->x.column_step != 1;
  cblas_sgemm(CblasRowMajor, by_column ? CblasTrans : CblasNoTrans, CblasNoTrans, (int)run->rows,
              (int)outputs, (int)columns, 1.0f, run->x.at,
              (int)(by_column ? run->x.column_step : columns), run->b_f32, (int)outputs, 0.0f,
              run->exact, (int)outputs);
  run->exact_seconds = (double)(halut_clock_ns() - began) * 1e-9;
  double count = (double)run->rows * (double)outputs;
  for (size_t m = 0; m < outputs; m++) {
    double mean = 0.0;
    for (size_t row = 0; row < run->rows; row++)
      mean += (double)run->exact[row * outputs + m] / (double)run->rows;
    for (size_t row = 0; row < run->rows; row++) {
      double exact = (double)run->exact[row * outputs + m],
             off = (double)run->out[row * outputs + m] - exact;
      run->mse += off * off / count;
      run->variance += (exact - mean) * (exact - mean) / count;
    }
  }
}

static int report_text(const struct matmul_run *run) {
  char mse[HALUT_NUMBER_TEXT], nmse[HALUT_NUMBER_TEXT], r2[HALUT_NUMBER_TEXT];
  const double share = run->mse / run->variance;
  printf("%s: %zu rows in %.3f ms on %s, %.3g lookups/s\n", run->info->name, run->rows,
         run->seconds * 1e3, run->args->backend, (double)run->stats.lookups / run->seconds);
  if (run->args->compare)
    printf("exact float product on one thread: %.3f ms; MSE %s, NMSE %s, R^2 %s\n",
           run->exact_seconds * 1e3, halut_cli_number(run->mse, false, mse),
           halut_cli_number(share, true, nmse), halut_cli_number(1.0 - share, true, r2));
  return halut_cli_finish(run->command);
}

static int report_json(const struct matmul_run *run) {
  json_t *report = json_pack("{s:s, s:s, s:I, s:i, s:i, s:f, s:I, s:I}", "name", run->info->name,
                             "backend", run->args->backend, "rows", (json_int_t)run->rows,
                             "columns", (int)run->info->columns, "outputs", (int)run->info->outputs,
                             "seconds", run->seconds, "lookups", (json_int_t)run->stats.lookups,
                             "device_cycles", (json_int_t)run->stats.device_cycles);
  if (report && run->args->compare) {
    json_t *more = json_pack("{s:f, s:o, s:o, s:o}", "exact_seconds", run->exact_seconds, "mse",
                             halut_cli_real(run->mse), "variance", halut_cli_real(run->variance),
                             "nmse", halut_cli_real(run->mse / run->variance));
    if (!more || json_object_update(report, more)) {
      json_decref(report);
      report = NULL;
    }
    json_decref(more);
  }
  return halut_cli_json(run->command, report);
}

static int matmul_main(const struct halut_command *command, int argc, char **argv) {
  struct matmul_args args = {.backend = halut_backends[0]->name, .batch = 256};
  int count, code;
  if (!halut_cli_parse(command, argc, argv, &args, &count, &code))
    return code;
  if (!args.output && !args.compare)
    return halut_cli_error(command, HALUT_EXIT_USAGE,
                           "--output or --compare is needed; see --help");
  if (args.output && !halut_cli_output(command, args.output))
    return HALUT_EXIT_USAGE;
  struct matmul_run run = {
      .command = command, .args = &args, .model_path = argv[0], .a_path = argv[1]};
  code = run_open_session(&run);
  code = code ? code : run_open_arrays(&run);
  code = code ? code : run_multiply(&run);
  if (!code && args.output) {
    struct halut_diag diag = {0};
    uint32_t dim[2] = {(uint32_t)run.rows, run.info->outputs};
    int error = halut_npy_write(args.output, HALUT_NPY_F32, 2, dim, run.out, &diag);
    code = error ? halut_cli_fail(command, args.output, error, &diag) : HALUT_EXIT_OK;
  }
  if (!code && args.compare)
    run_compare(&run);
  if (!code)
    code = args.json ? report_json(&run) : report_text(&run);
  run_close(&run);
  return code;
}

#define AT(member) offsetof(struct matmul_args, member)
static const struct halut_option options[] = {
    {"output", 'o', "FILE", "write the result, .npy of float32", HALUT_OPTION_TEXT, AT(output), 0,
     0},
    {"compare", 0, "FILE", "state the error against a times this matrix, .npy", HALUT_OPTION_TEXT,
     AT(compare), 0, 0},
    {"backend", 'b', "NAME[:KEY=VALUE,...]", "which backend computes (default cpu)",
     HALUT_OPTION_TEXT, AT(backend), 0, 0},
    {"cpu", 0, "NAME", "best instruction set to use: ref, ssse3, avx2, avx512, neon",
     HALUT_OPTION_TEXT, AT(cpu), 0, 0},
    {"batch", 0, "N", "rows at once (default 256)", HALUT_OPTION_COUNT, AT(batch), 1,
     HALUT_BATCH_MAX},
    {"json", 0, NULL, "print the report as one JSON object", HALUT_OPTION_FLAG, AT(json), 0, 0},
    {0}};

const struct halut_command halut_command_matmul = {
    .name = "matmul",
    .operands = "MODEL A.npy",
    .summary = "Multiply the rows of an array with a learned product",
    .details = "A.npy is float32, float64 or uint8, a row or rows of as many values as the product "
               "has columns. Of float32 in Fortran order only the columns that trees read are "
               "read, but with --compare: about twice as fast.\n",
    .options = options,
    .operands_min = 2,
    .operands_max = 2,
    .run = matmul_main};
