/* sanitizers: asan, it has one thread */
/* Every kernel in kernels.inc that this processor can run against `ref`, byte for byte.
 *
 * usage: check_kernels [--seed N] [--bench]      HALUT_SEED=N does the same as --seed
 *
 * Data comes in kinds (tiny, extreme, uniform, mixed scales), sizes lie around every vector width,
 * inputs end at an unreadable page, and outputs are poisoned and compared with the guard bytes
 * around them. */
#include <check.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "../core/kernels.h"
#include "../core/pack.h"

static uint64_t seed = 1;
static uint64_t random_state;

static uint64_t random_next(void) { /* splitmix64 */
  uint64_t z = random_state += 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

static uint32_t random_below(uint32_t bound) { return (uint32_t)((random_next() >> 32) % bound); }

/* ---- memory that ends where the next byte faults ---- */

enum { GUARD = 64, BUFFERS_MAX = 96 };

struct buffer {
  uint8_t *data, *map;
  size_t bytes, map_bytes;
};

static struct buffer buffer_list[BUFFERS_MAX];
static int buffer_count;

/* Check's own assertions work inside a test only, and the benchmark uses buffers as well. */
static void require(int holds, const char *what) {
  if (holds) return;
  fprintf(stderr, "check_kernels: no %s\n", what);
  abort();
}

static uint8_t *buffer_make(size_t bytes) {
  size_t page = (size_t)sysconf(_SC_PAGESIZE);
  size_t inside = (bytes + GUARD + page - 1) / page * page;
  require(buffer_count < BUFFERS_MAX, "a buffer slot");
  struct buffer *buffer = &buffer_list[buffer_count++];
  buffer->map_bytes = inside + page;
  buffer->map =
      mmap(NULL, buffer->map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  require(buffer->map != MAP_FAILED, "memory");
  require(mprotect(buffer->map + inside, page, PROT_NONE) == 0, "a guard page");
  buffer->bytes = bytes;
  buffer->data = buffer->map + inside - bytes;
  return buffer->data;
}

/* As buffer_make, but on a HALUT_ALIGN boundary: the fault comes up to HALUT_ALIGN - 1 bytes late.
 */
static uint8_t *buffer_make_aligned(size_t bytes) {
  return buffer_make((bytes + HALUT_ALIGN - 1) / HALUT_ALIGN * HALUT_ALIGN);
}

static void buffer_free_all(void) {
  while (buffer_count) {
    struct buffer *buffer = &buffer_list[--buffer_count];
    munmap(buffer->map, buffer->map_bytes);
  }
}

/* Poisons an output and the guard before it. */
static void poison(uint8_t *data, size_t bytes) { memset(data - GUARD, 0xa5, bytes + GUARD); }

static int same_with_guard(const uint8_t *left, const uint8_t *right, size_t bytes) {
  return memcmp(left - GUARD, right - GUARD, bytes + GUARD) == 0;
}

/* ---- data by kind ---- */

enum { TINY, EXTREME, UNIFORM, MIXED, DATA_KINDS };
static const char *const data_name[] = {"tiny", "extreme", "uniform", "mixed"};

static void fill(uint8_t *data, size_t bytes, int kind) {
  for (size_t i = 0; i < bytes; i++) {
    uint32_t value = random_below(256);
    if (kind == TINY) value %= 3;
    if (kind == EXTREME) value = value & 1 ? 255 : 0;
    if (kind == MIXED) value >>= random_below(8);
    data[i] = (uint8_t)value;
  }
}

/* int8: what is extreme for bytes is 0 and -1 here. MIXED has one scale for all. */
static void fill_signed(int8_t *data, size_t count, int kind) {
  int shift = kind == MIXED ? (int)random_below(9) : 0;
  for (size_t i = 0; i < count; i++) {
    int value = (int)random_below(256) - 128;
    if (kind == TINY) value = (int)random_below(5) - 2;
    if (kind == EXTREME) value = value < 0 ? -128 : 127;
    data[i] = (int8_t)(shift == 8 ? 77 : value / (1 << shift));
  }
}

/* Tables of 16 entries; MIXED gives each its own scale, so that groups of every size arise. */
static void fill_tables(int8_t *table, size_t tables, int kind) {
  for (size_t t = 0; t < tables; t++)
    fill_signed(table + t * HALUT_PROTOTYPES, HALUT_PROTOTYPES, kind);
}

static uint32_t pick_rows(void) { return HALUT_SUM_ROWS * (1 + random_below(8)); }

/* Around vector widths and group sizes, and past the number a 16-bit sum holds. */
static uint32_t pick_codebooks(void) {
  static const uint16_t list[] = {1,  2,  3,  4,  5,   7,   8,   9,   15,  16,  17,
                                  31, 63, 64, 65, 255, 256, 257, 258, 300, 515, 771};
  return list[random_below(sizeof list / sizeof list[0])];
}

/* ---- the list ---- */

#define KIND_MAP(XX)                                                                               \
  XX(encode) XX(accumulate) XX(pool2) XX(add) XX(dense) XX(linear) XX(quantise)                  \
  XX(quantise_columns) XX(dequantise) XX(row)

enum kind {
#define XX(kind) KIND_##kind,
  KIND_MAP(XX)
#undef XX
};

struct kernel {
  enum kind kind;
  const char *name;
  uint32_t flags;
  union {
    halut_encode_fn *encode;
    const struct halut_accumulate *accumulate;
    halut_pool2_fn *pool2;
    halut_add_fn *add;
    halut_dense_fn *dense;
    halut_linear_fn *linear;
    halut_quantise_fn *quantise;
    halut_quantise_columns_fn *quantise_columns;
    halut_dequantise_fn *dequantise;
    halut_row_fn *row;
  } fn;
};

#define HALUT_KERNEL(kind, name, flags) {KIND_##kind, #name, flags, {.kind = POINTER_##kind(name)}},
#define POINTER_encode(name) halut_encode_##name
#define POINTER_accumulate(name) &halut_accumulate_##name
#define POINTER_pool2(name) halut_pool2_##name
#define POINTER_add(name) halut_add_##name
#define POINTER_dense(name) halut_dense_##name
#define POINTER_linear(name) halut_linear_##name
#define POINTER_quantise(name) halut_quantise_##name
#define POINTER_quantise_columns(name) halut_quantise_columns_##name
#define POINTER_dequantise(name) halut_dequantise_##name
#define POINTER_row(name) halut_row_##name
static const struct kernel kernel_list[] = {
#include "../core/kernels.inc"
};
#undef HALUT_KERNEL
enum { KERNEL_COUNT = sizeof kernel_list / sizeof kernel_list[0] };

/* The next kernel of `kind` after `from` (NULL for the first) that can run here; NULL after the
 * last. */
static const struct kernel *kernel_next(enum kind kind, const struct kernel *from) {
  for (const struct kernel *k = from ? from + 1 : kernel_list; k < kernel_list + KERNEL_COUNT;
       k++) {
    if (k->kind == kind && !(k->flags & ~halut_cpu_flags())) return k;
  }
  return NULL;
}

#define FOR_EACH(kind_, k)                                                                         \
  for (const struct kernel *k = kernel_next(KIND_##kind_, NULL); k;                                \
       k = kernel_next(KIND_##kind_, k))

enum { ROUNDS = 150 };

static void setup(void) { random_state = seed; }

/* ---- tests ---- */

START_TEST(encode_matches_ref) {
  for (int round = 0; round < ROUNDS; round++) {
    const int kind = round % DATA_KINDS;
    const uint32_t codebooks = 1 + random_below(5), rows = 32 * (1 + random_below(4));
    const size_t stride = 16 + 16 * random_below(12), bytes = (codebooks - 1) * stride + rows;
    const size_t values = 4 * rows;
    struct halut_read *read =
        (struct halut_read *)(void *)buffer_make_aligned(codebooks * HALUT_LEVELS * sizeof *read);
    uint8_t *value = buffer_make(values), *masks = buffer_make(values);
    uint8_t *threshold = buffer_make((size_t)codebooks * HALUT_PROTOTYPES);
    uint8_t *want = buffer_make(bytes), *got = buffer_make(bytes);
    fill(value, values, kind);
    fill(threshold, (size_t)codebooks * HALUT_PROTOTYPES, kind);
    for (size_t i = 0; i < values; i++) masks[i] = random_below(4) ? 255 : 0;
    for (uint32_t i = 0; i < codebooks * HALUT_LEVELS; i++)
      read[i] = (struct halut_read){(ptrdiff_t)random_below(3 * rows + 1) - rows,
                                    random_below(3 * rows + 1)};
    const uint8_t *used = random_below(2) ? masks : NULL;
    poison(want, bytes);
    halut_encode_ref(value + rows, used, read, threshold, codebooks, rows, want, stride);
    FOR_EACH(encode, k) {
      poison(got, bytes);
      k->fn.encode(value + rows, used, read, threshold, codebooks, rows, got, stride);
      ck_assert_msg(same_with_guard(want, got, bytes), "encode %s, %s data, %u rows, %s mask",
                    k->name, data_name[kind], rows, used ? "with" : "no");
    }
    buffer_free_all();
  }
}
END_TEST

struct problem {
  struct halut_lut lut;
  struct halut_requant requant;
  uint8_t *codes; /* one block, as the kernel `ref` takes it */
  size_t codes_bytes;
  uint32_t rows;
};

static void problem_make(struct problem *p, int kind, uint32_t codebooks, uint32_t outputs,
                         uint32_t rows) {
  size_t tables = (size_t)codebooks * outputs;
  int8_t *table = (int8_t *)buffer_make(tables * HALUT_PROTOTYPES);
  fill_tables(table, tables, kind);
  int32_t *bias = (int32_t *)(void *)buffer_make_aligned(outputs * sizeof *bias);
  uint16_t *scale = (uint16_t *)(void *)buffer_make_aligned(outputs * sizeof *scale);
  for (uint32_t m = 0; m < outputs; m++) {
    static const int32_t odd[] = {INT32_MIN, INT32_MAX, 65535, -65535, 65536, -65536, 0, 1000000};
    bias[m] = random_below(4) ? (int32_t)random_below(20000) - 4000 : odd[random_below(8)];
    scale[m] = random_below(8) ? (uint16_t)random_below(65536) : UINT16_MAX;
  }
  p->lut = (struct halut_lut){.codebooks = codebooks, .outputs = outputs, .table = table};
  p->requant = (struct halut_requant){bias, scale};
  p->codes_bytes = codebooks * halut_code_stride(&halut_accumulate_ref, rows);
  p->codes = buffer_make_aligned(p->codes_bytes);
  for (size_t i = 0; i < p->codes_bytes; i++) p->codes[i] = (uint8_t)random_below(16);
  p->rows = rows;
}

static size_t codes_bytes(const struct kernel *k, const struct problem *p) {
  const struct halut_accumulate *accumulate = k->fn.accumulate;
  if (accumulate->arrange) return halut_codes_bytes(p->lut.codebooks);
  return p->lut.codebooks * halut_code_stride(accumulate, p->rows);
}

/* The problem's codes as the kernel takes them. It may not rely on those of padded codebooks. */
static void codes_fill(const struct kernel *k, const struct problem *p,
                       const struct halut_packed *packed, uint8_t *codes) {
  const size_t from = halut_code_stride(&halut_accumulate_ref, p->rows);
  const size_t to = halut_code_stride(k->fn.accumulate, p->rows);
  fill(codes, codes_bytes(k, p), UNIFORM);
  for (uint32_t c = 0; c < p->lut.codebooks; c++)
    memcpy(codes + c * to, p->codes + c * from, p->rows);
  if (k->fn.accumulate->arrange) k->fn.accumulate->arrange(packed, codes);
}

static void check_accumulate(const struct kernel *k, const struct problem *p, const char *kind) {
  struct halut_packed packed, plain = {.lut = &p->lut};
  struct halut_diag diag;
  uint32_t outputs = p->lut.outputs, rows = p->rows;
  size_t stride = rows + random_below(3) * 16, items = (outputs - 1) * stride + rows;
  ck_assert_int_eq(halut_pack(&p->lut, k->fn.accumulate->layout, &packed, &diag), 0);
  uint8_t *codes = buffer_make_aligned(codes_bytes(k, p));
  codes_fill(k, p, &packed, codes);
  uint8_t *want = buffer_make(items * sizeof(int32_t)), *got = buffer_make(items * sizeof(int32_t));
  poison(want, items * sizeof(int32_t));
  poison(got, items * sizeof(int32_t));
  halut_accumulate_ref.sum(&plain, p->codes, rows, (int32_t *)(void *)want, stride);
  k->fn.accumulate->sum(&packed, codes, rows, (int32_t *)(void *)got, stride);
  ck_assert_msg(same_with_guard(want, got, items * sizeof(int32_t)),
                "sum %s, %s data, %u rows, %u codebooks, %u outputs", k->name, kind, rows,
                p->lut.codebooks, outputs);
  want = buffer_make(items);
  got = buffer_make(items);
  poison(want, items);
  poison(got, items);
  halut_accumulate_ref.map(&plain, p->codes, rows, &p->requant, want, stride);
  k->fn.accumulate->map(&packed, codes, rows, &p->requant, got, stride);
  ck_assert_msg(same_with_guard(want, got, items),
                "map %s, %s data, %u rows, %u codebooks, %u outputs", k->name, kind, rows,
                p->lut.codebooks, outputs);
  halut_unpack(&packed);
  if (rows != HALUT_SUM_ROWS || !k->fn.accumulate->map_few) return;
  ck_assert_int_eq(halut_pack(&p->lut, HALUT_LAYOUT_PAIRS, &packed, &diag), 0);
  uint8_t *even = buffer_make(((size_t)p->lut.codebooks + 1) / 2 * 2 * HALUT_SUM_ROWS);
  fill(even, ((size_t)p->lut.codebooks + 1) / 2 * 2 * HALUT_SUM_ROWS, UNIFORM);
  memcpy(even, codes, p->lut.codebooks * HALUT_SUM_ROWS);
  poison(got, items);
  k->fn.accumulate->map_few(&packed, even, &p->requant, got, stride);
  ck_assert_msg(same_with_guard(want, got, items), "map_few %s, %s data, %u codebooks, %u outputs",
                k->name, kind, p->lut.codebooks, outputs);
  halut_unpack(&packed);
}

START_TEST(accumulate_matches_ref) {
  for (int round = 0; round < ROUNDS; round++) {
    struct problem p;
    int kind = round % DATA_KINDS;
    problem_make(&p, kind, pick_codebooks(), 1 + random_below(13), pick_rows());
    FOR_EACH(accumulate, k) check_accumulate(k, &p, data_name[kind]);
    buffer_free_all();
  }
}
END_TEST

/* More outputs and codebooks than are summed at once; in the end with sums that a u16 does not
 * hold, but those of every third output. */
START_TEST(accumulate_matches_ref_in_tiles_and_runs) {
  static const uint32_t rows[] = {16, 32, 48, 64, 96, 112, 128};
  static const uint32_t codebooks[] = {2 * HALUT_RUN_CODEBOOKS, 2 * HALUT_RUN_CODEBOOKS + 1, 300};
  for (uint32_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
    for (uint32_t n = 0; n < sizeof codebooks / sizeof codebooks[0]; n++) {
      struct problem p;
      problem_make(&p, UNIFORM, codebooks[n], HALUT_RUN_OUTPUTS + 1, rows[i]);
      const size_t tables = (size_t)codebooks[n] * HALUT_PROTOTYPES;
      int8_t *table = (int8_t *)(uintptr_t)p.lut.table;
      for (size_t e = 0; n == 2 && e < p.lut.outputs * tables; e++)
        table[e] = (int8_t)(e / tables % 3 == 0 ? table[e] / 8 : e % 2 ? 127 : -128);
      FOR_EACH(accumulate, k) check_accumulate(k, &p, "tiled");
      buffer_free_all();
    }
}
END_TEST

START_TEST(accumulate_matches_ref_with_the_most_codebooks) {
  for (uint32_t less = 0; less < 2; less++)
    for (uint32_t rows = 16; rows <= 128; rows += 112) {
      struct problem p;
      problem_make(&p, UNIFORM, HALUT_CODEBOOKS_MAX - less, 2, rows);
      FOR_EACH(accumulate, k) check_accumulate(k, &p, "most");
      buffer_free_all();
    }
}
END_TEST

/* Tables whose ranges add up to just 255 or just 256, in twos and threes, always at their largest
 * entries. */
START_TEST(accumulate_matches_ref_at_the_edge_of_packing) {
  static const uint8_t range[][4] = {{255, 0, 0, 0},   {128, 127, 128, 127}, {128, 128, 128, 128},
                                     {85, 85, 85, 85}, {86, 85, 85, 86},     {254, 1, 254, 1},
                                     {254, 2, 254, 2}, {255, 255, 255, 255}, {252, 1, 1, 1}};
  for (uint32_t i = 0; i < sizeof range / sizeof range[0]; i++) {
    for (uint32_t codebooks = 1; codebooks <= 12; codebooks++) {
      struct problem p;
      problem_make(&p, UNIFORM, codebooks, 3, 128);
      int8_t *table = (int8_t *)(uintptr_t)p.lut.table;
      for (uint32_t t = 0; t < codebooks * 3; t++) {
        for (uint32_t k = 0; k < HALUT_PROTOTYPES; k++) {
          table[t * HALUT_PROTOTYPES + k] = (int8_t)((k & 1 ? range[i][t % 4] : 0) - 128);
        }
      }
      memset(p.codes, 15, p.codes_bytes);
      FOR_EACH(accumulate, k) check_accumulate(k, &p, "edge");
      buffer_free_all();
    }
  }
}
END_TEST

/* The largest sum that fits a u16, 257 tables of range 255, and one more: another of range 1. */
START_TEST(accumulate_matches_ref_at_the_largest_sums) {
  for (uint32_t codebooks = 254; codebooks <= 260; codebooks++) {
    for (int which = 0; which < 4; which++) {
      const int top = which % 2;
      struct problem p;
      problem_make(&p, UNIFORM, codebooks, 2, which / 2 ? HALUT_SUM_ROWS : 128);
      int8_t *table = (int8_t *)(uintptr_t)p.lut.table;
      for (uint32_t i = 0; i < codebooks * 2 * HALUT_PROTOTYPES; i++) table[i] = i & 1 ? 127 : -128;
      for (int i = 0; codebooks == 258 && i < HALUT_PROTOTYPES; i++) table[i] = (int8_t)(i & 1);
      ((int32_t *)(uintptr_t)p.requant.bias)[0] = top ? 0 : 257 * 128; /* results are not clamped */
      ((uint16_t *)(uintptr_t)p.requant.scale)[0] = 400;
      memset(p.codes, top, p.codes_bytes);
      FOR_EACH(accumulate, k) check_accumulate(k, &p, "largest");
      buffer_free_all();
    }
  }
}
END_TEST

START_TEST(pool2_matches_ref) {
  static const uint8_t size[] = {2,  4,  6,  8,  10, 14, 16, 18,  30,
                                 32, 34, 48, 62, 64, 66, 96, 128, 130};
  for (int round = 0; round < 2 * ROUNDS; round++) {
    uint32_t height = size[random_below(10)], width = size[random_below(sizeof size)];
    uint8_t *in = buffer_make((size_t)height * width);
    size_t bytes = (size_t)height * width / 4;
    uint8_t *want = buffer_make(bytes), *got = buffer_make(bytes);
    fill(in, (size_t)height * width, round % DATA_KINDS);
    poison(want, bytes);
    halut_pool2_ref(in, height, width, want);
    FOR_EACH(pool2, k) {
      poison(got, bytes);
      k->fn.pool2(in, height, width, got);
      ck_assert_msg(same_with_guard(want, got, bytes), "pool2 %s, %u x %u", k->name, height, width);
    }
    buffer_free_all();
  }
}
END_TEST

START_TEST(add_matches_ref) {
  for (int round = 0; round < 2 * ROUNDS; round++) {
    size_t count = 1 + random_below(200);
    uint8_t zero = round % 3 ? (uint8_t)random_below(256) : 0;
    uint8_t *y = buffer_make(count), *other = buffer_make(count);
    uint8_t *want = buffer_make(count), *got = buffer_make(count);
    fill(y, count, round % DATA_KINDS);
    fill(other, count, ((uint32_t)round + random_below(2) * 2) % DATA_KINDS);
    poison(want, count);
    memcpy(want, y, count);
    halut_add_ref(want, other, count, zero);
    FOR_EACH(add, k) {
      poison(got, count);
      memcpy(got, y, count);
      k->fn.add(got, other, count, zero);
      ck_assert_msg(same_with_guard(want, got, count), "add %s, %zu values, zero %u", k->name,
                    count, zero);
    }
    buffer_free_all();
  }
}
END_TEST

START_TEST(dense_matches_ref) {
  for (int round = 0; round < ROUNDS; round++) {
    static const uint8_t tap_list[] = {1,  2,  3,  4,  5,  8,  9, 26,
                                       27, 28, 45, 63, 64, 65, 66};
    int kind = round % DATA_KINDS;
    uint32_t taps = tap_list[random_below(sizeof tap_list)], outputs = 1 + random_below(19);
    const uint8_t *source[66];
    for (uint32_t t = 0; t < taps; t++) {
      uint8_t *values = buffer_make(HALUT_DENSE_BLOCK);
      fill(values, HALUT_DENSE_BLOCK, kind);
      source[t] = values;
    }
    struct problem p;
    problem_make(&p, UNIFORM, 1, outputs, 32);
    int8_t *raw = (int8_t *)buffer_make((size_t)outputs * taps);
    fill_signed(raw, (size_t)outputs * taps, kind == TINY ? UNIFORM : kind);
    struct halut_weights weights;
    ck_assert_int_eq(halut_weights_pack(raw, outputs, taps, &weights, NULL), 0);
    size_t stride = HALUT_DENSE_BLOCK + random_below(3),
           bytes = (outputs - 1) * stride + HALUT_DENSE_BLOCK;
    uint8_t *want = buffer_make(bytes), *got = buffer_make(bytes);
    poison(want, bytes);
    halut_dense_ref(&weights, source, &p.requant, want, stride);
    FOR_EACH(dense, k) {
      poison(got, bytes);
      k->fn.dense(&weights, source, &p.requant, got, stride);
      ck_assert_msg(same_with_guard(want, got, bytes), "dense %s, %s data, %u taps, %u outputs",
                    k->name, data_name[kind], taps, outputs);
    }
    halut_weights_unpack(&weights);
    buffer_free_all();
  }
}
END_TEST

START_TEST(linear_matches_ref) {
  for (int round = 0; round < ROUNDS; round++) {
    uint32_t outputs = 1 + random_below(12), inputs = 1 + random_below(300);
    int kind = round % DATA_KINDS;
    int8_t *weight = (int8_t *)buffer_make((size_t)outputs * inputs);
    uint8_t *x = buffer_make(inputs);
    size_t bytes = outputs * sizeof(int32_t);
    uint8_t *bias = buffer_make(bytes), *want = buffer_make(bytes), *got = buffer_make(bytes);
    fill_signed(weight, (size_t)outputs * inputs, kind == TINY ? UNIFORM : kind);
    fill(x, inputs, kind);
    for (uint32_t m = 0; m < outputs; m++) {
      ((int32_t *)(void *)bias)[m] = (int32_t)random_below(2000000) - 1000000;
    }
    poison(want, bytes);
    halut_linear_ref(weight, (int32_t *)(void *)bias, outputs, inputs, x, (int32_t *)(void *)want);
    FOR_EACH(linear, k) {
      poison(got, bytes);
      k->fn.linear(weight, (int32_t *)(void *)bias, outputs, inputs, x, (int32_t *)(void *)got);
      ck_assert_msg(same_with_guard(want, got, bytes), "linear %s, %u outputs, %u inputs", k->name,
                    outputs, inputs);
    }
    buffer_free_all();
  }
}
END_TEST

/* Floats that meet every rule: in and out of range, ties, zeros of both signs, NaN, infinities,
 * subnormals and the largest. */
static float random_float(void) {
  static const float odd[] = {0.0f,  -0.0f, 0.5f,   1.5f,    2.5f,    254.5f, 255.5f,
                              -0.5f, 1e30f, -1e30f, 1e-40f,  FLT_MAX, NAN,    INFINITY,
                              255.0f, 256.0f, -INFINITY, -FLT_MAX, 2147483648.0f};
  if (random_below(4) == 0) return odd[random_below(sizeof odd / sizeof odd[0])];
  if (random_below(2)) return (float)((int)random_below(1200) - 300) / 2;
  return (float)((double)random_below(1u << 31) / (1 << 22) - 100);
}

static float *floats_make(size_t count) {
  float *made = (float *)(void *)buffer_make(count * sizeof *made);
  for (size_t i = 0; i < count; i++) made[i] = random_float();
  return made;
}

/* The same values as `want` from a copy of x whose columns lie one after another. */
static void quantise_columns_match(const struct halut_affine *affine, const float *x, size_t x_step,
                                   uint32_t rows, const uint8_t *want, uint8_t *got, size_t bytes,
                                   size_t stride) {
  const size_t step = rows + random_below(2) * random_below(20);
  float *turned = (float *)(void *)buffer_make((step * (affine->columns - 1) + rows) * sizeof *x);
  for (size_t row = 0; row < rows; row++)
    for (size_t column = 0; column < affine->columns; column++)
      turned[column * step + row] = x[row * x_step + column];
  FOR_EACH(quantise_columns, k) {
    poison(got, bytes);
    k->fn.quantise_columns(affine, turned, step, rows, got, stride);
    ck_assert_msg(same_with_guard(want, got, bytes), "quantise_columns %s, %u rows, %u reads",
                  k->name, rows, affine->reads);
  }
}

/* Few and many columns, read once, often or not at all; chunks of reads in all their remainders. */
START_TEST(quantise_matches_ref) {
  static const uint16_t column_list[] = {1, 2, 7, 8, 9, 15, 16, 17, 64, 200, 513};
  for (int round = 0; round < 3 * ROUNDS; round++) {
    uint32_t columns = column_list[random_below(sizeof column_list / sizeof column_list[0])];
    uint32_t rows = 1 + random_below(round % 3 ? 40 : 300), reads = 4 * (1 + random_below(80));
    uint32_t near = 1 + random_below(columns); /* reads crowd into so many columns */
    size_t stride = halut_pad_rows(rows) + 32 * random_below(2), bytes = reads * stride;
    uint32_t *split = (uint32_t *)(void *)buffer_make(reads * sizeof *split);
    for (uint32_t i = 0; i < reads; i++) split[i] = columns - 1 - random_below(near);
    float *low = floats_make(reads), *inverse = floats_make(reads);
    for (uint32_t i = 0; i < reads; i++)
      if (random_below(3)) low[i] = 0, inverse[i] = 1;
    size_t step = columns + random_below(2) * random_below(40); /* parts of longer rows */
    float *x = floats_make((rows - 1) * step + columns);
    struct halut_affine affine;
    ck_assert_int_eq(halut_affine_open(columns, reads, split, low, inverse, &affine, NULL), 0);
    uint8_t *want = buffer_make(bytes), *got = buffer_make(bytes);
    poison(want, bytes);
    struct halut_ahead ahead = {(const char *)x, random_below(2) * rows * step * sizeof *x};
    halut_quantise_ref(&affine, x, step, rows, want, stride, ahead);
    FOR_EACH(quantise, k) {
      poison(got, bytes);
      k->fn.quantise(&affine, x, step, rows, got, stride, ahead);
      ck_assert_msg(same_with_guard(want, got, bytes),
                    "quantise %s, %u rows of %u columns, %zu apart, %u reads", k->name, rows,
                    columns, step, reads);
    }
    quantise_columns_match(&affine, x, step, rows, want, got, bytes, stride);
    halut_affine_close(&affine);
    buffer_free_all();
  }
}
END_TEST

/* FORMAT.md's words as a table, which no kernel wrote: the reference included. */
START_TEST(quantise_rounds_as_written) {
  static const struct {
    float x;
    uint8_t value;
  } list[] = {{0.0f, 0},      {0.5f, 0},       {1.5f, 2},         {2.5f, 2},      {2.51f, 3},
              {253.5f, 254},  {254.5f, 254},   {254.51f, 255},    {255.5f, 255},  {1e30f, 255},
              {-0.5f, 0},     {-1.0f, 0},      {-1e30f, 0},       {NAN, 0},       {INFINITY, 255},
              {-INFINITY, 0}, {FLT_MAX, 255},  {-FLT_MAX, 0},     {1e-40f, 0},    {-0.0f, 0},
              {40000.0f, 255}, {-40000.0f, 0}, {2147483648.0f, 255}, {127.49999f, 127}};
  enum { LISTED = sizeof list / sizeof list[0], COLUMNS = 8 };
  const uint32_t split[1] = {3};
  const float low[1] = {0}, inverse[1] = {1};
  float x[LISTED][COLUMNS] = {{0}};
  uint8_t value[HALUT_ROW_BLOCK];
  struct halut_affine affine;
  ck_assert_int_eq(halut_affine_open(COLUMNS, 1, split, low, inverse, &affine, NULL), 0);
  for (int i = 0; i < LISTED; i++) x[i][split[0]] = list[i].x;
  FOR_EACH(quantise, k) {
    k->fn.quantise(&affine, x[0], COLUMNS, LISTED, value, sizeof value, (struct halut_ahead){0});
    for (int i = 0; i < LISTED; i++)
      ck_assert_msg(value[i] == list[i].value, "quantise %s: %g gives %u, not %u", k->name,
                    (double)list[i].x, value[i], list[i].value);
  }
  float turned[COLUMNS * LISTED] = {0};
  for (int i = 0; i < LISTED; i++) turned[split[0] * LISTED + (uint32_t)i] = list[i].x;
  FOR_EACH(quantise_columns, k) {
    k->fn.quantise_columns(&affine, turned, LISTED, LISTED, value, sizeof value);
    for (int i = 0; i < LISTED; i++)
      ck_assert_msg(value[i] == list[i].value, "quantise_columns %s: %g gives %u, not %u", k->name,
                    (double)list[i].x, value[i], list[i].value);
  }
  halut_affine_close(&affine);
}
END_TEST

START_TEST(dequantise_matches_ref) {
  for (int round = 0; round < 2 * ROUNDS; round++) {
    uint32_t rows = 1 + random_below(90), outputs = 1 + random_below(round % 2 ? 12 : 70);
    bool is_large = random_below(2);
    if (random_below(2)) outputs = 16 * (1 + outputs / 16); /* whole lines: another way */
    if (random_below(2)) rows = 8 * (1 + rows / 8);
    size_t stride = halut_pad_rows(rows) + 32 * random_below(2);
    size_t y_stride = outputs + (outputs % 16 ? random_below(2) * 5 : random_below(2) * 16);
    size_t bytes = ((rows - 1) * y_stride + outputs) * sizeof(float);
    int32_t *acc = (int32_t *)(void *)buffer_make_aligned(outputs * stride * sizeof *acc);
    for (size_t i = 0; i < outputs * stride; i++)
      acc[i] = random_below(4) ? (int32_t)random_below(200001) - 100000 : (int32_t)random_next();
    float *scale = floats_make(outputs), *bias = floats_make(outputs);
    for (uint32_t m = 0; m < outputs; m++) { /* which NaN comes of two is not part of the format */
      if (!isfinite(scale[m])) scale[m] = 0x1.5p-3f;
      if (!isfinite(bias[m])) bias[m] = -0.1f;
    }
    uint8_t *want = buffer_make(bytes), *got = buffer_make(bytes);
    poison(want, bytes);
    halut_dequantise_ref(acc, stride, scale, bias, outputs, rows, (float *)(void *)want,
                         y_stride, is_large);
    FOR_EACH(dequantise, k) {
      poison(got, bytes);
      k->fn.dequantise(acc, stride, scale, bias, outputs, rows, (float *)(void *)got,
                       y_stride, is_large);
      ck_assert_msg(same_with_guard(want, got, bytes), "dequantise %s, %u rows, %u outputs",
                    k->name, rows, outputs);
    }
    buffer_free_all();
  }
}
END_TEST

/* One row on all kernels. What `entry` is filled with: data of `kind`, or nothing but `only`. */
static void check_row(uint32_t codebooks, uint32_t outputs, int kind, const int8_t *only) {
  const size_t bytes = outputs * sizeof(float), stride = halut_pad_rows(outputs);
  const size_t entries = codebooks * HALUT_PROTOTYPES * stride;
  int8_t *entry = (int8_t *)buffer_make(entries);
  uint32_t *at = (uint32_t *)(void *)buffer_make_aligned(codebooks * sizeof *at);
  float *scale = (float *)(void *)buffer_make_aligned(bytes);
  float *bias = (float *)(void *)buffer_make_aligned(bytes);
  fill_signed(entry, entries, kind);
  if (only) memset(entry, *only, entries);
  for (uint32_t c = 0; c < codebooks; c++)
    at[c] = (uint32_t)((c * HALUT_PROTOTYPES + random_below(HALUT_PROTOTYPES)) * stride);
  for (uint32_t m = 0; m < outputs; m++) {
    scale[m] = (float)random_below(1000) / 777;
    bias[m] = (float)random_below(1000) / 7 - 50;
  }
  uint8_t *want = buffer_make(bytes), *got = buffer_make(bytes);
  poison(want, bytes);
  halut_row_ref(entry, at, codebooks, scale, bias, outputs, (float *)(void *)want);
  FOR_EACH(row, k) {
    poison(got, bytes);
    k->fn.row(entry, at, codebooks, scale, bias, outputs, (float *)(void *)got);
    ck_assert_msg(same_with_guard(want, got, bytes), "row %s, %u codebooks, %u outputs", k->name,
                  codebooks, outputs);
  }
  buffer_free_all();
}

START_TEST(row_matches_ref) {
  for (int round = 0; round < 2 * ROUNDS; round++)
    check_row(pick_codebooks(), 1 + random_below(round % 2 ? 20 : 400), round % DATA_KINDS, NULL);
}
END_TEST

/* Around HALUT_SUM16_MAX entries at either end, past which a 16-bit sum wraps. */
START_TEST(row_matches_ref_at_the_largest_sums) {
  static const int8_t ends[] = {INT8_MIN, INT8_MAX};
  for (uint32_t end = 0; end < 2; end++)
    for (uint32_t runs = 1; runs <= 2; runs++)
      for (uint32_t more = 0; more < 5; more++)
        check_row(runs * HALUT_SUM16_MAX - 1 + more, 16 * (1 + more), EXTREME, &ends[end]);
}
END_TEST

/* A ceiling must not let a faster kernel through, and without one the first line that fits must
 * win. */
START_TEST(dispatch_respects_the_ceiling) {
  struct halut_kernels kernels;
  uint32_t mask = 0;
  ck_assert_int_eq(halut_cpu_ceiling("ref", &mask, NULL), 0);
  halut_kernels_init(&kernels, halut_cpu_flags() & mask);
  ck_assert(kernels.encode == halut_encode_ref);
  ck_assert(kernels.accumulate == &halut_accumulate_ref);
  halut_kernels_init(&kernels, halut_cpu_flags());
  ck_assert(kernels.encode == kernel_next(KIND_encode, NULL)->fn.encode);
  ck_assert(kernels.accumulate == kernel_next(KIND_accumulate, NULL)->fn.accumulate);
  struct halut_diag diag;
  ck_assert_int_eq(halut_cpu_ceiling("sse9", &mask, &diag), HALUT_EINVALID);
  ck_assert_ptr_ne(strstr(diag.text, "sse9"), NULL);
}
END_TEST

/* ---- benchmark ---- */

static double now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

/* Clock cycles a nanosecond: a chain of dependent additions takes one cycle each. */
static double clock_ghz(void) {
  double best = 1e18;
  for (int round = 0; round < 300; round++) {
    double start = now_ns();
    uint64_t x = 0, step = (uint64_t)round; /* some processors add constants in no time */
    for (int i = 0; i < 2000; i++) {
#define ADD1 __asm__ volatile("" : "+r"(x)); x += step;
#define ADD10 ADD1 ADD1 ADD1 ADD1 ADD1 ADD1 ADD1 ADD1 ADD1 ADD1
      ADD10 ADD10
    }
    double spent = now_ns() - start;
    if (spent < best) best = spent;
  }
  return 40000 / best;
}

enum { BENCH_BEST_OF = 400, LISTED_MAX = 8 };

/* Calls run(self, kernel) for each kernel of a kind in turn, many times over; best time of each. */
static void bench(const char *title, enum kind kind, double units, const char *unit,
                  void (*run)(void *self, const struct kernel *k), void *self, double ghz) {
  double best[LISTED_MAX];
  double ref = 0;
  for (int i = 0; i < LISTED_MAX; i++) best[i] = 1e18;
  for (int round = 0; round < BENCH_BEST_OF; round++) {
    int i = 0;
    for (const struct kernel *k = kernel_next(kind, NULL); k; k = kernel_next(kind, k), i++) {
      if (!k->flags && round >= 5) continue; /* ref is slow and steady */
      double start = now_ns();
      run(self, k);
      double spent = now_ns() - start;
      if (spent < best[i]) best[i] = spent;
      if (!k->flags) ref = best[i];
    }
  }
  int i = 0;
  for (const struct kernel *k = kernel_next(kind, NULL); k; k = kernel_next(kind, k), i++) {
    printf("%-34s %-8s %10.2f us  %7.1fx ref  %8.3f %s\n", title, k->name, best[i] / 1000,
           ref / best[i], units < 0 ? best[i] * ghz / -units : units / (best[i] * ghz), unit);
  }
}

enum { BENCH_CODEBOOKS = 64, BENCH_BYTES = 2 * HALUT_CODE_BLOCK };

struct bench_encode {
  uint8_t *value, *masks, *threshold, *codes;
  struct halut_read read[BENCH_CODEBOOKS * HALUT_LEVELS];
  size_t rows;
  int blocks, masked;
};

static void bench_encode_run(void *self, const struct kernel *k) {
  struct bench_encode *b = self;
  for (int i = 0; i < b->blocks; i++)
    k->fn.encode(b->value, b->masked ? b->masks : NULL, b->read, b->threshold, BENCH_CODEBOOKS,
                 b->rows, b->codes, HALUT_CODE_BLOCK);
}

struct bench_accumulate {
  struct problem problem;
  struct halut_packed packed[KERNEL_COUNT];
  uint32_t blocks;
  uint8_t *codes[KERNEL_COUNT];
  uint8_t *out;
};

static void bench_accumulate_run(void *self, const struct kernel *k) {
  struct bench_accumulate *b = self;
  size_t i = (size_t)(k - kernel_list), block = codes_bytes(k, &b->problem);
  for (uint32_t n = 0; n < b->blocks; n++) {
    k->fn.accumulate->map(&b->packed[i], b->codes[i] + n * block, b->problem.rows,
                          &b->problem.requant, b->out + n * HALUT_CODE_BLOCK,
                          (size_t)b->blocks * HALUT_CODE_BLOCK);
  }
}

static void bench_accumulate_shape(uint32_t codebooks, uint32_t outputs, uint32_t rows, int bits,
                                   double ghz) {
  struct bench_accumulate *b = calloc(1, sizeof *b);
  char title[80];
  b->blocks = (rows + HALUT_CODE_BLOCK - 1) / HALUT_CODE_BLOCK;
  problem_make(&b->problem, UNIFORM, codebooks, outputs,
               rows < HALUT_CODE_BLOCK ? rows : HALUT_CODE_BLOCK);
  for (size_t i = 0; i < (size_t)codebooks * outputs * HALUT_PROTOTYPES; i++) {
    int8_t *entry = (int8_t *)(uintptr_t)b->problem.lut.table + i;
    *entry = (int8_t)(*entry >> (8 - bits));
  }
  b->out = halut_alloc((size_t)outputs * b->blocks * HALUT_CODE_BLOCK);
  FOR_EACH(accumulate, k) {
    size_t i = (size_t)(k - kernel_list), block = codes_bytes(k, &b->problem);
    if (halut_pack(&b->problem.lut, k->fn.accumulate->layout, &b->packed[i], NULL)) exit(1);
    b->codes[i] = halut_alloc(b->blocks * block);
    for (uint32_t n = 0; n < b->blocks; n++)
      codes_fill(k, &b->problem, &b->packed[i], b->codes[i] + n * block);
  }
  snprintf(title, sizeof title, "map %ux%u, %u rows, %d-bit", codebooks, outputs, rows, bits);
  bench(title, KIND_accumulate, (double)codebooks * outputs * rows, "lookups/cycle",
        bench_accumulate_run, b, ghz);
  FOR_EACH(accumulate, k) {
    halut_unpack(&b->packed[k - kernel_list]);
    free(b->codes[k - kernel_list]);
  }
  free(b->out);
  free(b);
  buffer_free_all();
}

struct bench_pool {
  uint8_t *in, *out;
  uint32_t maps, size;
};

static void bench_pool_run(void *self, const struct kernel *k) {
  struct bench_pool *b = self;
  size_t bytes = (size_t)b->size * b->size;
  for (uint32_t i = 0; i < b->maps; i++)
    k->fn.pool2(b->in + i * bytes, b->size, b->size, b->out + i * bytes / 4);
}

struct bench_dense {
  struct halut_weights weights;
  struct halut_requant requant;
  const uint8_t *source[27];
  uint8_t *out;
};

static void bench_dense_run(void *self, const struct kernel *k) {
  struct bench_dense *b = self;
  for (uint32_t i = 0; i < 32; i++) {
    k->fn.dense(&b->weights, b->source, &b->requant, b->out + (size_t)i * HALUT_DENSE_BLOCK, 1024);
  }
}

static void bench_small(double ghz) {
  static uint8_t map[128 * 32 * 32], out[128 * 32 * 32], bytes[64];
  static int8_t raw[64 * 27];
  static int32_t bias[64];
  static uint16_t scale[64];
  for (uint32_t size = 32; size >= 8; size /= 2) {
    char title[64];
    struct bench_pool pool = {map, out, 128, size};
    snprintf(title, sizeof title, "pool2 128 maps of %ux%u", size, size);
    bench(title, KIND_pool2, -128.0 * size * size / 32, "cycles/32 values", bench_pool_run, &pool,
          ghz);
  }
  struct bench_dense dense = {.requant = {bias, scale}, .out = out};
  fill((uint8_t *)raw, sizeof raw, UNIFORM);
  for (int t = 0; t < 27; t++) dense.source[t] = bytes + t;
  if (halut_weights_pack(raw, 64, 27, &dense.weights, NULL)) exit(1);
  bench("dense 3x3x3 to 64 of 32x32", KIND_dense, 27.0 * 64 * 1024, "macs/cycle", bench_dense_run,
        &dense, ghz);
  halut_weights_unpack(&dense.weights);
}

static void bench_all(void) {
  double ghz = clock_ghz();
  printf("clock %.3f GHz, best of %d, kernels interleaved\n", ghz, BENCH_BEST_OF);
  for (uint32_t size = 32; size >= 4; size /= 2) {
    for (int masked = 1; masked >= 0; masked--) {
      struct bench_encode b = {.masked = masked};
      char title[64];
      const size_t rows = halut_pad_rows((size_t)size * size);
      b.rows = rows < HALUT_CODE_BLOCK ? rows : HALUT_CODE_BLOCK;
      b.blocks = (int)(rows / b.rows);
      b.value = buffer_make(BENCH_CODEBOOKS * HALUT_LEVELS + BENCH_BYTES);
      b.masks = buffer_make(BENCH_BYTES);
      b.threshold = buffer_make(BENCH_CODEBOOKS * HALUT_PROTOTYPES);
      b.codes = halut_alloc(BENCH_CODEBOOKS * HALUT_CODE_BLOCK);
      fill(b.value, BENCH_CODEBOOKS * HALUT_LEVELS + BENCH_BYTES, UNIFORM);
      fill(b.threshold, BENCH_CODEBOOKS * HALUT_PROTOTYPES, UNIFORM);
      memset(b.masks, 255, BENCH_BYTES);
      for (size_t i = 0; i < BENCH_CODEBOOKS * HALUT_LEVELS; i++)
        b.read[i] = (struct halut_read){(ptrdiff_t)i, i % HALUT_CODE_BLOCK};
      snprintf(title, sizeof title, "encode 64x%ux%u%s", size, size, masked ? ", masked" : "");
      bench(title, KIND_encode, -(double)BENCH_CODEBOOKS * (double)rows / 32, "cycles/32 codes",
            bench_encode_run, &b, ghz);
      free(b.codes);
      buffer_free_all();
    }
  }
  for (int bits = 8; bits >= 6; bits--) {
    bench_accumulate_shape(64, 128, 1024, bits, ghz);
    bench_accumulate_shape(128, 128, 256, bits, ghz);
    bench_accumulate_shape(128, 256, 256, bits, ghz);
    bench_accumulate_shape(256, 256, 64, bits, ghz);
    bench_accumulate_shape(256, 256, 16, bits, ghz);
    bench_accumulate_shape(512, 256, 128, bits, ghz);
  }
  bench_small(ghz);
}

static Suite *kernels_suite(void) {
  Suite *suite = suite_create("kernels");
  TCase *tests = tcase_create("kernels");
  tcase_add_checked_fixture(tests, setup, buffer_free_all);
  tcase_set_timeout(tests, 200);
  tcase_add_test(tests, encode_matches_ref);
  tcase_add_test(tests, accumulate_matches_ref);
  tcase_add_test(tests, accumulate_matches_ref_in_tiles_and_runs);
  tcase_add_test(tests, accumulate_matches_ref_with_the_most_codebooks);
  tcase_add_test(tests, accumulate_matches_ref_at_the_edge_of_packing);
  tcase_add_test(tests, accumulate_matches_ref_at_the_largest_sums);
  tcase_add_test(tests, pool2_matches_ref);
  tcase_add_test(tests, add_matches_ref);
  tcase_add_test(tests, dense_matches_ref);
  tcase_add_test(tests, linear_matches_ref);
  tcase_add_test(tests, quantise_matches_ref);
  tcase_add_test(tests, quantise_rounds_as_written);
  tcase_add_test(tests, dequantise_matches_ref);
  tcase_add_test(tests, row_matches_ref);
  tcase_add_test(tests, row_matches_ref_at_the_largest_sums);
  tcase_add_test(tests, dispatch_respects_the_ceiling);
  suite_add_tcase(suite, tests);
  return suite;
}

int main(int argc, char **argv) {
  const char *chosen = getenv("HALUT_SEED");
  int benchmark = 0;
  for (int i = 1; i < argc; i++) {
    if (strcmp(argv[i], "--bench") == 0) {
      benchmark = 1;
    } else if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc) {
      chosen = argv[++i];
    } else {
      fprintf(stderr, "usage: %s [--seed N] [--bench]\n", argv[0]);
      return 2;
    }
  }
  seed = chosen ? strtoull(chosen, NULL, 0) : (uint64_t)time(NULL);
  printf("check_kernels: --seed %llu, up to %s\n", (unsigned long long)seed,
         halut_cpu_name(halut_cpu_flags()));
  random_state = seed;
  if (benchmark) {
    bench_all();
    return 0;
  }
  SRunner *runner = srunner_create(kernels_suite());
  srunner_run_all(runner, CK_ENV);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
