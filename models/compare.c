/* DESIGN: outputs decide. Only where they differ is a row run again under observation: the first
 * session's values are kept end to end in one block, and the second's are compared as they come. */
#include "compare.h"

#include <stdlib.h>
#include <string.h>

#include "rows.h"
#include "safetensors.h"

/* Where the values of a row's nodes are kept, and what came of comparing with them. */
struct search {
  const struct halut_model_info *info;
  uint8_t *kept;
  size_t place[HALUT_NODES_MAX];
  bool is_found;
  struct halut_difference first;
};

static size_t node_bytes(const struct halut_model_info *info, uint32_t node) {
  if (info->kind == HALUT_PRODUCT)
    return info->outputs * sizeof(float);
  const struct halut_node *one = &info->nodes[node];
  size_t values = (size_t)one->channels * one->height * one->width;
  return one->op == HALUT_OP_LINEAR ? values * sizeof(int32_t) : values;
}

static void keep(void *self, uint32_t node, const struct halut_tensor *value) {
  struct search *search = self;
  memcpy(search->kept + search->place[node], value->data, node_bytes(search->info, node));
}

static double element_of(enum halut_dtype dtype, const void *data, size_t element) {
  if (dtype == HALUT_U8)
    return ((const uint8_t *)data)[element];
  int32_t whole;
  float real;
  memcpy(&whole, (const char *)data + element * sizeof whole, sizeof whole);
  memcpy(&real, &whole, sizeof real);
  return dtype == HALUT_I32 ? (double)whole : (double)real;
}

/* The first element of `bytes` in which a and b differ, which they do. */
static void difference_set(struct halut_difference *first, uint32_t node, enum halut_dtype dtype,
                           const void *a, const void *b) {
  size_t each = halut_dtype_bytes(dtype), element = 0;
  while (memcmp((const char *)a + element * each, (const char *)b + element * each, each) == 0)
    element++;
  first->node = node;
  first->element = (uint32_t)element;
  first->value[0] = element_of(dtype, a, element);
  first->value[1] = element_of(dtype, b, element);
}

static void look(void *self, uint32_t node, const struct halut_tensor *value) {
  struct search *search = self;
  const void *kept = search->kept + search->place[node];
  if (search->is_found || memcmp(kept, value->data, node_bytes(search->info, node)) == 0)
    return;
  search->is_found = true;
  difference_set(&search->first, node, value->dtype, kept, value->data);
}

/* One row on both sessions, observed. `out` is memory for one output. */
static int search_run(const struct halut_compared *pair, struct search *search, const void *in,
                      void *out, int plain) {
  static halut_observe_fn *const observers[HALUT_COMPARED] = {keep, look};
  int error = HALUT_OK;
  for (size_t i = 0; i < HALUT_COMPARED && error == HALUT_OK; i++) {
    struct halut_rows rows = {pair->session[i], pair->info, pair->batch_max};
    halut_session_observe(pair->session[i], observers[i], search, plain);
    error = halut_rows_run(&rows, in, 1, out, NULL);
    halut_session_observe(pair->session[i], NULL, NULL, 0);
  }
  return error;
}

static int first_find(const struct halut_compared *pair, const void *in, void *out,
                      struct halut_difference *first) {
  const struct halut_model_info *info = pair->info;
  struct search search = {.info = info};
  uint32_t nodes = info->kind == HALUT_NETWORK ? info->node_count : 1;
  size_t bytes = 0;
  int error = HALUT_OK;
  for (uint32_t n = 0; n < nodes; n++) {
    search.place[n] = bytes;
    bytes += (node_bytes(info, n) + HALUT_ALIGN - 1) / HALUT_ALIGN * HALUT_ALIGN;
  }
  search.kept = malloc(bytes);
  if (search.kept == NULL)
    return HALUT_ENOMEM;
  for (int plain = 1; plain >= 0 && error == HALUT_OK && !search.is_found; plain--)
    error = search_run(pair, &search, in, out, plain);
  if (error == HALUT_OK && search.is_found) {
    search.first.row = first->row;
    *first = search.first;
  }
  free(search.kept);
  return error;
}

int halut_compare(const struct halut_compared *pair, const void *in, uint32_t rows,
                  void *const out[HALUT_COMPARED], struct halut_comparison *result) {
  const struct halut_model_info *info = pair->info;
  size_t each = halut_rows_out_bytes(info);
  *result = (struct halut_comparison){.identical = true};
  for (size_t i = 0; i < HALUT_COMPARED; i++) {
    struct halut_rows one = {pair->session[i], info, pair->batch_max};
    int error = halut_rows_run(&one, in, rows, out[i], &result->stats[i]);
    if (error != HALUT_OK)
      return error;
    halut_sha256_hex(out[i], each * rows, result->sha256[i]);
  }
  uint32_t row = 0;
  while (row < rows && memcmp((char *)out[0] + row * each, (char *)out[1] + row * each, each) == 0)
    row++;
  if (row == rows)
    return HALUT_OK;
  result->identical = false;
  result->first.row = row;
  difference_set(&result->first, info->kind == HALUT_NETWORK ? info->node_count - 1 : 0,
                 info->kind == HALUT_NETWORK ? HALUT_I32 : HALUT_F32, (char *)out[0] + row * each,
                 (char *)out[1] + row * each);
  void *again = malloc(each);
  if (again == NULL)
    return HALUT_ENOMEM;
  int error = first_find(pair, (const char *)in + row * halut_rows_in_bytes(info), again,
                         &result->first);
  free(again);
  return error;
}
