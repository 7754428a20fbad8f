#include <stdio.h>
#include <string.h>

#include "handlers.h"

/* What a request may name: the nodes of a network. */
static void layers_print(const struct halut_model_info *info, struct halut_json_out *out) {
  halut_json_out_format(out, ",\"layers\":[");
  for (uint32_t n = 0; n < info->node_count; n++) {
    const struct halut_node *node = &info->nodes[n];
    halut_json_out_format(out,
                          "%s{\"name\":\"%s\",\"op\":\"%s\",\"channels\":%u,\"height\":%u"
                          ",\"width\":%u",
                          n > 0 ? "," : "", node->name, halut_op_name(node->op), node->channels,
                          node->height, node->width);
    if (node->op == HALUT_OP_HALUT)
      halut_json_out_format(out, ",\"codebooks\":%u", node->lut.codebooks);
    halut_json_out_format(out, "}");
  }
  halut_json_out_format(out, "]");
}

static void entry_print(const struct halut_catalog *catalog, const struct halut_entry *entry,
                        bool is_whole, struct halut_json_out *out) {
  const struct halut_model_info *info = entry->info;
  halut_json_out_format(out, "{\"name\":\"%s\",\"version\":%u,\"kind\":\"%s\"", info->name,
                        info->version, info->kind == HALUT_NETWORK ? "network" : "product");
  if (info->kind == HALUT_NETWORK) {
    halut_json_out_format(out,
                          ",\"channels\":%u,\"height\":%u,\"width\":%u,\"classes\":%u,\"labels\":[",
                          info->channels, info->height, info->width, info->classes);
    for (uint32_t i = 0; i < info->classes; i++) {
      halut_json_out_format(out, i > 0 ? "," : "");
      halut_json_out_string(out, info->labels[i]);
    }
    halut_json_out_format(out, "]");
    if (is_whole)
      layers_print(info, out);
  } else {
    halut_json_out_format(out, ",\"columns\":%u,\"outputs\":%u,\"codebooks\":%u", info->columns,
                          info->outputs, info->lut.codebooks);
    if (info->heldout_nmse == info->heldout_nmse)
      halut_json_out_format(out, ",\"nmse\":%.6g", info->heldout_nmse);
  }
  halut_json_out_format(out,
                        ",\"table_bytes\":%zu,\"file_bytes\":%zu,\"sha256\":\"%s\",\"backends\":[",
                        info->table_bytes, info->file_bytes, info->sha256);
  for (uint32_t b = 0; b < catalog->options.backend_count; b++)
    halut_json_out_format(out, "%s\"%s\"", b > 0 ? "," : "", catalog->options.backends[b]->name);
  halut_json_out_format(out, "]");
}

/* What TensorFlow Serving's clients read, and KServe's. */
static void status_print(const struct halut_catalog *catalog, const char *name, uint32_t version,
                         struct halut_json_out *out) {
  bool is_first = true;
  halut_json_out_format(out, ",\"ready\":true,\"model_version_status\":[");
  for (uint32_t i = 0; i < catalog->count; i++) {
    const struct halut_model_info *info = catalog->entries[i]->info;
    if (strcmp(info->name, name) != 0 || (version != 0 && info->version != version))
      continue;
    halut_json_out_format(out,
                          "%s{\"version\":\"%u\",\"state\":\"AVAILABLE\","
                          "\"status\":{\"error_code\":\"OK\",\"error_message\":\"\"}}",
                          is_first ? "" : ",", info->version);
    is_first = false;
  }
  halut_json_out_format(out, "]");
}

void halut_handle_models(void *self, struct halut_request *request) {
  const struct halut_app *app = self;
  struct halut_json_out out = {0};
  halut_json_out_format(&out, "{\"models\":[");
  for (uint32_t i = 0; i < app->catalog->count; i++) {
    halut_json_out_format(&out, i > 0 ? "," : "");
    entry_print(app->catalog, app->catalog->entries[i], false, &out);
    halut_json_out_format(&out, "}");
  }
  halut_json_out_format(&out, "]}\n");
  halut_answer(request, 200, "application/json", &out);
}

/* The model that the path names, and the version in it, 0 if there is none; NULL if it is
 * answered. */
static const struct halut_entry *entry_asked(const struct halut_app *app,
                                             struct halut_request *request, uint32_t *version) {
  struct halut_entry *entry = NULL;
  char name[HALUT_NAME_MAX];
  snprintf(name, sizeof name, "%.*s", (int)request->capture[0].bytes, request->capture[0].text);
  if (!halut_version_read(request, 1, version))
    return NULL;
  if (request->capture[0].bytes < sizeof name)
    entry = halut_catalog_named(app->catalog, name, *version);
  if (entry == NULL && *version != 0)
    halut_request_error(request, 404, "no version %u of a model named \"%s\"", *version, name);
  else if (entry == NULL)
    halut_request_error(request, 404, "no model named \"%s\"", name);
  return entry;
}

void halut_handle_model(void *self, struct halut_request *request) {
  const struct halut_app *app = self;
  struct halut_json_out out = {0};
  uint32_t version = 0;
  const struct halut_entry *entry = entry_asked(app, request, &version);
  if (entry == NULL)
    return;
  entry_print(app->catalog, entry, true, &out);
  status_print(app->catalog, entry->info->name, version, &out);
  halut_json_out_format(&out, "}\n");
  halut_answer(request, 200, "application/json", &out);
}

/* ---- what TensorFlow Serving calls metadata ---- */

static void signature_print(const char *name, const char *type, uint32_t rank, const uint32_t *dim,
                            struct halut_json_out *out) {
  halut_json_out_format(out, "{\"%s\":{\"dtype\":\"%s\",\"tensor_shape\":{\"dim\":[", name, type);
  halut_json_out_format(out, "{\"size\":\"-1\",\"name\":\"\"}");
  for (uint32_t i = 0; i < rank; i++)
    halut_json_out_format(out, ",{\"size\":\"%u\",\"name\":\"\"}", dim[i]);
  halut_json_out_format(out, "],\"unknown_rank\":false},\"name\":\"%s:0\"}}", name);
}

void halut_handle_metadata(void *self, struct halut_request *request) {
  struct halut_json_out out = {0};
  uint32_t version = 0;
  const struct halut_entry *entry = entry_asked(self, request, &version);
  if (entry == NULL)
    return;
  const struct halut_model_info *info = entry->info;
  bool is_network = info->kind == HALUT_NETWORK;
  halut_json_out_format(&out,
                        "{\"model_spec\":{\"name\":\"%s\",\"signature_name\":\"\","
                        "\"version\":\"%u\"},\"metadata\":{\"signature_def\":{\"signature_def\":"
                        "{\"serving_default\":{\"inputs\":",
                        info->name, info->version);
  if (is_network)
    signature_print("image", "DT_UINT8", 3,
                    (uint32_t[]){info->channels, info->height, info->width}, &out);
  else
    signature_print("a", "DT_FLOAT", 1, &info->columns, &out);
  halut_json_out_format(&out, ",\"outputs\":");
  signature_print(is_network ? "probabilities" : "c", "DT_FLOAT", 1,
                  is_network ? &info->classes : &info->outputs, &out);
  halut_json_out_format(&out, ",\"method_name\":\"tensorflow/serving/predict\"}}}}}\n");
  halut_answer(request, 200, "application/json", &out);
}
