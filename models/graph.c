#include "graph.h"

#include <stdio.h>
#include <string.h>

#include "../core/dense.h"

enum { TENSOR_NAME_MAX = HALUT_NAME_MAX + 16 };

/* What an operation takes: inputs, and which attributes it must (or, `zero`, may) have. */
struct op_rule {
  uint32_t inputs;
  const char *const *members;
  bool window, pad;
};

static const char *const members_conv[] = {"op", "name", "in", "kernel", "stride", "pad", NULL};
static const char *const members_pool[] = {"op", "name", "in", "kernel", "stride", NULL};
static const char *const members_add[] = {"op", "name", "in", "zero", NULL};
static const char *const members_linear[] = {"op", "name", "in", NULL};

static const struct op_rule rules[] = {
    [HALUT_OP_CONV] = {1, members_conv, true, true},
    [HALUT_OP_HALUT] = {1, members_conv, true, true},
    [HALUT_OP_MAXPOOL] = {1, members_pool, true, false},
    [HALUT_OP_AVGPOOL] = {1, members_pool, true, false},
    [HALUT_OP_ADD] = {2, members_add, false, false},
    [HALUT_OP_LINEAR] = {1, members_linear, false, false},
};

static const char *const op_names[] = {
#define XX(op, name) [HALUT_OP_##op] = name,
    HALUT_OP_MAP(XX)
#undef XX
};

enum { OP_COUNT = sizeof(op_names) / sizeof(op_names[0]) };
static_assert(OP_COUNT == sizeof(rules) / sizeof(rules[0]), "a rule for every operation");

const char *halut_op_name(enum halut_op op) {
  return op_names[op];
}

bool halut_name_ok(const char *name) {
  size_t length = strlen(name);
  static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-";
  return length >= 1 && length < HALUT_NAME_MAX && name[0] != '.' &&
         strspn(name, allowed) == length;
}

static void shape_text(const struct halut_tensor *tensor, char text[64]) {
  int at = snprintf(text, 64, "[");
  for (uint32_t i = 0; i < tensor->rank; i++)
    at += snprintf(text + at, 64 - (size_t)at, "%s%u", i ? "," : "", tensor->dim[i]);
  snprintf(text + at, 64 - (size_t)at, "]");
}

int halut_reader_take(struct halut_reader *reader, const char *name, enum halut_dtype dtype,
                      uint32_t rank, uint32_t dim[HALUT_RANK_MAX], uint32_t max,
                      const void **data_out) {
  const struct halut_named_tensor *found = halut_safetensors_find(reader->file, name);
  if (!found)
    return halut_fail(reader->diag, HALUT_EFORMAT, 0, "tensor \"%s\" is missing", name);
  const struct halut_tensor *tensor = &found->tensor;
  if (tensor->dtype != dtype)
    return halut_fail(reader->diag, HALUT_ESHAPE, found->offset, "tensor \"%s\" is %s, not %s",
                      name, halut_dtype_name(tensor->dtype), halut_dtype_name(dtype));
  struct halut_tensor wanted = {.rank = rank, .dim = {1, 1, 1, 1}};
  bool fits = tensor->rank == rank;
  for (uint32_t i = 0; i < rank; i++) {
    wanted.dim[i] = dim[i] ? dim[i] : tensor->dim[i];
    fits = fits && wanted.dim[i] == tensor->dim[i];
  }
  if (!fits) {
    char is[64], not [64];
    shape_text(tensor, is);
    shape_text(&wanted, not );
    return halut_fail(reader->diag, HALUT_ESHAPE, found->offset,
                      "tensor \"%s\" has shape %s, not %s", name, is,
                      tensor->rank == rank ? not : "that many dimensions");
  }
  for (uint32_t i = 0; i < rank; i++) {
    if (dim[i] == 0 && (tensor->dim[i] == 0 || tensor->dim[i] > max))
      return halut_fail(reader->diag, HALUT_ELIMIT, found->offset,
                        "tensor \"%s\": dimension %u is %u, not from 1 to %u", name, i,
                        tensor->dim[i], max);
    dim[i] = tensor->dim[i];
  }
  size_t count;
  reader->used[found - halut_safetensors_tensors(reader->file, &count)] = true;
  *data_out = tensor->data;
  return 0;
}

int halut_reader_finish(const struct halut_reader *reader) {
  size_t count;
  const struct halut_named_tensor *tensors = halut_safetensors_tensors(reader->file, &count);
  for (size_t i = 0; i < count; i++)
    if (!reader->used[i])
      return halut_fail(reader->diag, HALUT_EFORMAT, tensors[i].offset,
                        "tensor \"%.64s\" belongs to nothing in the model", tensors[i].name);
  return 0;
}

static bool whole_in(const json_t *value, uint32_t min, uint32_t max, uint32_t *out) {
  if (!json_is_integer(value))
    return false;
  json_int_t number = json_integer_value(value);
  if (number < (json_int_t)min || number > (json_int_t)max)
    return false;
  *out = (uint32_t)number;
  return true;
}

int halut_reader_whole(const json_t *object, const char *key, const char *where, uint32_t min,
                       uint32_t max, uint32_t *out, struct halut_diag *diag) {
  const json_t *value = json_object_get(object, key);
  if (!value)
    return halut_fail(diag, HALUT_EFORMAT, 0, "%s: \"%s\" is missing", where, key);
  if (!whole_in(value, min, max, out))
    return halut_fail(diag, HALUT_EFORMAT, 0, "%s: \"%s\" is not a whole number from %u to %u",
                      where, key, min, max);
  return 0;
}

int halut_reader_members(const json_t *object, const char *const *keys, const char *where,
                         struct halut_diag *diag) {
  const char *key;
  json_t *value;
  json_object_foreach((json_t *)(uintptr_t)object, key,
                      value) { /* jansson iterates non-const only */
    size_t i = 0;
    while (keys[i] && strcmp(keys[i], key) != 0)
      i++;
    if (!keys[i])
      return halut_fail(diag, HALUT_EFORMAT, 0, "%s: unknown member \"%.64s\"", where, key);
  }
  return 0;
}

int halut_reader_lut(struct halut_reader *reader, const char *prefix, struct halut_lut *lut) {
  char name[TENSOR_NAME_MAX];
  const void *data;
  uint32_t threshold_dim[HALUT_RANK_MAX] = {0, HALUT_PROTOTYPES};
  snprintf(name, sizeof(name), "%s%sthreshold", prefix, prefix[0] ? "." : "");
  int rc = halut_reader_take(reader, name, HALUT_U8, 2, threshold_dim, HALUT_CODEBOOKS_MAX, &data);
  if (rc)
    return rc;
  lut->codebooks = threshold_dim[0];
  lut->threshold = data;
  for (uint32_t c = 0; c < lut->codebooks; c++)
    if (lut->threshold[c * HALUT_PROTOTYPES] != 0)
      return halut_fail(reader->diag, HALUT_EFORMAT,
                        halut_safetensors_find(reader->file, name)->offset,
                        "tensor \"%s\": entry 0 of codebook %u is %u, not 0", name, c,
                        lut->threshold[c * HALUT_PROTOTYPES]);
  uint32_t table_dim[HALUT_RANK_MAX] = {0, lut->codebooks, HALUT_PROTOTYPES};
  snprintf(name, sizeof(name), "%s%stable", prefix, prefix[0] ? "." : "");
  rc = halut_reader_take(reader, name, HALUT_I8, 3, table_dim, HALUT_OUTPUTS_MAX, &data);
  if (rc)
    return rc;
  lut->outputs = table_dim[0];
  lut->table = data;
  return 0;
}

/* The graph while it is being read. */
struct graph {
  struct halut_reader *reader;
  const struct halut_model_info *info;
  struct halut_node *nodes;
  uint32_t count;
  uint64_t values; /* of all maps so far */
  bool consumed[HALUT_NODES_MAX];
};

/* Takes tensor NODE.PART of rank 1, whose size is known. */
static int vector_take(struct graph *graph, const struct halut_node *node, const char *part,
                       enum halut_dtype dtype, uint32_t size, const void **data_out) {
  char name[TENSOR_NAME_MAX];
  uint32_t dim[HALUT_RANK_MAX] = {size};
  snprintf(name, sizeof(name), "%s.%s", node->name, part);
  return halut_reader_take(graph->reader, name, dtype, 1, dim, size, data_out);
}

static int requant_take(struct graph *graph, struct halut_node *node, uint32_t outputs) {
  const void *bias, *scale;
  int rc = vector_take(graph, node, "bias", HALUT_I32, outputs, &bias);
  if (rc)
    return rc;
  rc = vector_take(graph, node, "scale", HALUT_U16, outputs, &scale);
  if (rc)
    return rc;
  node->requant = (struct halut_requant){bias, scale};
  return 0;
}

static int conv_take(struct graph *graph, struct halut_node *node) {
  const struct halut_conv *conv = &node->conv;
  uint64_t padded = (uint64_t)conv->channels * (conv->height + 2 * conv->pad_h) *
                    (conv->width + 2 * conv->pad_w);
  if (padded > HALUT_DENSE_PADDED_MAX)
    return halut_fail(graph->reader->diag, HALUT_ELIMIT, 0,
                      "node \"%s\": %llu padded values exceed %d", node->name,
                      (unsigned long long)padded, HALUT_DENSE_PADDED_MAX);
  char name[TENSOR_NAME_MAX];
  const void *data;
  uint32_t taps = conv->channels * conv->kernel_h * conv->kernel_w; /* at most 4096 * 31 * 31 */
  if (taps > HALUT_TAPS_MAX)
    return halut_fail(graph->reader->diag, HALUT_ELIMIT, 0,
                      "node \"%s\": %u values in a sum exceed %d", node->name, taps,
                      HALUT_TAPS_MAX);
  uint32_t dim[HALUT_RANK_MAX] = {0, conv->channels, conv->kernel_h, conv->kernel_w};
  snprintf(name, sizeof(name), "%s.weight", node->name);
  int rc = halut_reader_take(graph->reader, name, HALUT_I8, 4, dim, HALUT_OUTPUTS_MAX, &data);
  if (rc)
    return rc;
  node->weight = data;
  node->channels = dim[0];
  return requant_take(graph, node, dim[0]);
}

static int halut_take(struct graph *graph, struct halut_node *node) {
  char name[TENSOR_NAME_MAX];
  const void *data;
  int rc = halut_reader_lut(graph->reader, node->name, &node->lut);
  if (rc)
    return rc;
  uint32_t dim[HALUT_RANK_MAX] = {node->lut.codebooks, HALUT_LEVELS};
  snprintf(name, sizeof(name), "%s.split", node->name);
  rc = halut_reader_take(graph->reader, name, HALUT_U16, 2, dim, HALUT_CODEBOOKS_MAX, &data);
  if (rc)
    return rc;
  const uint16_t *split = data;
  uint32_t columns = node->conv.channels * node->conv.kernel_h * node->conv.kernel_w;
  for (uint32_t i = 0; i < node->lut.codebooks * HALUT_LEVELS; i++)
    if (split[i] >= columns)
      return halut_fail(graph->reader->diag, HALUT_EFORMAT,
                        halut_safetensors_find(graph->reader->file, name)->offset + 2 * i,
                        "tensor \"%s\": codebook %u reads column %u of %u", name, i / HALUT_LEVELS,
                        split[i], columns);
  node->conv.split = split;
  node->channels = node->lut.outputs;
  return requant_take(graph, node, node->lut.outputs);
}

static int linear_take(struct graph *graph, struct halut_node *node, uint32_t inputs) {
  char name[TENSOR_NAME_MAX];
  const void *data;
  if (inputs > HALUT_TAPS_MAX)
    return halut_fail(graph->reader->diag, HALUT_ELIMIT, 0,
                      "node \"%s\": %u values in a sum exceed %d", node->name, inputs,
                      HALUT_TAPS_MAX);
  uint32_t dim[HALUT_RANK_MAX] = {0, inputs};
  snprintf(name, sizeof(name), "%s.weight", node->name);
  int rc = halut_reader_take(graph->reader, name, HALUT_I8, 2, dim, HALUT_OUTPUTS_MAX, &data);
  if (rc)
    return rc;
  node->weight = data;
  node->channels = dim[0];
  rc = vector_take(graph, node, "bias", HALUT_I32, dim[0], &data);
  if (rc)
    return rc;
  node->bias = data;
  for (uint32_t m = 0; m < dim[0]; m++) {
    int64_t low = node->bias[m], high = node->bias[m];
    for (uint32_t i = 0; i < inputs; i++) {
      int64_t most = node->weight[(size_t)m * inputs + i] * INT64_C(255);
      if (most < 0)
        low += most;
      else
        high += most;
    }
    if (low < INT32_MIN || high > INT32_MAX)
      return halut_fail(graph->reader->diag, HALUT_EFORMAT, 0,
                        "node \"%s\": logit %u can overflow 32 bits", node->name, m);
  }
  return 0;
}

static int pair_parse(const json_t *object, const char *key, const char *where, uint32_t min,
                      uint32_t *y, uint32_t *x, struct halut_diag *diag) {
  const json_t *pair = json_object_get(object, key);
  if (!pair)
    return halut_fail(diag, HALUT_EFORMAT, 0, "%s: \"%s\" is missing", where, key);
  if (!json_is_array(pair) || json_array_size(pair) != 2 ||
      !whole_in(json_array_get(pair, 0), min, HALUT_KERNEL_MAX, y) ||
      !whole_in(json_array_get(pair, 1), min, HALUT_KERNEL_MAX, x))
    return halut_fail(diag, HALUT_EFORMAT, 0, "%s: \"%s\" is not two whole numbers from %u to %d",
                      where, key, min, HALUT_KERNEL_MAX);
  return 0;
}

/* Kernel, stride, pad and the output size that they give. */
static int window_parse(const json_t *object, const struct op_rule *rule, const char *where,
                        struct halut_node *node, struct halut_diag *diag) {
  struct halut_conv *conv = &node->conv;
  int rc = pair_parse(object, "kernel", where, 1, &conv->kernel_h, &conv->kernel_w, diag);
  if (!rc)
    rc = pair_parse(object, "stride", where, 1, &conv->stride_h, &conv->stride_w, diag);
  if (!rc && rule->pad)
    rc = pair_parse(object, "pad", where, 0, &conv->pad_h, &conv->pad_w, diag);
  if (rc)
    return rc;
  if (conv->pad_h >= conv->kernel_h || conv->pad_w >= conv->kernel_w)
    return halut_fail(diag, HALUT_EFORMAT, 0, "%s: pad is not smaller than kernel", where);
  uint32_t height = conv->height + 2 * conv->pad_h, width = conv->width + 2 * conv->pad_w;
  if (conv->kernel_h > height || conv->kernel_w > width)
    return halut_fail(diag, HALUT_ESHAPE, 0,
                      "%s: kernel %ux%u is larger than its padded input %ux%u", where,
                      conv->kernel_h, conv->kernel_w, height, width);
  conv->out_h = (height - conv->kernel_h) / conv->stride_h + 1;
  conv->out_w = (width - conv->kernel_w) / conv->stride_w + 1;
  node->height = conv->out_h;
  node->width = conv->out_w;
  return 0;
}

static int inputs_parse(struct graph *graph, const json_t *object, const struct op_rule *rule,
                        const char *where, struct halut_node *node) {
  struct halut_diag *diag = graph->reader->diag;
  const json_t *in = json_object_get(object, "in");
  if (!json_is_array(in) || json_array_size(in) != rule->inputs)
    return halut_fail(diag, HALUT_EFORMAT, 0, "%s: \"in\" is not an array of %u name%s", where,
                      rule->inputs, rule->inputs == 1 ? "" : "s");
  for (uint32_t i = 0; i < rule->inputs; i++) {
    const json_t *entry = json_array_get(in, i);
    if (!json_is_string(entry))
      return halut_fail(diag, HALUT_EFORMAT, 0, "%s: \"in\" is not an array of %u name%s", where,
                        rule->inputs, rule->inputs == 1 ? "" : "s");
    const char *name = json_string_value(entry);
    uint32_t value = 0;
    if (strcmp(name, "input") != 0) {
      while (value < graph->count && strcmp(graph->nodes[value].name, name) != 0)
        value++;
      if (value == graph->count)
        return halut_fail(diag, HALUT_EFORMAT, 0,
                          "%s: \"in\" names \"%.64s\", which is no earlier node", where, name);
      graph->consumed[value] = true;
      value++;
    }
    node->in[i] = value;
  }
  return 0;
}

/* Channels, height and width of value `index`: 0 is the input image, n + 1 the output of node n. */
static void value_shape(const struct graph *graph, uint32_t index, uint32_t shape[3]) {
  const struct halut_node *node = index ? &graph->nodes[index - 1] : NULL;
  shape[0] = node ? node->channels : graph->info->channels;
  shape[1] = node ? node->height : graph->info->height;
  shape[2] = node ? node->width : graph->info->width;
}

/* What depends on the operation: attributes, tensors, output shape. */
static int op_parse(struct graph *graph, const json_t *object, const struct op_rule *rule,
                    const char *where, struct halut_node *node) {
  struct halut_diag *diag = graph->reader->diag;
  uint32_t shape[3], other[3], zero = 0;
  value_shape(graph, node->in[0], shape);
  node->conv.channels = node->channels = shape[0];
  node->conv.height = node->height = shape[1];
  node->conv.width = node->width = shape[2];
  int rc = rule->window ? window_parse(object, rule, where, node, diag) : 0;
  if (rc)
    return rc;
  switch (node->op) {
  case HALUT_OP_CONV:
    return conv_take(graph, node);
  case HALUT_OP_HALUT:
    return halut_take(graph, node);
  case HALUT_OP_MAXPOOL:
  case HALUT_OP_AVGPOOL:
    return 0;
  case HALUT_OP_ADD:
    value_shape(graph, node->in[1], other);
    if (memcmp(shape, other, sizeof(shape)) != 0)
      return halut_fail(diag, HALUT_ESHAPE, 0, "%s: adds [%u,%u,%u] and [%u,%u,%u]", where,
                        shape[0], shape[1], shape[2], other[0], other[1], other[2]);
    if (json_object_get(object, "zero"))
      rc = halut_reader_whole(object, "zero", where, 0, UINT8_MAX, &zero, diag);
    node->zero = (uint8_t)zero;
    return rc;
  case HALUT_OP_LINEAR:
    node->height = node->width = 1;
    return linear_take(graph, node, shape[0] * shape[1] * shape[2]);
  }
  return 0;
}

static int node_name_parse(const struct graph *graph, const json_t *object,
                           struct halut_node *node) {
  const char *name = json_string_value(json_object_get(object, "name"));
  if (!name || !halut_name_ok(name) || strcmp(name, "input") == 0)
    return halut_fail(
        graph->reader->diag, HALUT_EFORMAT, 0,
        "node %u: \"name\" is not 1 to 63 of [A-Za-z0-9_.-] (and neither .x nor input)",
        graph->count);
  for (uint32_t i = 0; i < graph->count; i++)
    if (strcmp(graph->nodes[i].name, name) == 0)
      return halut_fail(graph->reader->diag, HALUT_EFORMAT, 0,
                        "node %u: \"%s\" is also the name of node %u", graph->count, name, i);
  snprintf(node->name, sizeof(node->name), "%s", name);
  return 0;
}

static int node_parse(struct graph *graph, const json_t *object) {
  struct halut_node *node = &graph->nodes[graph->count];
  struct halut_diag *diag = graph->reader->diag;
  if (!json_is_object(object))
    return halut_fail(diag, HALUT_EFORMAT, 0, "node %u is not an object", graph->count);
  int rc = node_name_parse(graph, object, node);
  if (rc)
    return rc;
  char where[HALUT_NAME_MAX + 8];
  snprintf(where, sizeof(where), "node \"%s\"", node->name);
  const char *op = json_string_value(json_object_get(object, "op"));
  uint32_t index = 0;
  while (op && index < OP_COUNT && strcmp(op_names[index], op) != 0)
    index++;
  if (!op || index == OP_COUNT)
    return halut_fail(diag, HALUT_EFORMAT, 0,
                      "%s: \"op\" is \"%.32s\", which is none of the operations", where,
                      op ? op : "");
  node->op = (enum halut_op)index;
  rc = halut_reader_members(object, rules[index].members, where, diag);
  if (!rc)
    rc = inputs_parse(graph, object, &rules[index], where, node);
  if (!rc)
    rc = op_parse(graph, object, &rules[index], where, node);
  if (rc)
    return rc;
  if (node->height > HALUT_SIDE_MAX || node->width > HALUT_SIDE_MAX)
    return halut_fail(diag, HALUT_ELIMIT, 0, "%s: its map of %ux%u exceeds %d a side", where,
                      node->height, node->width, HALUT_SIDE_MAX);
  if ((uint64_t)node->channels * node->height * node->width > HALUT_VALUES_MAX)
    return halut_fail(diag, HALUT_ELIMIT, 0, "%s: its map of %ux%ux%u values exceeds %d", where,
                      node->channels, node->height, node->width, HALUT_VALUES_MAX);
  graph->values += (uint64_t)node->channels * node->height * node->width;
  if (graph->values > HALUT_MAPS_MAX)
    return halut_fail(diag, HALUT_ELIMIT, 0, "%s: the maps up to it have over %d values", where,
                      HALUT_MAPS_MAX);
  graph->count++;
  return 0;
}

int halut_graph_parse(struct halut_reader *reader, const json_t *array,
                      const struct halut_model_info *info, struct halut_node nodes[HALUT_NODES_MAX],
                      uint32_t *count_out) {
  struct graph graph = {.reader = reader, .info = info, .nodes = nodes};
  size_t count = json_array_size(array); /* 0 if it is no array */
  if (count < 1 || count > HALUT_NODES_MAX)
    return halut_fail(reader->diag, count ? HALUT_ELIMIT : HALUT_EFORMAT, 0,
                      "metadata \"halut.graph\" is not an array of 1 to %d nodes", HALUT_NODES_MAX);
  for (size_t i = 0; i < count; i++) {
    int rc = node_parse(&graph, json_array_get(array, i));
    if (rc)
      return rc;
    bool last = i + 1 == count;
    if ((nodes[i].op == HALUT_OP_LINEAR) != last)
      return halut_fail(reader->diag, HALUT_EFORMAT, 0, "node \"%s\": %s", nodes[i].name,
                        last ? "the last node is not a linear" : "a linear is not the last node");
  }
  for (uint32_t i = 0; i + 1 < graph.count; i++)
    if (!graph.consumed[i])
      return halut_fail(reader->diag, HALUT_EFORMAT, 0, "node \"%s\" feeds no other node",
                        nodes[i].name);
  *count_out = graph.count;
  return 0;
}
