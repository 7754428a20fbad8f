#include <inttypes.h>

#include "inspect.h"

static const char *backend_name(const struct halut_job *job, uint32_t b) {
  return job->catalog->options.backends[b]->name;
}

/* ---- compare ---- */

/* A value of a network has a layer's name and a place in its map. */
static void difference_write(const struct halut_job *job, struct halut_json_out *out) {
  const struct halut_difference *first = &job->inspect->compared.first;
  const struct halut_model_info *info = job->entry->info;
  if (job->inspect->compared.identical) {
    halut_json_out_format(out, "null");
    return;
  }
  halut_json_out_format(out, "{\"row\":%u,\"layer\":\"%s\",\"element\":%u", first->row,
                        info->kind == HALUT_NETWORK ? info->nodes[first->node].name : info->name,
                        first->element);
  if (info->kind == HALUT_NETWORK) {
    const struct halut_node *node = &info->nodes[first->node];
    uint32_t positions = node->height * node->width, at = first->element % positions;
    halut_json_out_format(out, ",\"channel\":%u,\"y\":%u,\"x\":%u", first->element / positions,
                          at / node->width, at % node->width);
  }
  halut_json_out_format(out, ",\"values\":{\"%s\":%.9g,\"%s\":%.9g}}", backend_name(job, 0),
                        first->value[0], backend_name(job, 1), first->value[1]);
}

static void compare_write(const struct halut_job *job, struct halut_json_out *out) {
  const struct halut_comparison *compared = &job->inspect->compared;
  halut_json_out_format(out,
                        ",\"compare\":{\"identical\":%s,\"backends\":[\"%s\",\"%s\"]"
                        ",\"sha256\":{\"%s\":\"%s\",\"%s\":\"%s\"},\"first_difference\":",
                        compared->identical ? "true" : "false", backend_name(job, 0),
                        backend_name(job, 1), backend_name(job, 0), compared->sha256[0],
                        backend_name(job, 1), compared->sha256[1]);
  difference_write(job, out);
  halut_json_out_format(out, "}");
}

/* ---- time by layer ---- */

/* Node `last` ended a fused group; its nodes are those behind it that were not seen themselves. */
static uint32_t group_find(const struct halut_job *job, uint32_t last,
                           uint32_t nodes[HALUT_NODES_MAX]) {
  const struct halut_model_info *info = job->entry->info;
  uint32_t count = 0;
  for (bool more = true; more;) {
    const struct halut_node *node = &info->nodes[last];
    nodes[count++] = last;
    more = false;
    for (uint32_t i = 0; i < (node->op == HALUT_OP_ADD ? 2 : 1) && !more; i++)
      if (node->in[i] > 0 && !job->inspect->layer_seen[node->in[i] - 1]) {
        last = node->in[i] - 1;
        more = true;
      }
  }
  return count;
}

static void layers_write(const struct halut_job *job, struct halut_json_out *out) {
  const struct halut_model_info *info = job->entry->info;
  uint32_t nodes[HALUT_NODES_MAX];
  const char *comma = "";
  halut_json_out_format(out, ",\"layers\":[");
  if (info->kind == HALUT_PRODUCT)
    halut_json_out_format(out, "{\"name\":\"%s\",\"op\":\"product\",\"us\":%.3f}", info->name,
                          (double)job->inspect->layer_ns[0] * 1e-3);
  for (uint32_t n = 0; n < info->node_count; n++) {
    if (!job->inspect->layer_seen[n])
      continue;
    uint32_t count = group_find(job, n, nodes);
    halut_json_out_format(out, "%s{\"name\":\"", comma);
    for (uint32_t i = count; i-- > 0;)
      halut_json_out_format(out, "%s%s", info->nodes[nodes[i]].name, i > 0 ? "+" : "");
    halut_json_out_format(out, "\",\"op\":\"");
    for (uint32_t i = count; i-- > 0;)
      halut_json_out_format(out, "%s%s", halut_op_name(info->nodes[nodes[i]].op), i > 0 ? "+" : "");
    halut_json_out_format(out, "\",\"us\":%.3f}", (double)job->inspect->layer_ns[n] * 1e-3);
    comma = ",";
  }
  halut_json_out_format(out, "]");
}

/* ---- codes ---- */

static void codes_write(const struct halut_job *job, struct halut_json_out *out) {
  const struct halut_inspection *inspect = job->inspect;
  const struct halut_model_info *info = job->entry->info;
  if (info->kind == HALUT_PRODUCT) {
    halut_json_out_format(out, ",\"codes\":");
    halut_json_out_u8(out, inspect->code, inspect->code_rows, info->lut.codebooks, true);
    return;
  }
  const struct halut_node *node = &info->nodes[inspect->node];
  halut_json_out_format(out,
                        ",\"codes\":{\"layer\":\"%s\",\"images\":%u,\"height\":%u,\"width\":%u"
                        ",\"codebooks\":%u,\"values\":",
                        node->name, job->rows, node->height, node->width, node->lut.codebooks);
  halut_json_out_u8(out, inspect->code, inspect->code_rows, node->lut.codebooks, true);
  halut_json_out_format(out, "}");
}

void halut_inspect_write(const struct halut_job *job, struct halut_json_out *out) {
  if (job->inspect == NULL)
    return;
  if (job->inspect->compare)
    compare_write(job, out);
  if (job->inspect->layers)
    layers_write(job, out);
  if (job->inspect->codes)
    codes_write(job, out);
  if (job->inspect->phases)
    halut_reply_header(&job->request->reply, "Server-Timing",
                       "queue;dur=%.3f, decode;dur=%.3f, compute;dur=%.3f",
                       (double)job->phase_ns[HALUT_JOB_QUEUE] * 1e-6,
                       (double)job->phase_ns[HALUT_JOB_DECODE] * 1e-6,
                       (double)job->phase_ns[HALUT_JOB_COMPUTE] * 1e-6);
}
