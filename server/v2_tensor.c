/* DESIGN: a request states its tensor twice, as datatype and shape and as data. The statement is
 * checked against the model first, then the data against the statement; memory is asked for only
 * after both, so a few bytes of JSON cannot claim a large tensor. */
#include "v2.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SHAPE_TEXT_MAX = 160, PICTURE_HEAD_BYTES = 4 };

void halut_v2_input(const struct halut_model_info *info, struct halut_v2_tensor *out) {
  *out = info->kind == HALUT_NETWORK
             ? (struct halut_v2_tensor){.name = "image",
                                        .type = HALUT_NUMBER_UINT8,
                                        .rank = 4,
                                        .dim = {0, info->channels, info->height, info->width}}
             : (struct halut_v2_tensor){
                   .name = "a", .type = HALUT_NUMBER_FP32, .rank = 2, .dim = {0, info->columns}};
}

bool halut_v2_output(const struct halut_model_info *info, uint32_t index,
                     struct halut_v2_tensor *out) {
  bool is_network = info->kind == HALUT_NETWORK;
  if (index >= (is_network ? 2u : 1u))
    return false;
  *out = (struct halut_v2_tensor){.name = !is_network  ? "c"
                                          : index == 0 ? "logits"
                                                       : "probabilities",
                                  .type = is_network && index == 0 ? HALUT_NUMBER_INT32
                                                                   : HALUT_NUMBER_FP32,
                                  .rank = 2,
                                  .dim = {0, is_network ? info->classes : info->outputs}};
  return true;
}

/* ---- the statement ---- */

static const char *shape_text(const uint64_t *dim, uint32_t rank, char *text) {
  size_t used = 0;
  for (uint32_t i = 0; i < rank && used < SHAPE_TEXT_MAX; i++)
    used += (size_t)snprintf(text + used, SHAPE_TEXT_MAX - used, "%c%llu", i == 0 ? '[' : ',',
                             (unsigned long long)dim[i]);
  if (used < SHAPE_TEXT_MAX)
    snprintf(text + used, SHAPE_TEXT_MAX - used, rank == 0 ? "[]" : "]");
  return text;
}

static const char *expected_text(const struct halut_v2_tensor *input, bool is_bytes, char *text) {
  size_t used = (size_t)snprintf(text, SHAPE_TEXT_MAX, "[-1");
  for (uint32_t i = 1; i < input->rank && !is_bytes; i++)
    used += (size_t)snprintf(text + used, SHAPE_TEXT_MAX - used, ",%u", input->dim[i]);
  snprintf(text + used, SHAPE_TEXT_MAX - used, "]");
  return text;
}

/* Sets *rows_out. */
static bool shape_check(struct halut_job *job, const struct halut_v2_tensor *input,
                        const struct halut_v2_data *data, bool is_bytes, uint32_t *rows_out) {
  const char *model = job->entry->info->name;
  char got[SHAPE_TEXT_MAX], expected[SHAPE_TEXT_MAX];
  /* Encoded pictures come as [n] or, from clients that always have a batch, as [n, 1]. */
  bool fits = is_bytes ? data->rank == 1 || (data->rank == 2 && data->dim[1] == 1)
                       : data->rank == input->rank;
  for (uint32_t i = 1; !is_bytes && fits && i < input->rank; i++)
    fits = data->dim[i] == input->dim[i];
  bool is_interleaved = !is_bytes && input->rank == 4 && data->rank == 4 &&
                        data->dim[1] == input->dim[2] && data->dim[2] == input->dim[3] &&
                        data->dim[3] == input->dim[1];
  if (!fits)
    halut_job_fail(job, HALUT_ESHAPE,
                   "unexpected shape for input '%s' for model '%s'. Expected %s, got %s%s",
                   input->name, model, expected_text(input, is_bytes, expected),
                   shape_text(data->dim, data->rank, got),
                   is_interleaved ? ". NOTE: pixels are planar, channels come before rows" : "");
  else if (data->dim[0] == 0)
    halut_job_fail(job, HALUT_ESHAPE, "input '%s' is empty: its shape is %s", input->name,
                   shape_text(data->dim, data->rank, got));
  else if (data->dim[0] > job->limits->rows_max)
    halut_job_fail(job, HALUT_EINVALID,
                   "inference request batch-size must be <= %llu for '%s' (rows-max)",
                   (unsigned long long)job->limits->rows_max, model);
  else
    *rows_out = (uint32_t)data->dim[0];
  return !job->failed;
}

/* ---- numbers ---- */

/* Rounds FP64 to FP32 in place and refuses what a product cannot take. */
static bool floats_settle(struct halut_job *job, void *values, size_t count, bool is_double) {
  size_t columns = job->entry->info->columns, step = is_double ? sizeof(double) : sizeof(float);
  char *bytes = values;
  for (size_t i = 0; i < count; i++) {
    double wide;
    float value;
    memcpy(is_double ? (void *)&wide : (void *)&value, bytes + i * step, step);
    if (is_double)
      value = (float)wide;
    if (!isfinite(value)) {
      halut_job_fail(job, HALUT_EINVALID, "input 'a': [%zu][%zu] is not a finite FP32", i / columns,
                     i % columns);
      return false;
    }
    memcpy(bytes + i * sizeof value, &value, sizeof value);
  }
  return true;
}

/* Takes the values over, as FP32 or pixels. */
static bool numbers_adopt(struct halut_job *job, void *values, size_t count,
                          enum halut_number_type type, uint32_t rows) {
  if (type != HALUT_NUMBER_UINT8 && !floats_settle(job, values, count, type == HALUT_NUMBER_FP64)) {
    free(values);
    return false;
  }
  void *fitting = type == HALUT_NUMBER_FP64 ? realloc(values, count * sizeof(float)) : NULL;
  return halut_job_adopt(job, rows, fitting != NULL ? fitting : values);
}

static void count_fail(struct halut_job *job, const char *name, const struct halut_v2_data *data,
                       size_t expected, size_t found) {
  char stated[SHAPE_TEXT_MAX];
  halut_job_fail(job, HALUT_ESHAPE, "input '%s': its shape %s holds %zu values, but 'data' has %zu",
                 name, shape_text(data->dim, data->rank, stated), expected, found);
}

static bool nesting_check(struct halut_job *job, const char *name, const struct halut_v2_data *data,
                          const struct halut_number_shape *shape, size_t expected) {
  char stated[SHAPE_TEXT_MAX], nested[SHAPE_TEXT_MAX];
  bool is_same = shape->rank == 1 || shape->rank == data->rank;
  for (uint32_t i = 0; is_same && shape->rank > 1 && i < shape->rank; i++)
    is_same = shape->dim[i] == data->dim[i];
  if (shape->count != expected)
    count_fail(job, name, data, expected, shape->count);
  else if (!is_same)
    halut_job_fail(job, HALUT_ESHAPE, "input '%s': its shape is %s, but 'data' is nested as %s",
                   name, shape_text(data->dim, data->rank, stated),
                   shape_text(shape->dim, shape->rank, nested));
  return !job->failed;
}

static bool json_numbers_read(struct halut_job *job, const struct halut_v2_tensor *input,
                              const struct halut_v2_data *data, enum halut_number_type type,
                              uint32_t rows) {
  const struct halut_json_slice *slice = halut_json_slice(data->json, data->values);
  struct halut_diag diag = {0};
  struct halut_number_shape shape;
  if (slice == NULL || slice->is_string) {
    halut_job_fail(job, HALUT_EINVALID, "input '%s': 'data' must be an array of numbers",
                   input->name);
    return false;
  }
  struct halut_number_options options = {
      .type = type, .name = "data", .offset = slice->offset, .rank_max = input->rank};
  size_t expected = rows * job->entry->in_bytes / halut_number_bytes(input->type);
  size_t found = halut_number_count_max(slice->text, slice->bytes);
  size_t capacity = found < expected ? found : expected;
  void *values = halut_job_values(job, capacity, halut_number_bytes(type));
  if (values == NULL)
    return false;
  int error =
      halut_number_read(slice->text, slice->bytes, &options, values, capacity, &shape, &diag);
  if (error == HALUT_ELIMIT && found > expected)
    count_fail(job, input->name, data, expected, found);
  else if (error != HALUT_OK)
    halut_job_fail(job, HALUT_EINVALID, "input '%s': %s", input->name, diag.text);
  else if (nesting_check(job, input->name, data, &shape, expected))
    return numbers_adopt(job, values, expected, type, rows);
  free(values);
  return false;
}

static bool binary_size_check(struct halut_job *job, const char *name, size_t expected,
                              size_t bytes) {
  const char *model = job->entry->info->name;
  if (bytes > expected)
    halut_job_fail(job, HALUT_EINVALID,
                   "unexpected additional input data for model '%s': input '%s' has %zu bytes, its "
                   "shape holds %zu",
                   model, name, bytes, expected);
  else if (bytes < expected)
    halut_job_fail(job, HALUT_EINVALID,
                   "unexpected size for input '%s', expecting %zu additional bytes for model '%s'",
                   name, expected - bytes, model);
  return !job->failed;
}

static bool binary_numbers_read(struct halut_job *job, const struct halut_v2_tensor *input,
                                const struct halut_v2_data *data, enum halut_number_type type,
                                uint32_t rows) {
  size_t count = rows * job->entry->in_bytes / halut_number_bytes(input->type);
  if (!binary_size_check(job, input->name, count * halut_number_bytes(type), data->byte_count))
    return false;
  void *values = halut_job_values(job, count, halut_number_bytes(type));
  if (values == NULL)
    return false;
  memcpy(values, data->bytes, data->byte_count);
  return numbers_adopt(job, values, count, type, rows);
}

/* ---- pictures ---- */

/* Of [n] or [n,1], flat or nested as its shape says. */
static const json_t *json_picture(const struct halut_v2_data *data, uint32_t row) {
  const json_t *value = json_array_get(data->values, row), *inner = json_array_get(value, 0);
  return data->rank == 2 && json_array_size(value) == 1 && json_is_array(inner) ? inner : value;
}

static bool json_pictures_read(struct halut_job *job, const struct halut_v2_data *data,
                               uint32_t rows) {
  size_t count = json_is_array(data->values) ? json_array_size(data->values) : 0;
  char where[48];
  if (halut_json_slice(data->json, data->values) != NULL || count != rows) {
    halut_job_fail(job, HALUT_ESHAPE,
                   "input 'image': 'data' must be an array of %u base64 strings, as its shape says",
                   rows);
    return false;
  }
  if (!halut_job_seat(job, rows))
    return false;
  for (uint32_t i = 0; i < rows; i++) {
    snprintf(where, sizeof where, "input 'image': data[%u]: ", i);
    if (!halut_job_base64(job, where, halut_json_slice(data->json, json_picture(data, i)), i))
      return false;
  }
  return true;
}

/* Each picture has its length before it, as a little-endian uint32. */
static bool binary_pictures_read(struct halut_job *job, const struct halut_v2_data *data,
                                 uint32_t rows) {
  const uint8_t *p = data->bytes;
  size_t left = data->byte_count;
  char where[48];
  if (left / PICTURE_HEAD_BYTES < rows) {
    halut_job_fail(job, HALUT_EINVALID,
                   "input 'image': %zu bytes cannot hold %u pictures with their lengths", left,
                   rows);
    return false;
  }
  if (!halut_job_seat(job, rows))
    return false;
  for (uint32_t i = 0; i < rows; i++) {
    size_t size = left < PICTURE_HEAD_BYTES
                      ? 0
                      : (size_t)p[0] | (size_t)p[1] << 8 | (size_t)p[2] << 16 | (size_t)p[3] << 24;
    snprintf(where, sizeof where, "input 'image': picture %u: ", i);
    if (left < PICTURE_HEAD_BYTES || size > left - PICTURE_HEAD_BYTES) {
      halut_job_fail(job, HALUT_EINVALID, "%sits %zu bytes go past the end of the input", where,
                     size);
      return false;
    }
    if (!halut_job_picture(job, where, p + PICTURE_HEAD_BYTES, size, i))
      return false;
    p += PICTURE_HEAD_BYTES + size;
    left -= PICTURE_HEAD_BYTES + size;
  }
  if (left > 0)
    halut_job_fail(job, HALUT_EINVALID,
                   "unexpected additional input data for model '%s': %zu bytes after the pictures",
                   job->entry->info->name, left);
  return !job->failed;
}

/* ---- either ---- */

bool halut_v2_tensor_read(struct halut_job *job, const struct halut_v2_data *data) {
  struct halut_v2_tensor input;
  uint32_t rows = 0;
  halut_v2_input(job->entry->info, &input);
  enum halut_number_type type = halut_number_type(data->datatype);
  bool is_network = job->kind == HALUT_NETWORK;
  bool is_bytes = is_network && strcmp(data->datatype, "BYTES") == 0;
  bool is_taken = is_bytes || type == input.type || (!is_network && type == HALUT_NUMBER_FP64);
  if (!is_taken) {
    halut_job_fail(job, HALUT_EINVALID,
                   "inference input '%s' data-type is '%.16s', but model '%s' expects '%s'",
                   input.name, data->datatype, job->entry->info->name,
                   halut_number_name(input.type));
    return false;
  }
  if (!shape_check(job, &input, data, is_bytes, &rows))
    return false;
  if (data->values == NULL)
    return is_bytes ? binary_pictures_read(job, data, rows)
                    : binary_numbers_read(job, &input, data, type, rows);
  return is_bytes ? json_pictures_read(job, data, rows)
                  : json_numbers_read(job, &input, data, type, rows);
}

bool halut_v2_raw_read(struct halut_job *job) {
  const struct halut_model_info *info = job->entry->info;
  const uint8_t *body = job->request->body;
  size_t bytes = job->request->body_bytes, each = job->entry->in_bytes;
  struct halut_v2_tensor input;
  halut_v2_input(info, &input);
  enum halut_image_kind kind = info->kind == HALUT_NETWORK && bytes > 0
                                   ? halut_image_sniff(body, bytes, info->width, info->height)
                                   : HALUT_IMAGE_UNKNOWN;
  if (kind == HALUT_IMAGE_PNG || kind == HALUT_IMAGE_JPEG)
    return halut_job_seat(job, 1) && halut_job_picture(job, "", body, bytes, 0);
  size_t rows = bytes / each;
  if (rows == 0 || bytes % each != 0) {
    halut_job_fail(job, HALUT_EINVALID,
                   "unexpected size for input '%s', expecting %zu additional bytes for model '%s' "
                   "(or any multiple of %zu)",
                   input.name, each - bytes % each, info->name, each);
    return false;
  }
  struct halut_v2_data data = {.datatype = halut_number_name(input.type),
                               .rank = input.rank,
                               .bytes = body,
                               .byte_count = bytes};
  data.dim[0] = rows;
  for (uint32_t i = 1; i < input.rank; i++)
    data.dim[i] = input.dim[i];
  return halut_v2_tensor_read(job, &data);
}
