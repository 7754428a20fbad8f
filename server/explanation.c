/* explanation.c: the answer of /v1/explain: how a learned layer made one value of its output. */
#include <inttypes.h>

#include "inspect.h"

static void shape_write(const struct halut_job *job, struct halut_json_out *out) {
  const struct halut_inspection *inspect = job->inspect;
  const struct halut_model_info *info = job->entry->info;
  const struct halut_node *node = &info->nodes[inspect->node];
  const struct halut_conv *conv = &node->conv;
  halut_json_out_format(
      out,
      ",\"layer\":\"%s\",\"input\":\"%s\",\"input_shape\":[%u,%u,%u],\"shape\":[%u,%u,%u]"
      ",\"kernel\":[%u,%u],\"stride\":[%u,%u],\"pad\":[%u,%u],\"codebooks\":%u"
      ",\"y\":%u,\"x\":%u,\"output\":%u",
      node->name, node->in[0] > 0 ? info->nodes[node->in[0] - 1].name : "input", conv->channels,
      conv->height, conv->width, node->channels, node->height, node->width, conv->kernel_h,
      conv->kernel_w, conv->stride_h, conv->stride_w, conv->pad_h, conv->pad_w,
      node->lut.codebooks, inspect->y, inspect->x, inspect->output);
}

static void path_write(const struct halut_node *node, uint32_t output, uint32_t codebook,
                       const struct halut_path *path, struct halut_json_out *out) {
  const int8_t *entries =
      node->lut.table + ((size_t)output * node->lut.codebooks + codebook) * HALUT_PROTOTYPES;
  halut_json_out_format(out, "{\"codebook\":%u,\"code\":%u,\"entry\":%d,\"entries\":[", codebook,
                        path->code, path->entry);
  for (uint32_t i = 0; i < HALUT_PROTOTYPES; i++)
    halut_json_out_format(out, "%s%d", i > 0 ? "," : "", entries[i]);
  halut_json_out_format(out, "],\"levels\":[");
  for (uint32_t level = 0; level < HALUT_LEVELS; level++) {
    const struct halut_decision *step = &path->level[level];
    halut_json_out_format(out,
                          "%s{\"channel\":%u,\"y\":%d,\"x\":%d,\"value\":%u,\"threshold\":%u"
                          ",\"node\":%u,\"right\":%s}",
                          level > 0 ? "," : "", step->channel, step->y, step->x, step->value,
                          step->threshold, step->node, step->right ? "true" : "false");
  }
  halut_json_out_format(out, "]}");
}

/* Every codebook takes part in the sum, but one alone may be shown. */
static int32_t paths_write(const struct halut_job *job, struct halut_json_out *out) {
  const struct halut_inspection *inspect = job->inspect;
  const struct halut_node *node = &job->entry->info->nodes[inspect->node];
  const char *comma = "";
  int32_t sum = 0;
  halut_json_out_format(out, ",\"paths\":[");
  for (uint32_t c = 0; c < node->lut.codebooks; c++) {
    struct halut_path path;
    halut_explain_path(node, inspect->maps.in, inspect->y, inspect->x, c, inspect->output, &path);
    sum += path.entry;
    if (inspect->codebook != HALUT_CODEBOOKS_ALL && inspect->codebook != c)
      continue;
    halut_json_out_format(out, "%s", comma);
    path_write(node, inspect->output, c, &path, out);
    comma = ",";
  }
  halut_json_out_format(out, "]");
  return sum;
}

static void explanation_read(struct halut_job *job) {
  halut_classify_form.read(job);
}

static void explanation_write(struct halut_job *job) {
  const struct halut_inspection *inspect = job->inspect;
  const struct halut_node *node = &job->entry->info->nodes[inspect->node];
  size_t positions = (size_t)node->height * node->width;
  const uint8_t *channel = inspect->maps.out + inspect->output * positions;
  struct halut_json_out out = {0};
  halut_job_write_head(job, &out);
  shape_write(job, &out);
  int32_t sum = paths_write(job, &out);
  halut_json_out_format(&out, ",\"sum\":%d,\"bias\":%d,\"scale\":%u,\"value\":%u", sum,
                        node->requant.bias[inspect->output], node->requant.scale[inspect->output],
                        channel[inspect->y * node->width + inspect->x]);
  if (positions <= HALUT_CHANNEL_MAX) {
    halut_json_out_format(&out, ",\"map\":");
    halut_json_out_u8(&out, channel, node->height, node->width, true);
  }
  halut_job_write_tail(job, &out);
  halut_job_reply(job, &out);
}

const struct halut_job_form halut_explain_form = {explanation_read, explanation_write};
