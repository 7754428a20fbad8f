/* DESIGN. A lut is cut once, when it is loaded, into tiles of at most `tile_codebooks` codebooks by
 * M outputs, and each tile's load beats are packed then. A product walks chunk by chunk of rows,
 * tile by tile; beside each run the tile that the next step needs is loaded, if it is not in the
 * accelerator already and there is room for it.
 *
 * Memory of the accelerator, in groups of P codebooks: resident luts from group 0 up, in the order
 * they came; what is left at the top is two buffers for the tiles of all other luts. If those
 * buffers become too small, the youngest resident luts give way. */
#include "driver.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "regs.h"

enum {
  CHUNK_RESIDENT = 1024,  /* rows of a run: buffers then stay in the L2 cache */
  CHUNK_STREAMED = 16384, /* each chunk loads the tables again, so make it long */
  ROWS_CYCLE_MAX = HALUT_ROW_BLOCK,
  NO_TILE = -1
};

struct tile {
  uint32_t codebook, codebooks; /* of the lut, before padding to groups */
  uint32_t groups;
  uint32_t output; /* first one; lanes past the last are zero */
  uint8_t *beats;  /* [groups * P][17][load_bytes] */
};

struct table {
  const struct halut_lut *lut;
  struct tile *tiles; /* [output tiles][codebook tiles] */
  uint32_t tile_count, codebook_tiles;
  uint32_t groups; /* of all tiles */
  uint32_t base;   /* first group, if resident */
  bool resident, loaded;
  uint8_t *memory;
};

struct halut_device {
  const struct halut_bus *bus;
  struct halut_device_shape shape;
  size_t load_bytes, in_bytes, out_bytes; /* of a beat */
  uint32_t groups;                        /* C / P */
  uint32_t resident_groups_max, tile_codebooks;
  uint32_t budget_percent;
  struct table *tables;
  uint32_t table_count, table_capacity;
  uint32_t resident_groups; /* in use from group 0 */
  uint32_t buffer_groups;   /* of each of the two buffers, 0 while all luts are resident */
  bool one_buffer;          /* not even two tiles of one group fit */
  struct {
    int64_t table, tile;
  } buffer[2]; /* what they hold, or NO_TILE */
  uint8_t *in;
  int32_t *out;
  size_t in_capacity, out_capacity; /* bytes */
  bool faulty;                      /* reset before use */
};

/* ---- Registers ---- */

static int device_read(struct halut_device *d, uint32_t offset, const char *name,
                       uint32_t *value_out, struct halut_diag *diag) {
  if (d->bus->read32(d->bus->self, offset, value_out) == 0)
    return 0;
  return halut_fail(diag, HALUT_EDEVICE, 0, "accelerator: register %s (0x%02x) cannot be read",
                    name, offset);
}

static int device_write(struct halut_device *d, uint32_t offset, const char *name, uint32_t value,
                        struct halut_diag *diag) {
  if (d->bus->write32(d->bus->self, offset, value) == 0)
    return 0;
  return halut_fail(diag, HALUT_EDEVICE, 0, "accelerator: register %s (0x%02x) cannot be written",
                    name, offset);
}

#define READ(name, value_out) device_read(d, HALUT_REG_##name, #name, value_out, diag)
#define WRITE(name, value) device_write(d, HALUT_REG_##name, #name, value, diag)

static int device_read64(struct halut_device *d, uint32_t offset, const char *name,
                         uint64_t *value_out, struct halut_diag *diag) {
  uint32_t low = 0, high = 0;
  int err = device_read(d, offset, name, &low, diag);
  if (err == 0)
    err = device_read(d, offset + 4, name, &high, diag);
  if (err == 0)
    *value_out = (uint64_t)high << 32 | low;
  return err;
}

/* Stops whatever runs and checks that the device is there and still. Its tables survive, but nobody
 * knows which of them are whole, so they count as lost. */
static int device_reset(struct halut_device *d, struct halut_diag *diag) {
  d->faulty = true;
  for (uint32_t k = 0; k < d->table_count; k++)
    d->tables[k].loaded = false;
  d->buffer[0].table = d->buffer[1].table = NO_TILE;
  int err = WRITE(CONTROL, HALUT_CONTROL_RESET | HALUT_CONTROL_CLEAR);
  if (err)
    return err;
  uint32_t id = 0, status = 0;
  err = READ(ID, &id);
  if (err == 0)
    err = READ(STATUS, &status);
  if (err)
    return err;
  if (id != HALUT_DEVICE_ID) {
    return halut_fail(diag, HALUT_EDEVICE, 0, "accelerator: ID reads 0x%08x, not 0x%08x", id,
                      HALUT_DEVICE_ID);
  }
  if (status != 0) {
    return halut_fail(diag, HALUT_EDEVICE, 0, "accelerator: STATUS reads 0x%x after a reset, not 0",
                      status);
  }
  d->faulty = false;
  return 0;
}

static bool power_of_two(uint32_t n) {
  return n != 0 && (n & (n - 1)) == 0;
}

static int device_identify(struct halut_device *d, struct halut_diag *diag) {
  uint32_t version = 0, shape = 0, memory = 0;
  int err = device_reset(d, diag);
  if (err == 0)
    err = READ(VERSION, &version);
  if (err == 0)
    err = READ(SHAPE, &shape);
  if (err == 0)
    err = READ(MEMORY, &memory);
  if (err)
    return err;
  if (version >> 16 != HALUT_DEVICE_MAJOR) {
    return halut_fail(diag, HALUT_EDEVICE, 0, "accelerator: version %u.%u, this driver is for %d.x",
                      version >> 16, version & 0xffff, HALUT_DEVICE_MAJOR);
  }
  const uint32_t sum_bits = memory >> 24;
  d->shape = (struct halut_device_shape){
      .codebooks_cycle = shape & 0xff,
      .rows_cycle = shape >> 8 & 0xff,
      .lanes = shape >> 16,
      .codebooks = memory & 0xffff,
      .beat_lanes = memory >> 16 & 0xff,
      .sum_codebooks = sum_bits > 8 && sum_bits <= 16 ? 1u << (sum_bits - 8) : 0,
  };
  const struct halut_device_shape *s = &d->shape;
  const bool sane = power_of_two(s->codebooks_cycle) && power_of_two(s->rows_cycle) &&
                    s->rows_cycle <= ROWS_CYCLE_MAX && s->lanes != 0 && s->beat_lanes != 0 &&
                    s->lanes % s->beat_lanes == 0 && s->codebooks != 0 &&
                    s->codebooks % s->codebooks_cycle == 0 &&
                    s->sum_codebooks >= s->codebooks_cycle;
  if (!sane) {
    return halut_fail(diag, HALUT_EDEVICE, 0,
                      "accelerator: SHAPE 0x%08x and MEMORY 0x%08x make no sense", shape, memory);
  }
  d->load_bytes = s->lanes > HALUT_PROTOTYPES ? s->lanes : HALUT_PROTOTYPES;
  d->in_bytes = (size_t)s->codebooks_cycle * s->rows_cycle * HALUT_LEVELS;
  d->out_bytes = (size_t)s->beat_lanes * s->rows_cycle * sizeof(int32_t);
  d->groups = s->codebooks / s->codebooks_cycle;
  if (d->bus->configure(d->bus->self, d->load_bytes, d->in_bytes, d->out_bytes, d->out_bytes) !=
      0) {
    return halut_fail(
        diag, HALUT_EDEVICE, 0,
        "accelerator: the bus cannot move beats of %zu, %zu and %zu bytes, as SHAPE 0x%08x asks",
        d->load_bytes, d->in_bytes, d->out_bytes, shape);
  }
  return 0;
}

/* ---- Open and close ---- */

int halut_device_open(const struct halut_bus *bus, const struct halut_device_options *options,
                      struct halut_device **out, struct halut_diag *diag) {
  const struct halut_device_options none = {0};
  if (!options)
    options = &none;
  if (options->budget_percent != 0 && options->budget_percent < 100) {
    return halut_fail(diag, HALUT_EINVALID, 0,
                      "cycle budget of %u percent: less than 100 cannot be met",
                      options->budget_percent);
  }
  struct halut_device *d = calloc(1, sizeof *d);
  if (!d)
    return halut_fail(diag, HALUT_ENOMEM, 0, "no memory for the accelerator's driver");
  d->bus = bus;
  d->budget_percent = options->budget_percent ? options->budget_percent : HALUT_BUDGET_PERCENT;
  int err = device_identify(d, diag);
  if (err) {
    halut_device_close(d);
    return err;
  }
  const uint32_t p = d->shape.codebooks_cycle;
  const uint32_t wanted = options->resident_max ? options->resident_max / p : d->groups;
  d->resident_groups_max = wanted < d->groups ? wanted : d->groups;
  d->one_buffer = d->groups < 2;
  const uint32_t half = d->one_buffer ? p : d->groups / 2 * p;
  d->tile_codebooks = d->shape.sum_codebooks / p * p;
  if (d->tile_codebooks > half)
    d->tile_codebooks = half;
  *out = d;
  return 0;
}

const struct halut_device_shape *halut_device_shape(const struct halut_device *device) {
  return &device->shape;
}

static void table_clear(struct table *t) {
  free(t->tiles);
  free(t->memory);
  *t = (struct table){0};
}

void halut_device_close(struct halut_device *device) {
  if (!device)
    return;
  for (uint32_t k = 0; k < device->table_count; k++)
    table_clear(&device->tables[k]);
  free(device->tables);
  free(device->in);
  free(device->out);
  free(device);
}

/* ---- Tables ---- */

static void tile_pack(const struct halut_device *d, const struct halut_lut *lut,
                      const struct tile *tile) {
  uint8_t *beat = tile->beats;
  const uint32_t left = lut->outputs - tile->output;
  const uint32_t lanes = left < d->shape.lanes ? left : d->shape.lanes;
  for (uint32_t n = 0; n < tile->codebooks; n++) {
    const uint32_t c = tile->codebook + n;
    memcpy(beat, lut->threshold + (size_t)c * HALUT_PROTOTYPES, HALUT_PROTOTYPES);
    beat += d->load_bytes;
    for (uint32_t m = 0; m < lanes; m++) {
      const int8_t *row =
          lut->table + ((size_t)(tile->output + m) * lut->codebooks + c) * HALUT_PROTOTYPES;
      for (uint32_t k = 0; k < HALUT_PROTOTYPES; k++)
        beat[k * d->load_bytes + m] = (uint8_t)row[k];
    }
    beat += HALUT_PROTOTYPES * d->load_bytes;
  }
}

/* Cuts a lut into tiles. Codebooks that pad the last group have zero tables, so what they add is 0.
 */
static int table_build(const struct halut_device *d, const struct halut_lut *lut, struct table *t) {
  const uint32_t p = d->shape.codebooks_cycle;
  const uint32_t output_tiles = (lut->outputs + d->shape.lanes - 1) / d->shape.lanes;
  t->lut = lut;
  t->codebook_tiles = (lut->codebooks + d->tile_codebooks - 1) / d->tile_codebooks;
  t->tile_count = output_tiles * t->codebook_tiles;
  const uint32_t groups_a_row =
      (lut->codebooks + p - 1) / p; /* tiles are whole groups, so no more than this */
  t->groups = output_tiles * groups_a_row;
  const size_t group_bytes = (size_t)p * HALUT_LOAD_BEATS * d->load_bytes;
  t->tiles = calloc(t->tile_count, sizeof *t->tiles);
  t->memory = calloc(t->groups, group_bytes);
  if (!t->tiles || !t->memory)
    return HALUT_ENOMEM;
  uint8_t *beats = t->memory;
  for (uint32_t n = 0; n < t->tile_count; n++) {
    struct tile *tile = &t->tiles[n];
    tile->output = n / t->codebook_tiles * d->shape.lanes;
    tile->codebook = n % t->codebook_tiles * d->tile_codebooks;
    const uint32_t left = lut->codebooks - tile->codebook;
    tile->codebooks = left < d->tile_codebooks ? left : d->tile_codebooks;
    tile->groups = (tile->codebooks + p - 1) / p;
    tile->beats = beats;
    beats += tile->groups * group_bytes;
    tile_pack(d, lut, tile);
  }
  return 0;
}

static uint32_t device_buffers(const struct halut_device *d) {
  return (d->one_buffer ? 1 : 2) * d->buffer_groups;
}

/* A table that is streamed; its first tile is the largest. */
static void device_stream(struct halut_device *d, struct table *t) {
  t->resident = t->loaded = false;
  if (t->tiles[0].groups > d->buffer_groups)
    d->buffer_groups = t->tiles[0].groups;
}

/* Finds room for the last table: resident, or else buffers for it. Tables that no longer fit beside
 * those are streamed too, the last first, and may need larger ones. */
static void device_place(struct halut_device *d) {
  struct table *t = &d->tables[d->table_count - 1];
  const uint32_t limit = d->groups - device_buffers(d);
  const uint32_t room = limit < d->resident_groups_max ? limit : d->resident_groups_max;
  if (d->resident_groups + t->groups <= room) {
    t->resident = true;
    t->base = d->resident_groups;
    d->resident_groups += t->groups;
    return;
  }
  const uint32_t buffers = device_buffers(d);
  device_stream(d, t);
  for (uint32_t k = d->table_count;
       k-- > 0 && d->groups - d->resident_groups < device_buffers(d);) {
    if (!d->tables[k].resident)
      continue;
    d->resident_groups = d->tables[k].base;
    device_stream(d, &d->tables[k]);
  }
  if (device_buffers(d) != buffers) /* they lie elsewhere now */
    d->buffer[0].table = d->buffer[1].table = NO_TILE;
}

int halut_device_load(struct halut_device *device, const struct halut_lut *lut,
                      uint32_t *handle_out, struct halut_diag *diag) {
  if (lut->codebooks == 0 || lut->codebooks > HALUT_CODEBOOKS_MAX || lut->outputs == 0 ||
      lut->outputs > HALUT_OUTPUTS_MAX) {
    return halut_fail(diag, HALUT_ELIMIT, 0,
                      "product of %u codebooks and %u outputs: 1 to %d and 1 to %d are possible",
                      lut->codebooks, lut->outputs, HALUT_CODEBOOKS_MAX, HALUT_OUTPUTS_MAX);
  }
  if (device->table_count == device->table_capacity) {
    const uint32_t capacity = device->table_capacity ? 2 * device->table_capacity : 8;
    struct table *tables = realloc(device->tables, capacity * sizeof *tables);
    if (!tables)
      return halut_fail(diag, HALUT_ENOMEM, 0, "no memory for %u tables", capacity);
    device->tables = tables;
    device->table_capacity = capacity;
  }
  struct table table = {0};
  if (table_build(device, lut, &table) != 0) {
    table_clear(&table);
    return halut_fail(diag, HALUT_ENOMEM, 0,
                      "no memory to pack a table of %u codebooks and %u outputs", lut->codebooks,
                      lut->outputs);
  }
  *handle_out = device->table_count;
  device->tables[device->table_count++] = table;
  device_place(device);
  return 0;
}

/* ---- Rows in and out ---- */

/* in[row group][codebook][level][row] from value[codebook][level][row]; N rows at a time. `wide` is
 * how many codebooks a row group has in `in`, those past `codebooks` being padding. */
#define PACK_ROWS(N)                                                                               \
  static void pack_rows_##N(const uint8_t *value, size_t padded, size_t row_groups,                \
                            size_t codebooks, size_t wide, uint8_t *in) {                          \
    for (size_t group = 0; group < row_groups; group++) {                                          \
      uint8_t *to = in + group * wide * HALUT_LEVELS * (N);                                        \
      const uint8_t *from = value + group * (N);                                                   \
      for (size_t k = 0; k < codebooks * HALUT_LEVELS; k++)                                        \
        memcpy(to + k * (N), from + k * padded, (N));                                              \
      memset(to + codebooks * HALUT_LEVELS * (N), 0, (wide - codebooks) * HALUT_LEVELS * (N));     \
    }                                                                                              \
  }
/* acc[m][row] from out[row group][lane][row]. */
#define UNPACK_ROWS(N)                                                                             \
  static void unpack_rows_##N(const int32_t *out, size_t padded, size_t row_groups,                \
                              size_t outputs, size_t lanes, int32_t *acc) {                        \
    for (size_t m = 0; m < outputs; m++) {                                                         \
      for (size_t group = 0; group < row_groups; group++) {                                        \
        memcpy(acc + m * padded + group * (N), out + (group * lanes + m) * (N),                    \
               (N) * sizeof *acc);                                                                 \
      }                                                                                            \
    }                                                                                              \
  }
/* The sizes are constants so that each copy is one or a few instructions. */
#define ROWS_CYCLE_MAP(XX) XX(1) XX(2) XX(4) XX(8) XX(16) XX(32)
ROWS_CYCLE_MAP(PACK_ROWS)
ROWS_CYCLE_MAP(UNPACK_ROWS)

static void device_pack(const struct halut_device *d, const struct tile *tile, const uint8_t *value,
                        size_t padded, size_t row, size_t row_groups) {
  const uint8_t *from = value + (size_t)tile->codebook * HALUT_LEVELS * padded + row;
  const size_t wide = (size_t)tile->groups * d->shape.codebooks_cycle;
  switch (d->shape.rows_cycle) {
#define CASE(N)                                                                                    \
  case N:                                                                                          \
    pack_rows_##N(from, padded, row_groups, tile->codebooks, wide, d->in);                         \
    break;
    ROWS_CYCLE_MAP(CASE)
#undef CASE
  default:
    assert(!"rows_cycle was checked by device_identify");
  }
}

static void device_unpack(const struct halut_device *d, const struct tile *tile, uint32_t outputs,
                          size_t padded, size_t row, size_t row_groups, int32_t *acc) {
  int32_t *to = acc + (size_t)tile->output * padded + row;
  const uint32_t left = outputs - tile->output;
  const size_t count = left < d->shape.lanes ? left : d->shape.lanes;
  switch (d->shape.rows_cycle) {
#define CASE(N)                                                                                    \
  case N:                                                                                          \
    unpack_rows_##N(d->out, padded, row_groups, count, d->shape.lanes, to);                        \
    break;
    ROWS_CYCLE_MAP(CASE)
#undef CASE
  default:
    assert(!"rows_cycle was checked by device_identify");
  }
}

/* ---- Running ---- */

/* One transfer: a run, a load, or both side by side. */
struct step {
  const struct tile *run, *load; /* either may be NULL */
  uint32_t run_base, load_base;
  size_t row_groups;
  bool accumulate;
};

static int step_start(struct halut_device *d, const struct step *step, struct halut_diag *diag) {
  uint32_t control = 0;
  int err = 0;
  if (step->load) {
    control |= HALUT_CONTROL_LOAD;
    err = WRITE(LOAD_BASE, step->load_base);
    if (err == 0)
      err = WRITE(LOAD_GROUPS, step->load->groups);
  }
  if (err == 0 && step->run) {
    control |= HALUT_CONTROL_RUN;
    err = WRITE(RUN_BASE, step->run_base);
    if (err == 0)
      err = WRITE(RUN_GROUPS, step->run->groups);
    if (err == 0)
      err = WRITE(RUN_ROWS, (uint32_t)step->row_groups);
    if (err == 0)
      err = WRITE(RUN_FLAGS, step->accumulate ? HALUT_RUN_ACCUMULATE : 0);
  }
  return err ? err : WRITE(CONTROL, control);
}

static int step_run(struct halut_device *d, const struct step *step, struct halut_diag *diag) {
  struct halut_transfer t = {0};
  if (step->load) {
    t.load.data = step->load->beats;
    t.load.count = (size_t)step->load->groups * d->shape.codebooks_cycle * HALUT_LOAD_BEATS;
  }
  if (step->run) {
    t.in.data = d->in;
    t.in.count = step->row_groups * step->run->groups;
    t.out.data = d->out;
    t.out.count = step->row_groups * (d->shape.lanes / d->shape.beat_lanes);
    if (step->accumulate)
      t.acc = (struct halut_beats){.data = d->out, .count = t.out.count};
  }
  int err = step_start(d, step, diag);
  if (err)
    return err;
  const uint64_t ideal = (uint64_t)t.load.count + t.in.count + t.out.count;
  const uint64_t budget = ideal * d->budget_percent / 100 + HALUT_BUDGET_SLACK;
  if (d->bus->transfer(d->bus->self, &t, budget) != 0) {
    return halut_fail(diag, HALUT_EDEVICE, 0, "accelerator: the bus failed in a transfer");
  }
  if (t.load.done != t.load.count || t.in.done != t.in.count || t.acc.done != t.acc.count ||
      t.out.done != t.out.count) {
    return halut_fail(diag, HALUT_ETIMEOUT, 0,
                      "accelerator: not done after %llu cycles: load %zu of %zu, in %zu of %zu, "
                      "acc %zu of %zu, out %zu of "
                      "%zu beats",
                      (unsigned long long)budget, t.load.done, t.load.count, t.in.done, t.in.count,
                      t.acc.done, t.acc.count, t.out.done, t.out.count);
  }
  uint32_t status = 0;
  err = READ(STATUS, &status);
  if (err)
    return err;
  if (status != 0) {
    return halut_fail(diag, HALUT_EDEVICE, 0,
                      "accelerator: STATUS reads 0x%x after all beats moved, not 0", status);
  }
  return 0;
}

/* The buffer that holds a tile of a table that is not resident, or -1. */
static int device_buffer_of(const struct halut_device *d, int64_t table, int64_t tile) {
  for (int k = 0; k < 2; k++) {
    if (d->buffer[k].table == table && d->buffer[k].tile == tile)
      return k;
  }
  return -1;
}

static uint32_t device_buffer_base(const struct halut_device *d, int buffer) {
  return d->groups - (d->one_buffer ? 1 : (uint32_t)(2 - buffer)) * d->buffer_groups;
}

/* Loads a tile into a buffer, beside `run` unless that is NULL. */
static int device_stream_step(struct halut_device *d, struct step *step, uint32_t handle,
                              uint32_t tile, int buffer, struct halut_diag *diag) {
  step->load = &d->tables[handle].tiles[tile];
  step->load_base = device_buffer_base(d, buffer);
  d->buffer[buffer].table = NO_TILE;
  int err = step_run(d, step, diag);
  if (err == 0) {
    d->buffer[buffer].table = handle;
    d->buffer[buffer].tile = tile;
  }
  return err;
}

static int device_load_resident(struct halut_device *d, struct table *t, struct halut_diag *diag) {
  uint32_t base = t->base;
  for (uint32_t n = 0; n < t->tile_count; n++) {
    const struct step step = {.load = &t->tiles[n], .load_base = base};
    int err = step_run(d, &step, diag);
    if (err)
      return err;
    base += t->tiles[n].groups;
  }
  t->loaded = true;
  return 0;
}

/* Runs tile n on the rows in d->in; `next` is the tile that will be needed after it, if any. */
static int device_run_tile(struct halut_device *d, uint32_t handle, uint32_t n, int64_t next,
                           size_t row_groups, struct halut_diag *diag) {
  struct table *t = &d->tables[handle];
  struct step step = {.run = &t->tiles[n], .row_groups = row_groups};
  step.accumulate = n % t->codebook_tiles != 0;
  if (t->resident) {
    step.run_base = t->base;
    for (uint32_t k = 0; k < n; k++)
      step.run_base += t->tiles[k].groups;
    return step_run(d, &step, diag);
  }
  int buffer = device_buffer_of(d, handle, n);
  if (buffer < 0) {
    struct step load = {0};
    int err = device_stream_step(d, &load, handle, n, buffer = 0, diag);
    if (err)
      return err;
  }
  step.run_base = device_buffer_base(d, buffer);
  if (next == NO_TILE || d->one_buffer || device_buffer_of(d, handle, next) >= 0)
    return step_run(d, &step, diag);
  return device_stream_step(d, &step, handle, (uint32_t)next, 1 - buffer, diag);
}

static int device_reserve(struct halut_device *d, const struct table *t, size_t row_groups,
                          struct halut_diag *diag) {
  const size_t in_bytes = row_groups * t->tiles[0].groups * d->in_bytes;
  const size_t out_bytes = row_groups * (d->shape.lanes / d->shape.beat_lanes) * d->out_bytes;
  if (in_bytes > d->in_capacity) {
    free(d->in);
    d->in = malloc(in_bytes);
    d->in_capacity = d->in ? in_bytes : 0;
  }
  if (out_bytes > d->out_capacity) {
    free(d->out);
    d->out = malloc(out_bytes);
    d->out_capacity = d->out ? out_bytes : 0;
  }
  if (d->in && d->out)
    return 0;
  return halut_fail(diag, HALUT_ENOMEM, 0, "no memory for %zu row groups of beats", row_groups);
}

static int device_chunks(struct halut_device *d, uint32_t handle, const uint8_t *value, size_t rows,
                         int32_t *acc, struct halut_diag *diag) {
  struct table *t = &d->tables[handle];
  const size_t padded = halut_pad_rows(rows);
  const size_t chunk = t->resident ? CHUNK_RESIDENT : CHUNK_STREAMED;
  const uint32_t r = d->shape.rows_cycle;
  int err = device_reserve(d, t, ((rows < chunk ? rows : chunk) + r - 1) / r, diag);
  if (err == 0 && t->resident && !t->loaded)
    err = device_load_resident(d, t, diag);
  for (size_t row = 0; err == 0 && row < rows; row += chunk) {
    const size_t row_groups = ((rows - row < chunk ? rows - row : chunk) + r - 1) / r;
    for (uint32_t n = 0; err == 0 && n < t->tile_count; n++) {
      const struct tile *tile = &t->tiles[n];
      const bool last = n + 1 == t->tile_count;
      const int64_t after = row + chunk < rows ? 0 : NO_TILE;
      const int64_t next = last ? after : (int64_t)n + 1;
      if (n == 0 || t->codebook_tiles > 1)
        device_pack(d, tile, value, padded, row, row_groups);
      err = device_run_tile(d, handle, n, next, row_groups, diag);
      if (err == 0 && (n + 1) % t->codebook_tiles == 0) {
        device_unpack(d, tile, t->lut->outputs, padded, row, row_groups, acc);
      }
    }
  }
  return err;
}

/* Adds what the counters say. They are cleared before each product. */
static int device_count(struct halut_device *d, struct halut_stats *stats, uint64_t *beats_out,
                        struct halut_diag *diag) {
  uint64_t cycles, in, out, wait, beats, load_beats, encodes;
  int err;
#define COUNT(name, to) device_read64(d, HALUT_REG_##name, #name, &(to), diag)
  if ((err = COUNT(CYCLES, cycles)) || (err = COUNT(STALL_IN, in)) ||
      (err = COUNT(STALL_OUT, out)) || (err = COUNT(LOAD_WAIT, wait)) ||
      (err = COUNT(BEATS, beats)) || (err = COUNT(LOAD_BEATS, load_beats)) ||
      (err = COUNT(ENCODES, encodes))) {
    return err;
  }
#undef COUNT
  stats->device_cycles += cycles;
  stats->device_stalls += in + out + wait;
  stats->device_table_bytes += load_beats * d->load_bytes;
  stats->device_encodes += encodes;
  *beats_out = beats;
  return 0;
}

/* Input beats of a product: what BEATS must read after it. */
static uint64_t table_beats(const struct halut_device *d, const struct table *t, size_t rows) {
  const uint32_t r = d->shape.rows_cycle;
  const uint64_t row_groups = (rows + r - 1) / r; /* chunks are multiples of every possible R */
  static_assert(CHUNK_RESIDENT % ROWS_CYCLE_MAX == 0 && CHUNK_STREAMED % ROWS_CYCLE_MAX == 0,
                "as said");
  return row_groups * t->groups;
}

int halut_device_product(struct halut_device *device, uint32_t handle, const uint8_t *value,
                         size_t rows, int32_t *acc, struct halut_stats *stats,
                         struct halut_diag *diag) {
  struct halut_device *d = device;
  if (handle >= d->table_count) {
    return halut_fail(diag, HALUT_EINVALID, 0, "table %u of an accelerator that has %u", handle,
                      d->table_count);
  }
  int err = d->faulty ? device_reset(d, diag) : 0;
  if (err)
    return err;
  err = WRITE(CONTROL, HALUT_CONTROL_CLEAR);
  if (err == 0)
    err = device_chunks(d, handle, value, rows, acc, diag);
  struct table *t = &d->tables[handle];
  struct halut_stats count = {0};
  uint64_t beats = 0;
  const int count_err = device_count(d, &count, &beats, err ? NULL : diag);
  if (err == 0)
    err = count_err;
  if (stats) {
    stats->device_cycles += count.device_cycles;
    stats->device_stalls += count.device_stalls;
    stats->device_table_bytes += count.device_table_bytes;
    stats->device_encodes += count.device_encodes;
  }
  const uint64_t wanted = table_beats(d, t, rows);
  if (err == 0 && (beats != wanted || count.device_cycles < wanted)) {
    err = halut_fail(diag, HALUT_EDEVICE, 0,
                     "accelerator: counted %llu beats in %llu cycles, not the %llu of the product",
                     (unsigned long long)beats, (unsigned long long)count.device_cycles,
                     (unsigned long long)wanted);
  }
  if (err) {
    /* The first fault is the one to report. If the reset fails too, the next call tries it again.
     */
    if (device_reset(d, NULL) != 0)
      d->faulty = true;
    return err;
  }
  if (stats)
    stats->lookups += (uint64_t)rows * t->lut->codebooks * t->lut->outputs;
  return 0;
}
