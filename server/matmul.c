#include "matmul.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../models/npy.h"
#include "inspect.h"
#include "number.h"

static const char *const json_keys[] = {"a", NULL};
static const char *const members[] = {"model", "backend", "a", "compare", "timing", "codes", NULL};

static bool rows_check(struct halut_job *job, const char *name, uint64_t rows, uint64_t columns) {
  if (columns != job->entry->info->columns)
    halut_job_fail(job, HALUT_ESHAPE, "%s: rows of %llu values, but model %s takes %u", name,
                   (unsigned long long)columns, job->entry->info->name, job->entry->info->columns);
  else if (rows == 0)
    halut_job_fail(job, HALUT_ESHAPE, "%s: has no rows", name);
  else if (rows > job->limits->rows_max)
    halut_job_fail(job, HALUT_ELIMIT, "%s: %llu rows exceed rows-max %llu", name,
                   (unsigned long long)rows, (unsigned long long)job->limits->rows_max);
  return !job->failed;
}

static void npy_read(struct halut_job *job) {
  struct halut_npy npy = {0};
  struct halut_diag diag = {0};
  int error = halut_npy_parse(job->request->body, job->request->body_bytes, &npy, &diag);
  if (error != HALUT_OK) {
    halut_job_fail(job, error, "%s", diag.text);
    return;
  }
  job->is_npy = true;
  if (!halut_job_choose(job, job->model_name))
    return;
  if (npy.rank > 2) {
    halut_job_fail(job, HALUT_ESHAPE, "a: an array of %u dimensions, not 1 or 2", npy.rank);
    return;
  }
  uint64_t rows = npy.rank == 1 ? 1 : npy.dim[0], columns = npy.dim[npy.rank - 1];
  if (!rows_check(job, "a", rows, columns) || !halut_job_seat(job, (uint32_t)rows))
    return;
  float *values = job->in;
  halut_npy_floats(&npy, 0, npy.count, values);
  for (size_t i = 0; i < npy.count; i++)
    if (!isfinite(values[i])) {
      halut_job_fail(job, HALUT_EINVALID, "a[%zu][%zu]: not a finite float32", i / columns,
                     i % columns);
      return;
    }
}

/* Returns the values, to free(), or NULL after a failure. */
static float *numbers_read(struct halut_job *job, const struct halut_json_slice *slice,
                           const char *name, struct halut_number_shape *shape) {
  struct halut_diag diag = {0};
  size_t capacity = halut_number_count_max(slice->text, slice->bytes);
  struct halut_number_options options = {.type = HALUT_NUMBER_FP32,
                                         .name = name,
                                         .offset = slice->offset,
                                         .rank_max = 2,
                                         .rows_max = job->limits->rows_max};
  float *values = halut_job_values(job, capacity, sizeof *values);
  if (values == NULL)
    return NULL;
  int error =
      halut_number_read(slice->text, slice->bytes, &options, values, capacity, shape, &diag);
  if (error == HALUT_OK)
    return values;
  halut_job_fail(job, error, "%s", diag.text);
  free(values);
  return NULL;
}

bool halut_matmul_rows(struct halut_job *job, const struct halut_json *json, const json_t *list,
                       const char *name) {
  struct halut_number_shape shape;
  const struct halut_json_slice *slice = halut_json_slice(json, list);
  if (slice == NULL || slice->is_string) {
    halut_job_fail(job, HALUT_EINVALID, "%s: must be an array of rows of numbers", name);
    return false;
  }
  float *values = numbers_read(job, slice, name, &shape);
  if (values == NULL)
    return false;
  uint64_t rows = shape.rank == 1 ? 1 : shape.dim[0], columns = shape.dim[shape.rank - 1];
  if (rows_check(job, name, rows, columns))
    halut_job_adopt(job, (uint32_t)rows, values);
  else
    free(values);
  return !job->failed;
}

static void envelope_read(struct halut_job *job, const struct halut_json *json) {
  struct halut_diag diag = {0};
  if (halut_json_only(json->root, members, &diag) != HALUT_OK)
    halut_job_fail(job, HALUT_EINVALID, "%s", diag.text);
  else if (halut_job_options(job, json->root))
    halut_matmul_rows(job, json, json_object_get(json->root, "a"), "a");
}

bool halut_matmul_npy(struct halut_job *job) {
  static const char magic[] = "\x93NUMPY";
  const struct halut_request *request = job->request;
  if (request->body_bytes < sizeof magic - 1 || memcmp(request->body, magic, sizeof magic - 1) != 0)
    return false;
  npy_read(job);
  return true;
}

static void matmul_read(struct halut_job *job) {
  const char *body = (const char *)job->request->body;
  size_t bytes = job->request->body_bytes;
  struct halut_diag diag = {0};
  struct halut_json *json = NULL;
  if (bytes == 0) {
    halut_job_fail(job, HALUT_EINVALID, "the body is empty: send JSON or an .npy array");
    return;
  }
  if (halut_matmul_npy(job))
    return;
  int error = halut_json_open(body, bytes, json_keys, job->limits->depth_max, &json, &diag);
  if (error != HALUT_OK) {
    halut_job_fail(job, error, "%s", diag.text);
    return;
  }
  envelope_read(job, json);
  halut_job_json_end(job, json);
}

static const char npy_type[] = "application/x-npy";

void halut_matmul_write_npy(struct halut_job *job) {
  struct halut_reply *reply = &job->request->reply;
  char head[HALUT_NPY_HEAD_MAX];
  const uint32_t dim[2] = {job->rows, job->entry->info->outputs};
  size_t head_bytes = halut_npy_head(head, HALUT_NPY_F32, 2, dim);
  size_t data_bytes = job->entry->out_bytes * job->rows;
  char *body = malloc(head_bytes + data_bytes);
  if (body == NULL) {
    halut_job_fail(job, HALUT_ENOMEM, "no memory for the reply; try again");
    return;
  }
  memcpy(body, head, head_bytes);
  memcpy(body + head_bytes, job->out, data_bytes);
  *reply = (struct halut_reply){.status = 200,
                                .type = npy_type,
                                .body = body,
                                .bytes = head_bytes + data_bytes,
                                .owned = true};
}

static void matmul_write(struct halut_job *job) {
  struct halut_json_out out = {0};
  if (job->is_npy && !halut_inspect_alone(job)) {
    halut_matmul_write_npy(job);
    halut_inspect_write(job, &out);
    return;
  }
  if (!halut_job_finite(job, "c", npy_type, job->out, job->entry->info->outputs))
    return;
  halut_job_write_head(job, &out);
  halut_json_out_format(&out, ",\"rows\":%u,\"columns\":%u,\"c\":", job->rows,
                        job->entry->info->outputs);
  halut_json_out_f32(&out, job->out, job->rows, job->entry->info->outputs, true);
  halut_job_write_tail(job, &out);
  halut_job_reply(job, &out);
}

const struct halut_job_form halut_matmul_form = {matmul_read, matmul_write};
