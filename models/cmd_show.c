#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "graph.h"

struct show_args {
  bool json;
};

static const struct halut_option options[] = {{"json", 'j', NULL, "print one JSON object a file",
                                               HALUT_OPTION_FLAG, offsetof(struct show_args, json),
                                               0, 0},
                                              {0}};

static uint64_t node_lookups(const struct halut_node *node) {
  return (uint64_t)node->height * node->width * node->lut.codebooks * node->lut.outputs;
}

static size_t lut_bytes(const struct halut_lut *lut) {
  return (size_t)lut->codebooks * lut->outputs * HALUT_PROTOTYPES;
}

/* Multiplications that a dense layer of this shape takes: what tables replace, or what is left. */
static uint64_t node_products(const struct halut_node *node) {
  const struct halut_conv *conv = &node->conv;
  uint64_t taps = node->op == HALUT_OP_LINEAR ? (uint64_t)conv->height * conv->width
                                              : (uint64_t)conv->kernel_h * conv->kernel_w;
  bool multiplies = node->op == HALUT_OP_HALUT || node->weight;
  return multiplies ? taps * conv->channels * node->channels * node->height * node->width : 0;
}

/* "3x3/2+1": kernel, stride unless 1, pad unless 0; y x x where they differ. */
static void window_text(const struct halut_node *node, char text[48]) {
  const struct halut_conv *conv = &node->conv;
  int at = 0;
  text[0] = '\0';
  if (conv->kernel_h)
    at = snprintf(text, 48, "%ux%u", conv->kernel_h, conv->kernel_w);
  if (conv->stride_h > 1 || conv->stride_w > 1)
    at += snprintf(text + at, 48 - (size_t)at, "/%u", conv->stride_h);
  if (conv->stride_h != conv->stride_w)
    at += snprintf(text + at, 48 - (size_t)at, "x%u", conv->stride_w);
  if (conv->pad_h || conv->pad_w)
    at += snprintf(text + at, 48 - (size_t)at, "+%u", conv->pad_h);
  if (conv->pad_h != conv->pad_w)
    snprintf(text + at, 48 - (size_t)at, "x%u", conv->pad_w);
}

/* Examples of the golden input, 0 if there are none. */
static uint32_t examples_count(const struct halut_model *model) {
  struct halut_tensor in, out;
  return halut_model_golden(model, &in, &out) ? 0 : in.dim[0];
}

static void head_print(const char *path, const struct halut_model *model) {
  const struct halut_model_info *info = halut_model_info(model);
  const char *description = halut_model_description(model);
  printf("%s: %s \"%s\" version %u, %zu bytes, tables %zu bytes\n", path,
         info->kind == HALUT_NETWORK ? "network" : "product", info->name, info->version,
         info->file_bytes, info->table_bytes);
  if (description) {
    halut_cli_print(stdout, description, 0, -1);
    putchar('\n');
  }
  printf("SHA-256 of the tensors %s; golden examples: %u\n", info->sha256, examples_count(model));
}

static void product_print(const struct halut_model_info *info) {
  printf("%u columns -> %u outputs by %u codebooks of %d prototypes: %" PRIu64 " lookups a row\n",
         info->columns, info->outputs, info->lut.codebooks, HALUT_PROTOTYPES,
         (uint64_t)info->lut.codebooks * info->outputs);
  if (info->heldout_nmse == info->heldout_nmse)
    printf("error on held-out rows: NMSE %.6g, R2 %.6g\n", info->heldout_nmse,
           1 - info->heldout_nmse);
}

static void input_name(const struct halut_model_info *info, uint32_t value, char *text,
                       size_t bytes) {
  snprintf(text, bytes, "%s", value == 0 ? "input" : info->nodes[value - 1].name);
}

static void node_print(const struct halut_model_info *info, const struct halut_node *node) {
  char shape[48], window[48], from[2 * HALUT_NAME_MAX + 4];
  window_text(node, window);
  snprintf(shape, sizeof shape, "%ux%ux%u", node->channels, node->height, node->width);
  input_name(info, node->in[0], from, sizeof from);
  if (node->op == HALUT_OP_ADD) {
    size_t used = strlen(from);
    snprintf(from + used, sizeof from - used, " + ");
    input_name(info, node->in[1], from + used + 3, sizeof from - used - 3);
  }
  printf("%-20s %-8s %-11s %-12s ", node->name, halut_op_name(node->op), window, shape);
  if (node->op == HALUT_OP_HALUT)
    printf("%9u %11zu %11" PRIu64, node->lut.codebooks, lut_bytes(&node->lut), node_lookups(node));
  else
    printf("%9s %11s %11s", "", "", "");
  printf("  %s\n", from);
}

static void network_print(const struct halut_model_info *info) {
  uint64_t lookups = 0, replaced = 0, left = 0;
  printf("%ux%ux%u image -> %u classes:", info->channels, info->height, info->width, info->classes);
  for (uint32_t i = 0; i < info->classes && i < 20; i++) {
    putchar(' ');
    halut_cli_print(stdout, info->labels[i], 0, -1);
  }
  printf("%s\n\n%-20s %-8s %-11s %-12s %9s %11s %11s  %s\n", info->classes > 20 ? " ..." : "",
         "layer", "op", "window", "output", "codebooks", "table bytes", "lookups", "reads");
  for (uint32_t n = 0; n < info->node_count; n++) {
    node_print(info, &info->nodes[n]);
    lookups += node_lookups(&info->nodes[n]);
    if (info->nodes[n].op == HALUT_OP_HALUT)
      replaced += node_products(&info->nodes[n]);
    else
      left += node_products(&info->nodes[n]);
  }
  printf("%-20s %-8s %-11s %-12s %9s %11zu %11" PRIu64 "\n", "all", "", "", "", "",
         info->table_bytes, lookups);
  printf("\n%" PRIu64 " lookups an image replace %" PRIu64 " multiplications; %" PRIu64
         " are left\n",
         lookups, replaced, left);
}

static json_t *layers_json(const struct halut_model_info *info) {
  json_t *layers = json_array();
  for (uint32_t n = 0; n < info->node_count; n++) {
    const struct halut_node *node = &info->nodes[n];
    bool is_learned = node->op == HALUT_OP_HALUT;
    json_array_append_new(layers, json_pack("{s:s, s:s, s:[i,i,i], s:i, s:I, s:I, s:I}", "name",
                                            node->name, "op", halut_op_name(node->op), "output",
                                            node->channels, node->height, node->width, "codebooks",
                                            is_learned ? node->lut.codebooks : 0, "table_bytes",
                                            (json_int_t)(is_learned ? lut_bytes(&node->lut) : 0),
                                            "lookups", (json_int_t)node_lookups(node),
                                            "multiplications", (json_int_t)node_products(node)));
  }
  return layers;
}

static json_t *info_json(const char *path, const struct halut_model *model) {
  const struct halut_model_info *info = halut_model_info(model);
  json_t *object = json_pack(
      "{s:o, s:s, s:s, s:s*, s:I, s:I, s:I, s:s, s:I}", "file", halut_cli_text(path), "kind",
      info->kind == HALUT_NETWORK ? "network" : "product", "name", info->name, "description",
      halut_model_description(model), "version", (json_int_t)info->version, "file_bytes",
      (json_int_t)info->file_bytes, "table_bytes", (json_int_t)info->table_bytes, "sha256",
      info->sha256, "golden", (json_int_t)examples_count(model));
  if (object && info->kind == HALUT_NETWORK) {
    json_object_set_new(object, "input",
                        json_pack("[i,i,i]", info->channels, info->height, info->width));
    json_object_set_new(object, "classes", json_integer(info->classes));
    json_object_set_new(object, "layers", layers_json(info));
  } else if (object) {
    json_object_set_new(object, "columns", json_integer(info->columns));
    json_object_set_new(object, "outputs", json_integer(info->outputs));
    json_object_set_new(object, "codebooks", json_integer(info->lut.codebooks));
    if (info->heldout_nmse == info->heldout_nmse)
      json_object_set_new(object, "nmse", json_real(info->heldout_nmse));
  }
  return object;
}

static int model_show(const struct halut_command *command, const struct show_args *args,
                      const char *path) {
  struct halut_model *model = NULL;
  if (!halut_cli_model(command, path, &model))
    return HALUT_EXIT_FAILURE;
  const struct halut_model_info *info = halut_model_info(model);
  int exit_code = HALUT_EXIT_OK;
  if (args->json) {
    exit_code = halut_cli_json(command, info_json(path, model));
  } else {
    head_print(path, model);
    if (info->kind == HALUT_NETWORK)
      network_print(info);
    else
      product_print(info);
  }
  halut_model_close(model);
  return exit_code;
}

static int show_run(const struct halut_command *command, int argc, char **argv) {
  struct show_args args = {0};
  int count, exit_code;
  if (!halut_cli_parse(command, argc, argv, &args, &count, &exit_code))
    return exit_code;
  exit_code = HALUT_EXIT_OK;
  for (int i = 0; i < count; i++) {
    int one = model_show(command, &args, argv[i]);
    exit_code = one > exit_code ? one : exit_code;
  }
  int finish = halut_cli_finish(command);
  return exit_code ? exit_code : finish;
}

const struct halut_command halut_command_show = {
    .name = "show",
    .operands = "FILE...",
    .summary = "Describe model files: layers, shapes, codebooks, table bytes, lookups, error",
    .options = options,
    .operands_min = 1,
    .operands_max = -1,
    .run = show_run};
