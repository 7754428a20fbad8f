/* The accelerator, its driver and its backend against a plain loop, byte for byte.
 *
 * usage: check_rtl [--seed N]      HALUT_SEED=N does the same
 *
 * Models: `unit` is the backend's; tiled, narrow and flat are small ones whose assertions are on,
 * the last two with latch memories (sizes in rtl/rtl.mk). Streams pause at random; the driver also
 * meets buses that lie, stall and never finish. */
#include <check.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "../rtl/backend_rtl.h"
#include "../rtl/driver.h"
#include "../rtl/regs.h"
#include "../rtl/sim.h"

extern const struct halut_sim_ops halut_sim_tiled, halut_sim_narrow, halut_sim_flat;

static const struct halut_sim_ops *const models[] = {&halut_sim_tiled, &halut_sim_narrow,
                                                     &halut_sim_flat, &halut_sim_unit};
enum { MODELS = 4 };

static uint64_t seed = 1;

static uint64_t random_next(uint64_t *state) { /* splitmix64 */
  uint64_t z = *state += 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

static uint32_t random_below(uint64_t *state, uint32_t bound) {
  return (uint32_t)((random_next(state) >> 32) % bound);
}

/* ---- A product, its data and its right answer ---- */

enum kind { UNIFORM, TIES, HIGHEST, LOWEST, KINDS };

struct product {
  struct halut_lut lut;
  size_t rows, padded;
  uint8_t *threshold, *value;
  int8_t *table;
  int32_t *acc, *want;
  uint8_t *code; /* [codebooks][rows] */
};

static void *allocate(size_t bytes) {
  void *memory = aligned_alloc(HALUT_ALIGN, (bytes + HALUT_ALIGN) / HALUT_ALIGN * HALUT_ALIGN);
  ck_assert_ptr_nonnull(memory);
  return memory;
}

/* TIES: values often equal a threshold. HIGHEST and LOWEST: every entry 127 or -128. */
static void product_fill(struct product *p, enum kind kind, uint64_t *state) {
  const size_t thresholds = (size_t)p->lut.codebooks * HALUT_PROTOTYPES;
  const uint32_t range = kind == TIES ? 4 : 256;
  for (size_t k = 0; k < thresholds; k++)
    p->threshold[k] = (uint8_t)random_below(state, range);
  for (size_t k = 0; k < thresholds * p->lut.outputs; k++) {
    const int8_t any = (int8_t)random_next(state);
    p->table[k] = kind == HIGHEST ? 127 : kind == LOWEST ? -128 : any;
  }
  for (size_t k = 0; k < (size_t)p->lut.codebooks * HALUT_LEVELS * p->padded; k++) {
    p->value[k] = (uint8_t)random_below(state, range);
  }
}

/* The method as core/halut.h states it, in plain loops. */
static void product_solve(struct product *p) {
  for (uint32_t c = 0; c < p->lut.codebooks; c++) {
    for (size_t row = 0; row < p->rows; row++) {
      uint32_t node = 1;
      for (uint32_t level = 0; level < HALUT_LEVELS; level++) {
        const uint8_t value = p->value[((size_t)c * HALUT_LEVELS + level) * p->padded + row];
        node = 2 * node + (value > p->threshold[(size_t)c * HALUT_PROTOTYPES + node]);
      }
      p->code[(size_t)c * p->rows + row] = (uint8_t)(node - HALUT_PROTOTYPES);
    }
  }
  for (uint32_t m = 0; m < p->lut.outputs; m++) {
    for (size_t row = 0; row < p->rows; row++) {
      int32_t sum = 0;
      for (uint32_t c = 0; c < p->lut.codebooks; c++) {
        const size_t entry = ((size_t)m * p->lut.codebooks + c) * HALUT_PROTOTYPES;
        sum += p->table[entry + p->code[(size_t)c * p->rows + row]];
      }
      p->want[m * p->padded + row] = sum;
    }
  }
}

static struct product product_make(uint32_t codebooks, uint32_t outputs, size_t rows,
                                   enum kind kind, uint64_t *state) {
  struct product p = {.rows = rows, .padded = halut_pad_rows(rows)};
  const size_t thresholds = (size_t)codebooks * HALUT_PROTOTYPES;
  p.threshold = allocate(thresholds);
  p.table = allocate(thresholds * outputs);
  p.value = allocate((size_t)codebooks * HALUT_LEVELS * p.padded);
  p.code = allocate(codebooks * rows);
  p.acc = allocate(outputs * p.padded * sizeof *p.acc);
  p.want = allocate(outputs * p.padded * sizeof *p.want);
  p.lut = (struct halut_lut){codebooks, outputs, p.threshold, p.table, NULL};
  product_fill(&p, kind, state);
  product_solve(&p);
  return p;
}

static void product_poison(struct product *p) {
  memset(p->acc, 0xa5, p->lut.outputs * p->padded * sizeof *p->acc);
}

static void product_compare(const struct product *p, const char *what) {
  for (uint32_t m = 0; m < p->lut.outputs; m++) {
    const size_t at = m * p->padded;
    ck_assert_msg(memcmp(p->acc + at, p->want + at, p->rows * sizeof *p->acc) == 0,
                  "%s: %u codebooks, %u outputs, %zu rows: output %u is wrong (seed %llu)", what,
                  p->lut.codebooks, p->lut.outputs, p->rows, m, (unsigned long long)seed);
  }
}

static void product_free(struct product *p) {
  free(p->threshold);
  free(p->table);
  free(p->value);
  free(p->code);
  free(p->acc);
  free(p->want);
}

/* ---- A simulated device, with a bus that can misbehave between it and the driver ---- */

enum fault {
  NONE,
  WRONG_ID,
  WRONG_VERSION,
  NO_SHAPE,
  ODD_SHAPE,
  OTHER_BEATS,
  STUCK_BUSY,
  ERROR_STATUS,
  FEW_BEATS,
  FEW_CYCLES,
  READ_FAILS,
  WRITE_FAILS,
  TRANSFER_FAILS,
  NEVER_FINISHES,
  STOPS_EARLY,
  FAULTS
};

struct rig {
  const struct halut_sim_ops *ops;
  struct halut_sim *sim;
  struct halut_bus real, bus;
  struct halut_device *device;
  enum fault fault;
  uint64_t stop_after; /* cycles, for STOPS_EARLY */
};

static int rig_read32(void *self, uint32_t offset, uint32_t *value_out) {
  struct rig *rig = self;
  if (rig->fault == READ_FAILS)
    return HALUT_EDEVICE;
  const int err = rig->real.read32(rig->real.self, offset, value_out);
  if (err)
    return err;
  if (rig->fault == WRONG_ID && offset == HALUT_REG_ID)
    *value_out ^= 0x100;
  if (rig->fault == WRONG_VERSION && offset == HALUT_REG_VERSION)
    *value_out = 0x20000;
  if (rig->fault == NO_SHAPE && offset == HALUT_REG_SHAPE)
    *value_out = 0;
  if (rig->fault == ODD_SHAPE && offset == HALUT_REG_MEMORY)
    *value_out ^= 0x1;
  if (rig->fault == OTHER_BEATS && offset == HALUT_REG_SHAPE)
    *value_out += 0x80000;
  if (rig->fault == STUCK_BUSY && offset == HALUT_REG_STATUS)
    *value_out |= HALUT_STATUS_RUNNING;
  if (rig->fault == ERROR_STATUS && offset == HALUT_REG_STATUS)
    *value_out |= HALUT_STATUS_OVERLAP;
  if (rig->fault == FEW_BEATS && offset == HALUT_REG_BEATS)
    *value_out -= 1;
  if (rig->fault == FEW_CYCLES && offset == HALUT_REG_CYCLES)
    *value_out = 1;
  return 0;
}

static int rig_write32(void *self, uint32_t offset, uint32_t value) {
  struct rig *rig = self;
  if (rig->fault == WRITE_FAILS)
    return HALUT_EDEVICE;
  return rig->real.write32(rig->real.self, offset, value);
}

static int rig_transfer(void *self, struct halut_transfer *t, uint64_t cycles) {
  struct rig *rig = self;
  if (rig->fault == TRANSFER_FAILS)
    return HALUT_EDEVICE;
  if (rig->fault == NEVER_FINISHES) {
    t->load.done = t->in.done = t->acc.done = t->out.done = 0;
    return 0;
  }
  if (rig->fault == STOPS_EARLY && cycles > rig->stop_after)
    cycles = rig->stop_after;
  return rig->real.transfer(rig->real.self, t, cycles);
}

static int rig_configure(void *self, size_t load, size_t in, size_t acc, size_t out) {
  struct rig *rig = self;
  return rig->real.configure(rig->real.self, load, in, acc, out);
}

static void rig_open(struct rig *rig, const struct halut_sim_ops *ops,
                     const struct halut_device_options *options) {
  struct halut_diag diag = {0};
  *rig = (struct rig){.ops = ops};
  ck_assert_msg(ops->open(&rig->sim, &rig->real, &diag) == 0, "%s", diag.text);
  rig->bus = (struct halut_bus){rig, rig_read32, rig_write32, rig_transfer, rig_configure};
  const int err = halut_device_open(&rig->bus, options, &rig->device, &diag);
  ck_assert_msg(err == 0, "%s: %s", ops->name, diag.text);
}

static void rig_close(struct rig *rig) {
  halut_device_close(rig->device);
  rig->ops->close(rig->sim);
}

static uint32_t rig_load(struct rig *rig, const struct product *p) {
  uint32_t handle = 0;
  struct halut_diag diag = {0};
  ck_assert_msg(halut_device_load(rig->device, &p->lut, &handle, &diag) == 0, "%s", diag.text);
  return handle;
}

static void rig_expect(struct rig *rig, uint32_t handle, struct product *p,
                       struct halut_stats *stats) {
  struct halut_diag diag = {0};
  product_poison(p);
  const int err =
      halut_device_product(rig->device, handle, p->value, p->rows, p->acc, stats, &diag);
  ck_assert_msg(err == 0, "%s: %s", rig->ops->name, diag.text);
  product_compare(p, rig->ops->name);
}

static uint32_t rig_register(struct rig *rig, uint32_t offset) {
  uint32_t value = 0;
  ck_assert_int_eq(rig->real.read32(rig->real.self, offset, &value), 0);
  return value;
}

static void rig_set(struct rig *rig, uint32_t offset, uint32_t value) {
  ck_assert_int_eq(rig->real.write32(rig->real.self, offset, value), 0);
}

/* ---- Co-simulation ---- */

/* Shapes around every edge: one codebook, a group less or more one, more than a run can sum, more
 * than the accelerator holds; lanes likewise. */
static uint32_t edge(uint64_t *state, uint32_t unit, uint32_t most) {
  const uint32_t around = unit * (1 + random_below(state, most));
  const uint32_t n = around + random_below(state, 3);
  return n > 1 ? n - 1 : 1;
}

START_TEST(product_matches_the_plain_loop) {
  const struct halut_sim_ops *ops = models[_i];
  uint64_t state = seed + (uint64_t)_i * 1000;
  const int rounds = ops == &halut_sim_unit ? 6 : 12;
  for (int round = 0; round < rounds; round++) {
    struct rig rig;
    const struct halut_device_options options = {.resident_max = round % 3 == 1 ? 4u : 0u,
                                                 .budget_percent = 100000};
    rig_open(&rig, ops, &options);
    const struct halut_device_shape *s = halut_device_shape(rig.device);
    if (round % 2) {
      ops->pause(rig.sim, random_next(&state), (uint8_t)random_below(&state, 200),
                 (uint8_t)random_below(&state, 200), (uint8_t)random_below(&state, 200),
                 (uint8_t)random_below(&state, 200));
    }
    struct product p[3];
    uint32_t handle[3];
    for (int k = 0; k < 3; k++) {
      const uint32_t codebooks = k == 2 && ops != &halut_sim_unit
                                     ? edge(&state, s->codebooks, 3)
                                     : edge(&state, s->codebooks_cycle, 20);
      const size_t rows = 1 + random_below(&state, round % 4 == 3 ? 100 : 20);
      p[k] = product_make(codebooks, edge(&state, s->lanes, 2), rows,
                          (enum kind)random_below(&state, KINDS), &state);
      handle[k] = rig_load(&rig, &p[k]);
    }
    for (int k = 0; k < 6; k++)
      rig_expect(&rig, handle[k % 3], &p[k % 3], NULL);
    for (int k = 0; k < 3; k++)
      product_free(&p[k]);
    rig_close(&rig);
  }
}
END_TEST

/* Sums past 16 bits: 300 codebooks of 127 or of -128, so the accumulate stream carries them. */
START_TEST(the_largest_sums_are_exact) {
  static const uint32_t codebooks[] = {255, 256, 257, 258, 429, 600};
  enum { SIZES = sizeof codebooks / sizeof codebooks[0] };
  /* The device keeps a pointer to each lut, so nothing is freed or moved before it is closed. */
  struct product p[2 * SIZES];
  uint64_t state = seed;
  struct rig rig;
  rig_open(&rig, &halut_sim_unit, NULL);
  for (size_t i = 0; i < 2 * SIZES; i++) {
    const enum kind kind = i < SIZES ? HIGHEST : LOWEST;
    const uint32_t count = codebooks[i % SIZES];
    p[i] = product_make(count, 130, 5, kind, &state);
    ck_assert_int_eq(p[i].want[0], (kind == HIGHEST ? 127 : -128) * (int32_t)count);
    rig_expect(&rig, rig_load(&rig, &p[i]), &p[i], NULL);
  }
  rig_close(&rig);
  for (size_t i = 0; i < 2 * SIZES; i++)
    product_free(&p[i]);
}
END_TEST

/* Rows past a chunk of the driver, resident and streamed. */
START_TEST(long_products_are_cut_into_chunks) {
  uint64_t state = seed;
  for (uint32_t resident = 0; resident <= 4; resident += 4) {
    struct rig rig;
    const struct halut_device_options options = {.resident_max = resident};
    rig_open(&rig, &halut_sim_tiled, &options);
    const uint32_t codebooks = resident ? 9 : 3;
    struct product p =
        product_make(codebooks, 17, resident ? 16384 + 33 : 1024 + 33, UNIFORM, &state);
    rig_expect(&rig, rig_load(&rig, &p), &p, NULL);
    rig_close(&rig);
    product_free(&p);
  }
}
END_TEST

/* A table that no longer fits beside the buffers is streamed through them from then on, also when
 * its tiles are larger than those of the table that it made room for. */
START_TEST(evicted_tables_fit_the_buffers) {
  uint64_t state = seed;
  struct rig rig;
  rig_open(&rig, &halut_sim_unit, NULL);
  const struct halut_device_shape *s = halut_device_shape(rig.device);
  const uint32_t groups = s->codebooks / s->codebooks_cycle, tile = 64;
  ck_assert_uint_gt(groups, 3 * tile);
  const uint32_t wide = tile * s->codebooks_cycle, narrow = wide * 5 / 8;
  /* They fill the memory but for a tile's groups; the third needs two buffers of 40 groups. */
  struct product p[3] = {product_make(wide, (groups / tile - 2) * s->lanes, 1, UNIFORM, &state),
                         product_make(wide, s->lanes, 5, UNIFORM, &state),
                         product_make(narrow, 2 * s->lanes, 5, UNIFORM, &state)};
  uint32_t handle[3];
  for (int k = 0; k < 3; k++)
    handle[k] = rig_load(&rig, &p[k]);
  for (int k = 0; k < 6; k++)
    rig_expect(&rig, handle[1 + k % 2], &p[1 + k % 2], NULL);
  rig_expect(&rig, handle[0], &p[0], NULL);
  rig_close(&rig);
  for (int k = 0; k < 3; k++)
    product_free(&p[k]);
}
END_TEST

static void *thread_product(void *argument) {
  struct product *p = argument;
  struct halut_backend *backend = NULL;
  uint32_t handle = 0;
  if (halut_backend_rtl.open(NULL, &backend, NULL) != 0)
    return NULL;
  int err = halut_backend_rtl.load(backend, &p->lut, NULL, &handle, NULL);
  for (int k = 0; k < 3 && err == 0; k++) {
    err = halut_backend_rtl.product(backend, handle, p->value, p->rows, p->acc, NULL);
  }
  halut_backend_rtl.close(backend);
  return err == 0 ? p : NULL;
}

START_TEST(backends_run_in_several_threads) {
  uint64_t state = seed;
  struct product p[3];
  pthread_t thread[3];
  for (int k = 0; k < 3; k++) {
    p[k] = product_make(40, 130, 70, UNIFORM, &state);
    product_poison(&p[k]);
    ck_assert_int_eq(pthread_create(&thread[k], NULL, thread_product, &p[k]), 0);
  }
  for (int k = 0; k < 3; k++) {
    void *result = NULL;
    ck_assert_int_eq(pthread_join(thread[k], &result), 0);
    ck_assert_ptr_eq(result, &p[k]);
    product_compare(&p[k], "thread");
    product_free(&p[k]);
  }
}
END_TEST

START_TEST(backend_matches_the_cpu_backend) {
  uint64_t state = seed;
  static const uint32_t shape[][3] = {{64, 128, 96}, {128, 256, 64}, {256, 256, 16}, {3, 5, 1}};
  struct halut_backend *rtl = NULL, *cpu = NULL;
  ck_assert_int_eq(halut_backend_rtl.open(NULL, &rtl, NULL), 0);
  ck_assert_int_eq(halut_backend_cpu.open(NULL, &cpu, NULL), 0);
  struct product p[4];
  for (size_t k = 0; k < 4; k++) {
    p[k] = product_make(shape[k][0], shape[k][1], shape[k][2], UNIFORM, &state);
    uint32_t handle = 0;
    struct halut_stats stats = {0};
    ck_assert_int_eq(halut_backend_rtl.load(rtl, &p[k].lut, NULL, &handle, NULL), 0);
    product_poison(&p[k]);
    ck_assert_int_eq(
        halut_backend_rtl.product(rtl, handle, p[k].value, p[k].rows, p[k].acc, &stats), 0);
    product_compare(&p[k], "rtl");
    ck_assert_uint_eq(stats.lookups, (uint64_t)shape[k][0] * shape[k][1] * shape[k][2]);
    ck_assert_int_eq(halut_backend_cpu.load(cpu, &p[k].lut, NULL, &handle, NULL), 0);
    product_poison(&p[k]);
    ck_assert_int_eq(halut_backend_cpu.product(cpu, handle, p[k].value, p[k].rows, p[k].acc, NULL),
                     0);
    product_compare(&p[k], "cpu");
  }
  halut_backend_rtl.close(rtl);
  halut_backend_cpu.close(cpu);
  for (size_t k = 0; k < 4; k++)
    product_free(&p[k]);
}
END_TEST

/* ---- Counters ---- */

/* One tile, no pauses. In each row group the slower of `groups` input beats and `beats` output
 * beats sets the pace; after the last input beat three stages and the output beats remain. */
static uint64_t cycles_formula(uint64_t row_groups, uint64_t groups, uint64_t beats) {
  const uint64_t pace = groups > beats ? groups : beats;
  return (row_groups - 1) * pace + groups + 3 + beats;
}

START_TEST(counters_equal_the_closed_formula) {
  uint64_t state = seed;
  const struct halut_sim_ops *ops = models[_i];
  for (int round = 0; round < 8; round++) {
    struct rig rig;
    rig_open(&rig, ops, NULL);
    const struct halut_device_shape s = *halut_device_shape(rig.device);
    uint32_t most = s.codebooks < s.sum_codebooks ? s.codebooks : s.sum_codebooks;
    if (s.codebooks / s.codebooks_cycle > 1 && most > s.codebooks / 2)
      most = s.codebooks / 2;
    const uint32_t codebooks = 1 + random_below(&state, most);
    struct product p =
        product_make(codebooks, s.lanes, 1 + random_below(&state, 200), UNIFORM, &state);
    const uint32_t handle = rig_load(&rig, &p);
    const uint64_t groups = (codebooks + s.codebooks_cycle - 1) / s.codebooks_cycle;
    const uint64_t row_groups = (p.rows + s.rows_cycle - 1) / s.rows_cycle;
    const uint64_t table_beats = groups * s.codebooks_cycle * HALUT_LOAD_BEATS;
    struct halut_stats first = {0}, second = {0};
    rig_expect(&rig, handle, &p, &first); /* loads the tables, then runs */
    rig_expect(&rig, handle, &p, &second);
    const uint64_t cycles = cycles_formula(row_groups, groups, s.lanes / s.beat_lanes);
    ck_assert_uint_eq(second.device_cycles, cycles);
    ck_assert_uint_eq(first.device_cycles, cycles + table_beats);
    ck_assert_uint_eq(second.device_table_bytes, 0);
    ck_assert_uint_eq(first.device_table_bytes, table_beats * (s.lanes > 16 ? s.lanes : 16));
    ck_assert_uint_eq(first.device_stalls, second.device_stalls + table_beats);
    ck_assert_uint_eq(second.device_encodes,
                      row_groups * groups * s.codebooks_cycle * s.rows_cycle);
    ck_assert_uint_eq(second.lookups, p.rows * codebooks * s.lanes);
    ck_assert_uint_eq(rig_register(&rig, HALUT_REG_LOOKUPS),
                      row_groups * groups * s.codebooks_cycle * s.rows_cycle * s.lanes);
    rig_close(&rig);
    product_free(&p);
  }
}
END_TEST

/* With pauses, cycles split without rest into beats, stalls and the drain of three stages and the
 * output. */
START_TEST(every_cycle_is_counted_once) {
  uint64_t state = seed;
  struct rig rig;
  const struct halut_device_options options = {.budget_percent = 100000};
  rig_open(&rig, &halut_sim_tiled, &options);
  struct product p = product_make(4, 16, 64, UNIFORM, &state);
  const uint32_t handle = rig_load(&rig, &p);
  for (int round = 0; round < 10; round++) {
    const uint8_t in = (uint8_t)random_below(&state, 250);
    const uint8_t out = round % 2 == 0 ? 0 : (uint8_t)random_below(&state, 250);
    halut_sim_tiled.pause(rig.sim, random_next(&state), 100, in, 0, out);
    struct halut_stats stats = {0};
    struct halut_sim_seen before, after;
    rig_expect(&rig, handle, &p, NULL);
    halut_sim_tiled.seen(rig.sim, &before);
    rig_expect(&rig, handle, &p, &stats);
    halut_sim_tiled.seen(rig.sim, &after);
    const uint64_t beats = rig_register(&rig, HALUT_REG_BEATS);
    ck_assert_uint_eq(beats, after.stream[1].taken - before.stream[1].taken);
    ck_assert_uint_eq(rig_register(&rig, HALUT_REG_STALL_IN),
                      after.stream[1].starved - before.stream[1].starved);
    /* The drain is as long as the output makes it: at least three stages and two beats. */
    ck_assert_uint_ge(stats.device_cycles, beats + stats.device_stalls + 5);
    const uint64_t drain = (after.stream[3].starved - before.stream[3].starved) +
                           (after.stream[3].held - before.stream[3].held) +
                           (after.stream[3].taken - before.stream[3].taken);
    ck_assert_uint_le(stats.device_cycles, beats + stats.device_stalls + 5 + drain);
    if (out == 0)
      ck_assert_uint_eq(stats.device_cycles, beats + stats.device_stalls + 5);
  }
  rig_close(&rig);
  product_free(&p);
}
END_TEST

/* Tables that do not stay are loaded beside the run before, and no cycle is lost while runs are
 * longer. */
START_TEST(loading_hides_behind_computing) {
  uint64_t state = seed;
  struct rig rig;
  const struct halut_device_options options = {.resident_max = 1};
  rig_open(&rig, &halut_sim_tiled, &options);
  struct product p = product_make(4, 16 * 6, 640, UNIFORM, &state); /* six tiles of two groups */
  struct halut_stats stats = {0};
  rig_expect(&rig, rig_load(&rig, &p), &p, &stats);
  const uint64_t load = 2 * 2 * HALUT_LOAD_BEATS, run = cycles_formula(320, 2, 2);
  ck_assert_uint_gt(run, load);
  ck_assert_uint_eq(stats.device_table_bytes, 6 * load * 16);
  ck_assert_uint_eq(stats.device_cycles, load + 6 * run); /* only the first load shows */
  rig_close(&rig);
  product_free(&p);
}
END_TEST

/* ---- Faults ---- */

static const struct {
  enum fault fault;
  int error;
  const char *text;
} fault_at_open[] =
    {
        {WRONG_ID, HALUT_EDEVICE, "ID reads"},
        {WRONG_VERSION, HALUT_EDEVICE, "version 2.0"},
        {NO_SHAPE, HALUT_EDEVICE, "make no sense"},
        {ODD_SHAPE, HALUT_EDEVICE, "make no sense"},
        {OTHER_BEATS, HALUT_EDEVICE, "the bus cannot move beats"},
        {STUCK_BUSY, HALUT_EDEVICE, "STATUS reads 0x1 after a reset"},
        {READ_FAILS, HALUT_EDEVICE, "register ID (0x00) cannot be read"},
        {WRITE_FAILS, HALUT_EDEVICE, "register CONTROL (0x10) cannot be written"},
},
  fault_at_run[] = {
      {STUCK_BUSY, HALUT_EDEVICE, "STATUS reads 0x1 after all beats moved"},
      {ERROR_STATUS, HALUT_EDEVICE, "STATUS reads 0x400 after all beats moved"},
      {FEW_BEATS, HALUT_EDEVICE, "counted"},
      {FEW_CYCLES, HALUT_EDEVICE, "counted"},
      {READ_FAILS, HALUT_EDEVICE, "register STATUS (0x14) cannot be read"},
      {WRITE_FAILS, HALUT_EDEVICE, "register CONTROL (0x10) cannot be written"},
      {TRANSFER_FAILS, HALUT_EDEVICE, "the bus failed in a transfer"},
      {NEVER_FINISHES, HALUT_ETIMEOUT, "not done after"},
      {STOPS_EARLY, HALUT_ETIMEOUT, "not done after"},
};

START_TEST(open_refuses_what_is_no_accelerator) {
  struct rig rig;
  rig_open(&rig, &halut_sim_tiled, NULL);
  halut_device_close(rig.device);
  rig.device = NULL;
  rig.fault = fault_at_open[_i].fault;
  struct halut_diag diag = {0};
  ck_assert_int_eq(halut_device_open(&rig.bus, NULL, &rig.device, &diag), fault_at_open[_i].error);
  ck_assert_ptr_nonnull(strstr(diag.text, fault_at_open[_i].text));
  ck_assert_ptr_null(rig.device);
  rig_close(&rig);
}
END_TEST

START_TEST(one_fault_costs_one_call) {
  uint64_t state = seed;
  struct rig rig;
  rig_open(&rig, &halut_sim_tiled, NULL);
  struct product p = product_make(5, 20, 40, UNIFORM, &state);
  const uint32_t handle = rig_load(&rig, &p);
  rig_expect(&rig, handle, &p, NULL);
  rig.fault = fault_at_run[_i].fault;
  rig.stop_after = 7;
  struct halut_diag diag = {0};
  const int err = halut_device_product(rig.device, handle, p.value, p.rows, p.acc, NULL, &diag);
  ck_assert_int_eq(err, fault_at_run[_i].error);
  ck_assert_msg(strstr(diag.text, fault_at_run[_i].text) != NULL, "%s", diag.text);
  rig.fault = NONE;
  rig_expect(&rig, handle, &p, NULL);
  rig_close(&rig);
  product_free(&p);
}
END_TEST

/* A resident table is loaded once; after a fault nobody knows which are whole: once more. */
START_TEST(a_fault_costs_the_resident_tables) {
  uint64_t state = seed;
  struct rig rig;
  rig_open(&rig, &halut_sim_tiled, NULL);
  const struct halut_device_shape *s = halut_device_shape(rig.device);
  struct product p = product_make(s->codebooks_cycle, s->lanes, 40, UNIFORM, &state);
  const uint32_t handle = rig_load(&rig, &p);
  struct halut_stats first = {0}, next = {0}, last = {0};
  rig_expect(&rig, handle, &p, &first);
  rig_expect(&rig, handle, &p, &next);
  ck_assert_uint_gt(first.device_table_bytes, 0);
  ck_assert_uint_eq(next.device_table_bytes, 0);
  rig.fault = TRANSFER_FAILS;
  ck_assert_int_eq(halut_device_product(rig.device, handle, p.value, p.rows, p.acc, NULL, NULL),
                   HALUT_EDEVICE);
  rig.fault = NONE;
  rig_expect(&rig, handle, &p, &last);
  ck_assert_uint_eq(last.device_table_bytes, first.device_table_bytes);
  rig_close(&rig);
  product_free(&p);
}
END_TEST

/* A bus that stops at any cycle of a product, with every stream pausing: reset, then all is well.
 */
START_TEST(reset_in_flight_forgets_everything) {
  const struct halut_sim_ops *ops = models[_i];
  uint64_t state = seed + (uint64_t)_i;
  struct rig rig;
  const struct halut_device_options options = {.resident_max = 1, .budget_percent = 100000};
  rig_open(&rig, ops, &options);
  const struct halut_device_shape *s = halut_device_shape(rig.device);
  struct product p = product_make(2 * s->codebooks_cycle + 1, s->lanes + 1, 9, UNIFORM, &state);
  const uint32_t handle = rig_load(&rig, &p);
  ops->pause(rig.sim, seed, 60, 60, 60, 60);
  int stopped = 0;
  for (uint64_t cycle = 1; cycle < 120; cycle++) {
    rig.fault = STOPS_EARLY;
    rig.stop_after = cycle;
    const int err = halut_device_product(rig.device, handle, p.value, p.rows, p.acc, NULL, NULL);
    ck_assert(err == 0 || err == HALUT_ETIMEOUT);
    stopped += err != 0;
    rig.fault = NONE;
    rig_expect(&rig, handle, &p, NULL);
  }
  ck_assert_int_gt(stopped, 20);
  rig_close(&rig);
  product_free(&p);
}
END_TEST

START_TEST(a_fault_that_stays_is_reported_each_time) {
  uint64_t state = seed;
  struct rig rig;
  rig_open(&rig, &halut_sim_tiled, NULL);
  struct product p = product_make(2, 16, 4, UNIFORM, &state);
  const uint32_t handle = rig_load(&rig, &p);
  rig.fault = STUCK_BUSY;
  for (int k = 0; k < 3; k++) {
    struct halut_diag diag = {0};
    const int err = halut_device_product(rig.device, handle, p.value, p.rows, p.acc, NULL, &diag);
    ck_assert_int_eq(err, HALUT_EDEVICE);
    ck_assert_ptr_nonnull(strstr(diag.text, "STATUS"));
  }
  rig.fault = NONE;
  rig_expect(&rig, handle, &p, NULL);
  ck_assert_int_eq(halut_device_product(rig.device, 7, p.value, p.rows, p.acc, NULL, NULL),
                   HALUT_EINVALID);
  rig_close(&rig);
  product_free(&p);
}
END_TEST

START_TEST(load_refuses_sizes_out_of_range) {
  static const uint32_t size[][2] = {
      {0, 1}, {1, 0}, {HALUT_CODEBOOKS_MAX + 1, 1}, {1, HALUT_OUTPUTS_MAX + 1}};
  struct rig rig;
  rig_open(&rig, &halut_sim_tiled, NULL);
  for (size_t k = 0; k < sizeof size / sizeof *size; k++) {
    const struct halut_lut lut = {.codebooks = size[k][0], .outputs = size[k][1]};
    uint32_t handle = 0;
    struct halut_diag diag = {0};
    ck_assert_int_eq(halut_device_load(rig.device, &lut, &handle, &diag), HALUT_ELIMIT);
    ck_assert_ptr_nonnull(strstr(diag.text, "are possible"));
  }
  rig_close(&rig);
}
END_TEST

/* ---- Registers ---- */

enum { REGISTERS_MAX = 32 };

/* Accesses to each register that were taken, or refused where it does not have them. */
struct register_cover {
  size_t count;
  uint64_t seen[REGISTERS_MAX];
};

static void registers_visit(struct rig *rig, struct register_cover *cover) {
  uint32_t value = 0;
  void *self = rig->real.self;
  static const struct {
    uint32_t offset;
    char access; /* O: read only, W: write only, R: read and write, C: counter */
  } list[] = {
#define RO 'O'
#define WO 'W'
#define RW 'R'
#define COUNTER 'C'
#define HALUT_REG(name, offset, access, text) {offset, access},
#include "../rtl/regs.inc"
#undef HALUT_REG
  };
  static_assert(sizeof list / sizeof *list <= REGISTERS_MAX, "as said");
  cover->count = sizeof list / sizeof *list;
  for (size_t k = 0; k < cover->count; k++) {
    const uint32_t at = list[k].offset;
    const bool reads = list[k].access != 'W',
               writes = list[k].access == 'W' || list[k].access == 'R';
    const int read = rig->real.read32(self, at, &value), wrote = rig->real.write32(self, at, 0);
    ck_assert_int_eq(read, reads ? 0 : HALUT_EDEVICE);
    ck_assert_int_eq(wrote, writes ? 0 : HALUT_EDEVICE);
    cover->seen[k] += 2;
    if (list[k].access == 'R') {
      rig_set(rig, at, 1);
      ck_assert_uint_eq(rig_register(rig, at), 1);
    }
    if (list[k].access == 'C')
      ck_assert_int_eq(rig->real.read32(self, at + 4, &value), 0);
  }
}

START_TEST(registers_keep_their_rules) {
  struct rig rig;
  struct register_cover cover = {0};
  uint32_t value = 0;
  rig_open(&rig, models[_i], NULL);
  registers_visit(&rig, &cover);
  ck_assert_int_eq(rig.real.read32(rig.real.self, 0x30, &value), HALUT_EDEVICE);
  ck_assert_int_eq(rig.real.write32(rig.real.self, 0x84, 0), HALUT_EDEVICE);
  ck_assert_uint_eq(rig_register(&rig, HALUT_REG_ID), HALUT_DEVICE_ID);
  rig_close(&rig);
}
END_TEST

START_TEST(impossible_starts_set_a_bit_and_nothing_else) {
  struct rig rig;
  rig_open(&rig, &halut_sim_tiled, NULL); /* four groups of two codebooks */
  rig_set(&rig, HALUT_REG_RUN_ROWS, 1);
  rig_set(&rig, HALUT_REG_RUN_GROUPS, 0);
  rig_set(&rig, HALUT_REG_CONTROL, HALUT_CONTROL_RUN);
  ck_assert_uint_eq(rig_register(&rig, HALUT_REG_STATUS), HALUT_STATUS_BAD_SIZE);
  rig_set(&rig, HALUT_REG_CONTROL, HALUT_CONTROL_RESET);
  rig_set(&rig, HALUT_REG_RUN_BASE, 3);
  rig_set(&rig, HALUT_REG_RUN_GROUPS, 2); /* past the last group */
  rig_set(&rig, HALUT_REG_CONTROL, HALUT_CONTROL_RUN);
  ck_assert_uint_eq(rig_register(&rig, HALUT_REG_STATUS), HALUT_STATUS_BAD_SIZE);
  rig_set(&rig, HALUT_REG_CONTROL, HALUT_CONTROL_RESET);
  rig_set(&rig, HALUT_REG_RUN_GROUPS, 1);
  rig_set(&rig, HALUT_REG_LOAD_BASE, 3);
  rig_set(&rig, HALUT_REG_LOAD_GROUPS, 1); /* the tables that the run reads */
  rig_set(&rig, HALUT_REG_CONTROL, HALUT_CONTROL_RUN);
  rig_set(&rig, HALUT_REG_CONTROL, HALUT_CONTROL_LOAD);
  ck_assert_uint_eq(rig_register(&rig, HALUT_REG_STATUS),
                    HALUT_STATUS_RUNNING | HALUT_STATUS_OVERLAP);
  rig_set(&rig, HALUT_REG_CONTROL, HALUT_CONTROL_RUN); /* again, and a size while it is in use */
  rig_set(&rig, HALUT_REG_RUN_ROWS, 9);
  ck_assert_uint_eq(rig_register(&rig, HALUT_REG_STATUS),
                    HALUT_STATUS_RUNNING | HALUT_STATUS_OVERLAP | HALUT_STATUS_BUSY);
  ck_assert_uint_eq(rig_register(&rig, HALUT_REG_RUN_ROWS), 1);
  rig_set(&rig, HALUT_REG_CONTROL, HALUT_CONTROL_RESET);
  ck_assert_uint_eq(rig_register(&rig, HALUT_REG_STATUS), 0);
  rig_set(&rig, HALUT_REG_LOAD_GROUPS, 0);
  rig_set(&rig, HALUT_REG_CONTROL, HALUT_CONTROL_LOAD);
  ck_assert_uint_eq(rig_register(&rig, HALUT_REG_STATUS), HALUT_STATUS_BAD_SIZE);
  rig_close(&rig);
}
END_TEST

/* ---- Options and waveforms ---- */

START_TEST(backend_refuses_bad_options) {
  static const char *const bad[][2] = {{"speed=1", "unknown option \"speed=1\""},
                                       {"resident", "is not key=value"},
                                       {"resident=0", "resident=\"0\" is not"},
                                       {"resident=4x", "resident=\"4x\" is not"},
                                       {"budget=99", "cycle budget of 99 percent"},
                                       {"trace=/nowhere/at/all.fst", "cannot write the waveform"}};
  for (size_t k = 0; k < sizeof bad / sizeof *bad; k++) {
    struct halut_backend *backend = NULL;
    struct halut_diag diag = {0};
    ck_assert_int_lt(halut_backend_rtl.open(bad[k][0], &backend, &diag), 0);
    ck_assert_msg(strstr(diag.text, bad[k][1]) != NULL, "%s: %s", bad[k][0], diag.text);
    ck_assert_ptr_null(backend);
  }
}
END_TEST

START_TEST(backend_writes_a_waveform_on_demand) {
  uint64_t state = seed;
  char path[64], option[96];
  snprintf(path, sizeof path, "/tmp/check_rtl_%ld.fst", (long)getpid());
  snprintf(option, sizeof option, "resident=64,trace=%s", path);
  struct halut_backend *backend = NULL;
  uint32_t handle = 0;
  struct product p = product_make(5, 9, 12, UNIFORM, &state);
  ck_assert_int_eq(halut_backend_rtl.open(option, &backend, NULL), 0);
  ck_assert_int_eq(halut_backend_rtl.load(backend, &p.lut, NULL, &handle, NULL), 0);
  ck_assert_int_eq(halut_backend_rtl.product(backend, handle, p.value, p.rows, p.acc, NULL), 0);
  product_compare(&p, "traced");
  halut_backend_rtl.close(backend);
  FILE *file = fopen(path, "rb");
  ck_assert_ptr_nonnull(file);
  ck_assert_int_eq(fgetc(file), 0); /* an FST file begins with its header block, type 0 */
  fseek(file, 0, SEEK_END);
  ck_assert_int_gt(ftell(file), 1000);
  fclose(file);
  unlink(path);
  product_free(&p);
}
END_TEST

/* ---- Functional coverage ---- */

struct cover {
  uint64_t leaf[HALUT_PROTOTYPES], left[HALUT_PROTOTYPES], right[HALUT_PROTOTYPES],
      tie[HALUT_PROTOTYPES];
  uint64_t highest, lowest, zero_rows;
};

static void cover_product(struct cover *cover, const struct product *p) {
  for (uint32_t c = 0; c < p->lut.codebooks; c++) {
    for (size_t row = 0; row < p->rows; row++) {
      const uint32_t leaf = p->code[(size_t)c * p->rows + row] + HALUT_PROTOTYPES;
      cover->leaf[leaf - HALUT_PROTOTYPES]++;
      for (uint32_t level = 0; level < HALUT_LEVELS; level++) {
        const uint32_t node = leaf >> (HALUT_LEVELS - level);
        const uint8_t value = p->value[((size_t)c * HALUT_LEVELS + level) * p->padded + row];
        const uint8_t threshold = p->threshold[(size_t)c * HALUT_PROTOTYPES + node];
        ((leaf >> (HALUT_LEVELS - 1 - level) & 1) ? cover->right : cover->left)[node]++;
        cover->tie[node] += value == threshold;
      }
    }
  }
  for (size_t row = 0; row < p->rows; row++) {
    cover->highest += p->want[row] == 127 * (int32_t)p->lut.codebooks;
    cover->lowest += p->want[row] == -128 * (int32_t)p->lut.codebooks;
  }
}

static int bin(const char *name, uint64_t hits) {
  printf("cover %-28s %llu\n", name, (unsigned long long)hits);
  return hits == 0;
}

static int bins(const char *name, const uint64_t *hits, int first, int count) {
  uint64_t least = UINT64_MAX;
  for (int k = first; k < first + count; k++)
    least = hits[k] < least ? hits[k] : least;
  printf("cover %-28s %d bins, least %llu\n", name, count, (unsigned long long)least);
  return least == 0;
}

START_TEST(coverage_is_complete) {
  uint64_t state = seed;
  struct cover cover = {0};
  struct rig rig;
  const struct halut_device_options options = {.budget_percent = 100000};
  rig_open(&rig, &halut_sim_tiled, &options);
  struct product p[8];
  for (int k = 0; k < 8; k++) {
    p[k] = product_make(20, 33, 40, (enum kind)(k % KINDS), &state);
    const uint32_t handle = rig_load(&rig, &p[k]);
    halut_sim_tiled.pause(rig.sim, seed, k < 4 ? 0 : 90, k < 4 ? 0 : 90, k < 4 ? 0 : 90,
                          k < 2 ? 0 : 90);
    rig_expect(&rig, handle, &p[k], NULL);
    cover_product(&cover, &p[k]);
  }
  struct halut_sim_seen seen;
  halut_sim_tiled.seen(rig.sim, &seen);
  int missing = bins("leaf", cover.leaf, 0, HALUT_PROTOTYPES);
  missing += bins("node goes left", cover.left, 1, HALUT_PROTOTYPES - 1);
  missing += bins("node goes right", cover.right, 1, HALUT_PROTOTYPES - 1);
  missing += bins("value equals threshold", cover.tie, 1, HALUT_PROTOTYPES - 1);
  missing += bin("highest sum", cover.highest);
  missing += bin("lowest sum", cover.lowest);
  static const char *const stream[] = {"load", "in", "acc", "out"};
  for (int k = 0; k < 4; k++) {
    char name[40];
    const uint64_t hits[] = {seen.stream[k].taken, seen.stream[k].back_to_back,
                             seen.stream[k].starved, seen.stream[k].held};
    static const char *const what[] = {"taken", "back to back", "starved", "held"};
    for (int n = 0; n < 4; n++) {
      /* A load stream is ready until its load ends, so its beats are never held back. */
      if (k == 0 && n == 3)
        continue;
      snprintf(name, sizeof name, "%s beats %s", stream[k], what[n]);
      missing += bin(name, hits[n]);
    }
  }
  struct register_cover registers = {0};
  registers_visit(&rig, &registers);
  missing += bins("register read and written", registers.seen, 0, (int)registers.count);
  ck_assert_int_eq(missing, 0);
  rig_close(&rig);
  for (int k = 0; k < 8; k++)
    product_free(&p[k]);
}
END_TEST

static Suite *rtl_suite(void) {
  Suite *suite = suite_create("rtl");
  TCase *tests = tcase_create("rtl");
  tcase_set_timeout(tests, 100);
  tcase_add_loop_test(tests, product_matches_the_plain_loop, 0, MODELS);
  tcase_add_test(tests, the_largest_sums_are_exact);
  tcase_add_test(tests, long_products_are_cut_into_chunks);
  tcase_add_test(tests, evicted_tables_fit_the_buffers);
  tcase_add_test(tests, backends_run_in_several_threads);
  tcase_add_test(tests, backend_matches_the_cpu_backend);
  tcase_add_loop_test(tests, counters_equal_the_closed_formula, 0, MODELS);
  tcase_add_test(tests, every_cycle_is_counted_once);
  tcase_add_test(tests, loading_hides_behind_computing);
  tcase_add_loop_test(tests, open_refuses_what_is_no_accelerator, 0,
                      (int)(sizeof fault_at_open / sizeof *fault_at_open));
  tcase_add_loop_test(tests, one_fault_costs_one_call, 0,
                      (int)(sizeof fault_at_run / sizeof *fault_at_run));
  tcase_add_test(tests, a_fault_costs_the_resident_tables);
  tcase_add_loop_test(tests, reset_in_flight_forgets_everything, 0, MODELS);
  tcase_add_test(tests, a_fault_that_stays_is_reported_each_time);
  tcase_add_test(tests, load_refuses_sizes_out_of_range);
  tcase_add_loop_test(tests, registers_keep_their_rules, 0, MODELS);
  tcase_add_test(tests, impossible_starts_set_a_bit_and_nothing_else);
  tcase_add_test(tests, backend_refuses_bad_options);
  tcase_add_test(tests, backend_writes_a_waveform_on_demand);
  tcase_add_test(tests, coverage_is_complete);
  suite_add_tcase(suite, tests);
  return suite;
}

int main(int argc, char **argv) {
  const char *chosen = getenv("HALUT_SEED");
  if (argc == 3 && strcmp(argv[1], "--seed") == 0) {
    chosen = argv[2];
  } else if (argc != 1) {
    fprintf(stderr, "usage: %s [--seed N]\n", argv[0]);
    return 2;
  }
  seed = chosen ? strtoull(chosen, NULL, 0) : (uint64_t)time(NULL);
  printf("check_rtl: --seed %llu\n", (unsigned long long)seed);
  fflush(stdout);
  SRunner *runner = srunner_create(rtl_suite());
  srunner_run_all(runner, CK_ENV);
  const int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
