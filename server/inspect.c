#include "inspect.h"

#include <stdlib.h>
#include <string.h>

#include "../core/clock.h"

/* ---- asking ---- */

static struct halut_inspection *inspection_of(struct halut_job *job, struct halut_diag *diag) {
  if (job->inspect != NULL)
    return job->inspect;
  job->inspect = calloc(1, sizeof *job->inspect);
  if (job->inspect == NULL)
    halut_fail(diag, HALUT_ENOMEM, 0, "no memory for the request; try again");
  else
    job->inspect->codebook = HALUT_CODEBOOKS_ALL;
  return job->inspect;
}

static int truth_set(const char *name, const char *text, bool *out, struct halut_diag *diag) {
  if (strcmp(text, "true") != 0 && strcmp(text, "false") != 0)
    return halut_fail(diag, HALUT_EINVALID, 0, "%s: must be true or false, not \"%.32s\"", name,
                      text);
  *out = strcmp(text, "true") == 0;
  return HALUT_OK;
}

static int compare_set(struct halut_job *job, const char *text, struct halut_diag *diag) {
  const struct halut_catalog_options *options = &job->catalog->options;
  int error = truth_set("compare", text, &job->inspect->compare, diag);
  if (error == HALUT_OK && job->inspect->compare && options->backend_count < HALUT_COMPARED)
    return halut_fail(diag, HALUT_EINVALID, 0,
                      "compare: needs two backends (--backend both), only %s is open",
                      options->backends[0]->name);
  return error;
}

static int timing_set(struct halut_job *job, const char *text, struct halut_diag *diag) {
  job->inspect->layers = strcmp(text, "layers") == 0;
  job->inspect->phases = job->inspect->layers || strcmp(text, "phases") == 0;
  if (job->inspect->phases || strcmp(text, "false") == 0)
    return HALUT_OK;
  return halut_fail(diag, HALUT_EINVALID, 0,
                    "timing: must be \"layers\" or \"phases\", not \"%.32s\"", text);
}

/* A product has one place to look at, a network has its layers. */
static int codes_set(struct halut_job *job, const char *text, struct halut_diag *diag) {
  struct halut_inspection *inspect = job->inspect;
  if (job->kind == HALUT_PRODUCT)
    return truth_set("codes", text, &inspect->codes, diag);
  if (inspect->explain && strcmp(text, "false") != 0)
    return halut_fail(diag, HALUT_EINVALID, 0, "codes: /v1/explain has its layer already");
  if (inspect->explain)
    return HALUT_OK;
  if (strlen(text) >= sizeof inspect->layer)
    return halut_fail(diag, HALUT_EINVALID, 0, "codes: no layer has so long a name");
  memcpy(inspect->layer, text, strlen(text) + 1);
  inspect->codes = strcmp(text, "false") != 0;
  return HALUT_OK;
}

static const struct {
  const char *name;
  int (*set)(struct halut_job *job, const char *text, struct halut_diag *diag);
} asked[] = {{"compare", compare_set}, {"timing", timing_set}, {"codes", codes_set}};
enum { ASKED = sizeof asked / sizeof asked[0] };

static int ask(struct halut_job *job, size_t i, const char *text, struct halut_diag *diag) {
  if (text == NULL)
    return HALUT_OK;
  if (inspection_of(job, diag) == NULL)
    return HALUT_ENOMEM;
  return asked[i].set(job, text, diag);
}

bool halut_inspect_query(struct halut_job *job, struct halut_request *request) {
  struct halut_diag diag = {0};
  int error = HALUT_OK;
  for (size_t i = 0; i < ASKED && error == HALUT_OK; i++)
    error = ask(job, i, halut_request_query(request, asked[i].name), &diag);
  if (error != HALUT_OK)
    halut_request_error(request, halut_job_status(error), "%s", diag.text);
  return error == HALUT_OK;
}

bool halut_inspect_options(struct halut_job *job, const json_t *object) {
  struct halut_diag diag = {0};
  int error = HALUT_OK;
  for (size_t i = 0; i < ASKED && error == HALUT_OK; i++) {
    const json_t *value = json_object_get(object, asked[i].name);
    if (value == NULL)
      continue;
    if (json_is_boolean(value) || json_is_string(value))
      error = ask(job, i,
                  json_is_string(value) ? json_string_value(value)
                  : json_is_true(value) ? "true"
                                        : "false",
                  &diag);
    else
      error = halut_fail(&diag, HALUT_EINVALID, 0, "%s: must be true, false or a word",
                         asked[i].name);
  }
  if (error != HALUT_OK)
    halut_job_fail(job, error, "%s", diag.text);
  return error == HALUT_OK;
}

/* A whole number of the query; 0 by default. False after an answer. */
static bool place_query(struct halut_request *request, const char *name, int64_t *out) {
  const char *text = halut_request_query(request, name);
  char *end = NULL;
  if (text == NULL)
    return true;
  long long value = strtoll(text, &end, 10);
  if (text[0] >= '0' && text[0] <= '9' && *end == '\0' && value <= UINT16_MAX) {
    *out = value;
    return true;
  }
  halut_request_error(request, 400, "%s: must be a whole number in 0..%d, not \"%.32s\"", name,
                      UINT16_MAX, text);
  return false;
}

bool halut_inspect_explain(struct halut_job *job, struct halut_request *request) {
  const char *layer = halut_request_query(request, "layer");
  struct halut_diag diag = {0};
  int64_t x = 0, y = 0, output = 0;
  struct halut_inspection *inspect = inspection_of(job, &diag);
  if (inspect == NULL || layer == NULL || strlen(layer) >= sizeof inspect->layer) {
    halut_request_error(request, inspect == NULL ? 503 : 400, "%s",
                        inspect == NULL ? diag.text
                        : layer == NULL ? "layer: which learned layer to explain is missing"
                                        : "layer: no layer has so long a name");
    return false;
  }
  memcpy(inspect->layer, layer, strlen(layer) + 1);
  if (!place_query(request, "x", &x) || !place_query(request, "y", &y) ||
      !place_query(request, "output", &output) ||
      !place_query(request, "codebook", &inspect->codebook))
    return false;
  inspect->x = (uint32_t)x;
  inspect->y = (uint32_t)y;
  inspect->output = (uint32_t)output;
  inspect->explain = true;
  return true;
}

void halut_inspect_free(struct halut_inspection *inspect) {
  if (inspect == NULL)
    return;
  free(inspect->code);
  halut_explain_free(&inspect->maps);
  free(inspect);
}

/* ---- computing ---- */

bool halut_inspect_alone(const struct halut_job *job) {
  const struct halut_inspection *inspect = job->inspect;
  return inspect != NULL &&
         (inspect->compare || inspect->layers || inspect->codes || inspect->explain);
}

static void layer_time(void *self, uint32_t node, const struct halut_tensor *value) {
  struct halut_inspection *inspect = self;
  uint64_t now = halut_clock_ns();
  (void)value;
  inspect->layer_ns[node] += now - inspect->mark_ns;
  inspect->layer_seen[node] = true;
  inspect->mark_ns = now;
}

static int layers_run(const struct halut_rows *rows, struct halut_job *job) {
  job->inspect->mark_ns = halut_clock_ns();
  halut_session_observe(rows->session, layer_time, job->inspect, 0);
  int error = halut_rows_run(rows, job->in, job->rows, job->out, &job->stats);
  halut_session_observe(rows->session, NULL, NULL, 0);
  return error;
}

/* Memory for the codes of all rows, `places` of them in each. */
static int code_alloc(struct halut_job *job, size_t places, uint32_t codebooks,
                      struct halut_diag *diag) {
  size_t count = 0;
  if (__builtin_mul_overflow(places * codebooks, (size_t)job->rows, &count) ||
      count > HALUT_CODES_MAX)
    return halut_fail(diag, HALUT_ELIMIT, 0,
                      "codes: %zu for each of %u inputs exceed %d in a reply; send fewer",
                      places * codebooks, job->rows, HALUT_CODES_MAX);
  job->inspect->code = malloc(count);
  job->inspect->code_rows = (uint32_t)(places * job->rows);
  if (job->inspect->code == NULL)
    return halut_fail(diag, HALUT_ENOMEM, 0, "no memory for %zu codes; try again", count);
  return HALUT_OK;
}

static int codes_run(const struct halut_rows *rows, struct halut_job *job,
                     struct halut_diag *diag) {
  struct halut_inspection *inspect = job->inspect;
  const struct halut_model_info *info = rows->info;
  if (info->kind == HALUT_PRODUCT) {
    int error = code_alloc(job, 1, info->lut.codebooks, diag);
    if (error != HALUT_OK)
      return error;
    halut_explain_product(info, job->in, job->rows, inspect->code);
    return halut_rows_run(rows, job->in, job->rows, job->out, &job->stats);
  }
  int error = halut_explain_find(info, inspect->layer, &inspect->node, diag);
  if (error != HALUT_OK)
    return error;
  const struct halut_node *node = &info->nodes[inspect->node];
  struct halut_layer_maps maps = {0};
  error = code_alloc(job, (size_t)node->height * node->width, node->lut.codebooks, diag);
  if (error == HALUT_OK)
    error = halut_explain_run(rows, inspect->node, job->in, job->rows, job->out, &job->stats,
                              &maps);
  if (error == HALUT_OK)
    error = halut_explain_codes(node, maps.in, job->rows, inspect->code);
  halut_explain_free(&maps);
  return error;
}

static int explain_check(const struct halut_job *job, struct halut_diag *diag) {
  const struct halut_inspection *inspect = job->inspect;
  const struct halut_node *node = &job->entry->info->nodes[inspect->node];
  const struct {
    const char *name;
    int64_t value, end;
  } places[] = {{"x", inspect->x, node->width},
                {"y", inspect->y, node->height},
                {"output", inspect->output, node->channels},
                {"codebook", inspect->codebook, node->lut.codebooks}};
  for (size_t i = 0; i < sizeof places / sizeof places[0]; i++)
    if (places[i].value >= places[i].end)
      return halut_fail(diag, HALUT_EINVALID, 0, "%s: must be in 0..%lld in layer %s, not %lld",
                        places[i].name, (long long)places[i].end - 1, node->name,
                        (long long)places[i].value);
  if (job->rows == 1)
    return HALUT_OK;
  return halut_fail(diag, HALUT_EINVALID, 0, "instances: one image can be explained, not %u",
                    job->rows);
}

static int explain_run(const struct halut_rows *rows, struct halut_job *job,
                       struct halut_diag *diag) {
  struct halut_inspection *inspect = job->inspect;
  int error = halut_explain_find(rows->info, inspect->layer, &inspect->node, diag);
  if (error == HALUT_OK)
    error = explain_check(job, diag);
  if (error == HALUT_OK)
    error = halut_explain_run(rows, inspect->node, job->in, job->rows, job->out, &job->stats,
                              &inspect->maps);
  return error;
}

/* The answer is of the backend that was asked for; the other's goes to memory of its own. */
static int compare_run(const struct halut_rows *rows, struct halut_seat *seat,
                       struct halut_job *job) {
  struct halut_compared pair = {.session = {seat->session[0], seat->session[1]},
                                .info = rows->info,
                                .batch_max = rows->batch_max};
  void *other = malloc(job->entry->out_bytes * job->rows);
  if (other == NULL)
    return HALUT_ENOMEM;
  void *out[HALUT_COMPARED] = {job->backend == 0 ? job->out : other,
                               job->backend == 0 ? other : job->out};
  int error = halut_compare(&pair, job->in, job->rows, out, &job->inspect->compared);
  if (error == HALUT_OK)
    job->stats = job->inspect->compared.stats[job->backend];
  free(other);
  return error;
}

/* Each question is a run of its own, so that none disturbs another's figures. */
void halut_inspect_run(uint32_t worker, struct halut_job *job) {
  struct halut_seat *seat = &job->entry->seats[worker];
  struct halut_inspection *inspect = job->inspect;
  struct halut_rows rows = {.session = seat->session[job->backend],
                            .info = job->entry->info,
                            .batch_max = job->catalog->options.batch_max};
  struct halut_diag diag = {0};
  uint64_t start = halut_clock_ns();
  int error = HALUT_OK;
  if (inspect->codes)
    error = codes_run(&rows, job, &diag);
  if (inspect->explain && error == HALUT_OK)
    error = explain_run(&rows, job, &diag);
  if (inspect->layers && error == HALUT_OK) {
    job->stats = (struct halut_stats){0};
    error = layers_run(&rows, job);
  }
  if (inspect->compare && error == HALUT_OK)
    error = compare_run(&rows, seat, job);
  job->phase_ns[HALUT_JOB_COMPUTE] = halut_clock_ns() - start;
  job->run_rows = job->batch_rows = job->rows;
  if (error != HALUT_OK && diag.text[0] != '\0')
    halut_job_fail(job, error, "%s", diag.text);
  else if (error != HALUT_OK)
    halut_job_fail(job, error, "computing failed: %s", halut_job_reason(error));
}
