/* The sparse forward and backward passes of a Halut layer, for training on a CPU.
 *
 * DESIGN. kernels.py compiles this file for the machine it runs on and binds it by ctypes.
 * Everything is float32. P positions are numbered p = (n * out_h + y) * out_w + x. Codes are planar
 * u8 [codebooks][P]; the table is blocked [outputs / 64][codebooks][16][64], so that the rows of
 * eight codebooks (32 KiB) stay in the first-level cache while a tile of positions goes by; y and
 * its gradient are [P][outputs]. `outputs` is a multiple of 64. Thresholds are [codebooks][16] in
 * heap order, entry 0 unused. Trees are walked by WALK positions at once: the thresholds of a
 * level, at most eight, are one register that the node permutes.
 */
#include <assert.h>
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
#ifdef __AVX512F__
enum { WALK = 16 }; /* positions that walk a tree at once */
#else
enum { WALK = 8 };
#endif
typedef float walk_f __attribute__((vector_size(4 * WALK), aligned(4)));
typedef int32_t walk_i __attribute__((vector_size(4 * WALK), aligned(4)));

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
static void level_thresholds(const float *threshold, walk_f *level) {
  for (int l = 0; l < LEVELS; l++)
    for (int i = 0; i < WALK; i++)
      level[l][i] = threshold[(1 << l) + (i & ((1 << l) - 1))];
}

/* Decides at `level`: place (the node less the first of its level) becomes 2 * place + (value >
 * threshold). */
static inline walk_i decide(const walk_f *level, int l, walk_i place, walk_f value) {
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
        walk_f level[LEVELS];
        level_thresholds(threshold + c * PROTOTYPES, level);
        for (int l = 0; l < LEVELS; l++)
          select_values(g, x + n * image_values, split[c * LEVELS + l], value + l * pitch);
        uint8_t *out = codes + c * total + n * area;
        for (size_t i = 0; i < area; i += WALK) {
          walk_i place = {0};
          for (int l = 0; l < LEVELS; l++)
            place = decide(level, l, place, *(const walk_f *)(value + l * pitch + i));
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
static inline walk_f entry(const float *table, walk_i place) {
  const walk_f low = *(const walk_f *)table;
  if (WALK == (int)PROTOTYPES)
    return __builtin_shuffle(low, place);
  const walk_i high = place > WALK - 1;
  const walk_f rest = *(const walk_f *)(table + PROTOTYPES - WALK);
  return (walk_f)(((walk_i)__builtin_shuffle(low, place) & ~high) |
                  ((walk_i)__builtin_shuffle(rest, place) & high));
}

/* What a codebook's decisions on the taken path are worth, at WALK positions. */
struct path {
  walk_f level[LEVELS]; /* thresholds */
  const float *rows;    /* [RANK][PROTOTYPES] the coefficients of its rows */
  float inverse;        /* of the window's half-width */
};

static struct path path_of(const float *threshold, const float *basis, float tau) {
  struct path path = {.rows = basis, .inverse = 1.0f / tau};
  level_thresholds(threshold, path.level);
  return path;
}

typedef float line __attribute__((vector_size(16), aligned(4)));
static_assert(RANK == 4, "a line is one position's");

/* One codebook's RANK values of each position, [area][stride], to [RANK][pitch]. */
static void along_planes(const float *along, size_t stride, size_t area, float *plane,
                         size_t pitch) {
  size_t i = 0;
  for (; i + 4 <= area; i += 4) {
    line v[4], w[4];
    for (int k = 0; k < 4; k++)
      v[k] = *(const line *)(along + (i + k) * stride);
    w[0] = __builtin_shufflevector(v[0], v[1], 0, 4, 1, 5);
    w[1] = __builtin_shufflevector(v[2], v[3], 0, 4, 1, 5);
    w[2] = __builtin_shufflevector(v[0], v[1], 2, 6, 3, 7);
    w[3] = __builtin_shufflevector(v[2], v[3], 2, 6, 3, 7);
    for (int r = 0; r < 4; r += 2) {
      *(line *)(plane + r * pitch + i) = __builtin_shufflevector(w[r], w[r + 1], 0, 1, 4, 5);
      *(line *)(plane + (r + 1) * pitch + i) = __builtin_shufflevector(w[r], w[r + 1], 2, 3, 6, 7);
    }
  }
  for (; i < area; i++)
    for (int r = 0; r < RANK; r++)
      plane[r * pitch + i] = along[i * stride + r];
}

/* Room for one image's values of a codebook's levels and for its RANK planes, of `pitch` floats.
 * Past the image's end they stay 0 and add nothing. */
struct planes {
  size_t pitch;
  float *value, *along, *push;
};

static struct planes planes_make(size_t area) {
  const size_t pitch = (area + WALK - 1) / WALK * WALK;
  float *all = calloc((2 * LEVELS + RANK) * pitch, sizeof *all);
  return (struct planes){pitch, all, all + LEVELS * pitch, all + (LEVELS + RANK) * pitch};
}

/* With what one codebook compares, and with its part of `along`, [area][stride]. */
static void planes_fill(const struct planes *planes, const struct geometry *g, const float *image,
                        const int32_t split[LEVELS], const float *along, size_t stride) {
  for (int l = 0; l < LEVELS; l++)
    select_values(g, image, split[l], planes->value + l * planes->pitch);
  along_planes(along, stride, (size_t)g->out_h * g->out_w, planes->along, planes->pitch);
}

/* Of the WALK positions from i on. push[l]: how the loss would change with the threshold of the
 * decision at level l, which is the negative of how it would with the value v[l] that is compared:
 * what changes if that decision goes the other way (the deeper ones decided anew), weighted by a
 * triangle around the threshold. along: the output's gradient along RANK directions of the table.
 * place[l]: the decision's node. */
static inline void path_push(const struct path *path, const struct planes *planes, size_t i,
                             walk_i place[LEVELS + 1], walk_f push[LEVELS]) {
  walk_f v[LEVELS], along[RANK];
  for (int l = 0; l < LEVELS; l++)
    v[l] = *(const walk_f *)(planes->value + l * planes->pitch + i);
  for (int r = 0; r < RANK; r++)
    along[r] = *(const walk_f *)(planes->along + r * planes->pitch + i);
  walk_f mine[RANK];
  place[0] = (walk_i){0};
  for (int l = 0; l < LEVELS; l++)
    place[l + 1] = decide(path->level, l, place[l], v[l]);
  for (int r = 0; r < RANK; r++)
    mine[r] = entry(path->rows + r * PROTOTYPES, place[LEVELS]);
  for (int l = 0; l < LEVELS; l++) {
    walk_i other = place[l + 1] ^ 1;
    for (int k = l + 1; k < LEVELS; k++)
      other = decide(path->level, k, other, v[k]);
    walk_f change = {0};
    for (int r = 0; r < RANK; r++)
      change += (mine[r] - entry(path->rows + r * PROTOTYPES, other)) * along[r];
    const walk_f h = (v[l] - __builtin_shuffle(path->level[l], place[l])) * path->inverse;
    const walk_i right = -(place[l + 1] & 1);
    walk_f weight = 1.0f - (walk_f)((walk_i)h & 0x7fffffff);
    weight = (walk_f)((walk_i)weight & (weight > 0)); /* outside the window nothing is felt */
    push[l] = (walk_f)((walk_i)(change * weight * path->inverse) ^ (right & INT32_MIN));
  }
}

/* Gradient of the thresholds: path_push, summed by node. basis is [codebooks][RANK][16], along
 * [P][codebooks * RANK], tau [codebooks]. grad_threshold is zeroed by the caller. */
void threshold_gradient(const struct geometry *g, const float *x, int codebooks,
                        const int32_t *split, const float *threshold, const float *tau,
                        const float *basis, const float *along, float *grad_threshold) {
  const size_t area = (size_t)g->out_h * g->out_w, stride = (size_t)codebooks * RANK;
  const size_t image_values = (size_t)g->channels * g->height * g->width;
#pragma omp parallel
  {
    const struct planes planes = planes_make(area);
#pragma omp for schedule(dynamic, 1)
    for (int c = 0; c < codebooks; c++) {
      const struct path path =
          path_of(threshold + c * PROTOTYPES, basis + (size_t)c * RANK * PROTOTYPES, tau[c]);
      walk_f sum[PROTOTYPES] = {{0}};
      for (int n = 0; n < g->images; n++) {
        planes_fill(&planes, g, x + n * image_values, split + c * LEVELS,
                    along + n * area * stride + c * RANK, stride);
        for (size_t i = 0; i < area; i += WALK) {
          walk_i place[LEVELS + 1];
          walk_f push[LEVELS];
          path_push(&path, &planes, i, place, push);
          for (int l = 0; l < LEVELS; l++)
            for (int k = 0; k < 1 << l; k++)
              sum[(1 << l) + k] += (walk_f)((walk_i)push[l] & (place[l] == k));
        }
      }
      for (int node = 1; node < PROTOTYPES; node++)
        for (int j = 0; j < WALK; j++)
          grad_threshold[c * PROTOTYPES + node] += sum[node][j];
    }
    free(planes.value);
  }
}

/* Takes one image's pushes on column `split` from the gradient of what it reads. */
static void take_pushes(const struct geometry *g, const float *push, int32_t split, float *image) {
  int kx = split % g->kernel_w, ky = split / g->kernel_w % g->kernel_h;
  float *plane = image + (size_t)(split / (g->kernel_w * g->kernel_h)) * g->height * g->width;
  for (int oy = 0; oy < g->out_h; oy++, push += g->out_w) {
    const int y = oy * g->stride + ky - g->pad, left = g->pad - kx;
    if (y < 0 || y >= g->height)
      continue;
    float *row = plane + (size_t)y * g->width;
    if (g->stride == 1) {
      const int first = left > 0 ? left : 0;
      const int last = g->width + left < g->out_w ? g->width + left : g->out_w;
      for (int ox = first; ox < last; ox++)
        row[ox - left] -= push[ox];
      continue;
    }
    for (int ox = 0; ox < g->out_w; ox++) {
      const int x = ox * g->stride - left;
      if (x >= 0 && x < g->width)
        row[x] -= push[ox];
    }
  }
}

/* Gradient of the input, likewise: path_push, taken from each value that is compared. grad_x, of
 * x's shape, is zeroed by the caller. */
void input_gradient(const struct geometry *g, const float *x, int codebooks, const int32_t *split,
                    const float *threshold, const float *tau, const float *basis,
                    const float *along, float *grad_x) {
  const size_t area = (size_t)g->out_h * g->out_w, stride = (size_t)codebooks * RANK;
  const size_t image_values = (size_t)g->channels * g->height * g->width;
#pragma omp parallel
  {
    const struct planes planes = planes_make(area);
#pragma omp for schedule(static)
    for (int n = 0; n < g->images; n++)
      for (int c = 0; c < codebooks; c++) {
        const struct path path =
            path_of(threshold + c * PROTOTYPES, basis + (size_t)c * RANK * PROTOTYPES, tau[c]);
        planes_fill(&planes, g, x + n * image_values, split + c * LEVELS,
                    along + n * area * stride + c * RANK, stride);
        for (size_t i = 0; i < area; i += WALK) {
          walk_i place[LEVELS + 1];
          walk_f push[LEVELS];
          path_push(&path, &planes, i, place, push);
          for (int l = 0; l < LEVELS; l++)
            *(walk_f *)(planes.push + l * planes.pitch + i) = push[l];
        }
        for (int l = 0; l < LEVELS; l++)
          take_pushes(g, planes.push + l * planes.pitch, split[c * LEVELS + l],
                      grad_x + n * image_values);
      }
    free(planes.value);
  }
}
