/* DESIGN: metadata first (format, kind, name, version, checksum), then the kind's own keys and
 * tensors, then the golden example; a tensor that nothing took is an error. Everything big stays in
 * the mapping; only nodes, labels and a few bytes are allocated. */
#include "model.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../core/pack.h"
#include "graph.h"
#include "json_load.h"
#include "safetensors.h"

enum { GOLDEN_MAX = 16, SHA256_HEX = 64, NUMBER_TEXT_MAX = 32 };

struct halut_model {
  struct halut_model_info info;
  struct halut_safetensors *file;
  struct halut_node nodes[HALUT_NODES_MAX];
  struct halut_shared shared[HALUT_NODES_MAX]; /* of the nodes; [0] of a product */
  json_t *label_array; /* owns the text of labels */
  const char **labels;
  uint8_t *input_zero;
  struct halut_tensor golden_in, golden_out; /* data NULL if the file has none */
};

enum { NETWORK = 1 << HALUT_NETWORK, PRODUCT = 1 << HALUT_PRODUCT, OPTIONAL = 8 };

static const struct metadata_rule {
  const char *key;
  unsigned flags;
} metadata_rules[] = {
    {"halut.format", NETWORK | PRODUCT},
    {"halut.kind", NETWORK | PRODUCT},
    {"halut.name", NETWORK | PRODUCT},
    {"halut.version", NETWORK | PRODUCT},
    {HALUT_SHA256_KEY, NETWORK | PRODUCT},
    {"halut.description", NETWORK | PRODUCT | OPTIONAL},
    {"halut.input", NETWORK},
    {"halut.labels", NETWORK},
    {"halut.logit_scale", NETWORK},
    {"halut.graph", NETWORK},
    {"halut.columns", PRODUCT},
    {"halut.nmse", PRODUCT | OPTIONAL},
};

enum { METADATA_RULES = sizeof(metadata_rules) / sizeof(metadata_rules[0]) };

/* Every key known and of this kind; every key that must be there is. */
static int metadata_check(const struct halut_model *model, struct halut_diag *diag) {
  unsigned kind = 1u << model->info.kind;
  const char *kind_name = model->info.kind == HALUT_NETWORK ? "network" : "product";
  size_t count;
  const struct halut_text_pair *pairs = halut_safetensors_metadata(model->file, &count);
  for (size_t i = 0; i < count; i++) {
    if (strncmp(pairs[i].key, "halut.", 6) != 0)
      continue;
    size_t rule = 0;
    while (rule < METADATA_RULES && strcmp(metadata_rules[rule].key, pairs[i].key) != 0)
      rule++;
    if (rule == METADATA_RULES)
      return halut_fail(diag, HALUT_EFORMAT, 0, "metadata \"%.64s\" is not known", pairs[i].key);
    if (!(metadata_rules[rule].flags & kind))
      return halut_fail(diag, HALUT_EFORMAT, 0, "metadata \"%s\" does not belong to a %s",
                        pairs[i].key, kind_name);
  }
  for (size_t rule = 0; rule < METADATA_RULES; rule++) {
    unsigned flags = metadata_rules[rule].flags;
    if ((flags & kind) && !(flags & OPTIONAL) &&
        !halut_safetensors_value(model->file, metadata_rules[rule].key))
      return halut_fail(diag, HALUT_EFORMAT, 0, "metadata \"%s\" is missing",
                        metadata_rules[rule].key);
  }
  return 0;
}

static int whole_parse(const struct halut_model *model, const char *key, uint32_t max,
                       uint32_t *out, struct halut_diag *diag) {
  const char *text = halut_safetensors_value(model->file, key);
  uint64_t number = 0;
  size_t i = 0;
  for (; text[i] >= '0' && text[i] <= '9' && number <= max; i++)
    number = number * 10 + (uint64_t)(text[i] - '0');
  if (text[i] || text[0] == '0' || number < 1 || number > max)
    return halut_fail(diag, HALUT_EFORMAT, 0,
                      "metadata \"%s\" is \"%.32s\", not a whole number from 1 to %u", key, text,
                      max);
  *out = (uint32_t)number;
  return 0;
}

/* A finite decimal number above or, if `zero`, at 0. */
static int real_parse(const struct halut_model *model, const char *key, bool zero, double *out,
                      struct halut_diag *diag) {
  const char *text = halut_safetensors_value(model->file, key);
  char *end = NULL;
  size_t length = strlen(text);
  double number = -1;
  if (length > 0 && length < NUMBER_TEXT_MAX && strspn(text, "0123456789.eE+-") == length)
    number = strtod(text, &end);
  if (!end || *end || !(number >= 0 && number <= FLT_MAX) || ((float)number == 0 && !zero))
    return halut_fail(diag, HALUT_EFORMAT, 0,
                      "metadata \"%s\" is \"%.32s\", not a decimal number %s 0", key, text,
                      zero ? "from" : "above");
  *out = number;
  return 0;
}

static int json_parse(const struct halut_model *model, const char *key, json_t **out,
                      struct halut_diag *diag) {
  json_error_t error;
  const char *text = halut_safetensors_value(model->file, key);
  int rc = halut_json_load(text, strlen(text), out, &error);
  if (rc == 0)
    return 0;
  if (rc == HALUT_ENOMEM)
    return halut_fail(diag, HALUT_ENOMEM, 0, "no memory for metadata \"%s\"", key);
  return halut_fail(diag, HALUT_EFORMAT, 0, "metadata \"%s\" is not JSON: character %d: %s", key,
                    error.position, error.text);
}

static int checksum_check(struct halut_model *model, struct halut_diag *diag) {
  const char *wanted = halut_safetensors_value(model->file, HALUT_SHA256_KEY);
  if (strlen(wanted) != SHA256_HEX || strspn(wanted, "0123456789abcdef") != SHA256_HEX)
    return halut_fail(diag, HALUT_EFORMAT, 0,
                      "metadata \"halut.sha256\" is not 64 lower-case hex digits");
  size_t bytes;
  uint64_t offset;
  const void *data = halut_safetensors_data(model->file, &bytes, &offset);
  halut_sha256_hex(data, bytes, model->info.sha256);
  if (strcmp(model->info.sha256, wanted) != 0)
    return halut_fail(diag, HALUT_ECHECKSUM, offset, "tensors have SHA-256 %s, not %s",
                      model->info.sha256, wanted);
  return 0;
}

static int head_parse(struct halut_model *model, struct halut_diag *diag) {
  struct halut_model_info *info = &model->info;
  info->file_bytes = halut_safetensors_file_bytes(model->file);
  const char *format = halut_safetensors_value(model->file, "halut.format");
  if (!format)
    return halut_fail(diag, HALUT_EFORMAT, 0, "not a model: metadata \"halut.format\" is missing");
  if (strcmp(format, "1") != 0)
    return halut_fail(diag, HALUT_EVERSION, 0, "metadata \"halut.format\" is \"%.32s\", not \"1\"",
                      format);
  const char *kind = halut_safetensors_value(model->file, "halut.kind");
  if (kind && strcmp(kind, "network") == 0)
    info->kind = HALUT_NETWORK;
  else if (kind && strcmp(kind, "product") == 0)
    info->kind = HALUT_PRODUCT;
  else
    return halut_fail(diag, HALUT_EFORMAT, 0,
                      "metadata \"halut.kind\" is \"%.32s\", not \"network\" or \"product\"",
                      kind ? kind : "");
  int rc = metadata_check(model, diag);
  if (rc)
    return rc;
  const char *name = halut_safetensors_value(model->file, "halut.name");
  if (!halut_name_ok(name))
    return halut_fail(
        diag, HALUT_EFORMAT, 0,
        "metadata \"halut.name\" is not 1 to 63 of [A-Za-z0-9_.-] not starting with a dot");
  memcpy(info->name, name, strlen(name) + 1);
  rc = whole_parse(model, "halut.version", UINT32_MAX, &info->version, diag);
  return rc ? rc : checksum_check(model, diag);
}

static int input_parse(struct halut_model *model, struct halut_diag *diag) {
  static const char where[] = "metadata \"halut.input\"";
  static const char *const keys[] = {"channels", "height", "width", "zero", NULL};
  struct halut_model_info *info = &model->info;
  json_t *root;
  int rc = json_parse(model, "halut.input", &root, diag);
  if (rc)
    return rc;
  if (!json_is_object(root)) {
    rc = halut_fail(diag, HALUT_EFORMAT, 0, "%s is not an object", where);
    goto done;
  }
  rc = halut_reader_members(root, keys, where, diag);
  if (!rc)
    rc = halut_reader_whole(root, "channels", where, 1, HALUT_CHANNELS_MAX, &info->channels, diag);
  if (!rc)
    rc = halut_reader_whole(root, "height", where, 1, HALUT_SIDE_MAX, &info->height, diag);
  if (!rc)
    rc = halut_reader_whole(root, "width", where, 1, HALUT_SIDE_MAX, &info->width, diag);
  if (rc)
    goto done;
  if ((uint64_t)info->channels * info->height * info->width > HALUT_VALUES_MAX) {
    rc = halut_fail(diag, HALUT_ELIMIT, 0, "%s: its map of %ux%ux%u values exceeds %d", where,
                    info->channels, info->height, info->width, HALUT_VALUES_MAX);
    goto done;
  }
  const json_t *zero = json_object_get(root, "zero");
  bool whole = json_is_array(zero) && json_array_size(zero) == info->channels;
  model->input_zero = calloc(info->channels, 1);
  if (!model->input_zero) {
    rc = halut_fail(diag, HALUT_ENOMEM, 0, "no memory for %s", where);
    goto done;
  }
  for (uint32_t c = 0; whole && c < info->channels; c++) {
    const json_t *value = json_array_get(zero, c);
    json_int_t number = json_is_integer(value) ? json_integer_value(value) : -1;
    whole = number >= 0 && number <= UINT8_MAX;
    model->input_zero[c] = (uint8_t)number;
  }
  if (!whole)
    rc = halut_fail(diag, HALUT_EFORMAT, 0,
                    "%s: \"zero\" is not an array of %u whole numbers from 0 to 255", where,
                    info->channels);
  info->input_zero = model->input_zero;
done:
  json_decref(root);
  return rc;
}

static int labels_parse(struct halut_model *model, struct halut_diag *diag) {
  int rc = json_parse(model, "halut.labels", &model->label_array, diag);
  if (rc)
    return rc;
  size_t count = json_array_size(model->label_array); /* 0 if it is no array */
  if (count < 1 || count > HALUT_LABELS_MAX)
    return halut_fail(diag, count ? HALUT_ELIMIT : HALUT_EFORMAT, 0,
                      "metadata \"halut.labels\" is not an array of 1 to %d strings",
                      HALUT_LABELS_MAX);
  if (count != model->info.classes)
    return halut_fail(diag, HALUT_ESHAPE, 0,
                      "metadata \"halut.labels\" has %zu strings for %u classes", count,
                      model->info.classes);
  model->labels = calloc(count, sizeof(*model->labels));
  if (!model->labels)
    return halut_fail(diag, HALUT_ENOMEM, 0, "no memory for %zu labels", count);
  for (size_t i = 0; i < count; i++) {
    model->labels[i] = json_string_value(json_array_get(model->label_array, i));
    if (!model->labels[i])
      return halut_fail(diag, HALUT_EFORMAT, 0,
                        "metadata \"halut.labels\": label %zu is not a string", i);
  }
  model->info.labels = model->labels;
  return 0;
}

static size_t lut_bytes(const struct halut_lut *lut) {
  return (size_t)lut->outputs * lut->codebooks * HALUT_PROTOTYPES;
}

static int network_parse(struct halut_model *model, struct halut_reader *reader) {
  struct halut_model_info *info = &model->info;
  double scale;
  json_t *graph;
  int rc = input_parse(model, reader->diag);
  if (!rc)
    rc = real_parse(model, "halut.logit_scale", false, &scale, reader->diag);
  if (!rc)
    rc = json_parse(model, "halut.graph", &graph, reader->diag);
  if (rc)
    return rc;
  info->logit_scale = (float)scale;
  rc = halut_graph_parse(reader, graph, info, model->nodes, &info->node_count);
  json_decref(graph);
  if (rc)
    return rc;
  info->nodes = model->nodes;
  info->classes = model->nodes[info->node_count - 1].channels;
  for (uint32_t i = 0; i < info->node_count; i++) {
    info->table_bytes += lut_bytes(&model->nodes[i].lut);
    model->nodes[i].lut.shared = &model->shared[i];
  }
  return labels_parse(model, reader->diag);
}

/* A tensor F32 of this shape, all finite. */
static int real_take(struct halut_reader *reader, const char *name, uint32_t rank, uint32_t first,
                     const float **out) {
  uint32_t dim[HALUT_RANK_MAX] = {first, HALUT_LEVELS};
  const void *data;
  int rc = halut_reader_take(reader, name, HALUT_F32, rank, dim, first, &data);
  if (rc)
    return rc;
  const float *value = data;
  uint32_t count = rank == 2 ? first * HALUT_LEVELS : first;
  for (uint32_t i = 0; i < count; i++)
    if (!isfinite(value[i]))
      return halut_fail(reader->diag, HALUT_EFORMAT,
                        halut_safetensors_find(reader->file, name)->offset + 4 * i,
                        "tensor \"%s\": value %u is not finite", name, i);
  *out = value;
  return 0;
}

static int product_parse(struct halut_model *model, struct halut_reader *reader) {
  struct halut_model_info *info = &model->info;
  const void *data;
  int rc = whole_parse(model, "halut.columns", HALUT_COLUMNS_MAX, &info->columns, reader->diag);
  info->heldout_nmse = NAN;
  if (!rc && halut_safetensors_value(model->file, "halut.nmse"))
    rc = real_parse(model, "halut.nmse", true, &info->heldout_nmse, reader->diag);
  if (!rc)
    rc = halut_reader_lut(reader, "", &info->lut);
  if (rc)
    return rc;
  info->lut.shared = &model->shared[0];
  uint32_t codebooks = info->lut.codebooks, dim[HALUT_RANK_MAX] = {codebooks, HALUT_LEVELS};
  rc = halut_reader_take(reader, "split", HALUT_U32, 2, dim, codebooks, &data);
  if (rc)
    return rc;
  info->split = data;
  for (uint32_t i = 0; i < codebooks * HALUT_LEVELS; i++)
    if (info->split[i] >= info->columns)
      return halut_fail(reader->diag, HALUT_EFORMAT,
                        halut_safetensors_find(reader->file, "split")->offset + 4 * i,
                        "tensor \"split\": codebook %u reads column %u of %u", i / HALUT_LEVELS,
                        info->split[i], info->columns);
  info->outputs = info->lut.outputs;
  info->table_bytes = lut_bytes(&info->lut);
  rc = real_take(reader, "low", 2, codebooks, &info->low);
  if (!rc)
    rc = real_take(reader, "inverse", 2, codebooks, &info->inverse);
  if (!rc)
    rc = real_take(reader, "scale", 1, info->outputs, &info->scale);
  if (!rc)
    rc = real_take(reader, "bias", 1, info->outputs, &info->bias);
  return rc;
}

static int golden_parse(struct halut_model *model, struct halut_reader *reader) {
  const struct halut_model_info *info = &model->info;
  bool network = info->kind == HALUT_NETWORK;
  struct halut_tensor in = {.dtype = network ? HALUT_U8 : HALUT_F32,
                            .rank = network ? 4 : 2,
                            .dim = {0, network ? info->channels : info->columns,
                                    network ? info->height : 1, network ? info->width : 1}};
  struct halut_tensor out = {.dtype = network ? HALUT_I32 : HALUT_F32,
                             .rank = 2,
                             .dim = {0, network ? info->classes : info->outputs, 1, 1}};
  if (!halut_safetensors_find(reader->file, "golden.input") &&
      !halut_safetensors_find(reader->file, "golden.output"))
    return 0;
  const void *data;
  int rc = halut_reader_take(reader, "golden.input", in.dtype, in.rank, in.dim, GOLDEN_MAX, &data);
  if (rc)
    return rc;
  in.data = (void *)(uintptr_t)data; /* read-only by contract */
  out.dim[0] = in.dim[0];
  rc = halut_reader_take(reader, "golden.output", out.dtype, out.rank, out.dim, GOLDEN_MAX, &data);
  if (rc)
    return rc;
  out.data = (void *)(uintptr_t)data;
  model->golden_in = in;
  model->golden_out = out;
  return 0;
}

static int tensors_read(struct halut_model *model, struct halut_diag *diag) {
  size_t count;
  (void)halut_safetensors_tensors(model->file, &count);
  struct halut_reader reader = {
      .file = model->file, .used = calloc(count + 1, sizeof(bool)), .diag = diag};
  if (!reader.used)
    return halut_fail(diag, HALUT_ENOMEM, 0, "no memory to read the tensors");
  int rc = model->info.kind == HALUT_NETWORK ? network_parse(model, &reader)
                                             : product_parse(model, &reader);
  if (!rc)
    rc = golden_parse(model, &reader);
  if (!rc)
    rc = halut_reader_finish(&reader);
  free(reader.used);
  return rc;
}

int halut_model_open(const char *path, struct halut_model **out, struct halut_diag *diag) {
  struct halut_model *model = calloc(1, sizeof(*model));
  if (!model)
    return halut_fail(diag, HALUT_ENOMEM, 0, "no memory to open a model");
  int rc = halut_safetensors_open(path, &model->file, diag);
  if (rc)
    goto fail;
  rc = head_parse(model, diag);
  if (rc)
    goto fail;
  rc = tensors_read(model, diag);
  if (rc)
    goto fail;
  *out = model;
  return 0;
fail:
  halut_model_close(model);
  return rc;
}

const struct halut_model_info *halut_model_info(const struct halut_model *model) {
  return &model->info;
}

const char *halut_model_description(const struct halut_model *model) {
  return halut_safetensors_value(model->file, "halut.description");
}

int halut_model_golden(const struct halut_model *model, struct halut_tensor *in,
                       struct halut_tensor *out) {
  if (!model->golden_in.data)
    return HALUT_ENOTFOUND;
  *in = model->golden_in;
  *out = model->golden_out;
  return 0;
}

void halut_model_close(struct halut_model *model) {
  if (!model)
    return;
  for (uint32_t n = 0; n < HALUT_NODES_MAX; n++)
    halut_shared_close(&model->shared[n]);
  json_decref(model->label_array);
  free(model->labels);
  free(model->input_zero);
  halut_safetensors_close(model->file);
  free(model);
}
