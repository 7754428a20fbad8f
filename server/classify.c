/* DESIGN: a body is recognised by its bytes: a multipart form if its Content-Type says so (only
 * that tells the boundary), else JSON if it is an object from brace to brace, else a picture. */
#include "classify.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../core/clock.h"
#include "base64.h"
#include "image.h"
#include "multipart.h"
#include "number.h"
#include "ranking.h"

static const char *const json_keys[] = {"instances", "b64", NULL};
static const char *const members[] = {"model",     "backend", "top",    "fit",   "image",
                                      "instances", "compare", "timing", "codes", NULL};

bool halut_classify_is_json(const uint8_t *bytes, size_t size) {
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
  size_t text_bytes = slice->bytes;
  bool is_escaped = memchr(slice->text, '\\', text_bytes) != NULL;
  char *plain = is_escaped ? halut_json_unescape(slice, &text_bytes) : NULL;
  uint8_t *data = malloc(halut_base64_decoded_max(text_bytes));
  int error =
      data == NULL || (is_escaped && plain == NULL)
          ? halut_fail(&diag, HALUT_ENOMEM, 0, "no memory for the image; try again")
          : halut_base64_decode(is_escaped ? plain : slice->text, text_bytes, data, &bytes, &diag);
  if (error != HALUT_OK)
    halut_job_fail(job, error, "%sb64: %s", where, diag.text);
  bool is_read = error == HALUT_OK && halut_job_picture(job, where, data, bytes, row);
  free(plain);
  free(data);
  return is_read;
}

/* [n][height][width][channels], as many programs keep pictures, when it cannot be planar too. */
static bool is_interleaved(const struct halut_number_shape *shape,
                           const struct halut_model_info *info) {
  return shape->rank == 4 && shape->dim[1] == info->height && shape->dim[2] == info->width &&
         shape->dim[3] == info->channels;
}

/* [n][channels][height][width], or all numbers of a picture in a row. */
static bool is_planar(const struct halut_number_shape *shape, const struct halut_model_info *info) {
  return shape->rank == 2 || (shape->rank == 4 && shape->dim[1] == info->channels &&
                              shape->dim[2] == info->height && shape->dim[3] == info->width);
}

/* The numbers of one picture of a list of that shape, which is planar or interleaved. */
static void picture_copy(struct halut_job *job, uint32_t row,
                         const struct halut_number_shape *shape, const uint8_t *values) {
  const struct halut_model_info *info = job->entry->info;
  size_t plane = (size_t)info->height * info->width;
  if (is_planar(shape, info)) {
    memcpy(image_at(job, row), values, job->entry->in_bytes);
    return;
  }
  for (size_t c = 0; c < info->channels; c++)
    for (size_t i = 0; i < plane; i++)
      image_at(job, row)[c * plane + i] = values[i * info->channels + c];
}

static bool numbers_read(struct halut_job *job, const struct halut_json_slice *slice,
                         const char *name) {
  struct halut_diag diag = {0};
  struct halut_number_shape shape;
  size_t capacity = halut_number_count_max(slice->text, slice->bytes);
  size_t each = job->entry->in_bytes;
  const struct halut_model_info *info = job->entry->info;
  struct halut_number_options options = {.type = HALUT_NUMBER_UINT8,
                                         .name = name,
                                         .offset = slice->offset,
                                         .rank_max = 4,
                                         .rows_max = job->limits->rows_max};
  uint8_t *values = halut_job_values(job, capacity, sizeof *values);
  if (values == NULL)
    return false;
  int error =
      halut_number_read(slice->text, slice->bytes, &options, values, capacity, &shape, &diag);
  if (error != HALUT_OK)
    halut_job_fail(job, error, "%s", diag.text);
  else if (shape.rank < 2 || shape.count == 0 || shape.count / shape.dim[0] != each)
    halut_job_fail(job, HALUT_ESHAPE, "%s: each must hold %zu numbers (%u x %u x %u), not %zu",
                   name, each, info->channels, info->height, info->width,
                   shape.rank < 2 ? (size_t)1 : shape.count / shape.dim[0]);
  else if (!is_planar(&shape, info) && !is_interleaved(&shape, info))
    halut_job_fail(
        job, HALUT_ESHAPE, "%s: each must be flat or nested as %u x %u x %u or %u x %u x %u", name,
        info->channels, info->height, info->width, info->height, info->width, info->channels);
  else if (halut_job_seat(job, (uint32_t)shape.dim[0]))
    for (uint32_t row = 0; row < job->rows; row++)
      picture_copy(job, row, &shape, values + row * each);
  free(values);
  return !job->failed;
}

/* The numbers of one picture. */
static bool picture_numbers_read(struct halut_job *job, const struct halut_json_slice *slice,
                                 const char *where, uint32_t row) {
  const struct halut_model_info *info = job->entry->info;
  struct halut_diag diag = {0};
  struct halut_number_shape shape, list = {.dim = {1}};
  struct halut_number_options options = {
      .type = HALUT_NUMBER_UINT8, .name = "image", .offset = slice->offset, .rank_max = 3};
  size_t each = job->entry->in_bytes;
  uint8_t *values = malloc(each);
  int error =
      values == NULL
          ? halut_fail(&diag, HALUT_ENOMEM, 0, "no memory for the image; try again")
          : halut_number_read(slice->text, slice->bytes, &options, values, each, &shape, &diag);
  if (error != HALUT_OK) {
    halut_job_fail(job, error, "%s%s", where, diag.text);
    free(values);
    return false;
  }
  list.rank = shape.rank + 1;
  memcpy(list.dim + 1, shape.dim, shape.rank * sizeof *shape.dim);
  if (shape.count != each || (!is_planar(&list, info) && !is_interleaved(&list, info)))
    halut_job_fail(
        job, HALUT_ESHAPE, "%simage: must be flat or nested as %u x %u x %u or %u x %u x %u", where,
        info->channels, info->height, info->width, info->height, info->width, info->channels);
  else
    picture_copy(job, row, &list, values);
  free(values);
  return !job->failed;
}

/* The only member of an object, if it is called as a picture may be. */
static const json_t *named_picture(const json_t *object) {
  static const char ending[] = "_bytes";
  void *first = json_object_iter((json_t *)(uintptr_t)object); /* only reads it */
  if (json_object_size(object) != 1)
    return NULL;
  const char *name = json_object_iter_key(first);
  size_t bytes = strlen(name), end = sizeof ending - 1;
  bool is_one =
      strcmp(name, "image") == 0 || (bytes > end && strcmp(name + bytes - end, ending) == 0);
  return is_one ? json_object_iter_value(first) : NULL;
}

static bool instance_read(struct halut_job *job, const struct halut_json *json,
                          const json_t *object, const char *where, uint32_t row) {
  const json_t *text = json_object_get(object, "b64");
  const json_t *value = text == NULL ? named_picture(object) : NULL;
  const struct halut_json_slice *slice = halut_json_slice(json, value);
  if (slice != NULL && !slice->is_string)
    return picture_numbers_read(job, slice, where, row);
  if (text == NULL && json_is_object(object) && value == NULL) {
    halut_job_fail(job, HALUT_EINVALID, "%smust be {\"b64\": ...} or {\"image\": ...}", where);
    return false;
  }
  return halut_job_base64(job, where,
                          halut_json_slice(json, text ? text : json_object_get(value, "b64")), row);
}

bool halut_classify_instances(struct halut_job *job, const struct halut_json *json,
                              const json_t *list, const char *name) {
  const struct halut_json_slice *slice = halut_json_slice(json, list);
  size_t count = json_array_size(list);
  job->many = true;
  if (slice != NULL && !slice->is_string)
    return numbers_read(job, slice, name);
  if (slice != NULL || count == 0 || count > job->limits->rows_max) {
    halut_job_fail(job, count > job->limits->rows_max ? HALUT_ELIMIT : HALUT_EINVALID,
                   "%s: must be an array of 1 to %llu images", name,
                   (unsigned long long)job->limits->rows_max);
    return false;
  }
  if (!halut_job_seat(job, (uint32_t)count))
    return false;
  for (uint32_t i = 0; i < count; i++) {
    char where[64];
    snprintf(where, sizeof where, "%s[%u]: ", name, i);
    if (!instance_read(job, json, json_array_get(list, i), where, i))
      return false;
  }
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
  return halut_classify_instances(job, json, instances, "instances");
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
  halut_job_json_end(job, json);
}

/* Counts the parts, then decodes each. */
static bool form_read(struct halut_job *job, const char *part) {
  const uint8_t *body = job->request->body, *bytes = NULL;
  struct halut_multipart parts;
  struct halut_diag diag = {0};
  size_t size = 0;
  uint64_t count = 0;
  int error = halut_multipart_open(body, job->request->body_bytes, job->boundary, &parts, &diag);
  const struct halut_multipart first = parts;
  while (error == HALUT_OK) {
    error = halut_multipart_next(&parts, NULL, &bytes, &size, &diag);
    if (error == HALUT_OK && part != NULL && strcmp(parts.name, part) != 0) {
      halut_job_fail(job, HALUT_EINVALID,
                     "multipart: a part named \"%.40s\": pictures are named \"%s\", and what else "
                     "there is to say goes into the query",
                     parts.name, part);
      return false;
    }
    count += error == HALUT_OK;
  }
  if (error != HALUT_ENOTFOUND || count == 0) {
    halut_job_fail(job, HALUT_EINVALID, "%s", diag.text);
    return false;
  }
  if (count > job->limits->rows_max) {
    halut_job_fail(job, HALUT_ELIMIT, "multipart: more than the %llu images of rows-max",
                   (unsigned long long)job->limits->rows_max);
    return false;
  }
  parts = first;
  job->many = count > 1;
  if (!halut_job_seat(job, (uint32_t)count))
    return false;
  for (uint32_t i = 0; i < count; i++) {
    error = halut_multipart_next(&parts, part, &bytes, &size, &diag);
    assert(error == HALUT_OK);
    char where[32] = "";
    if (job->many)
      snprintf(where, sizeof where, "picture %u: ", i);
    if (!halut_job_picture(job, where, bytes, size, i))
      return false;
  }
  return true;
}

bool halut_classify_pictures(struct halut_job *job, const char *part) {
  const struct halut_request *request = job->request;
  if (request->body_bytes == 0) {
    halut_job_fail(job, HALUT_EINVALID,
                   "the body is empty: send a PNG, a JPEG, raw pixels or JSON");
    return false;
  }
  if (!halut_job_choose(job, job->model_name))
    return false;
  if (job->boundary[0] != '\0')
    return form_read(job, part);
  return halut_job_seat(job, 1) &&
         halut_job_picture(job, "", request->body, request->body_bytes, 0);
}

static void classify_read(struct halut_job *job) {
  const struct halut_request *request = job->request;
  if (job->boundary[0] == '\0' && halut_classify_is_json(request->body, request->body_bytes))
    json_read(job, request->body, request->body_bytes);
  else
    halut_classify_pictures(job, "image");
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
    halut_json_out_format(out, place > 0 ? ",{\"label\":" : "{\"label\":");
    halut_json_out_string(out, info->labels[order[place]]);
    /* Millionths, since printing a double takes ten times as long. */
    unsigned share = (unsigned)lround(halut_softmax_at(&softmax, logits[order[place]]) * 1e6);
    halut_json_out_format(out, ",\"index\":%u,\"probability\":%u.%06u}", order[place],
                          share / 1000000, share % 1000000);
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
