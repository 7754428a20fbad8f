/* The sparse forward and backward passes of a Halut layer, for training on a CPU.
 *
 * DESIGN. kernels.py compiles this file for the machine it runs on and binds it by ctypes.
 * Everything is float32. P positions are numbered p = (n * out_h + y) * out_w + x. Codes are planar
 * u8 [codebooks][P]; the table is blocked [outputs / 64][codebooks][16][64], so that the rows of
 * eight codebooks (32 KiB) stay in the first-level cache while a tile of positions goes by; y and
 * its gradient are [P][outputs]. `outputs` is a multiple of 64. Thresholds are [codebooks][16] in
 * heap order, entry 0 unused. Trees are walked by eight positions at once: the thresholds of a
 * level, at most eight, are one register that the node permutes.
 */
#include <omp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum {
  BLOCK = 64,
  LANES = 16,
  VECTORS = BLOCK / LANES,
  PROTOTYPES = 16,
  LEVELS = 4,
  GROUP = 8,
  TILE = 256,
  GRADIENT_TILE = 1024,
  RANK = 4
};

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4)));
enum { WALK = 8 };
typedef float vec8 __attribute__((vector_size(4 * WALK), aligned(4)));
typedef int32_t int8v __attribute__((vector_size(4 * WALK), aligned(4)));

struct geometry { /* of a convolution over x [images][channels][height][width] */
  int32_t images, channels, height, width, kernel_h, kernel_w, stride, pad, out_h, out_w;
};

/* One image's values of column `split` at every output position; a padded value is 0. */
static void select_values(const struct geometry *g, const float *image, int32_t split,
                          float *value) {
  int kx = split % g->kernel_w, ky = split / g->kernel_w % g->kernel_h;
  const float *plane = image + (size_t)(split / (g->kernel_w * g->kernel_h)) * g->height * g->width;
  for (int oy = 0; oy < g->out_h; oy++, value += g->out_w) {
    int y = oy * g->stride + ky - g->pad;
    if (y < 0 || y >= g->height) {
      memset(value, 0, sizeof *value * g->out_w);
      continue;
    }
    const float *row = plane + (size_t)y * g->width;
    if (g->stride == 1 && g->out_w == g->width && g->pad == 1 &&
        g->kernel_w == 3) { /* the common case */
      const int left = kx == 0, right = kx == 2;
      value[0] = value[g->out_w - 1] = 0.0f;
      memcpy(value + left, row + right, sizeof *value * (g->width - left - right));
      continue;
    }
    for (int ox = 0; ox < g->out_w; ox++) {
      int x = ox * g->stride + kx - g->pad;
      value[ox] = x < 0 || x >= g->width ? 0.0f : row[x];
    }
  }
}

/* The thresholds of each level in one register: entry i is node 2^level + i. */
static void level_thresholds(const float *threshold, vec8 *level) {
  for (int l = 0; l < LEVELS; l++)
    for (int i = 0; i < WALK; i++)
      level[l][i] = threshold[(1 << l) + (i & ((1 << l) - 1))];
}

/* Decides at `level`: place (the node less the first of its level) becomes 2 * place + (value >
 * threshold). */
static inline int8v decide(const vec8 *level, int l, int8v place, vec8 value) {
  return 2 * place - (value > __builtin_shuffle(level[l], place));
}

void encode(const struct geometry *g, const float *x, int codebooks, const int32_t *split,
            const float *threshold, uint8_t *codes) {
  const size_t area = (size_t)g->out_h * g->out_w, total = area * g->images;
  const size_t pitch = (area + WALK - 1) / WALK * WALK;
  const size_t image_values = (size_t)g->channels * g->height * g->width;
#pragma omp parallel
  {
    float *value = calloc(LEVELS * pitch, sizeof *value);
#pragma omp for collapse(2) schedule(static)
    for (int n = 0; n < g->images; n++)
      for (int c = 0; c < codebooks; c++) {
        vec8 level[LEVELS];
        level_thresholds(threshold + c * PROTOTYPES, level);
        for (int l = 0; l < LEVELS; l++)
          select_values(g, x + n * image_values, split[c * LEVELS + l], value + l * pitch);
        uint8_t *out = codes + c * total + n * area;
        for (size_t i = 0; i < area; i += WALK) {
          int8v place = {0};
          for (int l = 0; l < LEVELS; l++)
            place = decide(level, l, place, *(const vec8 *)(value + l * pitch + i));
          const size_t here = area - i < WALK ? area - i : WALK;
          for (size_t j = 0; j < here; j++)
            out[i + j] = (uint8_t)place[j];
        }
      }
    free(value);
  }
}

/* y[p][m] = sum over codebooks of table[m][c][codes[c][p]]. */
void accumulate(const uint8_t *codes, const float *table, size_t positions, int codebooks,
                int outputs, float *y) {
  const size_t tiles = (positions + TILE - 1) / TILE;
#pragma omp parallel for schedule(dynamic, 1)
  for (size_t tile = 0; tile < tiles; tile++) {
    const size_t first = tile * TILE, last = first + TILE < positions ? first + TILE : positions;
    for (int b = 0; b < outputs / BLOCK; b++)
      for (int c0 = 0; c0 < codebooks; c0 += GROUP) {
        const int group = codebooks - c0 < GROUP ? codebooks - c0 : GROUP;
        const float *rows = table + ((size_t)b * codebooks + c0) * PROTOTYPES * BLOCK;
        for (size_t p = first; p < last; p++) {
          vec *out = (vec *)(y + p * outputs + b * BLOCK), sum[VECTORS] = {{0}};
          if (c0)
            for (int i = 0; i < VECTORS; i++)
              sum[i] = out[i];
          for (int j = 0; j < group; j++) {
            const vec *row =
                (const vec *)(rows +
                              (size_t)(j * PROTOTYPES + codes[(c0 + j) * positions + p]) * BLOCK);
            for (int i = 0; i < VECTORS; i++)
              sum[i] += row[i];
          }
          for (int i = 0; i < VECTORS; i++)
            out[i] = sum[i];
        }
      }
  }
}

/* Adds one position's gradient to the row that each codebook of a group looked up. */
static inline void add_to_rows(const uint8_t *codes, size_t positions, int group, const vec *grad,
                               float *rows) {
  vec g[VECTORS];
  for (int i = 0; i < VECTORS; i++)
    g[i] = grad[i];
  for (int j = 0; j < group; j++) {
    vec *row = (vec *)(rows + (size_t)(j * PROTOTYPES + codes[j * positions]) * BLOCK);
    for (int i = 0; i < VECTORS; i++)
      row[i] += g[i];
  }
}

/* grad_table (zeroed by the caller) += the gradient of every row that was added. A thread owns some
 * codebooks, so nothing is shared; the gradients of a tile are read from memory once for all of
 * them. */
void table_gradient(const uint8_t *codes, const float *grad_y, size_t positions, int codebooks,
                    int outputs, float *grad_table) {
  const int groups = (codebooks + GROUP - 1) / GROUP;
#pragma omp parallel
  {
    const int threads = omp_get_num_threads(), me = omp_get_thread_num();
    const int first_group = groups * me / threads, last_group = groups * (me + 1) / threads;
    for (int b = 0; b < outputs / BLOCK; b++)
      for (size_t first = 0; first < positions; first += GRADIENT_TILE) {
        const size_t last = first + GRADIENT_TILE < positions ? first + GRADIENT_TILE : positions;
        for (int c0 = first_group * GROUP; c0 < last_group * GROUP; c0 += GROUP) {
          const int group = codebooks - c0 < GROUP ? codebooks - c0 : GROUP;
          float *rows = grad_table + ((size_t)b * codebooks + c0) * PROTOTYPES * BLOCK;
          for (size_t p = first; p < last; p++)
            add_to_rows(codes + c0 * positions + p, positions, group,
                        (const vec *)(grad_y + p * outputs + b * BLOCK), rows);
        }
      }
  }
}

/* Entry `place` (0..15) of a table of sixteen. */
static inline vec8 entry(const vec8 *table, int8v place) {
  const int8v high = place > WALK - 1;
  return (vec8)(((int8v)__builtin_shuffle(table[0], place) & ~high) |
                ((int8v)__builtin_shuffle(table[1], place) & high));
}

/* Gradient of the thresholds on the taken path: what would change if one decision went the other
 * way (the deeper ones decided anew), weighted by a triangle of half-width tau[c] around the
 * threshold. The change is seen through RANK directions of the table: basis [codebooks][RANK][16]
 * are the coefficients of its rows, projected [codebooks][RANK][P] is grad_y along them.
 * grad_threshold is zeroed by the caller. */
void threshold_gradient(const struct geometry *g, const float *x, int codebooks,
                        const int32_t *split, const float *threshold, const float *tau,
                        const float *basis, const float *projected, float *grad_threshold) {
  const size_t area = (size_t)g->out_h * g->out_w, total = area * g->images;
  const size_t pitch = (area + WALK - 1) / WALK * WALK;
  const size_t image_values = (size_t)g->channels * g->height * g->width;
#pragma omp parallel
  {
    float *value = calloc((LEVELS + RANK) * pitch, sizeof *value), *along = value + LEVELS * pitch;
#pragma omp for schedule(dynamic, 1)
    for (int c = 0; c < codebooks; c++) {
      vec8 level[LEVELS], sum[PROTOTYPES] = {{0}};
      level_thresholds(threshold + c * PROTOTYPES, level);
      const vec8 *rows = (const vec8 *)(basis + (size_t)c * RANK * PROTOTYPES);
      const float inverse = 1.0f / tau[c];
      for (int n = 0; n < g->images; n++) {
        for (int l = 0; l < LEVELS; l++)
          select_values(g, x + n * image_values, split[c * LEVELS + l], value + l * pitch);
        for (int r = 0; r < RANK; r++) /* past the image's end it stays 0 and adds nothing */
          memcpy(along + r * pitch, projected + ((size_t)c * RANK + r) * total + n * area,
                 sizeof *along * area);
        for (size_t i = 0; i < area; i += WALK) {
          int8v place[LEVELS + 1] = {{0}};
          vec8 v[LEVELS], mine[RANK];
          for (int l = 0; l < LEVELS; l++) {
            v[l] = *(const vec8 *)(value + l * pitch + i);
            place[l + 1] = decide(level, l, place[l], v[l]);
          }
          for (int r = 0; r < RANK; r++)
            mine[r] = entry(rows + 2 * r, place[LEVELS]);
          for (int l = 0; l < LEVELS; l++) {
            int8v other = place[l + 1] ^ 1;
            for (int k = l + 1; k < LEVELS; k++)
              other = decide(level, k, other, v[k]);
            vec8 change = {0};
            for (int r = 0; r < RANK; r++)
              change +=
                  (mine[r] - entry(rows + 2 * r, other)) * *(const vec8 *)(along + r * pitch + i);
            const vec8 h = (v[l] - __builtin_shuffle(level[l], place[l])) * inverse;
            const int8v right = -(place[l + 1] & 1);
            vec8 weight = 1.0f - (vec8)((int8v)h & 0x7fffffff);
            weight = (vec8)((int8v)weight & (weight > 0)); /* outside the window nothing is felt */
            const vec8 push = (vec8)((int8v)(change * weight) ^ (right & INT32_MIN));
            for (int k = 0; k < 1 << l; k++)
              sum[(1 << l) + k] += (vec8)((int8v)push & (place[l] == k));
          }
        }
      }
      for (int node = 1; node < PROTOTYPES; node++)
        for (int j = 0; j < WALK; j++)
          grad_threshold[c * PROTOTYPES + node] += sum[node][j] * inverse;
    }
    free(value);
  }
}
