/* graph.h: how model.c reads a model's parts out of a safetensors file. Private to models/.
 *
 * FORMAT.md lists every rule checked here. Nothing is owned: tensors point into the file.
 */
#ifndef HALUT_GRAPH_H
#define HALUT_GRAPH_H

#include <jansson.h>

#include "model.h"
#include "safetensors.h"

enum {
  HALUT_KERNEL_MAX = 31,      /* also of stride and pad */
  HALUT_SIDE_MAX = 4096,      /* height or width of a map */
  HALUT_CHANNELS_MAX = 4096,  /* of the input image */
  HALUT_VALUES_MAX = 16777216, /* of a map */
  HALUT_MAPS_MAX = 1 << 30     /* values of all nodes' maps together */
};

struct halut_reader {
  const struct halut_safetensors *file;
  bool *used; /* [tensors of the file] */
  struct halut_diag *diag;
};

/* Finds tensor `name`, which must have this type and shape; `dim` of 0 takes any size from 1 to
 * `max`, stored in dim. All tensors have a rank of 1 to 4. */
int halut_reader_take(struct halut_reader *reader, const char *name, enum halut_dtype dtype,
                      uint32_t rank, uint32_t dim[HALUT_RANK_MAX], uint32_t max,
                      const void **data_out);
/* Fails if a tensor was never taken. */
int halut_reader_finish(const struct halut_reader *reader);

/* A member of `object` called `key` that must be a whole number from min to max. `where` is for
 * errors. */
int halut_reader_whole(const json_t *object, const char *key, const char *where, uint32_t min,
                       uint32_t max, uint32_t *out, struct halut_diag *diag);
/* Fails if `object` has a member that the NULL-ended list `keys` does not have. */
int halut_reader_members(const json_t *object, const char *const *keys, const char *where,
                         struct halut_diag *diag);

/* Same letters as file names of models: [A-Za-z0-9_.-], 1..63, not starting with a dot. */
bool halut_name_ok(const char *name);

/* Reads the trees' part shared by both kinds: PREFIX.threshold and PREFIX.table (no prefix if
 * empty). */
int halut_reader_lut(struct halut_reader *reader, const char *prefix, struct halut_lut *lut);

/* Fills nodes[0..*count_out) from the array `graph`; `info` holds the input's shape. */
int halut_graph_parse(struct halut_reader *reader, const json_t *graph,
                      const struct halut_model_info *info, struct halut_node nodes[HALUT_NODES_MAX],
                      uint32_t *count_out);

#endif
