/* DESIGN: the k best so far are a heap whose root is the worst of them, so that most keys are
 * turned away by one comparison; taking the root k times gives the order, backwards. */
#include "ranking.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

static bool is_worse(const int32_t *keys, uint32_t a, uint32_t b) {
  return keys[a] < keys[b] || (keys[a] == keys[b] && a > b);
}

/* Lets order[at] sink to its place in the heap order[0..count). */
static void sink(const int32_t *keys, uint32_t *order, uint32_t count, uint32_t at) {
  uint32_t moved = order[at];
  for (;;) {
    uint32_t child = 2 * at + 1;
    if (child >= count)
      break;
    if (child + 1 < count && is_worse(keys, order[child + 1], order[child]))
      child++;
    if (!is_worse(keys, order[child], moved))
      break;
    order[at] = order[child];
    at = child;
  }
  order[at] = moved;
}

void halut_rank(const int32_t *keys, uint32_t count, uint32_t k, uint32_t *order) {
  for (uint32_t i = 0; i < k; i++)
    order[i] = i;
  for (uint32_t at = k / 2; at-- > 0;)
    sink(keys, order, k, at);
  for (uint32_t i = k; i < count; i++)
    if (is_worse(keys, order[0], i)) {
      order[0] = i;
      sink(keys, order, k, 0);
    }
  for (uint32_t left = k; left > 1; left--) {
    uint32_t worst = order[0];
    order[0] = order[left - 1];
    sink(keys, order, left - 1, 0);
    order[left - 1] = worst;
  }
}

void halut_rank_float_keys(const float *values, uint32_t count, int32_t *keys) {
  for (uint32_t i = 0; i < count; i++) {
    memcpy(&keys[i], &values[i], sizeof keys[i]);
    if (keys[i] < 0)
      keys[i] ^= INT32_MAX; /* a negative float counts away from 0 */
  }
}

struct halut_softmax halut_softmax_of(const int32_t *logits, uint32_t count, float scale) {
  struct halut_softmax softmax = {.best = INT32_MIN, .scale = (double)scale};
  for (uint32_t i = 0; i < count; i++)
    softmax.best = logits[i] > softmax.best ? logits[i] : softmax.best;
  for (uint32_t i = 0; i < count; i++)
    softmax.sum += exp(softmax.scale * ((double)logits[i] - softmax.best));
  return softmax;
}

double halut_softmax_at(const struct halut_softmax *softmax, int32_t logit) {
  return exp(softmax->scale * ((double)logit - softmax->best)) / softmax->sum;
}
