/* DESIGN: a body is recognised by its bytes: a multipart form if its Content-Type says so (only
 * that tells the boundary), else JSON if it is an object from brace to brace, else a picture. */
#include "job.h"

#include <stdlib.h>
#include <string.h>

#include "base64.h"
#include "clock.h"
#include "image.h"
#include "multipart.h"
#include "number.h"
#include "ranking.h"

static const char *const json_keys[] = {"instances", "b64", NULL};
static const char *const members[] = {"model", "backend", "top", "fit", "image", "instances", NULL};

static bool is_json(const uint8_t *bytes, size_t size) {
  static const char blanks[] = " \t\r\n";
  while (size > 0 && memchr(blanks, bytes[size - 1], 4) != NULL)
    size--;
  while (size > 0 && memchr(blanks, bytes[0], 4) != NULL)
    bytes++, size--;
  return size >= 2 && bytes[0] == '{' && bytes[size - 1] == '}';
}

static uint8_t *image_at(const struct halut_job *job, uint32_t row) {
  return (uint8_t *)job->in + row * job->entry->in_bytes;
}

bool halut_job_picture(struct halut_job *job, const char *where, const uint8_t *bytes, size_t size,
                       uint32_t row) {
  const struct halut_model_info *info = job->entry->info;
  struct halut_image_options options = {.width = info->width,
                                        .height = info->height,
                                        .fit = job->fit,
                                        .pixels_max = job->limits->pixels_max};
  struct halut_diag diag = {0};
  if (info->channels != 3 || info->width > HALUT_IMAGE_TARGET_MAX ||
      info->height > HALUT_IMAGE_TARGET_MAX) {
    halut_job_fail(job, HALUT_ESHAPE,
                   "%smodel %s takes %u channels of %u x %u, which no picture is made to: send "
                   "numbers",
                   where, info->name, info->channels, info->height, info->width);
    return false;
  }
  int error = halut_image_decode(bytes, size, &options, image_at(job, row), NULL, &diag);
  if (error != HALUT_OK)
    halut_job_fail(job, error, "%s%s", where, diag.text);
  return error == HALUT_OK;
}

bool halut_job_base64(struct halut_job *job, const char *where,
                      const struct halut_json_slice *slice, uint32_t row) {
  struct halut_diag diag = {0};
  size_t bytes = 0;
  if (slice == NULL || !slice->is_string) {
    halut_job_fail(job, HALUT_EINVALID, "%sb64: must be a base64 string", where);
    return false;
  }
  uint8_t *data = malloc(halut_base64_decoded_max(slice->bytes));
  if (data == NULL) {
    halut_job_fail(job, HALUT_ENOMEM, "no memory for the image; try again");
    return false;
  }
  int error = halut_base64_decode(slice->text, slice->bytes, data, &bytes, &diag);
  if (error != HALUT_OK)
    halut_job_fail(job, error, "%sb64: %s", where, diag.text);
  bool is_read = error == HALUT_OK && halut_job_picture(job, where, data, bytes, row);
  free(data);
  return is_read;
}

/* {"instances": [[0, 255, ...], ...]}: the pixels of each image, planar, nested in any regular way.
 */
static bool numbers_read(struct halut_job *job, const struct halut_json_slice *slice) {
  struct halut_diag diag = {0};
  struct halut_number_shape shape;
  size_t capacity = halut_number_count_max(slice->text, slice->bytes);
  size_t each = job->entry->in_bytes;
  struct halut_number_options options = {.type = HALUT_NUMBER_UINT8,
                                         .name = "instances",
                                         .offset = slice->offset,
                                         .rank_max = 4,
                                         .rows_max = job->limits->rows_max};
  uint8_t *values = malloc(capacity + 1);
  if (values == NULL) {
    halut_job_fail(job, HALUT_ENOMEM, "no memory for the instances; try again");
    return false;
  }
  int error =
      halut_number_read(slice->text, slice->bytes, &options, values, capacity, &shape, &diag);
  if (error != HALUT_OK)
    halut_job_fail(job, error, "%s", diag.text);
  else if (shape.rank < 2 || shape.count == 0 || shape.count / shape.dim[0] != each)
    halut_job_fail(job, HALUT_ESHAPE,
                   "instances: each must hold %zu numbers (%u x %u x %u), not %zu", each,
                   job->entry->info->channels, job->entry->info->height, job->entry->info->width,
                   shape.rank < 2 ? (size_t)1 : shape.count / shape.dim[0]);
  else if (halut_job_seat(job, (uint32_t)shape.dim[0]))
    memcpy(job->in, values, shape.count);
  free(values);
  return !job->failed;
}

/* {"instances": [{"b64": "..."}, ...]} */
static bool pictures_read(struct halut_job *job, const struct halut_json *json,
                          const json_t *instances) {
  size_t count = json_array_size(instances);
  if (count == 0 || count > job->limits->rows_max) {
    halut_job_fail(job, count == 0 ? HALUT_EINVALID : HALUT_ELIMIT,
                   "instances: must be an array of 1 to %llu images",
                   (unsigned long long)job->limits->rows_max);
    return false;
  }
  if (!halut_job_seat(job, (uint32_t)count))
    return false;
  for (uint32_t i = 0; i < count; i++)
    if (!halut_job_base64(
            job, "instances: ",
            halut_json_slice(json, json_object_get(json_array_get(instances, i), "b64")), i))
      return false;
  return true;
}

static bool envelope_read(struct halut_job *job, const struct halut_json *json) {
  struct halut_diag diag = {0};
  int64_t top = job->top;
  const char *fit = NULL;
  if (halut_json_only(json->root, members, &diag) != HALUT_OK ||
      halut_json_get_int(json->root, "top", false, 1, HALUT_TOP_MAX, &top, &diag) != HALUT_OK ||
      halut_json_get_text(json->root, "fit", false, &fit, &diag) != HALUT_OK ||
      halut_image_fit_read(fit, &job->fit, &diag) != HALUT_OK) {
    halut_job_fail(job, HALUT_EINVALID, "%s", diag.text);
    return false;
  }
  job->top = (uint32_t)top;
  if (!halut_job_options(job, json->root))
    return false;
  const json_t *image = json_object_get(json->root, "image");
  const json_t *instances = json_object_get(json->root, "instances");
  if ((image == NULL) == (instances == NULL)) {
    halut_job_fail(job, HALUT_EINVALID, "the body must have either \"image\" or \"instances\"");
    return false;
  }
  if (image != NULL)
    return halut_job_seat(job, 1) &&
           halut_job_base64(job, "", halut_json_slice(json, json_object_get(image, "b64")), 0);
  job->many = true;
  const struct halut_json_slice *slice = halut_json_slice(json, instances);
  if (slice != NULL && !slice->is_string)
    return numbers_read(job, slice);
  return pictures_read(job, json, instances);
}

static void json_read(struct halut_job *job, const uint8_t *bytes, size_t size) {
  struct halut_diag diag = {0};
  struct halut_json *json = NULL;
  int error =
      halut_json_open((const char *)bytes, size, json_keys, job->limits->depth_max, &json, &diag);
  if (error != HALUT_OK) {
    halut_job_fail(job, error, "%s", diag.text);
    return;
  }
  envelope_read(job, json);
  halut_json_close(json);
}

static void classify_read(struct halut_job *job) {
  const uint8_t *bytes = job->request->body;
  size_t size = job->request->body_bytes;
  struct halut_diag diag = {0};
  if (size == 0) {
    halut_job_fail(job, HALUT_EINVALID,
                   "the body is empty: send a PNG, a JPEG, raw pixels or JSON");
    return;
  }
  if (job->boundary[0] != '\0') {
    int error = halut_multipart_find(bytes, size, job->boundary, "image", &bytes, &size, &diag);
    if (error != HALUT_OK) {
      halut_job_fail(job, HALUT_EINVALID, "%s", diag.text);
      return;
    }
  } else if (is_json(bytes, size)) {
    json_read(job, bytes, size);
    return;
  }
  if (halut_job_choose(job, job->model_name) && halut_job_seat(job, 1))
    halut_job_picture(job, "", bytes, size, 0);
}

/* ---- the answer ---- */

static void top_write(const struct halut_job *job, const int32_t *logits,
                      struct halut_json_out *out) {
  const struct halut_model_info *info = job->entry->info;
  uint32_t top = job->top < info->classes ? job->top : info->classes;
  uint32_t order[HALUT_TOP_MAX];
  struct halut_softmax softmax = halut_softmax_of(logits, info->classes, info->logit_scale);
  halut_rank(logits, info->classes, top, order);
  halut_json_out_format(out, "[");
  for (uint32_t place = 0; place < top; place++) {
    halut_json_out_format(out, "%s{\"label\":", place > 0 ? "," : "");
    halut_json_out_string(out, info->labels[order[place]]);
    halut_json_out_format(out, ",\"index\":%u,\"probability\":%.6f}", order[place],
                          halut_softmax_at(&softmax, logits[order[place]]));
  }
  halut_json_out_format(out, "]");
}

static void classify_write(struct halut_job *job) {
  struct halut_json_out out = {0};
  const int32_t *logits = job->out;
  uint32_t classes = job->entry->info->classes;
  halut_job_write_head(job, &out);
  if (!job->many) {
    halut_json_out_format(&out, ",\"top\":");
    top_write(job, logits, &out);
  } else {
    halut_json_out_format(&out, ",\"predictions\":[");
    for (uint32_t i = 0; i < job->rows; i++) {
      halut_json_out_format(&out, "%s{\"top\":", i > 0 ? "," : "");
      top_write(job, logits + (size_t)i * classes, &out);
      halut_json_out_format(&out, "}");
    }
    halut_json_out_format(&out, "]");
  }
  halut_job_write_tail(job, &out);
  halut_job_reply(job, &out);
}

const struct halut_job_form halut_classify_form = {classify_read, classify_write};
