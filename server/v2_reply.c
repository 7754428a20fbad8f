#include "v2.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#include "../core/energy.h"
#include "inspect.h"
#include "ranking.h"

/* An answer being written: the JSON, and the binary data that will follow it. */
struct answer {
  struct halut_json_out json, tail;
  uint32_t binaries;
};

/* The values of an output, or NULL without memory; *owned_out is to be freed. */
static const void *values_of(const struct halut_job *job, const struct halut_v2_tensor *output,
                             void **owned_out) {
  const struct halut_model_info *info = job->entry->info;
  *owned_out = NULL;
  if (job->kind != HALUT_NETWORK || output->type == HALUT_NUMBER_INT32)
    return job->out;
  float *values = malloc((size_t)job->rows * info->classes * sizeof *values);
  for (uint32_t row = 0; values != NULL && row < job->rows; row++) {
    const int32_t *logits = (const int32_t *)job->out + (size_t)row * info->classes;
    struct halut_softmax softmax = halut_softmax_of(logits, info->classes, info->logit_scale);
    for (uint32_t m = 0; m < info->classes; m++)
      values[(size_t)row * info->classes + m] = (float)halut_softmax_at(&softmax, logits[m]);
  }
  return *owned_out = values;
}

/* ---- the classification extension ---- */

/* Calls `put` with each "value:index:label", row by row, best first. */
typedef void put_fn(struct halut_json_out *out, const char *text, size_t bytes);

static void put_json(struct halut_json_out *out, const char *text, size_t bytes) {
  (void)bytes;
  halut_json_out_string(out, text);
  halut_json_out_format(out, ",");
}

static void put_binary(struct halut_json_out *out, const char *text, size_t bytes) {
  const uint8_t head[4] = {(uint8_t)bytes, (uint8_t)(bytes >> 8), (uint8_t)(bytes >> 16),
                           (uint8_t)(bytes >> 24)};
  halut_json_out_bytes(out, head, sizeof head);
  halut_json_out_bytes(out, text, bytes);
}

static void class_put(const struct halut_job *job, const struct halut_v2_tensor *output,
                      const void *row, uint32_t index, put_fn *put, struct halut_json_out *out) {
  struct halut_json_out text = {0};
  size_t bytes = 0;
  if (output->type == HALUT_NUMBER_INT32)
    halut_json_out_format(&text, "%" PRId32, ((const int32_t *)row)[index]);
  else
    halut_json_out_format(&text, "%f", (double)((const float *)row)[index]);
  halut_json_out_format(&text, ":%u", index);
  if (job->kind == HALUT_NETWORK)
    halut_json_out_format(&text, ":%s", job->entry->info->labels[index]);
  char *line = halut_json_out_take(&text, &bytes);
  if (line == NULL)
    out->failed = true;
  else
    put(out, line, bytes);
  free(line);
}

static void classes_put(const struct halut_job *job, const struct halut_v2_tensor *output,
                        const void *values, uint32_t classes, put_fn *put,
                        struct halut_json_out *out) {
  uint32_t count = output->dim[1];
  uint32_t *order = malloc(classes * sizeof *order);
  int32_t *keys = malloc(count * sizeof *keys);
  if (order == NULL || keys == NULL)
    out->failed = true;
  for (uint32_t row = 0; row < job->rows && !out->failed; row++) {
    const char *at = (const char *)values + (size_t)row * count * sizeof(int32_t);
    const int32_t *ranked = keys;
    if (job->kind == HALUT_NETWORK) /* probabilities are ordered as their logits are */
      ranked = (const int32_t *)job->out + (size_t)row * count;
    else
      halut_rank_float_keys((const float *)(const void *)at, count, keys);
    halut_rank(ranked, count, classes, order);
    for (uint32_t i = 0; i < classes; i++)
      class_put(job, output, at, order[i], put, out);
  }
  free(order);
  free(keys);
}

/* ---- outputs ---- */

static void binary_end(struct answer *answer, size_t start) {
  answer->binaries++;
  halut_json_out_format(&answer->json, ",\"parameters\":{\"binary_data_size\":%zu}}",
                        answer->tail.bytes - start);
}

static void classes_write(const struct halut_job *job, const struct halut_v2_tensor *output,
                          const void *values, const struct halut_v2_wish *wish,
                          struct answer *answer) {
  size_t start = answer->tail.bytes;
  halut_json_out_format(&answer->json, "{\"name\":\"%s\",\"datatype\":\"BYTES\",\"shape\":[%u,%u]",
                        output->name, job->rows, wish->classes);
  if (wish->binary) {
    classes_put(job, output, values, wish->classes, put_binary, &answer->tail);
    binary_end(answer, start);
    return;
  }
  halut_json_out_format(&answer->json, ",\"data\":[");
  classes_put(job, output, values, wish->classes, put_json, &answer->json);
  if (!answer->json.failed)
    answer->json.bytes--; /* the last comma */
  halut_json_out_format(&answer->json, "]}");
}

static void tensor_write(struct halut_job *job, const struct halut_v2_tensor *output,
                         const void *values, const struct halut_v2_wish *wish,
                         struct answer *answer) {
  size_t start = answer->tail.bytes, count = (size_t)job->rows * output->dim[1];
  halut_json_out_format(&answer->json, "{\"name\":\"%s\",\"datatype\":\"%s\",\"shape\":[%u,%u]",
                        output->name, halut_number_name(output->type), job->rows, output->dim[1]);
  if (wish->binary) {
    halut_json_out_bytes(&answer->tail, values, count * halut_number_bytes(output->type));
    binary_end(answer, start);
    return;
  }
  halut_json_out_format(&answer->json, ",\"data\":");
  if (output->type == HALUT_NUMBER_INT32)
    halut_json_out_i32(&answer->json, values, job->rows, output->dim[1], false);
  else if (halut_job_finite(job, output->name, "binary_data", values, output->dim[1]))
    halut_json_out_f32(&answer->json, values, job->rows, output->dim[1], false);
  halut_json_out_format(&answer->json, "}");
}

static void output_write(struct halut_job *job, const struct halut_v2_wish *wish,
                         struct answer *answer) {
  struct halut_v2_tensor output;
  void *owned = NULL;
  halut_v2_output(job->entry->info, wish->index, &output);
  const void *values = values_of(job, &output, &owned);
  if (values == NULL)
    answer->json.failed = true;
  else if (wish->classes > 0)
    classes_write(job, &output, values, wish, answer);
  else
    tensor_write(job, &output, values, wish, answer);
  free(owned);
}

/* ---- the whole ---- */

static void head_write(const struct halut_job *job, struct halut_json_out *out) {
  const struct halut_v2_ask *ask = job->detail;
  const struct halut_model_info *info = job->entry->info;
  halut_json_out_format(out, "{");
  if (ask->id != NULL) {
    halut_json_out_format(out, "\"id\":");
    halut_json_out_string(out, ask->id);
    halut_json_out_format(out, ",");
  }
  halut_json_out_format(out,
                        "\"model_name\":\"%s\",\"model_version\":\"%u\",\"parameters\":{"
                        "\"backend\":\"%s\"",
                        info->name, info->version,
                        job->catalog->options.backends[job->backend]->name);
  if (job->stats.device_cycles > 0)
    halut_json_out_format(
        out,
        ",\"device_cycles\":%" PRIu64 ",\"device_stalls\":%" PRIu64 ",\"device_energy_uj\":%.6f",
        job->stats.device_cycles, job->stats.device_stalls, halut_energy(&job->stats) * 1e-6);
  halut_json_out_format(out, "},\"outputs\":[");
}

void halut_v2_write(struct halut_job *job) {
  const struct halut_v2_ask *ask = job->detail;
  struct answer answer = {0};
  head_write(job, &answer.json);
  for (uint32_t i = 0; i < ask->wish_count && !job->failed; i++) {
    halut_json_out_format(&answer.json, i > 0 ? "," : "");
    output_write(job, &ask->wish[i], &answer);
  }
  halut_json_out_format(&answer.json, "]");
  halut_inspect_write(job, &answer.json);
  halut_json_out_format(&answer.json, "}");
  size_t head_bytes = answer.json.bytes;
  if (answer.tail.failed)
    answer.json.failed = true;
  else
    halut_json_out_bytes(&answer.json, answer.tail.data, answer.tail.bytes);
  halut_json_out_close(&answer.tail);
  if (!job->failed)
    halut_job_reply(job, &answer.json);
  halut_json_out_close(&answer.json);
  if (job->failed || answer.binaries == 0)
    return;
  job->request->reply.type = "application/octet-stream";
  halut_reply_header(&job->request->reply, HALUT_V2_HEAD_BYTES, "%zu", head_bytes);
}
