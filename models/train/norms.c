/* Batch norm, ReLU and 2x2 max-pool in two passes over the map each way, for training on a CPU.
 *
 * DESIGN. norms.py compiles this file and binds it by ctypes. PyTorch's own passes write a map
 * each, and reading and writing maps is what they cost. Here the forward pass reads the map once
 * for the statistics and once for the result; the backward pass computes the forward's decisions
 * (which value of a window was largest, and above 0) anew from the map, so none is kept. Maps are
 * float32 [rows][channels], a row being a position of an image; channels are a multiple of 16. A
 * window is 1x1 or 2x2 positions. Each thread sums its own images, and the sums are added in the
 * order of the threads: the same numbers whenever there are as many of them.
 */
#include <omp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { LANES = 16, WINDOW_MAX = 4, SUMS = 2, BURST = 64 };

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t mask __attribute__((vector_size(4 * LANES), aligned(4)));

struct map {
  int32_t images, height, width, channels, pool; /* pool: 1 or 2 */
};

static inline vec choose(mask which, vec yes, vec no) {
  return (vec)(((mask)yes & which) | ((mask)no & ~which));
}

static inline vec load(const float *from) {
  return *(const vec *)from;
}

/* Adds the sums of `part` [threads][SUMS][channels] to `total` [SUMS][channels]. */
static void add_up(const double *part, int threads, int channels, double *total) {
  for (int t = 0; t < threads; t++)
    for (int i = 0; i < SUMS * channels; i++)
      total[i] += part[(size_t)t * SUMS * channels + i];
}

/* Float sums of a burst of rows go to double ones, lest a long sum lose its small addends. */
static void flush(float *burst, int channels, double *total) {
  for (int i = 0; i < SUMS * channels; i++)
    total[i] += burst[i];
  memset(burst, 0, sizeof *burst * SUMS * channels);
}

/* total [2][channels], zeroed by the caller: the sums of each channel's values less those of the
 * first row, lest a mean far from 0 hide how they vary, and of the squares of that. */
void norm_statistics(const float *x, size_t rows, int channels, double *total) {
  const int threads = omp_get_max_threads();
  double *part = calloc((size_t)threads * SUMS * channels, sizeof *part);
#pragma omp parallel num_threads(threads)
  {
    float *burst = calloc(SUMS * channels, sizeof *burst);
    double *mine = part + (size_t)omp_get_thread_num() * SUMS * channels;
#pragma omp for schedule(static)
    for (size_t first = 0; first < rows; first += BURST) {
      const size_t last = first + BURST < rows ? first + BURST : rows;
      for (int c = 0; c < channels; c += LANES) {
        vec sum = {0}, square = {0};
        for (size_t r = first; r < last; r++) {
          const vec value = load(x + r * channels + c) - load(x + c);
          sum += value;
          square += value * value;
        }
        *(vec *)(burst + c) = sum;
        *(vec *)(burst + channels + c) = square;
      }
      flush(burst, channels, mine);
    }
    free(burst);
  }
  add_up(part, threads, channels, total);
  free(part);
}

/* A window's values of LANES channels from `x` on, in row-major order. */
static inline int window(const struct map *m, const float *x, const float **at) {
  const size_t across = m->channels, down = (size_t)m->width * m->channels;
  at[0] = x;
  if (m->pool == 1)
    return 1;
  at[1] = x + across;
  at[2] = x + down;
  at[3] = x + down + across;
  return WINDOW_MAX;
}

/* The map's first value of window w, of all windows in order. */
static inline size_t corner(const struct map *m, size_t w) {
  const size_t across = m->width / m->pool, down = m->height / m->pool;
  const size_t x = w % across, y = w / across % down, n = w / across / down;
  return ((n * m->height + y * m->pool) * m->width + x * m->pool) * m->channels;
}

static size_t windows(const struct map *m) {
  return (size_t)m->images * (m->height / m->pool) * (m->width / m->pool);
}

/* y [windows][channels] = the largest of max(0, gain * x + offset) in each window. */
void norm_forward(const struct map *m, const float *x, const float *gain, const float *offset,
                  float *y) {
  const size_t count = windows(m);
#pragma omp parallel for schedule(static)
  for (size_t w = 0; w < count; w++) {
    const float *from = x + corner(m, w);
    for (int c = 0; c < m->channels; c += LANES) {
      const float *at[WINDOW_MAX];
      const int size = window(m, from + c, at);
      vec best = {0};
      for (int i = 0; i < size; i++) {
        const vec value = load(at[i]) * load(gain + c) + load(offset + c);
        best = choose(value > best, value, best);
      }
      *(vec *)(y + w * m->channels + c) = best;
    }
  }
}

/* Which value of a window, if any, has the gradient: won[i] is all ones where the i-th is the first
 * of the largest and above 0. */
static inline void winners(const float *const *at, int size, vec gain, vec offset, mask *won) {
  vec best = {0};
  for (int i = 0; i < size; i++) {
    const vec value = load(at[i]) * gain + offset;
    won[i] = value > best;
    best = choose(won[i], value, best);
    for (int j = 0; j < i; j++)
      won[j] &= ~won[i];
  }
}

/* total [2][channels], zeroed by the caller: the sums of the gradient that reaches the norm's
 * output, and of that times the norm's input less the first row's. */
void norm_gradient_sums(const struct map *m, const float *x, const float *gain, const float *offset,
                        const float *grad_y, double *total) {
  const size_t count = windows(m);
  const int threads = omp_get_max_threads();
  double *part = calloc((size_t)threads * SUMS * m->channels, sizeof *part);
#pragma omp parallel num_threads(threads)
  {
    float *burst = calloc(SUMS * m->channels, sizeof *burst);
    double *mine = part + (size_t)omp_get_thread_num() * SUMS * m->channels;
#pragma omp for schedule(static)
    for (size_t first = 0; first < count; first += BURST) {
      const size_t last = first + BURST < count ? first + BURST : count;
      for (size_t w = first; w < last; w++) {
        const float *from = x + corner(m, w);
        for (int c = 0; c < m->channels; c += LANES) {
          const float *at[WINDOW_MAX];
          mask won[WINDOW_MAX];
          const int size = window(m, from + c, at);
          winners(at, size, load(gain + c), load(offset + c), won);
          const vec grad = load(grad_y + w * m->channels + c);
          vec sum = {0}, product = {0};
          for (int i = 0; i < size; i++) {
            const vec here = choose(won[i], grad, (vec){0});
            sum += here;
            product += here * (load(at[i]) - load(x + c));
          }
          *(vec *)(burst + c) += sum;
          *(vec *)(burst + m->channels + c) += product;
        }
      }
      flush(burst, m->channels, mine);
    }
    free(burst);
  }
  add_up(part, threads, m->channels, total);
  free(part);
}

/* grad_x = gain * (the gradient that reaches the norm's output) + slope * x + level, a channel. */
void norm_backward(const struct map *m, const float *x, const float *gain, const float *offset,
                   const float *grad_y, const float *slope, const float *level, float *grad_x) {
  const size_t count = windows(m);
#pragma omp parallel for schedule(static)
  for (size_t w = 0; w < count; w++) {
    const size_t start = corner(m, w);
    for (int c = 0; c < m->channels; c += LANES) {
      const float *at[WINDOW_MAX];
      mask won[WINDOW_MAX];
      const int size = window(m, x + start + c, at);
      winners(at, size, load(gain + c), load(offset + c), won);
      const vec grad = load(grad_y + w * m->channels + c) * load(gain + c);
      for (int i = 0; i < size; i++)
        *(vec *)(grad_x + (at[i] - x)) =
            choose(won[i], grad, (vec){0}) + load(at[i]) * load(slope + c) + load(level + c);
    }
  }
}
