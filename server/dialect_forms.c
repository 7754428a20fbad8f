/* DESIGN: what clients of other servers send and expect, as forms on the same jobs: each reads with
 * the parts of classify.c and matmul.c, and differs in the members' names and in the reply. */
#include <stdlib.h>
#include <string.h>

#include "classify.h"
#include "dialects.h"
#include "matmul.h"
#include "number.h"
#include "ranking.h"

/* ---- reading ---- */

/* Opens the body as JSON; NULL after a failure. Close it. */
static struct halut_json *body_open(struct halut_job *job, const char *const *keys) {
  const struct halut_request *request = job->request;
  struct halut_diag diag = {0};
  struct halut_json *json = NULL;
  if (request->body_bytes == 0) {
    halut_job_fail(job, HALUT_EINVALID, "the body is empty: send JSON");
    return NULL;
  }
  int error = halut_json_open((const char *)request->body, request->body_bytes, keys,
                              job->limits->depth_max, &json, &diag);
  if (error != HALUT_OK)
    halut_job_fail(job, error, "%s", diag.text);
  return json;
}

/* Rows of a product, each an object with its input. */
static bool named_rows_read(struct halut_job *job, const struct halut_json *json,
                            const json_t *list, const char *name) {
  const uint32_t columns = job->entry->info->columns;
  const size_t count = json_array_size(list);
  if (count > job->limits->rows_max) {
    halut_job_fail(job, HALUT_ELIMIT, "%s: %zu rows exceed rows-max %llu", name, count,
                   (unsigned long long)job->limits->rows_max);
    return false;
  }
  if (!halut_job_seat(job, (uint32_t)count))
    return false;
  for (size_t i = 0; i < count; i++) {
    const json_t *row = json_array_get(list, i);
    const struct halut_json_slice *slice = halut_json_slice(json, json_object_get(row, "a"));
    struct halut_diag diag = {0};
    struct halut_number_shape shape = {0};
    struct halut_number_options options = {.type = HALUT_NUMBER_FP32, .name = "a", .rank_max = 1};
    float *values = (float *)job->in + i * columns;
    if (json_object_size(row) != 1 || slice == NULL || slice->is_string)
      halut_fail(&diag, HALUT_EINVALID, 0, "must be numbers, or {\"a\": numbers}");
    else if (halut_number_read(slice->text, slice->bytes, &options, values, columns, &shape,
                               &diag) == HALUT_OK &&
             shape.count != columns)
      halut_fail(&diag, HALUT_ESHAPE, 0, "a: %zu numbers, not %u", shape.count, columns);
    if (diag.text[0] == '\0')
      continue;
    halut_job_fail(job, HALUT_EINVALID, "%s[%zu]: %s", name, i, diag.text);
    return false;
  }
  return true;
}

/* Inputs may be an object by name, of which there is one. */
static const json_t *inputs_of(struct halut_job *job, const json_t *inputs) {
  const char *name = job->kind == HALUT_NETWORK ? "image" : "a";
  if (!json_is_object(inputs) || json_object_get(inputs, "b64") != NULL)
    return inputs;
  const json_t *only = json_object_size(inputs) == 1 ? json_object_get(inputs, name) : NULL;
  if (only == NULL)
    halut_job_fail(job, HALUT_EINVALID, "inputs: model %s has one, \"%s\"", job->entry->info->name,
                   name);
  return only;
}

static void predict_json(struct halut_job *job, const struct halut_json *json) {
  bool has_inputs = json_object_get(json->root, "inputs") != NULL;
  const char *name = has_inputs ? "inputs" : "instances";
  if (has_inputs == (json_object_get(json->root, "instances") != NULL)) {
    halut_job_fail(job, HALUT_EINVALID, "the body must have either \"instances\" or \"inputs\"");
    return;
  }
  job->is_columnar = has_inputs;
  if (!halut_job_choose(job, job->model_name))
    return;
  const json_t *list = json_object_get(json->root, name);
  if (has_inputs && (list = inputs_of(job, list)) == NULL)
    return;
  if (job->kind == HALUT_NETWORK)
    halut_classify_instances(job, json, list, name);
  else if (json_is_object(json_array_get(list, 0)))
    named_rows_read(job, json, list, name);
  else
    halut_matmul_rows(job, json, list, name);
}

/* {"instances": [...]} or {"inputs": [...]}; a product takes an .npy array as well. */
static void predict_read(struct halut_job *job) {
  static const char *const keys[] = {"instances", "inputs", "image", "a", "b64", NULL};
  if (job->kind == HALUT_PRODUCT && halut_matmul_npy(job))
    return;
  struct halut_json *json = body_open(job, keys);
  if (json != NULL)
    predict_json(job, json);
  halut_job_json_end(job, json);
}

/* {"examples": [{"image": {"b64": ...}}, ...]} */
static void examples_read(struct halut_job *job) {
  static const char *const keys[] = {"examples", "b64", NULL};
  struct halut_json *json = body_open(job, keys);
  if (json != NULL && halut_job_choose(job, job->model_name))
    halut_classify_instances(job, json, json_object_get(json->root, "examples"), "examples");
  halut_job_json_end(job, json);
}

/* {"inputs": "<base64>", "parameters": {"top_k": 3}} */
static void inputs_json(struct halut_job *job, const struct halut_json *json) {
  const json_t *parameters = json_object_get(json->root, "parameters");
  struct halut_diag diag = {0};
  int64_t top = job->top;
  if (parameters != NULL && !json_is_null(parameters) && !json_is_object(parameters)) {
    halut_job_fail(job, HALUT_EINVALID, "parameters: must be an object");
    return;
  }
  if (halut_json_get_int(parameters, "top_k", false, 1, HALUT_TOP_MAX, &top, &diag) != HALUT_OK) {
    halut_job_fail(job, HALUT_EINVALID, "parameters: %s", diag.text);
    return;
  }
  job->top = (uint32_t)top;
  if (halut_job_choose(job, job->model_name) && halut_job_seat(job, 1))
    halut_job_base64(job, "inputs: ", halut_json_slice(json, json_object_get(json->root, "inputs")),
                     0);
}

/* A picture as it is, or that. */
static void inputs_read(struct halut_job *job) {
  static const char *const keys[] = {"inputs", NULL};
  const struct halut_request *request = job->request;
  if (job->boundary[0] != '\0' || !halut_classify_is_json(request->body, request->body_bytes)) {
    halut_classify_pictures(job, NULL);
    return;
  }
  struct halut_json *json = body_open(job, keys);
  if (json != NULL)
    inputs_json(job, json);
  halut_job_json_end(job, json);
}

/* A picture as it is, or one in each part of a form, whatever the parts are called. */
static void pictures_read(struct halut_job *job) {
  halut_classify_pictures(job, NULL);
}

/* ---- answering ---- */

typedef void write_one_fn(struct halut_json_out *out, const char *label, double probability);

static void one_member(struct halut_json_out *out, const char *label, double probability) {
  halut_json_out_string(out, label);
  halut_json_out_format(out, ":%.9g", probability);
}

static void one_object(struct halut_json_out *out, const char *label, double probability) {
  halut_json_out_format(out, "{\"label\":");
  halut_json_out_string(out, label);
  halut_json_out_format(out, ",\"score\":%.9g}", probability);
}

static void one_pair(struct halut_json_out *out, const char *label, double probability) {
  halut_json_out_format(out, "[");
  halut_json_out_string(out, label);
  halut_json_out_format(out, ",%.9g]", probability);
}

/* The best classes of each picture between `brackets`, the pictures in a list if there are many. */
static void scores_write(struct halut_job *job, const char *brackets, write_one_fn *one, bool list,
                         struct halut_json_out *out) {
  const struct halut_model_info *info = job->entry->info;
  uint32_t top = job->top < info->classes ? job->top : info->classes, order[HALUT_TOP_MAX];
  if (list)
    halut_json_out_format(out, "[");
  for (uint32_t row = 0; row < job->rows; row++) {
    const int32_t *logits = (const int32_t *)job->out + (size_t)row * info->classes;
    struct halut_softmax softmax = halut_softmax_of(logits, info->classes, info->logit_scale);
    halut_rank(logits, info->classes, top, order);
    halut_json_out_format(out, "%s%c", row > 0 ? "," : "", brackets[0]);
    for (uint32_t i = 0; i < top; i++) {
      halut_json_out_format(out, i > 0 ? "," : "");
      one(out, info->labels[order[i]], halut_softmax_at(&softmax, logits[order[i]]));
    }
    halut_json_out_format(out, "%c", brackets[1]);
  }
  if (list)
    halut_json_out_format(out, "]");
}

static void torchserve_write(struct halut_job *job) {
  struct halut_json_out out = {0};
  scores_write(job, "{}", one_member, job->many, &out);
  halut_json_out_format(&out, "\n");
  halut_job_reply(job, &out);
}

static void labels_write(struct halut_job *job) {
  struct halut_json_out out = {0};
  scores_write(job, "[]", one_object, job->many, &out);
  halut_json_out_format(&out, "\n");
  halut_job_reply(job, &out);
}

static void result_write(struct halut_job *job) {
  struct halut_json_out out = {0};
  halut_json_out_format(&out, "{\"result\":");
  scores_write(job, "[]", one_pair, true, &out);
  halut_json_out_format(&out, "}\n");
  halut_job_reply(job, &out);
}

/* The rows of the output tensor: probabilities of a network, values of a product. */
static void tensor_write(const struct halut_job *job, struct halut_json_out *out) {
  const struct halut_model_info *info = job->entry->info;
  if (info->kind == HALUT_PRODUCT) {
    halut_json_out_f32(out, job->out, job->rows, info->outputs, true);
    return;
  }
  float *row_values = malloc(info->classes * sizeof *row_values);
  if (row_values == NULL) {
    out->failed = true;
    return;
  }
  halut_json_out_format(out, "[");
  for (uint32_t row = 0; row < job->rows; row++) {
    const int32_t *logits = (const int32_t *)job->out + (size_t)row * info->classes;
    struct halut_softmax softmax = halut_softmax_of(logits, info->classes, info->logit_scale);
    for (uint32_t i = 0; i < info->classes; i++)
      row_values[i] = (float)halut_softmax_at(&softmax, logits[i]);
    halut_json_out_format(out, row > 0 ? "," : "");
    halut_json_out_f32(out, row_values, 1, info->classes, false);
  }
  halut_json_out_format(out, "]");
  free(row_values);
}

static void predict_write(struct halut_job *job) {
  struct halut_json_out out = {0};
  if (job->answer == HALUT_AS_NPY || (job->answer == HALUT_AS_BODY && job->is_npy)) {
    halut_matmul_write_npy(job);
    return;
  }
  const struct halut_model_info *info = job->entry->info;
  if (info->kind == HALUT_PRODUCT &&
      !halut_job_finite(job, job->is_columnar ? "outputs" : "predictions", "application/x-npy",
                        job->out, info->outputs))
    return;
  halut_json_out_format(&out, "{\"%s\":", job->is_columnar ? "outputs" : "predictions");
  tensor_write(job, &out);
  halut_json_out_format(&out, "}\n");
  halut_job_reply(job, &out);
}

const struct halut_job_form halut_torchserve_form = {pictures_read, torchserve_write};
const struct halut_job_form halut_predict_form = {predict_read, predict_write};
const struct halut_job_form halut_examples_form = {examples_read, result_write};
const struct halut_job_form halut_labels_form = {inputs_read, labels_write};

/* ---- errors ---- */

char *halut_torchserve_error(unsigned status, const char *text, size_t *bytes_out) {
  static const struct {
    unsigned status;
    const char *type;
  } types[] = {{400, "BadRequestException"},       {401, "InvalidKeyException"},
               {403, "InvalidKeyException"},       {404, "ModelNotFoundException"},
               {405, "MethodNotAllowedException"}, {413, "RequestEntityTooLarge"},
               {415, "BadRequestException"},       {503, "ServiceUnavailableException"},
               {504, "InferenceTimeoutException"}};
  const char *type = "InternalServerException";
  struct halut_json_out out = {0};
  for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
    if (types[i].status == status)
      type = types[i].type;
  halut_json_out_format(&out, "{\"code\":%u,\"type\":\"%s\",\"message\":", status, type);
  halut_json_out_string(&out, text);
  halut_json_out_format(&out, "}\n");
  return halut_json_out_take(&out, bytes_out);
}
