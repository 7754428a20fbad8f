#include <stdlib.h>
#include <string.h>

#include "cli.h"

struct check_args {
  const char *backend, *cpu;
};

static const struct halut_option options[] = {
    {"backend", 'b', "NAME[:KEY=VALUE,...]", "which backend computes (default cpu)",
     HALUT_OPTION_TEXT, offsetof(struct check_args, backend), 0, 0},
    {"cpu", 0, "NAME", "best instruction set to use: ref, ssse3, avx2, avx512, neon",
     HALUT_OPTION_TEXT, offsetof(struct check_args, cpu), 0, 0},
    {0}};

/* Says where the first difference is; true if there is none. Bytes are compared, so NaNs must agree
 * too. */
static bool output_compare(const struct halut_command *command, const char *path,
                           const struct halut_tensor *is, const struct halut_tensor *wanted) {
  size_t columns = wanted->dim[1], count = wanted->dim[0] * columns;
  for (size_t i = 0; i < count; i++) {
    if (memcmp((const char *)is->data + 4 * i, (const char *)wanted->data + 4 * i, 4) == 0)
      continue;
    if (wanted->dtype == HALUT_I32)
      halut_cli_error(command, HALUT_EXIT_FAILURE, "%s: example %zu, logit %zu is %d, not %d", path,
                      i / columns, i % columns, ((const int32_t *)is->data)[i],
                      ((const int32_t *)wanted->data)[i]);
    else
      halut_cli_error(command, HALUT_EXIT_FAILURE, "%s: row %zu, output %zu is %.9g, not %.9g",
                      path, i / columns, i % columns, (double)((const float *)is->data)[i],
                      (double)((const float *)wanted->data)[i]);
    return false;
  }
  return true;
}

static int model_check(const struct halut_command *command, const struct check_args *args,
                       const char *path) {
  struct halut_model *model = NULL;
  struct halut_session *session = NULL;
  struct halut_tensor in, wanted, out;
  void *memory = NULL;
  int exit_code = HALUT_EXIT_FAILURE;
  if (!halut_cli_model(command, path, &model))
    return exit_code;
  if (halut_model_golden(model, &in, &wanted)) {
    printf("%s: valid, but has no golden example\n", path);
    exit_code = HALUT_EXIT_OK;
    goto done;
  }
  if (!halut_cli_session(command, path, model, args->backend, args->cpu, in.dim[0], &session,
                         &exit_code))
    goto done;
  out = wanted;
  memory = aligned_alloc(HALUT_ALIGN, ((size_t)out.dim[0] * out.dim[1] * 4 + HALUT_ALIGN - 1) /
                                          HALUT_ALIGN * HALUT_ALIGN);
  if (!memory) {
    halut_cli_error(command, HALUT_EXIT_FAILURE, "no memory for the output");
    goto done;
  }
  out.data = memory;
  int rc = halut_session_run(session, &in, &out, NULL);
  if (rc) {
    halut_cli_fail(command, path, rc, NULL);
  } else if (output_compare(command, path, &out, &wanted)) {
    printf("%s: OK, %u %s\n", path, in.dim[0], in.dim[0] == 1 ? "example" : "examples");
    exit_code = HALUT_EXIT_OK;
  }
done:
  free(memory);
  halut_session_close(session);
  halut_model_close(model);
  return exit_code;
}

static int check_run(const struct halut_command *command, int argc, char **argv) {
  struct check_args args = {.backend = "cpu"};
  int count, exit_code;
  if (!halut_cli_parse(command, argc, argv, &args, &count, &exit_code))
    return exit_code;
  exit_code = HALUT_EXIT_OK;
  for (int i = 0; i < count && exit_code != HALUT_EXIT_USAGE; i++) { /* that is said once */
    int one = model_check(command, &args, argv[i]);
    exit_code = one > exit_code ? one : exit_code;
  }
  int finish = halut_cli_finish(command);
  return exit_code ? exit_code : finish;
}

const struct halut_command halut_command_check = {
    .name = "check",
    .operands = "MODEL...",
    .summary = "Check that model files are valid and compute their golden examples",
    .options = options,
    .operands_min = 1,
    .operands_max = -1,
    .run = check_run};
