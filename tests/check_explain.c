/* check_explain.c: what models/compare and models/explain say. A backend that lies stands for a
 * broken one. Runs from the top folder. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "../models/compare.h"
#include "../models/explain.h"
#include "../models/safetensors.h"

enum { ROWS = 5, BATCH_MAX = 3, NEVER = -1, LIE = 1000000 };
/* The last learned layer of golden/residual: a larger value there reaches the logits. */
enum { LAST_LEARNED = 5 };

static const char *const networks[] = {"models/golden/residual.safetensors",
                                       "models/golden/strides.safetensors",
                                       "models/golden/pools.safetensors"};
enum { NETWORKS = sizeof networks / sizeof networks[0] };

/* ---- the backend that lies: the CPU's, with one sum or one map value changed ---- */

static struct {
  int calls_true;  /* first tells the truth so many times */
  int calls_left;  /* then lies in so many calls; NEVER: in all */
  int handle;      /* of the layer whose sums are wrong; NEVER: none */
  uint32_t m, row; /* of which sum */
  bool in_group;   /* only a convolution fused with an addition is wrong */
} lie;

static bool lie_due(uint32_t handle) {
  if (lie.handle != (int)handle || lie.calls_left == 0 || lie.calls_true-- > 0)
    return false;
  lie.calls_left -= lie.calls_left > 0;
  return true;
}

static int liar_product(struct halut_backend *backend, uint32_t handle, const uint8_t *value,
                        size_t rows, int32_t *acc, struct halut_stats *stats) {
  int error = halut_backend_cpu.product(backend, handle, value, rows, acc, stats);
  if (!lie.in_group && lie_due(handle))
    acc[lie.m * halut_pad_rows(rows) + lie.row] += LIE;
  return error;
}

static int liar_conv(struct halut_backend *backend, uint32_t handle, const uint8_t *in,
                     uint32_t count, const struct halut_epilogue *epilogue, uint8_t *out,
                     struct halut_stats *stats) {
  int error = halut_backend_cpu.conv(backend, handle, in, count, epilogue, out, stats);
  if (lie.in_group && epilogue->other != NULL && lie_due(handle))
    out[lie.row] = UINT8_MAX;
  return error;
}

/* With and without fused convolutions. */
static struct halut_backend_ops liar_ops(bool has_conv) {
  struct halut_backend_ops ops = halut_backend_cpu;
  ops.name = "liar";
  ops.product = liar_product;
  ops.conv = has_conv ? liar_conv : NULL;
  ops.matmul = NULL; /* so that a product goes through the lie */
  return ops;
}

/* ---- two sessions on one model, and inputs ---- */

struct pair {
  struct halut_model *model;
  struct halut_compared compared;
  void *in, *out[HALUT_COMPARED];
  struct halut_backend_ops liar;
};

static struct pair pair_open(const char *path, bool has_conv) {
  struct pair pair = {.liar = liar_ops(has_conv)};
  ck_assert_int_eq(halut_model_open(path, &pair.model, NULL), 0);
  const struct halut_model_info *info = halut_model_info(pair.model);
  pair.compared.info = info;
  pair.compared.batch_max = BATCH_MAX;
  ck_assert_int_eq(halut_session_open(pair.model, &halut_backend_cpu, NULL, BATCH_MAX,
                                      &pair.compared.session[0], NULL),
                   0);
  return pair;
}

/* The ops must not move once a session has them. */
static void pair_start(struct pair *pair) {
  ck_assert_int_eq(halut_session_open(pair->model, &pair->liar, NULL, BATCH_MAX,
                                      &pair->compared.session[1], NULL),
                   0);
  size_t in_bytes = halut_rows_in_bytes(pair->compared.info) * ROWS;
  size_t out_bytes = halut_rows_out_bytes(pair->compared.info) * ROWS;
  pair->in = malloc(in_bytes);
  pair->out[0] = malloc(out_bytes);
  pair->out[1] = malloc(out_bytes);
  uint32_t state = 1;
  bool is_network = pair->compared.info->kind == HALUT_NETWORK;
  for (size_t i = 0; i < in_bytes / (is_network ? 1 : sizeof(float)); i++) {
    state = state * 1664525u + 1013904223u;
    if (is_network)
      ((uint8_t *)pair->in)[i] = (uint8_t)(state >> 24);
    else
      ((float *)pair->in)[i] = (float)(state >> 8) * 0x1p-23f - 1;
  }
}

static void pair_close(struct pair *pair) {
  for (size_t i = 0; i < HALUT_COMPARED; i++) {
    halut_session_close(pair->compared.session[i]);
    free(pair->out[i]);
  }
  free(pair->in);
  halut_model_close(pair->model);
}

static void pair_compare(struct pair *pair, struct halut_comparison *result) {
  ck_assert_int_eq(halut_compare(&pair->compared, pair->in, ROWS, pair->out, result), 0);
}

/* Node of the n-th learned layer, whose handle is n. */
static uint32_t learned_node(const struct halut_model_info *info, int n) {
  for (uint32_t i = 0; i < info->node_count; i++)
    if (info->nodes[i].op == HALUT_OP_HALUT && n-- == 0)
      return i;
  ck_abort_msg("the model has too few learned layers");
}

/* ---- compare ---- */

START_TEST(calls_equal_backends_identical) {
  struct halut_comparison result;
  struct pair pair = pair_open(networks[_i], _i % 2 == 0);
  pair_start(&pair);
  lie.handle = NEVER;
  pair_compare(&pair, &result);
  ck_assert(result.identical);
  ck_assert_str_eq(result.sha256[0], result.sha256[1]);
  char text[HALUT_DIGEST_TEXT];
  halut_sha256_hex("abc", 3, text); /* the example of FIPS 180-2 */
  ck_assert_str_eq(text, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  ck_assert_uint_gt(result.stats[0].lookups, 0);
  ck_assert_uint_eq(result.stats[0].lookups, result.stats[1].lookups);
  pair_close(&pair);
}
END_TEST

/* A wrong sum, at a place where the right value is not 255 already, is found in its layer. */
START_TEST(finds_the_layer_and_element_that_lies) {
  struct halut_comparison result;
  struct pair pair = pair_open(networks[0], false);
  pair_start(&pair);
  const struct halut_model_info *info = pair.compared.info;
  uint32_t node = learned_node(info, LAST_LEARNED);
  uint32_t positions = info->nodes[node].height * info->nodes[node].width;
  lie.handle = LAST_LEARNED;
  lie.calls_left = NEVER;
  lie.m = 1;
  lie.row = 9;
  pair_compare(&pair, &result);
  ck_assert(!result.identical);
  ck_assert_str_ne(result.sha256[0], result.sha256[1]);
  ck_assert_uint_eq(result.first.row, 0);
  ck_assert_uint_eq(result.first.node, node);
  ck_assert_uint_eq(result.first.element, positions + 9);
  ck_assert(result.first.value[0] < UINT8_MAX && result.first.value[1] == UINT8_MAX);
  pair_close(&pair);
}
END_TEST

/* Nothing but a fused group is wrong: node by node all is well, so groups are searched. */
START_TEST(finds_a_fused_group_that_lies) {
  struct halut_comparison result;
  struct pair pair = pair_open(networks[0], true);
  pair_start(&pair);
  lie.handle = LAST_LEARNED;
  lie.calls_left = NEVER;
  lie.in_group = true;
  lie.row = 7;
  pair_compare(&pair, &result);
  ck_assert(!result.identical);
  ck_assert_uint_eq(result.first.node, learned_node(pair.compared.info, LAST_LEARNED) + 1);
  ck_assert_int_eq(pair.compared.info->nodes[result.first.node].op, HALUT_OP_ADD);
  ck_assert_uint_eq(result.first.element, 7);
  ck_assert(result.first.value[0] < UINT8_MAX && result.first.value[1] == UINT8_MAX);
  pair_close(&pair);
}
END_TEST

/* One wrong answer that does not come again is told as what it was: a wrong output. */
START_TEST(keeps_a_difference_that_does_not_come_again) {
  struct halut_comparison result;
  struct pair pair = pair_open(networks[0], false);
  pair_start(&pair);
  lie.handle = LAST_LEARNED;
  lie.calls_left = 1;
  lie.m = 1;
  lie.row = 9;
  pair_compare(&pair, &result);
  ck_assert(!result.identical);
  ck_assert_uint_eq(result.first.row, 0);
  ck_assert_uint_eq(result.first.node, pair.compared.info->node_count - 1);
  uint32_t element = result.first.element;
  ck_assert_uint_lt(element, pair.compared.info->classes);
  ck_assert(result.first.value[0] == ((int32_t *)pair.out[0])[element]);
  ck_assert(result.first.value[1] == ((int32_t *)pair.out[1])[element]);
  ck_assert(result.first.value[0] != result.first.value[1]);
  pair_close(&pair);
}
END_TEST

START_TEST(finds_the_row_of_a_product_that_lies) {
  struct halut_comparison result;
  struct pair pair = pair_open("models/golden/product-small.safetensors", false);
  pair_start(&pair);
  lie.handle = 0;
  lie.calls_left = NEVER;
  lie.calls_true = 1; /* the first BATCH_MAX rows */
  lie.m = 1;
  pair_compare(&pair, &result);
  ck_assert(!result.identical);
  ck_assert_uint_eq(result.first.row, BATCH_MAX);
  ck_assert_uint_eq(result.first.node, 0);
  ck_assert_uint_eq(result.first.element, 1);
  ck_assert(result.first.value[0] != result.first.value[1]);
  pair_close(&pair);
}
END_TEST

/* ---- explain ---- */

/* Requantise, written once more from FORMAT.md. */
static uint32_t requantise(const struct halut_requant *requant, uint32_t m, int64_t sum) {
  int64_t raised = sum + requant->bias[m];
  raised = raised < 0 ? 0 : raised > 65535 ? 65535 : raised;
  uint32_t y = (uint32_t)(raised * requant->scale[m]) >> 16;
  return y > 255 ? 255 : y;
}

/* Every output of every learned layer is the sum of the entries on its paths, requantised. */
START_TEST(adds_paths_up_to_what_the_layer_made) {
  struct pair pair = pair_open(networks[_i], false);
  pair_start(&pair);
  const struct halut_model_info *info = pair.compared.info;
  struct halut_rows rows = {pair.compared.session[0], info, BATCH_MAX};
  ck_assert_int_eq(halut_rows_run(&rows, pair.in, ROWS, pair.out[1], NULL), 0);
  for (uint32_t n = 0; n < info->node_count; n++) {
    const struct halut_node *node = &info->nodes[n];
    if (node->op != HALUT_OP_HALUT)
      continue;
    struct halut_layer_maps maps;
    uint32_t found = 0, shape[3];
    size_t positions = (size_t)node->height * node->width, codebooks = node->lut.codebooks;
    ck_assert_int_eq(halut_explain_find(info, node->name, &found, NULL), 0);
    ck_assert_uint_eq(found, n);
    ck_assert_int_eq(halut_explain_run(&rows, n, pair.in, ROWS, pair.out[0], NULL, &maps), 0);
    ck_assert_mem_eq(pair.out[0], pair.out[1], halut_rows_out_bytes(info) * ROWS);
    uint8_t *codes = malloc(ROWS * positions * codebooks);
    ck_assert_int_eq(halut_explain_codes(node, maps.in, ROWS, codes), 0);
    halut_explain_shape(info, n, shape);
    for (size_t i = 0; i < ROWS * positions; i++) {
      const uint8_t *image = maps.in + i / positions * shape[0] * shape[1] * shape[2];
      uint32_t at = (uint32_t)(i % positions), m = (uint32_t)(i * 7 % node->channels);
      int64_t sum = 0;
      for (uint32_t c = 0; c < codebooks; c++) {
        struct halut_path path;
        halut_explain_path(node, image, at / node->width, at % node->width, c, m, &path);
        ck_assert_uint_eq(path.code, codes[i * codebooks + c]);
        sum += path.entry;
      }
      size_t place = (i / positions * node->channels + m) * positions + at;
      ck_assert_uint_eq(requantise(&node->requant, m, sum), maps.out[place]);
    }
    free(codes);
    halut_explain_free(&maps);
  }
  pair_close(&pair);
}
END_TEST

/* The table entries of a product's codes add up to its sums. */
START_TEST(encodes_rows_of_a_product) {
  struct pair pair = pair_open("models/golden/product-small.safetensors", false);
  pair_start(&pair);
  const struct halut_model_info *info = pair.compared.info;
  const struct halut_lut *lut = &info->lut;
  struct halut_rows rows = {pair.compared.session[0], info, BATCH_MAX};
  uint8_t *codes = malloc((size_t)ROWS * lut->codebooks);
  ck_assert_int_eq(halut_rows_run(&rows, pair.in, ROWS, pair.out[0], NULL), 0);
  halut_explain_product(info, pair.in, ROWS, codes);
  for (uint32_t row = 0; row < ROWS; row++)
    for (uint32_t m = 0; m < lut->outputs; m++) {
      int32_t sum = 0;
      for (uint32_t c = 0; c < lut->codebooks; c++)
        sum += lut->table[(m * lut->codebooks + c) * HALUT_PROTOTYPES +
                          codes[row * lut->codebooks + c]];
      float scaled = (float)sum * info->scale[m];
      float y = scaled + info->bias[m];
      ck_assert_mem_eq(&y, (float *)pair.out[0] + row * lut->outputs + m, sizeof y);
    }
  free(codes);
  pair_close(&pair);
}
END_TEST

/* A tie goes to the even side, which a tree can tell from the other. */
START_TEST(encodes_ties_to_even) {
  static const float x[] = {2.5f, 1.5f, 3.5f, 2.51f}, low[HALUT_LEVELS] = {0};
  static const float inverse[HALUT_LEVELS] = {1, 1, 1, 1};
  static const uint8_t wanted[] = {0, 0, HALUT_PROTOTYPES - 1, HALUT_PROTOTYPES - 1};
  static const uint32_t split[HALUT_LEVELS] = {0};
  uint8_t threshold[HALUT_PROTOTYPES], codes[sizeof wanted];
  memset(threshold, 2, sizeof threshold);
  const struct halut_model_info info = {
      .kind = HALUT_PRODUCT,
      .columns = 1,
      .outputs = 1,
      .split = split,
      .low = low,
      .inverse = inverse,
      .lut = {.codebooks = 1, .outputs = 1, .threshold = threshold}};
  halut_explain_product(&info, x, sizeof wanted, codes);
  ck_assert_mem_eq(codes, wanted, sizeof wanted);
}
END_TEST

START_TEST(names_the_learned_layers_there_are) {
  struct halut_diag diag = {0};
  uint32_t node = 77;
  struct pair pair = pair_open(networks[0], false);
  pair_start(&pair);
  const struct halut_model_info *info = pair.compared.info;
  ck_assert_int_eq(halut_explain_find(info, "none-such", &node, &diag), HALUT_ENOTFOUND);
  ck_assert_uint_eq(node, 77);
  ck_assert_ptr_nonnull(strstr(diag.text, "none-such"));
  ck_assert_ptr_nonnull(strstr(diag.text, info->nodes[learned_node(info, 0)].name));
  /* The classifier is there, but is not learned. */
  ck_assert_int_eq(halut_explain_find(info, info->nodes[info->node_count - 1].name, &node, NULL),
                   HALUT_ENOTFOUND);
  pair_close(&pair);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("explain");
  TCase *compare = tcase_create("compare"), *explain = tcase_create("explain");
  tcase_set_timeout(compare, 60);
  tcase_set_timeout(explain, 60);
  tcase_add_loop_test(compare, calls_equal_backends_identical, 0, NETWORKS);
  tcase_add_test(compare, finds_the_layer_and_element_that_lies);
  tcase_add_test(compare, finds_a_fused_group_that_lies);
  tcase_add_test(compare, keeps_a_difference_that_does_not_come_again);
  tcase_add_test(compare, finds_the_row_of_a_product_that_lies);
  tcase_add_loop_test(explain, adds_paths_up_to_what_the_layer_made, 0, NETWORKS);
  tcase_add_test(explain, encodes_rows_of_a_product);
  tcase_add_test(explain, encodes_ties_to_even);
  tcase_add_test(explain, names_the_learned_layers_there_are);
  suite_add_tcase(suite, compare);
  suite_add_tcase(suite, explain);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
