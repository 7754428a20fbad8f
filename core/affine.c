/* DESIGN: a tree reads few columns of a row, so gathering is most of the work of quantising. Sorted
 * by column, reads that lie within one vector are taken by one load and one permutation, two or
 * three of them together where a tree reads 4 of 16 columns. */
#include "affine.h"

#include <stdlib.h>

#include "pack.h"

static int column_compare(const void *left, const void *right) {
  const uint64_t *a = left, *b = right;
  return *a < *b ? -1 : *a > *b;
}

/* column << 32 | read, ascending. NULL without memory. */
static uint64_t *reads_sort(uint32_t reads, const uint32_t *split) {
  uint64_t *key = calloc(reads, sizeof *key);
  if (!key)
    return NULL;
  for (uint32_t i = 0; i < reads; i++)
    key[i] = (uint64_t)split[i] << 32 | i;
  qsort(key, reads, sizeof *key, column_compare);
  return key;
}

/* Fills `take` and `start` for groups of `width` entries. A row of fewer columns has no steps; else
 * the last step stays within the row. */
static struct halut_takes takes_make(const uint64_t *key, uint32_t reads, uint32_t columns,
                                     uint32_t width, struct halut_take *take, uint32_t *start) {
  const uint32_t groups = (reads + width - 1) / width;
  if (columns < width)
    return (struct halut_takes){.groups = groups};
  uint32_t takes = 0, last = columns - width;
  for (uint32_t at = 0; at < reads;) {
    if (at % width == 0)
      start[at / width] = takes;
    uint32_t column = (uint32_t)(key[at] >> 32);
    if (width * sizeof(float) == HALUT_ALIGN) column -= column % width; /* a line, not two */
    struct halut_take *made = &take[takes++];
    *made = (struct halut_take){.column = column < last ? column : last};
    do {
      uint32_t lane = (uint32_t)(key[at] >> 32) - made->column;
      if (lane >= width)
        break;
      made->lane[at % width] = (int32_t)lane;
      made->keep[at % width] = -1;
      at++;
    } while (at < reads && at % width != 0);
  }
  start[groups] = takes;
  return (struct halut_takes){groups, start, take};
}

int halut_affine_open(uint32_t columns, uint32_t reads, const uint32_t *split, const float *low,
                      const float *inverse, struct halut_affine *affine, struct halut_diag *diag) {
  const size_t padded = (reads + (size_t)HALUT_TAKE_WIDE - 1) / HALUT_TAKE_WIDE * HALUT_TAKE_WIDE;
  const size_t starts = padded / HALUT_TAKE_NARROW + 1;
  *affine = (struct halut_affine){0};
  uint64_t *key = reads_sort(reads, split);
  struct halut_take *take =
      halut_alloc(2 * reads * sizeof *take + padded * (2 * sizeof(float) + sizeof(uint32_t)) +
                  2 * starts * sizeof(uint32_t));
  if (!key || !take) {
    free(key);
    free(take);
    return halut_fail(diag, HALUT_ENOMEM, 0, "no memory for %u columns that are read", reads);
  }
  float *sorted = (float *)(void *)(take + 2 * (size_t)reads);
  uint32_t *order = (uint32_t *)(void *)(sorted + 2 * padded), *start = order + padded;
  for (uint32_t i = 0; i < reads; i++) {
    order[i] = (uint32_t)key[i];
    sorted[i] = low[order[i]];
    sorted[padded + i] = inverse[order[i]];
  }
  *affine = (struct halut_affine){
      .columns = columns,
      .reads = reads,
      .split = split,
      .low = low,
      .inverse = inverse,
      .order = order,
      .sorted_low = sorted,
      .sorted_inverse = sorted + padded,
      .narrow = takes_make(key, reads, columns, HALUT_TAKE_NARROW, take, start),
      .wide = takes_make(key, reads, columns, HALUT_TAKE_WIDE, take + reads, start + starts),
      .memory = take};
  free(key);
  return HALUT_OK;
}

void halut_affine_close(struct halut_affine *affine) {
  free(affine->memory);
  *affine = (struct halut_affine){0};
}
