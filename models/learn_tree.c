/* DESIGN: greedy, level by level, exact.
 *
 * A codebook's columns are gathered once: x[column][sample] for comparing and z[sample][axis] for
 * scoring, where z is x centred and, if splits are chosen by the output, multiplied by a factor F
 * with F F' = B_c B_c', so that squared distances of z are those of A_c * B_c. Each column keeps
 * its samples sorted; nodes of a level are consecutive segments of that order and a stable
 * partition keeps them sorted.
 *
 * Splitting n samples with centred prefix sum s after the first i lowers the squared error by |s|^2
 * n / (i (n - i)): the gain that is maximised, over boundaries between distinct values only (equal
 * values can never be parted). A later boundary or column wins only by more than rounding
 * (TREE_TIE), so the lowest one wins ties.
 *
 * Thresholds are quantised as soon as their level is chosen, and the samples are parted by the
 * quantised comparison: deeper levels see what will be served. */
#include <float.h>
#include <lapacke.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "learn_parts.h"

/* Of the squared error in question; double sums are good to about 1e-13. */
#define TREE_TIE 1e-11

enum {
  TREE_NODES_MAX = HALUT_PROTOTYPES / 2,
  TREE_POLL_ROWS = 1024, /* between two looks whether to go on */
  TREE_RADIX_BITS = 11,
  TREE_RADIX = 1 << TREE_RADIX_BITS
};

struct halut_tree_scratch {
  float *x;        /* [width][rows] */
  float *z;        /* [rows][axes], axes padded with zeros to a multiple of 4 */
  uint32_t *order; /* [width][rows] samples by (node, value, sample) */
  uint32_t *spare; /* [rows] */
  uint8_t *right;  /* [rows] */
  double *sum;     /* [axes] */
  double *mean;    /* [nodes][axes] */
  double *factor;  /* [width][axes] */
  double *moment;  /* [width][width], its eigenvectors */
  double *eigen;   /* [width] */
  double *loss;    /* [width] */
  uint8_t *chosen; /* [width] */
};

/* Where a node is cut: between two neighbouring distinct values; no cut if the gain is 0. */
struct tree_cut {
  double gain;
  float below, above;
};

static uint32_t tree_axes(const struct halut_tree_plan *plan, uint32_t width) {
  uint32_t axes = plan->b && plan->outputs < width ? plan->outputs : width;
  return (axes + 3) / 4 * 4;
}

struct halut_tree_scratch *halut_tree_scratch_open(const struct halut_tree_plan *plan) {
  struct halut_tree_scratch *s = calloc(1, sizeof *s);
  if (!s)
    return NULL;
  size_t width = plan->width_max, axes = tree_axes(plan, plan->width_max), rows = plan->rows;
  s->x = calloc(width * rows, sizeof *s->x);
  s->z = calloc(axes * rows, sizeof *s->z);
  s->order = calloc(width * rows, sizeof *s->order);
  s->spare = calloc(rows, sizeof *s->spare);
  s->right = calloc(rows, sizeof *s->right);
  s->sum = calloc(axes, sizeof *s->sum);
  s->mean = calloc(TREE_NODES_MAX * axes, sizeof *s->mean);
  s->factor = calloc(width * axes, sizeof *s->factor);
  s->moment = calloc(width * width, sizeof *s->moment);
  s->eigen = calloc(width, sizeof *s->eigen);
  s->loss = calloc(width, sizeof *s->loss);
  s->chosen = calloc(width, sizeof *s->chosen);
  if (s->x && s->z && s->order && s->spare && s->right && s->sum && s->mean && s->factor &&
      s->moment && s->eigen && s->loss && s->chosen)
    return s;
  halut_tree_scratch_close(s);
  return NULL;
}

void halut_tree_scratch_close(struct halut_tree_scratch *s) {
  if (!s)
    return;
  free(s->x);
  free(s->z);
  free(s->order);
  free(s->spare);
  free(s->right);
  free(s->sum);
  free(s->mean);
  free(s->factor);
  free(s->moment);
  free(s->eigen);
  free(s->loss);
  free(s->chosen);
  free(s);
}

uint8_t halut_tree_value(float x, float low, float inverse) {
  float v = (x - low) * inverse;
  if (!(v > 0.0f))
    return 0;
  return v >= 255.0f ? 255 : (uint8_t)lrintf(v);
}

static void tree_gather(const struct halut_tree_plan *plan, float *x, uint32_t first,
                        uint32_t width) {
  const struct halut_samples *a = plan->samples;
  for (size_t i = 0; i < plan->rows; i++) {
    size_t at = (size_t)plan->row[i] * a->columns + first;
    for (uint32_t j = 0; j < width;
         j++) /* + 0 makes a negative zero positive: they must sort as equals */
      x[j * plan->rows + i] = a->f32 ? a->f32[at + j] + 0.0f : (float)a->u8[at + j];
  }
}

/* F [width][axes] with F F' = B_c B_c'. With fewer outputs than columns that is B_c itself. */
static int tree_factor(const struct halut_tree_plan *plan, struct halut_tree_scratch *s,
                       uint32_t first, uint32_t width) {
  uint32_t axes = tree_axes(plan, width), outputs = plan->outputs;
  const float *b = plan->b + (size_t)first * outputs;
  memset(s->factor, 0, (size_t)width * axes * sizeof *s->factor);
  if (outputs < width) {
    for (uint32_t j = 0; j < width; j++)
      for (uint32_t m = 0; m < outputs; m++)
        s->factor[j * axes + m] = (double)b[(size_t)j * outputs + m];
    return HALUT_OK;
  }
  for (uint32_t j = 0; j < width; j++)
    for (uint32_t k = 0; k <= j; k++) {
      double dot = 0.0;
      for (uint32_t m = 0; m < outputs; m++)
        dot += (double)b[(size_t)j * outputs + m] * (double)b[(size_t)k * outputs + m];
      s->moment[(size_t)j * width + k] = s->moment[(size_t)k * width + j] = dot;
    }
  lapack_int n = (lapack_int)width;
  lapack_int info = LAPACKE_dsyev(LAPACK_COL_MAJOR, 'V', 'L', n, s->moment, n, s->eigen);
  if (info)
    return info == LAPACK_WORK_MEMORY_ERROR ? HALUT_ENOMEM : HALUT_EINVALID;
  for (uint32_t k = 0; k < width; k++) { /* column k of the result is eigenvector k */
    double root = s->eigen[k] > 0.0 ? sqrt(s->eigen[k]) : 0.0;
    for (uint32_t j = 0; j < width; j++)
      s->factor[j * axes + k] = s->moment[(size_t)k * width + j] * root;
  }
  return HALUT_OK;
}

static int tree_centre(const struct halut_tree_plan *plan, struct halut_tree_scratch *s,
                       uint32_t worker, uint32_t width) {
  size_t rows = plan->rows;
  uint32_t axes = tree_axes(plan, width);
  memset(s->z, 0, rows * axes * sizeof *s->z);
  for (uint32_t j = 0; j < width; j++) {
    const float *x = s->x + j * rows;
    double mean = 0.0;
    for (size_t i = 0; i < rows; i++)
      mean += (double)x[i];
    s->loss[j] = mean / (double)rows;
  }
  for (size_t i = 0; i < rows; i++) {
    if (i % TREE_POLL_ROWS == 0 && halut_learn_pool_poll(plan->pool, worker))
      return HALUT_ECANCELED;
    if (!plan->b) {
      for (uint32_t j = 0; j < width; j++)
        s->z[i * axes + j] = (float)((double)s->x[j * rows + i] - s->loss[j]);
      continue;
    }
    memset(s->sum, 0, axes * sizeof *s->sum);
    for (uint32_t j = 0; j < width; j++) {
      double centred = (double)s->x[j * rows + i] - s->loss[j];
      for (uint32_t k = 0; k < axes; k++)
        s->sum[k] += centred * s->factor[j * axes + k];
    }
    for (uint32_t k = 0; k < axes; k++)
      s->z[i * axes + k] = (float)s->sum[k];
  }
  return HALUT_OK;
}

/* Orders like the float: flip all bits of a negative number, the sign bit of others. */
static uint32_t tree_key(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits ^ (bits & 0x80000000u ? 0xffffffffu : 0x80000000u);
}

/* Stable: equal values stay in the order of samples. Three passes of 11 bits end in `order`. */
static void tree_sort(const float *x, size_t rows, uint32_t *order, uint32_t *spare) {
  for (size_t i = 0; i < rows; i++)
    spare[i] = (uint32_t)i;
  uint32_t *from = spare, *to = order;
  for (unsigned shift = 0; shift < 32; shift += TREE_RADIX_BITS) {
    size_t start[TREE_RADIX + 1] = {0};
    for (size_t i = 0; i < rows; i++)
      start[(tree_key(x[i]) >> shift & (TREE_RADIX - 1)) + 1]++;
    for (size_t d = 0; d < TREE_RADIX; d++)
      start[d + 1] += start[d];
    for (size_t i = 0; i < rows; i++)
      to[start[tree_key(x[from[i]]) >> shift & (TREE_RADIX - 1)]++] = from[i];
    uint32_t *swap = from;
    from = to;
    to = swap;
  }
}

/* mean: of the node's samples; returns their squared error around it, for the tie rule. */
static double tree_mean(const float *z, uint32_t axes, const uint32_t *order, size_t count,
                        double *mean) {
  double square = 0.0;
  memset(mean, 0, axes * sizeof *mean);
  for (size_t i = 0; i < count; i++)
    for (uint32_t k = 0; k < axes; k++)
      mean[k] += (double)z[(size_t)order[i] * axes + k];
  for (uint32_t k = 0; k < axes && count; k++)
    mean[k] /= (double)count;
  for (size_t i = 0; i < count; i++)
    for (uint32_t k = 0; k < axes; k++) {
      double off = (double)z[(size_t)order[i] * axes + k] - mean[k];
      square += off * off;
    }
  return square;
}

static double tree_square(const double *sum, uint32_t axes) {
  double a0 = 0.0, a1 = 0.0, a2 = 0.0, a3 = 0.0; /* four chains, so that adds overlap */
  for (uint32_t k = 0; k < axes; k += 4) {
    a0 += sum[k] * sum[k];
    a1 += sum[k + 1] * sum[k + 1];
    a2 += sum[k + 2] * sum[k + 2];
    a3 += sum[k + 3] * sum[k + 3];
  }
  return (a0 + a2) + (a1 + a3);
}

/* Four axes, in as many registers as the processor needs for them. */
typedef double tree_four __attribute__((vector_size(32)));
enum { TREE_FOURS_MAX = 4 };

/* The gain of cutting after the first `left` of `count` samples. */
static double tree_gain(double square, size_t left, size_t count) {
  return square * (double)count / ((double)left * (double)(count - left));
}

/* The best cut of one node by one column. */
static struct tree_cut tree_scan_any(const float *x, const float *z, uint32_t axes,
                                     const uint32_t *order, size_t count, const double *mean,
                                     double tie, double *sum) {
  struct tree_cut best = {0};
  memset(sum, 0, axes * sizeof *sum);
  for (size_t i = 0; i + 1 < count; i++) {
    const float *row = z + (size_t)order[i] * axes;
    if (i + 16 < count)
      __builtin_prefetch(z + (size_t)order[i + 16] * axes);
    for (uint32_t k = 0; k < axes; k++)
      sum[k] += (double)row[k] - mean[k];
    if (!(x[order[i]] < x[order[i + 1]]))
      continue;
    double gain = tree_gain(tree_square(sum, axes), i + 1, count);
    if (gain > best.gain + tie)
      best = (struct tree_cut){gain, x[order[i]], x[order[i + 1]]};
  }
  return best;
}

/* The same for a constant number of axes, whose sums stay in registers: learning takes two thirds
 * of the time. */
static inline __attribute__((always_inline)) struct tree_cut
tree_scan_fours(const float *x, const float *z, const int fours, const uint32_t *order,
                size_t count, const double *mean, double tie) {
  const size_t axes = 4 * (size_t)fours;
  struct tree_cut best = {0};
  tree_four sum[TREE_FOURS_MAX] = {{0}}, middle[TREE_FOURS_MAX];
  memcpy(middle, mean, axes * sizeof *mean);
  for (size_t i = 0; i + 1 < count; i++) {
    const float *row = z + (size_t)order[i] * axes;
    if (i + 16 < count)
      __builtin_prefetch(z + (size_t)order[i + 16] * axes);
    tree_four square = {0};
#pragma GCC unroll 4
    for (int f = 0; f < fours; f++, row += 4) {
      const tree_four at = {(double)row[0], (double)row[1], (double)row[2], (double)row[3]};
      sum[f] += at - middle[f];
      square += sum[f] * sum[f];
    }
    if (!(x[order[i]] < x[order[i + 1]]))
      continue;
    double gain = tree_gain((square[0] + square[2]) + (square[1] + square[3]), i + 1, count);
    if (gain > best.gain + tie)
      best = (struct tree_cut){gain, x[order[i]], x[order[i + 1]]};
  }
  return best;
}

static struct tree_cut tree_scan(const float *x, const float *z, uint32_t axes,
                                 const uint32_t *order, size_t count, const double *mean,
                                 double tie, double *sum) {
  switch (axes) {
  case 4:
    return tree_scan_fours(x, z, 1, order, count, mean, tie);
  case 8:
    return tree_scan_fours(x, z, 2, order, count, mean, tie);
  case 12:
    return tree_scan_fours(x, z, 3, order, count, mean, tie);
  case 16:
    return tree_scan_fours(x, z, TREE_FOURS_MAX, order, count, mean, tie);
  default:
    return tree_scan_any(x, z, axes, order, count, mean, tie, sum);
  }
}

/* Marks the columns to try at a level: those with the largest squared error within the nodes,
 * weighted with what they do to the output when that is what counts. The lowest column wins ties.
 */
static void tree_choose(const struct halut_tree_plan *plan, struct halut_tree_scratch *s,
                        uint32_t first, uint32_t width, const size_t *start, uint32_t nodes) {
  uint32_t wanted = plan->candidates && plan->candidates < width ? plan->candidates : width;
  memset(s->chosen, wanted == width, width);
  if (wanted == width)
    return;
  for (uint32_t j = 0; j < width; j++) {
    const float *x = s->x + j * plan->rows;
    double loss = 0.0, weight = plan->b ? 0.0 : 1.0;
    for (uint32_t node = 0; node < nodes; node++) {
      double sum = 0.0, square = 0.0, count = (double)(start[node + 1] - start[node]);
      for (size_t i = start[node]; i < start[node + 1]; i++)
        sum += (double)x[s->order[i]];
      for (size_t i = start[node]; i < start[node + 1]; i++) {
        double off = (double)x[s->order[i]] - sum / count;
        square += off * off;
      }
      loss += square;
    }
    for (uint32_t m = 0; plan->b && m < plan->outputs; m++) {
      double b = (double)plan->b[(size_t)(first + j) * plan->outputs + m];
      weight += b * b;
    }
    s->loss[j] = loss * weight;
  }
  for (uint32_t n = 0; n < wanted; n++) {
    uint32_t best = width;
    for (uint32_t j = 0; j < width; j++)
      if (!s->chosen[j] && (best == width || s->loss[j] > s->loss[best]))
        best = j;
    s->chosen[best] = 1;
  }
}

/* The column (of the codebook) that lowers the error most, with the cut of each node; `width` if
 * learning is to end early. */
static uint32_t tree_level(const struct halut_tree_plan *plan, struct halut_tree_scratch *s,
                           uint32_t worker, uint32_t width, const size_t *start, uint32_t nodes,
                           struct tree_cut *cut) {
  uint32_t axes = tree_axes(plan, width), best = width;
  double best_gain = -1.0, tie[TREE_NODES_MAX], total_tie = 0.0;
  for (uint32_t node = 0; node < nodes; node++) {
    tie[node] = TREE_TIE * tree_mean(s->z, axes, s->order + start[node],
                                     start[node + 1] - start[node], s->mean + (size_t)node * axes);
    total_tie += tie[node];
  }
  for (uint32_t j = 0; j < width; j++) {
    if (!s->chosen[j])
      continue;
    if (halut_learn_pool_poll(plan->pool, worker))
      return width;
    struct tree_cut mine[TREE_NODES_MAX] = {0};
    double gain = 0.0;
    for (uint32_t node = 0; node < nodes; node++) {
      mine[node] = tree_scan(s->x + j * plan->rows, s->z, axes,
                             s->order + j * plan->rows + start[node], start[node + 1] - start[node],
                             s->mean + (size_t)node * axes, tie[node], s->sum);
      gain += mine[node].gain;
    }
    if (best < width && !(gain > best_gain + total_tie))
      continue;
    best = j;
    best_gain = gain;
    memcpy(cut, mine, nodes * sizeof *cut);
  }
  assert(best < width);
  return best;
}

/* Whole-number thresholds for the cuts of a level, and the affine that makes them so. A value v
 * rounds to more than T iff it lies above T + 1/2. The lowest threshold is met exactly, since there
 * the mass of a ReLU's zeros lies; the others to within 1/508 of their spread. A node without a cut
 * sends everything left. */
static void tree_quantise(const struct tree_cut *cut, uint32_t nodes, int whole, double range,
                          float *low_out, float *inverse_out, uint8_t *threshold) {
  double middle[TREE_NODES_MAX] = {0}, low = 0.0, high = 0.0;
  uint32_t cuts = 0;
  for (uint32_t node = 0; node < nodes; node++) {
    middle[node] = 0.5 * ((double)cut[node].below + (double)cut[node].above);
    threshold[node] = 255;
    if (!(cut[node].gain > 0.0))
      continue;
    low = cuts && low < middle[node] ? low : middle[node];
    high = cuts && high > middle[node] ? high : middle[node];
    cuts++;
  }
  double inverse = 1.0;
  int base = 0;
  *low_out = 0.0f;
  if (!whole && high > low) {
    inverse = fmin(254.0 / (high - low), 1e38);
    *low_out = (float)(low - 0.5 / inverse);
  } else if (!whole && cuts) {
    base = 127; /* one threshold: the middle, with the slope chosen after the rounding of low */
    *low_out = (float)(low - 0.5 * range);
    inverse = low > (double)*low_out ? fmin(127.5 / (low - (double)*low_out), 1e38) : 1e38;
  }
  *inverse_out = (float)inverse;
  for (uint32_t node = 0; node < nodes; node++)
    if (cut[node].gain > 0.0)
      threshold[node] = (uint8_t)(whole ? (int)floor(middle[node])
                                        : base + (int)lrint((middle[node] - low) * inverse));
}

/* Parts every node's samples, in each column's order; start[] of the next level. */
static void tree_part(const struct halut_tree_plan *plan, struct halut_tree_scratch *s,
                      uint32_t width, size_t *start, uint32_t nodes) {
  size_t next[2 * TREE_NODES_MAX + 1] = {0};
  for (uint32_t j = 0; j < width; j++)
    for (uint32_t node = 0; node < nodes; node++) {
      uint32_t *order = s->order + j * plan->rows;
      size_t left = start[node], spared = 0;
      for (size_t i = start[node]; i < start[node + 1]; i++) {
        uint32_t sample = order[i];
        if (s->right[sample])
          s->spare[spared++] = sample;
        else
          order[left++] = sample;
      }
      memcpy(order + left, s->spare, spared * sizeof *order);
      next[2 * node + 1] = left;
      next[2 * node + 2] = start[node + 1];
    }
  memcpy(start, next, (2 * nodes + 1) * sizeof *start);
}

/* Which samples go right, by the comparison that will be served. */
static void tree_mark(struct halut_tree_scratch *s, const float *x, const size_t *start,
                      uint32_t nodes, float low, float inverse, const uint8_t *threshold) {
  for (uint32_t node = 0; node < nodes; node++)
    for (size_t i = start[node]; i < start[node + 1]; i++) {
      uint32_t sample = s->order[i];
      s->right[sample] = halut_tree_value(x[sample], low, inverse) > threshold[node];
    }
}

static double tree_range(const float *x, size_t rows) {
  float low = x[0], high = x[0];
  for (size_t i = 1; i < rows; i++) {
    low = x[i] < low ? x[i] : low;
    high = x[i] > high ? x[i] : high;
  }
  return (double)high - (double)low;
}

int halut_tree_learn(const struct halut_tree_plan *plan, struct halut_tree_scratch *s,
                     uint32_t worker, uint32_t first, uint32_t width, struct halut_tree *tree) {
  assert(width >= 1);
  assert(width <= plan->width_max);
  tree_gather(plan, s->x, first, width);
  int error = plan->b ? tree_factor(plan, s, first, width) : HALUT_OK;
  error = error ? error : tree_centre(plan, s, worker, width);
  if (error)
    return error;
  for (uint32_t j = 0; j < width; j++)
    tree_sort(s->x + j * plan->rows, plan->rows, s->order + j * plan->rows, s->spare);
  size_t start[2 * TREE_NODES_MAX + 1] = {0, plan->rows};
  memset(tree->threshold, 0, HALUT_PROTOTYPES);
  for (uint32_t level = 0; level < HALUT_LEVELS; level++) {
    uint32_t nodes = 1u << level;
    uint8_t *threshold =
        tree->threshold + nodes; /* heap order: node n of a level is entry nodes + n */
    if (nodes >= plan->prototypes) {
      tree->split[level] = first;
      tree->low[level] = 0.0f;
      tree->inverse[level] = 1.0f;
      memset(threshold, 255, nodes);
      continue;
    }
    struct tree_cut cut[TREE_NODES_MAX];
    tree_choose(plan, s, first, width, start, nodes);
    uint32_t j = tree_level(plan, s, worker, width, start, nodes, cut);
    if (j == width)
      return HALUT_ECANCELED;
    const float *x = s->x + j * plan->rows;
    tree->split[level] = first + j;
    tree_quantise(cut, nodes, plan->samples->u8 != NULL, tree_range(x, plan->rows),
                  &tree->low[level], &tree->inverse[level], threshold);
    tree_mark(s, x, start, nodes, tree->low[level], tree->inverse[level], threshold);
    if (level + 1 < HALUT_LEVELS)
      tree_part(plan, s, width, start, nodes);
  }
  return HALUT_OK;
}
