/* DESIGN: a byte shuffle gives one u8 a lookup. Subtracting each table's minimum makes int8 entries
 * u8 and narrows them; the minima go into one constant an output. Where the ranges (maximum less
 * minimum) of some tables add up to 255 or less, their lookups can be added as u8 without ever
 * wrapping, and one widening serves them all. So tables are put into groups of four, by handing
 * them out, widest first, to the group with the smallest sum so far; a group whose sum does not fit
 * is split into pairs, and a pair that does not fit into single tables. Each output has its own
 * groups, so each entry carries the place of its codebook's codes. A table with range 0 is only its
 * constant and is left out. */
#include "pack.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

void *halut_alloc(size_t bytes) {
  size_t padded;
  if (__builtin_add_overflow(bytes, (size_t)HALUT_ALIGN, &padded)) return NULL;
  padded = padded / HALUT_ALIGN * HALUT_ALIGN;
  void *memory = aligned_alloc(HALUT_ALIGN, padded);
  if (memory) memset(memory, 0, padded);
  return memory;
}

enum { PACK_GROUP = 4 };

struct pack_item {
  uint32_t codebook;
  int32_t range;
};

struct pack_group {
  struct pack_item item[PACK_GROUP];
  int32_t sum;
  uint32_t count;
};

/* Where the next table goes, and the scratch of one run. */
struct pack_writer {
  const struct halut_lut *lut;
  uint8_t *table;
  uint32_t *at;
  size_t entry;
  struct pack_item *item;   /* [codebooks] */
  struct pack_group *group; /* [codebooks / PACK_GROUP + 1] */
  uint8_t *split;           /* [groups] how many tables at a time a group is read: 4, 2 or 1 */
};

static const int8_t *pack_entries(const struct halut_lut *lut, uint32_t m, uint32_t c) {
  return lut->table + ((size_t)m * lut->codebooks + c) * HALUT_PROTOTYPES;
}

static int32_t pack_minimum(const int8_t *entries) {
  int32_t least = entries[0];
  for (int k = 1; k < HALUT_PROTOTYPES; k++) least = entries[k] < least ? entries[k] : least;
  return least;
}

static int32_t pack_range(const int8_t *entries) {
  int32_t most = entries[0];
  for (int k = 1; k < HALUT_PROTOTYPES; k++) most = entries[k] > most ? entries[k] : most;
  return most - pack_minimum(entries);
}

static int pack_compare(const void *left, const void *right) {
  const struct pack_item *a = left, *b = right;
  if (a->range != b->range) return a->range < b->range ? 1 : -1;
  return a->codebook < b->codebook ? -1 : 1; /* the same order everywhere */
}

static void pack_sift(struct pack_group *group, uint32_t count) {
  for (uint32_t g = 0, least; 2 * g + 1 < count; g = least) {
    least = 2 * g + 1;
    if (least + 1 < count && group[least + 1].sum < group[least].sum) least++;
    if (group[g].sum <= group[least].sum) break;
    struct pack_group moved = group[g];
    group[g] = group[least];
    group[least] = moved;
  }
}

/* Items must be sorted, widest first. The groups with room are a heap, smallest sum at its root. */
static uint32_t pack_deal(struct pack_writer *writer, uint32_t items) {
  uint32_t groups = (items + PACK_GROUP - 1) / PACK_GROUP;
  uint32_t open = groups;
  struct pack_group *root = writer->group;
  memset(root, 0, groups * sizeof *root);
  for (uint32_t i = 0; i < items; i++) {
    root->item[root->count++] = writer->item[i];
    root->sum += writer->item[i].range;
    if (root->count == PACK_GROUP) {
      struct pack_group full = *root;
      *root = writer->group[--open];
      writer->group[open] = full;
    }
    pack_sift(root, open);
  }
  return groups;
}

/* A full group is read as pairs of its widest with its narrowest table and of the two between. */
static void pack_judge(struct pack_writer *writer, uint32_t groups) {
  for (uint32_t g = 0; g < groups; g++) {
    struct pack_group *group = &writer->group[g];
    struct pack_item *item = group->item;
    writer->split[g] = 1;
    if (group->count == 2 && group->sum <= UINT8_MAX) writer->split[g] = 2;
    if (group->count != PACK_GROUP) continue;
    struct pack_item narrow = item[3];
    item[3] = item[2];
    item[2] = item[1];
    item[1] = narrow;
    bool paired = item[0].range + item[1].range <= UINT8_MAX &&
                  item[2].range + item[3].range <= UINT8_MAX;
    writer->split[g] = group->sum <= UINT8_MAX ? 4 : paired ? 2 : 1;
  }
}

static void pack_write(struct pack_writer *writer, uint32_t m, uint32_t c) {
  const int8_t *entries = pack_entries(writer->lut, m, c);
  int32_t least = pack_minimum(entries);
  for (int k = 0; k < HALUT_PROTOTYPES; k++) {
    writer->table[writer->entry * HALUT_PROTOTYPES + (size_t)k] = (uint8_t)(entries[k] - least);
  }
  writer->at[writer->entry++] = c * HALUT_CODE_BLOCK;
}

/* Takes codebooks from `c` as long as their sum fits a u16; returns the first it did not take. */
static uint32_t pack_run(struct pack_writer *writer, uint32_t m, uint32_t c,
                         struct halut_run *run) {
  int32_t sum = 0;
  uint32_t items = 0;
  *run = (struct halut_run){.entry = writer->entry};
  for (; c < writer->lut->codebooks; c++) {
    const int8_t *entries = pack_entries(writer->lut, m, c);
    int32_t range = pack_range(entries);
    if (sum + range > UINT16_MAX) break;
    sum += range;
    run->base += pack_minimum(entries);
    if (range) writer->item[items++] = (struct pack_item){c, range};
  }
  qsort(writer->item, items, sizeof *writer->item, pack_compare);
  uint32_t groups = pack_deal(writer, items);
  pack_judge(writer, groups);
  for (uint8_t size = PACK_GROUP; size; size /= 2) {
    uint32_t count = 0;
    for (uint32_t g = 0; g < groups; g++) {
      if (writer->split[g] != size) continue;
      for (uint32_t i = 0; i < writer->group[g].count; i++) {
        pack_write(writer, m, writer->group[g].item[i].codebook);
      }
      count += writer->group[g].count / size;
    }
    *(size == 4 ? &run->quads : size == 2 ? &run->pairs : &run->singles) = count;
  }
  return c;
}

/* A u16 holds at least 65535 / 255 = 257 tables. */
static uint32_t pack_runs_max(uint32_t codebooks) { return codebooks / 257 + 1; }

static int pack_bytes(struct halut_packed *packed) {
  const struct halut_lut *lut = packed->lut;
  size_t entries = (size_t)lut->outputs * lut->codebooks;
  size_t runs = (size_t)lut->outputs * pack_runs_max(lut->codebooks);
  size_t run_bytes = runs * sizeof(struct halut_run);
  size_t at_bytes = entries * sizeof(uint32_t);
  size_t start_bytes = ((size_t)lut->outputs + 1) * sizeof(uint32_t);
  uint8_t *memory = halut_alloc(entries * HALUT_PROTOTYPES + run_bytes + at_bytes + start_bytes);
  uint32_t groups = lut->codebooks / PACK_GROUP + 1;
  struct pack_writer writer = {.lut = lut};
  writer.item = calloc(lut->codebooks, sizeof *writer.item);
  writer.group = calloc(groups, sizeof *writer.group);
  writer.split = calloc(groups, sizeof *writer.split);
  int error = memory && writer.item && writer.group && writer.split ? HALUT_OK : HALUT_ENOMEM;
  if (error) {
    free(memory);
    goto done;
  }
  writer.table = memory;
  struct halut_run *run = (struct halut_run *)(void *)(memory + entries * HALUT_PROTOTYPES);
  writer.at = (uint32_t *)(void *)(memory + entries * HALUT_PROTOTYPES + run_bytes);
  uint32_t *run_start = writer.at + entries;
  uint32_t count = 0;
  for (uint32_t m = 0; m < lut->outputs; m++) {
    run_start[m] = count;
    for (uint32_t c = 0; c < lut->codebooks;) c = pack_run(&writer, m, c, &run[count++]);
  }
  run_start[lut->outputs] = count;
  packed->table = writer.table;
  packed->at = writer.at;
  packed->run = run;
  packed->run_start = run_start;
  packed->memory = memory;
done:
  free(writer.item);
  free(writer.group);
  free(writer.split);
  return error;
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
  if (packed->layout == HALUT_LAYOUT_BYTES) slice->packed.run_start += first;
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
