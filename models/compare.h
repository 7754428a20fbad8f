/* compare.h: one input on two backends: do they give the same bytes, and if not, where first?
 *
 * Nothing is owned. Both sessions belong to the calling thread for the call; their observers are
 * removed by it.
 */
#ifndef HALUT_COMPARE_H
#define HALUT_COMPARE_H

#include <stdbool.h>

#include "session.h"

enum { HALUT_COMPARED = 2, HALUT_DIGEST_TEXT = 65 /* SHA-256 in lower-case hex, and the NUL */ };

struct halut_difference {
  uint32_t row;     /* image or row of the input */
  uint32_t node;    /* of a network: the first whose value differs; 0 of a product */
  uint32_t element; /* index in that value, flattened: [channels][height][width] or [outputs] */
  double value[HALUT_COMPARED];
};

struct halut_comparison {
  bool identical;
  char sha256[HALUT_COMPARED][HALUT_DIGEST_TEXT]; /* of the output bytes: i32 or f32, as computed */
  struct halut_difference first;                  /* unless identical */
  struct halut_stats stats[HALUT_COMPARED];       /* without the search for the first difference */
};

/* Two sessions on one model, and how to give them rows. */
struct halut_compared {
  struct halut_session *session[HALUT_COMPARED];
  const struct halut_model_info *info;
  uint32_t batch_max; /* of both sessions */
};

/* Computes `rows` inputs on both, out[i] being what session i gives: `rows` outputs of the caller's
 * memory. Where they differ, the first row that does is computed again, node by node (an observer
 * with plain = 1), to find the node and element; if every plain node agrees, the fused groups are
 * searched in the same way, and last the output itself. HALUT_ENOMEM, and what halut_session_run
 * returns. */
int halut_compare(const struct halut_compared *pair, const void *in, uint32_t rows,
                  void *const out[HALUT_COMPARED], struct halut_comparison *result)
    __attribute__((warn_unused_result));

#endif
