/* inspect.h: what a request may ask for beside its answer: both backends compared, the time by
 * layer, the codes of its input, how one output was made.
 *
 * A job that asks for any of it but the phases is computed alone, not in a batch. Made on the loop
 * from the query or on the worker from a JSON body; owned by the job.
 */
#ifndef HALUT_INSPECT_H
#define HALUT_INSPECT_H

#include "../models/compare.h"
#include "../models/explain.h"
#include "job.h"

enum {
  HALUT_CODES_MAX = 1 << 22,    /* in one reply */
  HALUT_CHANNEL_MAX = 1 << 16,  /* values of the map that /v1/explain shows */
  HALUT_CODEBOOKS_ALL = -1
};

struct halut_inspection {
  /* Asked for. */
  bool compare, phases, layers, codes, explain;
  char layer[HALUT_NAME_MAX]; /* of codes of a network, of explain */
  uint32_t x, y, output;      /* of explain */
  int64_t codebook;           /* of explain, or HALUT_CODEBOOKS_ALL */

  /* Made by the worker. */
  uint32_t node; /* of `layer` */
  struct halut_comparison compared;
  uint64_t layer_ns[HALUT_NODES_MAX]; /* by the last node of a fused group */
  bool layer_seen[HALUT_NODES_MAX];
  uint64_t mark_ns;
  uint8_t *code; /* [code_rows][codebooks] */
  uint32_t code_rows;
  struct halut_layer_maps maps; /* of explain */
};

/* Loop thread: takes "compare", "timing" and "codes" from the query. False after an answer. */
bool halut_inspect_query(struct halut_job *job, struct halut_request *request);
/* Loop thread: takes "layer", "x", "y", "output" and "codebook". False after an answer. */
bool halut_inspect_explain(struct halut_job *job, struct halut_request *request);
/* Worker: takes the same three from a JSON body; false after a failure. */
bool halut_inspect_options(struct halut_job *job, const json_t *object);

/* Must the job be computed alone, by halut_inspect_run? */
bool halut_inspect_alone(const struct halut_job *job);
/* Worker: computes the job and what it asks for, on its seat; a failure makes the reply. */
void halut_inspect_run(uint32_t worker, struct halut_job *job);

/* inspect_write.c, worker: the members of a reply, each with a comma before it, and the
 * Server-Timing header. Nothing if nothing was asked for. */
void halut_inspect_write(const struct halut_job *job, struct halut_json_out *out);

void halut_inspect_free(struct halut_inspection *inspect); /* NULL is fine */

#endif
