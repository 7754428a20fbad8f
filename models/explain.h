/* explain.h: how a learned layer came to its output: codes, decision paths, table entries.
 *
 * Recomputed by the plain rules of FORMAT.md from what the layer read, sharing no code with the
 * kernels. Pure: any thread.
 */
#ifndef HALUT_EXPLAIN_H
#define HALUT_EXPLAIN_H

#include <stdbool.h>

#include "rows.h"

/* One level of the tree of a codebook. */
struct halut_decision {
  uint32_t channel;
  int32_t y, x; /* of the layer's input map; outside of it is padding, whose value is 0 */
  uint8_t value, threshold;
  uint8_t node; /* of the tree, 1.. */
  bool right;   /* value > threshold */
};

struct halut_path {
  struct halut_decision level[HALUT_LEVELS];
  uint8_t code; /* which prototype, so which table entry */
  int8_t entry; /* what it adds to the sum of one output */
};

/* What a layer read and made for `rows` images, both [rows][channels][height][width]. */
struct halut_layer_maps {
  uint8_t *in, *out;
};

/* Node of a network's learned layer of that name. HALUT_ENOTFOUND with the names that there are. */
int halut_explain_find(const struct halut_model_info *info, const char *name, uint32_t *node_out,
                       struct halut_diag *diag) __attribute__((warn_unused_result));

/* Shape of what node `node` reads. */
void halut_explain_shape(const struct halut_model_info *info, uint32_t node, uint32_t shape[3]);

/* Runs `rows` images node by node, keeping what node `node` reads and makes; `out` gets the logits.
 * On success *maps is the caller's: halut_explain_free. HALUT_ENOMEM, and as halut_session_run. */
int halut_explain_run(const struct halut_rows *self, uint32_t node, const uint8_t *in,
                      uint32_t rows, int32_t *out, struct halut_stats *stats,
                      struct halut_layer_maps *maps) __attribute__((warn_unused_result));
void halut_explain_free(struct halut_layer_maps *maps);

/* codes [rows * height * width][codebooks] of a learned layer, height and width being its output's.
 * HALUT_ENOMEM. */
int halut_explain_codes(const struct halut_node *node, const uint8_t *in, uint32_t rows,
                        uint8_t *codes) __attribute__((warn_unused_result));
/* codes [rows][codebooks] of a product. */
void halut_explain_product(const struct halut_model_info *info, const float *x, uint32_t rows,
                           uint8_t *codes);

/* Follows one codebook at output position (y, x) of one image; `entry` is output m's. */
void halut_explain_path(const struct halut_node *node, const uint8_t *in, uint32_t y, uint32_t x,
                        uint32_t codebook, uint32_t m, struct halut_path *out);

#endif
