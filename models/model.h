/* model.h: a model file, opened, checked and ready to share.
 *
 * A halut_model is immutable once open: any number of sessions and threads may read it. It keeps
 * the file mapped; its tensors point into the mapping. FORMAT.md is the specification of what is
 * accepted.
 */
#ifndef HALUT_MODEL_H
#define HALUT_MODEL_H

#include "../core/backend.h"
#include "../core/halut.h"

enum {
  HALUT_NODES_MAX = 256,
  HALUT_LABELS_MAX = 4096,
  HALUT_NAME_MAX = 64 /* bytes with the final NUL; [A-Za-z0-9_.-], not starting with a dot */
};

enum halut_kind { HALUT_NETWORK = 1, HALUT_PRODUCT = 2 };

/* The operations of a network; FORMAT.md has their meaning. One list: name in the file, enum. */
#define HALUT_OP_MAP(XX) \
  XX(CONV, "conv")       /* dense int8 convolution, requantised */ \
  XX(HALUT, "halut")     /* learned convolution, requantised */ \
  XX(MAXPOOL, "maxpool") \
  XX(AVGPOOL, "avgpool") \
  XX(ADD, "add")         /* saturating u8 addition of two maps */ \
  XX(LINEAR, "linear")   /* dense int8 classifier: int32 logits; always the last node */

enum halut_op {
#define XX(op, name) HALUT_OP_##op,
  HALUT_OP_MAP(XX)
#undef XX
};

const char *halut_op_name(enum halut_op op); /* "maxpool" */

struct halut_node {
  char name[HALUT_NAME_MAX];
  enum halut_op op;
  uint32_t in[2];                      /* 0 is the input image, n + 1 the output of node n */
  uint32_t channels, height, width;    /* of the output; LINEAR: channels = outputs, 1 x 1 */
  struct halut_conv conv;              /* CONV, HALUT; MAXPOOL and AVGPOOL use kernel and stride */
  struct halut_lut lut;                /* HALUT */
  struct halut_requant requant;        /* CONV, HALUT */
  const int8_t *weight;               /* CONV [outputs][channels][y][x], LINEAR [outputs][inputs] */
  const int32_t *bias;                 /* LINEAR [outputs] */
  uint8_t zero;                        /* ADD */
};

struct halut_model_info {
  enum halut_kind kind;
  char name[HALUT_NAME_MAX];
  uint32_t version;
  size_t file_bytes;
  size_t table_bytes;                  /* of all luts */
  char sha256[65];                     /* of the tensors, lower-case hex */

  /* A network: u8 [n][channels][height][width] in, i32 logits [n][classes] out. */
  uint32_t channels, height, width, classes;
  const uint8_t *input_zero;           /* [channels]: what a padded pixel of the image is */
  const char *const *labels;           /* [classes] */
  float logit_scale;                   /* logit = logit_scale * integer */
  uint32_t node_count;
  const struct halut_node *nodes;

  /* A product: f32 [n][columns] in, f32 [n][outputs] out.
   * value = clamp(rint((x[split] - low) * inverse), 0, 255), NaN being 0; y = acc * scale + bias,
   * each step rounded to float. */
  uint32_t columns, outputs;
  struct halut_lut lut;
  const uint32_t *split;               /* [codebooks][HALUT_LEVELS] column read */
  const float *low, *inverse;          /* [codebooks][HALUT_LEVELS] */
  const float *scale, *bias;           /* [outputs] */
  double heldout_nmse;                 /* as learned, NaN if the file has none */
};

struct halut_model;

/* Errors: HALUT_EIO, HALUT_EFORMAT, HALUT_EVERSION, HALUT_ECHECKSUM, HALUT_ELIMIT, HALUT_ESHAPE,
 * HALUT_ENOMEM; diag says which rule of FORMAT.md was broken, by what, and where. */
int halut_model_open(const char *path, struct halut_model **out, struct halut_diag *diag)
    __attribute__((warn_unused_result));
const struct halut_model_info *halut_model_info(const struct halut_model *model);
const char *halut_model_description(const struct halut_model *model); /* for people, or NULL */
/* Golden example stored in the file; sets *in and *out to views into it. HALUT_ENOTFOUND if there
 * is none. */
int halut_model_golden(const struct halut_model *model, struct halut_tensor *in,
                       struct halut_tensor *out);
void halut_model_close(struct halut_model *model); /* after every session on it; NULL is fine */

#endif
