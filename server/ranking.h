/* ranking.h: scores in order, and logits as probabilities.
 *
 * Pure functions on the caller's memory; any thread.
 */
#ifndef HALUT_RANKING_H
#define HALUT_RANKING_H

#include <stdint.h>

/* Fills order[k], k in 1..count, with the indices of the k greatest keys, greatest first; of
 * equals, the first. O(count log k). */
void halut_rank(const int32_t *keys, uint32_t count, uint32_t k, uint32_t *order);

/* Keys that order floats as `<` does, -0 before +0; NaNs come at the ends. */
void halut_rank_float_keys(const float *values, uint32_t count, int32_t *keys);

/* The softmax of scale * logits[count], one probability at a time. */
struct halut_softmax {
  int32_t best;
  double scale, sum;
};
struct halut_softmax halut_softmax_of(const int32_t *logits, uint32_t count, float scale);
double halut_softmax_at(const struct halut_softmax *softmax, int32_t logit);

#endif
