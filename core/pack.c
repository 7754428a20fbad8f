/* DESIGN: a byte shuffle gives one u8 a lookup. Subtracting each table's minimum makes int8 entries
 * u8 and narrows them; the minima go into one constant an output. Where the ranges (maximum less
 * minimum) of some tables add up to 255 or less, their lookups can be added as u8 without ever
 * wrapping, and one widening serves them all. So tables are put into groups, widest first, each
 * into the fullest group that still has room; a fourth table in a group would gain little and cost
 * the kernels a register. Each output has its own groups, so each entry carries the place of its
 * codebook's codes. A table with range 0 is only its constant and is left out.
 *
 * Every output reads all codes of a block. Those of more than HALUT_RUN_CODEBOOKS codebooks would
 * not stay in the first-level cache, so an output is summed in runs of so many, and some outputs
 * have their turn before the next codebooks have. */
#include "pack.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* Under the address sanitizer exactly `bytes`, so that it sees one too many. */
void *halut_alloc(size_t bytes) {
#ifdef __SANITIZE_ADDRESS__
  void *exact = NULL;
  if (posix_memalign(&exact, HALUT_ALIGN, bytes ? bytes : 1)) return NULL;
  return memset(exact, 0, bytes ? bytes : 1);
#else
  size_t padded;
  if (__builtin_add_overflow(bytes, (size_t)HALUT_ALIGN, &padded)) return NULL;
  padded = padded / HALUT_ALIGN * HALUT_ALIGN;
  void *memory = aligned_alloc(HALUT_ALIGN, padded);
  if (memory) memset(memory, 0, padded);
  return memory;
#endif
}

enum {
  PACK_GROUP = 3,
  PACK_ROOMS = UINT8_MAX + 1,
  PACK_WORD = 64, /* rooms in a word of bits */
  PACK_NONE = -1,
  PACK_ZEROS = HALUT_CODEBOOKS_MAX /* in place of a codebook: a table of zeros */
};

struct pack_group {
  uint32_t codebook[PACK_GROUP], count;
  int32_t room; /* what the ranges leave of 255 */
  int32_t next; /* group with the same room, PACK_NONE: no other */
};

/* Where the next table goes, and the scratch of one run. */
struct pack_writer {
  const struct halut_lut *lut;
  uint8_t *table;
  uint16_t *at;
  size_t entry;
  struct pack_group group[HALUT_RUN_CODEBOOKS + PACK_GROUP];
  uint32_t groups;
  int32_t open[PACK_ROOMS]; /* by room: the first group that may take another table */
  uint64_t rooms[PACK_ROOMS / PACK_WORD]; /* a bit for each room that has such a group */
};

static const int8_t *pack_entries(const struct halut_lut *lut, uint32_t m, uint32_t c) {
  return lut->table + ((size_t)m * lut->codebooks + c) * HALUT_PROTOTYPES;
}

/* Of unsigned bytes, as int8 plus 128, because SSE2 has a minimum of these only. */
struct pack_span {
  uint8_t least, most;
};

static struct pack_span pack_span_of(const int8_t *entries) {
  struct pack_span span = {UINT8_MAX, 0};
  for (int k = 0; k < HALUT_PROTOTYPES; k++) {
    const uint8_t entry = (uint8_t)entries[k] ^ 0x80;
    span.least = entry < span.least ? entry : span.least;
    span.most = entry > span.most ? entry : span.most;
  }
  return span;
}

/* A table more of an output. */
static void pack_base(struct halut_base *base, struct pack_span span) {
  base->least += span.least + INT8_MIN;
  base->range += (uint32_t)(span.most - span.least);
}

static void pack_open(struct pack_writer *writer, int32_t g) {
  struct pack_group *group = &writer->group[g];
  if (group->count == PACK_GROUP) return;
  group->next = writer->open[group->room];
  writer->open[group->room] = g;
  writer->rooms[group->room / PACK_WORD] |= UINT64_C(1) << group->room % PACK_WORD;
}

/* The group with the least room of at least `room`, taken from those that are open. */
static int32_t pack_take(struct pack_writer *writer, int32_t room) {
  uint64_t mask = UINT64_MAX << room % PACK_WORD;
  for (int32_t word = room / PACK_WORD; word < PACK_ROOMS / PACK_WORD; word++, mask = UINT64_MAX) {
    const uint64_t found = writer->rooms[word] & mask;
    if (!found) continue;
    const int32_t at = word * PACK_WORD + __builtin_ctzll(found), g = writer->open[at];
    writer->open[at] = writer->group[g].next;
    if (writer->open[at] == PACK_NONE) writer->rooms[word] &= ~(found & -found);
    return g;
  }
  return PACK_NONE;
}

/* Into the fullest group with room for it, or one of its own. */
static void pack_add(struct pack_writer *writer, uint32_t c, int32_t range) {
  int32_t g = pack_take(writer, range);
  if (g == PACK_NONE) {
    g = (int32_t)writer->groups++;
    writer->group[g] = (struct pack_group){.room = UINT8_MAX};
  }
  struct pack_group *group = &writer->group[g];
  group->codebook[group->count++] = c;
  group->room -= range;
  pack_open(writer, g);
}

/* Groups of codebooks first .. last - 1 for output m, which are added to its base. */
static void pack_groups(struct pack_writer *writer, uint32_t m, uint32_t first, uint32_t last,
                        struct halut_base *base) {
  uint32_t sorted[HALUT_RUN_CODEBOOKS], start[PACK_ROOMS + 1] = {0};
  int32_t range[HALUT_RUN_CODEBOOKS];
  for (uint32_t c = first; c < last; c++) {
    const struct pack_span span = pack_span_of(pack_entries(writer->lut, m, c));
    range[c - first] = span.most - span.least;
    pack_base(base, span);
    start[UINT8_MAX - range[c - first] + 1]++;
  }
  for (uint32_t i = 0; i < UINT8_MAX; i++) start[i + 1] += start[i];
  const uint32_t some = start[UINT8_MAX]; /* those of range 0 are last */
  for (uint32_t c = first; c < last; c++) sorted[start[UINT8_MAX - range[c - first]]++] = c;
  for (int i = 0; i < PACK_ROOMS; i++) writer->open[i] = PACK_NONE;
  memset(writer->rooms, 0, sizeof writer->rooms);
  writer->groups = 0;
  for (uint32_t i = 0; i < some; i++) pack_add(writer, sorted[i], range[sorted[i] - first]);
}

/* Takes a table out of a group of `size` if the number of these is odd, so that all have a twin. A
 * single table gets one of zeros. */
static void pack_even(struct pack_writer *writer, uint32_t size) {
  struct pack_group *odd = NULL;
  uint32_t count = 0;
  for (uint32_t g = 0; g < writer->groups; g++)
    if (writer->group[g].count == size) {
      odd = &writer->group[g];
      count++;
    }
  if (count % 2 == 0) return;
  struct pack_group *more = &writer->group[writer->groups++];
  *more = (struct pack_group){.codebook = {PACK_ZEROS}, .count = 1};
  if (size > 1) more->codebook[0] = odd->codebook[--odd->count];
}

static void pack_copy(const int8_t *entries, uint8_t least, uint8_t *table) {
  for (int k = 0; k < HALUT_PROTOTYPES; k++)
    table[k] = (uint8_t)(((uint8_t)entries[k] ^ 0x80) - least);
}

static void pack_write(struct pack_writer *writer, uint32_t m, uint32_t c) {
  uint8_t *table = writer->table + writer->entry * HALUT_PROTOTYPES;
  uint16_t *at = &writer->at[writer->entry++];
  if (c == PACK_ZEROS) return; /* as the memory is, and any codes will do */
  const int8_t *entries = pack_entries(writer->lut, m, c);
  pack_copy(entries, pack_span_of(entries).least, table);
  *at = (uint16_t)(c * HALUT_SUM_ROWS);
}
static_assert((HALUT_CODEBOOKS_MAX - 1) * HALUT_SUM_ROWS <= UINT16_MAX, "a place fits");

/* Writes the groups of `size` in twins; returns how many twins there are. */
static uint32_t pack_twins(struct pack_writer *writer, uint32_t m, uint32_t size) {
  const struct pack_group *first = NULL;
  uint32_t twins = 0;
  for (uint32_t g = 0; g < writer->groups; g++) {
    const struct pack_group *group = &writer->group[g];
    if (group->count != size) continue;
    for (uint32_t i = 0; first && i < size; i++) {
      pack_write(writer, m, first->codebook[i]);
      pack_write(writer, m, group->codebook[i]);
    }
    twins += first != NULL;
    first = first ? NULL : group;
  }
  return twins;
}

static void pack_run(struct pack_writer *writer, uint32_t m, struct halut_run *run) {
  for (uint32_t size = PACK_GROUP; size; size--) pack_even(writer, size);
  run->entry = writer->entry;
  run->threes = pack_twins(writer, m, 3);
  run->twos = pack_twins(writer, m, 2);
  run->ones = pack_twins(writer, m, 1);
}

/* Runs of outputs first .. last - 1 in the order in which kernels read them. */
static void pack_tile(struct pack_writer *writer, uint32_t first, uint32_t last, uint32_t runs,
                      struct halut_run *run, struct halut_base *base) {
  const uint32_t codebooks = writer->lut->codebooks;
  for (uint32_t r = 0, c = 0; r < runs; r++, c += HALUT_RUN_CODEBOOKS) {
    const uint32_t left = codebooks - c;
    const uint32_t end = c + (left < HALUT_RUN_CODEBOOKS ? left : HALUT_RUN_CODEBOOKS);
    for (uint32_t m = first; m < last; m++) {
      pack_groups(writer, m, c, end, &base[m]);
      pack_run(writer, m, &run[(size_t)m * runs + r]);
    }
  }
}

static int pack_bytes(struct halut_packed *packed) {
  const struct halut_lut *lut = packed->lut;
  const uint32_t runs = (lut->codebooks + HALUT_RUN_CODEBOOKS - 1) / HALUT_RUN_CODEBOOKS;
  const size_t entries = (size_t)lut->outputs * (lut->codebooks + runs);
  const size_t table_bytes = entries * HALUT_PROTOTYPES;
  const size_t run_bytes = (size_t)lut->outputs * runs * sizeof(struct halut_run);
  const size_t base_bytes = lut->outputs * sizeof(struct halut_base);
  uint8_t *memory =
      halut_alloc(table_bytes + run_bytes + base_bytes + entries * sizeof(uint16_t));
  struct pack_writer *writer = malloc(sizeof *writer);
  if (!memory || !writer) {
    free(memory);
    free(writer);
    return HALUT_ENOMEM;
  }
  struct halut_run *run = (struct halut_run *)(void *)(memory + table_bytes);
  struct halut_base *base = (struct halut_base *)(void *)(memory + table_bytes + run_bytes);
  writer->lut = lut;
  writer->entry = 0;
  writer->table = memory;
  writer->at = (uint16_t *)(void *)(memory + table_bytes + run_bytes + base_bytes);
  for (uint32_t m = 0; m < lut->outputs; m += HALUT_RUN_OUTPUTS) {
    const uint32_t left = lut->outputs - m;
    const uint32_t last = m + (left < HALUT_RUN_OUTPUTS ? left : HALUT_RUN_OUTPUTS);
    pack_tile(writer, m, last, runs, run, base);
  }
  packed->table = memory;
  packed->at = writer->at;
  packed->run = run;
  packed->base = base;
  packed->runs = runs;
  packed->memory = memory;
  free(writer);
  return HALUT_OK;
}

static size_t pack_pair_bytes(const struct halut_lut *lut) { /* of HALUT_QUAD_OUTPUTS */
  return ((size_t)lut->codebooks + 1) / 2 * 2 * HALUT_QUAD_OUTPUTS * HALUT_PROTOTYPES;
}

static int pack_pairs(struct halut_packed *packed) {
  const struct halut_lut *lut = packed->lut;
  const size_t tiles = (lut->outputs + HALUT_QUAD_OUTPUTS - 1) / HALUT_QUAD_OUTPUTS;
  const size_t table_bytes = tiles * pack_pair_bytes(lut);
  uint8_t *table = halut_alloc(table_bytes + lut->outputs * sizeof(struct halut_base));
  if (!table) return HALUT_ENOMEM;
  struct halut_base *base = (struct halut_base *)(void *)(table + table_bytes);
  for (uint32_t m = 0; m < lut->outputs; m++)
    for (uint32_t c = 0; c < lut->codebooks; c++) {
      const int8_t *entries = pack_entries(lut, m, c);
      const struct pack_span span = pack_span_of(entries);
      const size_t pair = (c / 2 * HALUT_QUAD_OUTPUTS + m % HALUT_QUAD_OUTPUTS) * 2 + c % 2;
      pack_copy(entries, span.least,
                table + m / HALUT_QUAD_OUTPUTS * pack_pair_bytes(lut) + pair * HALUT_PROTOTYPES);
      pack_base(&base[m], span);
    }
  packed->table = packed->memory = table;
  packed->base = base;
  return HALUT_OK;
}

static int pack_quads(struct halut_packed *packed) {
  const struct halut_lut *lut = packed->lut;
  size_t quads = (lut->codebooks + 3) / 4;
  size_t tiles = (lut->outputs + HALUT_QUAD_OUTPUTS - 1) / HALUT_QUAD_OUTPUTS;
  int8_t *quad = halut_alloc(tiles * quads * HALUT_QUAD_OUTPUTS * 4 * HALUT_PROTOTYPES);
  if (!quad) return HALUT_ENOMEM;
  for (uint32_t m = 0; m < lut->outputs; m++) {
    for (uint32_t c = 0; c < lut->codebooks; c++) {
      size_t tile = m / HALUT_QUAD_OUTPUTS * quads + c / 4;
      size_t table = (tile * HALUT_QUAD_OUTPUTS + m % HALUT_QUAD_OUTPUTS) * 4 + c % 4;
      memcpy(quad + table * HALUT_PROTOTYPES, pack_entries(lut, m, c), HALUT_PROTOTYPES);
    }
  }
  packed->quad = quad;
  packed->memory = quad;
  return HALUT_OK;
}

static int pack_rows(struct halut_packed *packed) {
  const struct halut_lut *lut = packed->lut;
  const size_t stride = halut_pad_rows(lut->outputs);
  int8_t *entry = halut_alloc((size_t)lut->codebooks * HALUT_PROTOTYPES * stride);
  if (!entry) return HALUT_ENOMEM;
  for (uint32_t m = 0; m < lut->outputs; m++)
    for (uint32_t c = 0; c < lut->codebooks; c++)
      for (size_t k = 0; k < HALUT_PROTOTYPES; k++)
        entry[((size_t)c * HALUT_PROTOTYPES + k) * stride + m] = pack_entries(lut, m, c)[k];
  packed->entry = entry;
  packed->row_stride = (uint32_t)stride;
  packed->memory = entry;
  return HALUT_OK;
}

int halut_pack(const struct halut_lut *lut, enum halut_layout layout, struct halut_packed *packed,
               struct halut_diag *diag) {
  int error = HALUT_OK;
  *packed = (struct halut_packed){.lut = lut, .layout = layout};
  if (layout == HALUT_LAYOUT_BYTES) error = pack_bytes(packed);
  if (layout == HALUT_LAYOUT_PAIRS) error = pack_pairs(packed);
  if (layout == HALUT_LAYOUT_QUADS) error = pack_quads(packed);
  if (layout == HALUT_LAYOUT_ROWS) error = pack_rows(packed);
  if (!error) return HALUT_OK;
  *packed = (struct halut_packed){0};
  return halut_fail(diag, error, 0, "no memory to pack %u x %u tables", lut->outputs,
                    lut->codebooks);
}

void halut_unpack(struct halut_packed *packed) {
  free(packed->memory);
  *packed = (struct halut_packed){0};
}

/* Two who come first at once both pack, and one drops what it made. */
int halut_pack_get(const struct halut_lut *lut, enum halut_layout layout,
                   const struct halut_packed **out, struct halut_diag *diag) {
  if (lut->shared && (*out = atomic_load(&lut->shared->packed[layout]))) return HALUT_OK;
  struct halut_packed *made = malloc(sizeof *made), *there = NULL;
  if (!made) return halut_fail(diag, HALUT_ENOMEM, 0, "no memory for packed tables");
  int error = halut_pack(lut, layout, made, diag);
  if (error) {
    free(made);
    return error;
  }
  *out = made;
  if (!lut->shared || atomic_compare_exchange_strong(&lut->shared->packed[layout], &there, made))
    return HALUT_OK;
  halut_unpack(made);
  free(made);
  *out = there;
  return HALUT_OK;
}

static void packed_free(struct halut_packed *packed) {
  if (!packed) return;
  halut_unpack(packed);
  free(packed);
}

void halut_pack_put(const struct halut_packed *packed) {
  if (packed && !packed->lut->shared) packed_free((struct halut_packed *)(uintptr_t)packed);
}

void halut_shared_close(struct halut_shared *shared) {
  for (int layout = 0; layout < HALUT_LAYOUTS; layout++) {
    packed_free(atomic_load(&shared->packed[layout]));
    atomic_store(&shared->packed[layout], NULL);
  }
}

void halut_pack_slice(const struct halut_packed *packed, uint32_t first, uint32_t count,
                      struct halut_slice *slice) {
  const size_t quads = ((size_t)packed->lut->codebooks + 3) / 4 * 4 * HALUT_PROTOTYPES;
  slice->packed = *packed;
  slice->packed.lut = &slice->lut;
  slice->lut = *packed->lut;
  slice->lut.outputs = count;
  slice->lut.table = pack_entries(packed->lut, first, 0);
  if (packed->layout == HALUT_LAYOUT_BYTES) {
    slice->packed.run += (size_t)first * packed->runs;
    slice->packed.base += first;
  }
  if (packed->layout == HALUT_LAYOUT_PAIRS) {
    slice->packed.table += first / HALUT_QUAD_OUTPUTS * pack_pair_bytes(packed->lut);
    slice->packed.base += first;
  }
  if (packed->layout == HALUT_LAYOUT_QUADS) slice->packed.quad += first * quads;
}

int halut_weights_pack(const int8_t *raw, uint32_t outputs, uint32_t taps,
                       struct halut_weights *weights, struct halut_diag *diag) {
  size_t pairs = ((size_t)taps + 1) / 2 * 2;
  size_t quads = ((size_t)taps + 3) / 4 * 4;
  *weights = (struct halut_weights){.outputs = outputs, .taps = taps, .raw = raw};
  weights->pair = halut_alloc(outputs * pairs * sizeof(int16_t));
  weights->quad = halut_alloc(outputs * quads);
  if (!weights->pair || !weights->quad) {
    halut_weights_unpack(weights);
    return halut_fail(diag, HALUT_ENOMEM, 0, "no memory for %u x %u weights", outputs, taps);
  }
  for (uint32_t m = 0; m < outputs; m++) {
    for (uint32_t t = 0; t < taps; t++) weights->pair[m * pairs + t] = raw[(size_t)m * taps + t];
    memcpy(weights->quad + m * quads, raw + (size_t)m * taps, taps);
  }
  return HALUT_OK;
}

void halut_weights_unpack(struct halut_weights *weights) {
  free(weights->pair);
  free(weights->quad);
  *weights = (struct halut_weights){0};
}
