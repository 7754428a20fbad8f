/* The cpu backend's convolution from maps to maps against its plain meaning: gather, product on
 * `ref`, requantise, pool, add. Byte for byte, under every ceiling that this processor has.
 *
 * HALUT_SEED=N repeats a run. Maps touch an unreadable page at one end or the other. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "../core/backend.h"
#include "../core/conv_cpu.h"
#include "../core/cpu.h"
#include "../core/dense.h"
#include "../core/pack.h"

enum { ROUNDS = 120, GUARD = 64 };

static uint64_t seed, helped;
static struct halut_helper *helper; /* of every second call, with a thread of its own */

static uint32_t below(uint32_t bound) { /* splitmix64 */
  uint64_t z = seed += 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return (uint32_t)((z ^ z >> 31) >> 32) % bound;
}

static void *need(size_t bytes) {
  void *memory = halut_alloc(bytes);
  ck_assert_ptr_nonnull(memory);
  return memory;
}

struct fenced {
  uint8_t *map, *data;
  size_t map_bytes;
};

/* `bytes` that start just after an unreadable page, or end just before one. */
static struct fenced fenced_make(size_t bytes, int at_start) {
  size_t page = (size_t)sysconf(_SC_PAGESIZE), inside = (bytes + page - 1) / page * page;
  struct fenced f = {.map_bytes = inside + 2 * page};
  f.map = mmap(NULL, f.map_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ck_assert_ptr_ne(f.map, MAP_FAILED);
  ck_assert_int_eq(mprotect(f.map + page, inside, PROT_READ | PROT_WRITE), 0);
  f.data = f.map + page + (at_start ? 0 : inside - bytes);
  return f;
}

struct layer {
  struct halut_conv conv;
  struct halut_lut lut;
  struct halut_epilogue epilogue;
  uint16_t *split;
  uint8_t *threshold;
  int8_t *table;
  int32_t *bias;
  uint16_t *scale;
  uint32_t count;
  size_t in_plane, out_plane; /* values of a channel; of an output after pooling */
};

/* Any kernel whose output is as large as its input, also one that is larger than the map. */
static void shape_same(struct halut_conv *conv) {
  static const uint8_t narrow[][2] = {{64, 1}, {1, 64}, {32, 2}, {2, 2}, {1, 1}, {4, 4}};
  const uint32_t i = below(12);
  if (i < 6) {
    conv->height = narrow[i][0];
    conv->width = narrow[i][1];
  }
  conv->pad_h = below(8);
  conv->pad_w = below(8);
  conv->kernel_h = 2 * conv->pad_h + 1;
  conv->kernel_w = 2 * conv->pad_w + 1;
}

static void shape_pick(struct halut_conv *conv) {
  static const uint8_t square[] = {1, 2, 4, 8, 16, 32};
  conv->channels = 1 + below(5);
  conv->height = below(2) ? square[below(6)] : 1 + below(20);
  conv->width = below(2) ? conv->height : 1 + below(33);
  conv->kernel_h = conv->kernel_w = conv->stride_h = conv->stride_w = 1;
  conv->pad_h = conv->pad_w = 0;
  if (below(4)) { /* the common case: 3 x 3, same size */
    conv->kernel_h = conv->kernel_w = 3;
    conv->pad_h = conv->pad_w = 1;
  }
  if (!below(4)) { /* one that can be cut between its rows */
    conv->height = conv->width = 16u << below(2);
  } else if (!below(3)) {
    shape_same(conv);
  } else if (!below(3)) {
    conv->kernel_h = 1 + below(5);
    conv->kernel_w = 1 + below(5);
    conv->stride_h = 1 + below(3);
    conv->stride_w = 1 + below(3);
    conv->pad_h = conv->kernel_h - 1;
    conv->pad_w = conv->kernel_w - 1;
  }
  conv->out_h = (conv->height + 2 * conv->pad_h - conv->kernel_h) / conv->stride_h + 1;
  conv->out_w = (conv->width + 2 * conv->pad_w - conv->kernel_w) / conv->stride_w + 1;
}

/* One image is cut otherwise than many; more small ones than share a block begin another. */
static uint32_t count_pick(const struct halut_conv *conv) {
  const uint32_t positions = conv->out_h * conv->out_w;
  const uint32_t together = HALUT_CODE_BLOCK / (positions < 128 ? positions : 128);
  if (below(2)) return 1;
  return below(3) ? 1 + below(10) : together + below(together + 2);
}

/* A kernel whose masks would take more than is allowed for: 31 x 31 at 160 x 160. */
static void shape_large(struct halut_conv *conv) {
  *conv = (struct halut_conv){.channels = 2,
                              .height = 160,
                              .width = 160,
                              .kernel_h = 31,
                              .kernel_w = 31,
                              .stride_h = 1,
                              .stride_w = 1,
                              .pad_h = 15,
                              .pad_w = 15,
                              .out_h = 160,
                              .out_w = 160};
}

/* Everything but the shape and the count. */
static void layer_make(struct layer *layer) {
  static const uint16_t codebooks[] = {1, 2, 3, 4, 5, 9, 16, 33, 64, 256, 257, 300};
  struct halut_lut *lut = &layer->lut;
  struct halut_conv *conv = &layer->conv;
  lut->codebooks = codebooks[below(conv->height * conv->width > 200 ? 8 : 12)];
  lut->outputs = 1 + below(70);
  size_t tables = (size_t)lut->outputs * lut->codebooks;
  layer->split = need(lut->codebooks * HALUT_LEVELS * sizeof *layer->split);
  layer->threshold = need((size_t)lut->codebooks * HALUT_PROTOTYPES);
  layer->table = need(tables * HALUT_PROTOTYPES);
  layer->bias = need(lut->outputs * sizeof *layer->bias);
  layer->scale = need(lut->outputs * sizeof *layer->scale);
  for (size_t i = 0; i < (size_t)lut->codebooks * HALUT_LEVELS; i++)
    layer->split[i] = (uint16_t)below(conv->channels * conv->kernel_h * conv->kernel_w);
  for (size_t i = 0; i < (size_t)lut->codebooks * HALUT_PROTOTYPES; i++)
    layer->threshold[i] = (uint8_t)below(256);
  for (size_t i = 0; i < tables; i++) {
    int scale = 1 << below(8);
    for (size_t k = 0; k < HALUT_PROTOTYPES; k++)
      layer->table[i * HALUT_PROTOTYPES + k] = (int8_t)(((int)below(256) - 128) / scale);
  }
  for (uint32_t m = 0; m < lut->outputs; m++) {
    static const int32_t odd[] = {INT32_MIN, INT32_MAX, 65535, -65536, 0};
    layer->bias[m] = below(5) ? (int32_t)below(4000) - 1000 : odd[below(5)];
    layer->scale[m] = (uint16_t)below(65536);
  }
  lut->threshold = layer->threshold;
  lut->table = layer->table;
  conv->split = layer->split;
  bool is_even = conv->out_h % 2 == 0 && conv->out_w % 2 == 0;
  bool is_third = conv->out_h % 3 == 0 && conv->out_w % 3 == 0;
  layer->epilogue = (struct halut_epilogue){.requant = {layer->bias, layer->scale}, .pool = 1};
  if (is_third && below(2))
    layer->epilogue.pool = 3;
  if (is_even && below(2))
    layer->epilogue.pool = 2;
  layer->epilogue.zero = below(2) ? (uint8_t)below(256) : 0;
  layer->in_plane = (size_t)conv->height * conv->width;
  layer->out_plane =
      (size_t)(conv->out_h / layer->epilogue.pool) * (conv->out_w / layer->epilogue.pool);
}

static void layer_free(struct layer *layer) {
  free(layer->split);
  free(layer->threshold);
  free(layer->table);
  free(layer->bias);
  free(layer->scale);
}

static uint8_t map_value(const struct layer *layer, const uint8_t *image, uint16_t split,
                         uint32_t y, uint32_t x) {
  const struct halut_conv *conv = &layer->conv;
  int row = (int)(y * conv->stride_h + split / conv->kernel_w % conv->kernel_h) - (int)conv->pad_h;
  int column = (int)(x * conv->stride_w + split % conv->kernel_w) - (int)conv->pad_w;
  if (row < 0 || row >= (int)conv->height || column < 0 || column >= (int)conv->width)
    return 0;
  size_t channel = split / (conv->kernel_w * conv->kernel_h);
  return image[channel * layer->in_plane + (size_t)row * conv->width + (size_t)column];
}

static uint8_t plain_requantise(int64_t sum, uint16_t scale) {
  if (sum < 0)
    sum = 0;
  if (sum > 65535)
    sum = 65535;
  sum = sum * scale / 65536;
  return (uint8_t)(sum > 255 ? 255 : sum);
}

/* One image: gather, product, requantise, pool, add, each as halut.h and backend.h word it. */
static void plain_image(const struct layer *layer, struct halut_backend *ref, uint32_t handle,
                        const uint8_t *image, const uint8_t *other, uint8_t *out) {
  const struct halut_conv *conv = &layer->conv;
  uint32_t rows = conv->out_h * conv->out_w, pool = layer->epilogue.pool;
  size_t padded = halut_pad_rows(rows), levels = (size_t)layer->lut.codebooks * HALUT_LEVELS;
  uint8_t *value = need(levels * padded);
  int32_t *acc = need(layer->lut.outputs * padded * sizeof *acc);
  for (size_t i = 0; i < levels; i++)
    for (uint32_t row = 0; row < rows; row++)
      value[i * padded + row] =
          map_value(layer, image, layer->split[i], row / conv->out_w, row % conv->out_w);
  ck_assert_int_eq(halut_backend_cpu.product(ref, handle, value, rows, acc, NULL), 0);
  for (uint32_t m = 0; m < layer->lut.outputs; m++)
    for (size_t i = 0; i < layer->out_plane; i++) {
      size_t wide = conv->out_w / pool;
      int most = 0;
      for (uint32_t p = 0; p < pool * pool; p++) {
        size_t row = (i / wide * pool + p / pool) * conv->out_w + i % wide * pool + p % pool;
        int one =
            plain_requantise((int64_t)acc[m * padded + row] + layer->bias[m], layer->scale[m]);
        most = one > most ? one : most;
      }
      if (other)
        most += other[m * layer->out_plane + i] - layer->epilogue.zero;
      out[m * layer->out_plane + i] = (uint8_t)(most < 0 ? 0 : most > 255 ? 255 : most);
    }
  free(value);
  free(acc);
}

static void plain(const struct layer *layer, const uint8_t *in, const uint8_t *other,
                  uint8_t *out) {
  struct halut_backend *ref = NULL;
  uint32_t handle = 0;
  size_t in_bytes = layer->conv.channels * layer->in_plane;
  size_t out_bytes = layer->lut.outputs * layer->out_plane;
  ck_assert_int_eq(halut_backend_cpu.open("cpu=ref", &ref, NULL), 0);
  ck_assert_int_eq(halut_backend_cpu.load(ref, &layer->lut, NULL, &handle, NULL), 0);
  for (uint32_t i = 0; i < layer->count; i++)
    plain_image(layer, ref, handle, in + i * in_bytes, other ? other + i * out_bytes : NULL,
                out + i * out_bytes);
  halut_backend_cpu.close(ref);
}

static void check_one(const struct layer *layer, const char *options, const uint8_t *in,
                      const uint8_t *want, uint8_t *got, size_t bytes) {
  struct halut_backend *backend = NULL;
  struct halut_stats stats = {0};
  uint32_t handle = 0;
  const struct halut_conv *conv = &layer->conv;
  ck_assert_int_eq(halut_backend_cpu.open(options, &backend, NULL), 0);
  ck_assert_int_eq(halut_backend_cpu.load(backend, &layer->lut, conv, &handle, NULL), 0);
  for (int again = 0; again < 4; again++) { /* scratch that was used must not show */
    halut_backend_cpu.help(backend, again % 2 ? helper : NULL);
    memset(got - GUARD, 0xa5, bytes + 2 * GUARD);
    ck_assert_int_eq(
        halut_backend_cpu.conv(backend, handle, in, layer->count, &layer->epilogue, got, &stats),
        0);
    for (size_t i = 0; i < GUARD; i++) {
      ck_assert_uint_eq(got[bytes + i], 0xa5);
      ck_assert_uint_eq(got[-1 - (ptrdiff_t)i], 0xa5);
    }
    ck_assert_msg(memcmp(want, got, bytes) == 0,
                  "%s: %u images of %u x %u x %u, kernel %u x %u, stride %u x %u, pool %u, %u "
                  "codebooks, %u outputs, %s, call %d",
                  options, layer->count, conv->channels, conv->height, conv->width, conv->kernel_h,
                  conv->kernel_w, conv->stride_h, conv->stride_w, layer->epilogue.pool,
                  layer->lut.codebooks, layer->lut.outputs,
                  layer->epilogue.other ? "add" : "no add", again);
  }
  ck_assert_uint_eq(stats.lookups, (uint64_t)4 * layer->count * conv->out_h * conv->out_w *
                                       layer->lut.codebooks * layer->lut.outputs);
  ck_assert(stats.helped_lookups <= stats.lookups);
  helped += stats.helped_lookups;
  halut_backend_cpu.close(backend);
}

static void check_layer(struct layer *layer, int round) {
  static const char *const ceiling[] = {
      "cpu=ref",
#define XX(flag, bit, name) "cpu=" name,
      HALUT_CPU_MAP(XX)
#undef XX
  };
  layer_make(layer);
  size_t in_bytes = layer->count * layer->conv.channels * layer->in_plane;
  size_t out_bytes = layer->count * layer->lut.outputs * layer->out_plane;
  struct fenced in = fenced_make(in_bytes, round & 1), other = fenced_make(out_bytes, round & 2);
  uint8_t *want = need(out_bytes), *space = need(out_bytes + 2 * GUARD);
  for (size_t i = 0; i < in_bytes; i++)
    in.data[i] = (uint8_t)below(256);
  for (size_t i = 0; i < out_bytes; i++)
    other.data[i] = (uint8_t)below(256);
  layer->epilogue.other = below(2) ? other.data : NULL;
  plain(layer, in.data, layer->epilogue.other, want);
  for (size_t i = 0; i < sizeof ceiling / sizeof ceiling[0]; i++) {
    check_one(layer, ceiling[i], in.data, want, space + GUARD, out_bytes);
  }
  check_one(layer, "", in.data, want, space + GUARD, out_bytes);
  munmap(in.map, in.map_bytes);
  munmap(other.map, other.map_bytes);
  free(want);
  free(space);
  layer_free(layer);
}

/* The first half of the rounds takes back all that is offered: the cut is the same each time. */
START_TEST(conv_is_gather_product_requantise_pool_add) {
  ck_assert_int_eq(halut_helper_open(&helper, NULL), 0);
  halut_helper_meet(helper);
  for (int round = 0; round < ROUNDS; round++) {
    if (round == ROUNDS / 2) {
      ck_assert_uint_eq(helped, 0);
      halut_helper_dismiss(helper);
      halut_helper_serve(helper);
      ck_assert_int_eq(halut_helper_staff(helper, NULL), 0);
    }
    struct layer layer = {0};
    shape_pick(&layer.conv);
    layer.count = count_pick(&layer.conv);
    check_layer(&layer, round);
  }
  printf("check_conv: a helper did %llu lookups\n", (unsigned long long)helped);
  halut_helper_close(helper);
}
END_TEST

START_TEST(masks_past_the_limit_are_not_made) {
  struct layer layer = {.count = 1};
  shape_large(&layer.conv);
  struct halut_conv_cpu cpu;
  ck_assert_int_eq(halut_conv_cpu_open(&layer.conv, 1, &cpu, NULL), 0);
  ck_assert_ptr_null(cpu.mask);
  halut_conv_cpu_close(&cpu);
  check_layer(&layer, 0);
}
END_TEST

/* A sum of one value more than always fits an int32. */
START_TEST(dense_layers_refuse_sums_past_32_bits) {
  const struct halut_conv conv = {.channels = HALUT_TAPS_MAX + 1,
                                  .height = 1,
                                  .width = 1,
                                  .kernel_h = 1,
                                  .kernel_w = 1,
                                  .stride_h = 1,
                                  .stride_w = 1,
                                  .out_h = 1,
                                  .out_w = 1};
  const int32_t bias = 0;
  const uint16_t scale = 1;
  const struct halut_requant requant = {&bias, &scale};
  int8_t *weight = need(conv.channels);
  memset(weight, 0, conv.channels);
  struct halut_dense *dense = NULL;
  struct halut_diag diag = {0};
  ck_assert_int_eq(halut_dense_open(&conv, 1, weight, &requant, NULL, 0, &dense, &diag),
                   HALUT_ELIMIT);
  ck_assert_str_eq(diag.text, "dense convolution: 65537 taps, at most 65536");
  ck_assert_ptr_null(dense);
  free(weight);
}
END_TEST

int main(void) {
  const char *chosen = getenv("HALUT_SEED");
  seed = chosen ? strtoull(chosen, NULL, 0) : (uint64_t)time(NULL);
  printf("check_conv: HALUT_SEED=%llu, up to %s\n", (unsigned long long)seed,
         halut_cpu_name(halut_cpu_flags()));
  Suite *suite = suite_create("conv");
  TCase *tests = tcase_create("conv");
  tcase_set_timeout(tests, 120);
  tcase_add_test(tests, conv_is_gather_product_requantise_pool_add);
  tcase_add_test(tests, masks_past_the_limit_are_not_made);
  tcase_add_test(tests, dense_layers_refuse_sums_past_32_bits);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_ENV);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
