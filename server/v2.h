/* v2.h: the Open Inference Protocol, version 2, over REST, with its extensions.
 *
 * v2.c answers from what the loop knows: the server, its health, the models, their configuration
 * and statistics. An inference is a job (job.h) of the form halut_v2_form: v2_infer.c reads the
 * request, v2_tensor.c its tensor, v2_reply.c writes the answer.
 *
 * A network has one input, `image`: UINT8 [-1, channels, height, width], or as BYTES [-1] one PNG
 * or JPEG each. Its outputs are `logits`, INT32 and exact, and `probabilities`, FP32, their softmax
 * after multiplication by the model's logit_scale. A product has the input `a`, FP32 [-1, columns]
 * (FP64 is rounded to it), and the output `c`, FP32 [-1, outputs].
 */
#ifndef HALUT_V2_H
#define HALUT_V2_H

#include "job.h"
#include "number.h"

enum {
  HALUT_V2_OUTPUTS_MAX = 2,      /* of a model */
  HALUT_V2_CLASSES_MAX = 1000000 /* strings in one output of the classification extension */
};

#define HALUT_V2_PLATFORM "halut_safetensors"
#define HALUT_V2_HEAD_BYTES "Inference-Header-Content-Length"

/* A tensor of a model; its first dimension is free. */
struct halut_v2_tensor {
  const char *name;
  enum halut_number_type type;
  uint32_t rank;
  uint32_t dim[HALUT_RANK_MAX]; /* dim[0] is 0 */
};
void halut_v2_input(const struct halut_model_info *info, struct halut_v2_tensor *out);
/* False past the last. */
bool halut_v2_output(const struct halut_model_info *info, uint32_t index,
                     struct halut_v2_tensor *out);

/* An output as it was asked for. */
struct halut_v2_wish {
  uint32_t index; /* of the model's outputs */
  bool binary;
  uint32_t classes; /* 0: the tensor itself; else "value:index:label" of so many */
};

/* What a request asked, beside its tensor: job->detail. */
struct halut_v2_ask {
  struct halut_json *json; /* or NULL; `id` lives in it */
  const char *id;          /* or NULL */
  bool has_head;           /* there was a HALUT_V2_HEAD_BYTES */
  size_t head_bytes;       /* of the JSON; 0 with has_head: the body is the tensor */
  uint32_t wish_count;
  struct halut_v2_wish wish[HALUT_V2_OUTPUTS_MAX];
};

/* Where a tensor's values are. */
struct halut_v2_data {
  const char *datatype; /* on the wire */
  uint64_t dim[HALUT_NUMBER_RANK_MAX];
  uint32_t rank;
  const struct halut_json *json;
  const json_t *values; /* of "data", or NULL: binary */
  const uint8_t *bytes;
  size_t byte_count;
};
/* Checks `data` against the model's input and fills job->rows and job->in; false after a failure.
 */
bool halut_v2_tensor_read(struct halut_job *job, const struct halut_v2_data *data);
/* The whole body as the tensor: whole images or rows, or one PNG or JPEG. */
bool halut_v2_raw_read(struct halut_job *job);

void halut_v2_write(struct halut_job *job); /* v2_reply.c */

extern const struct halut_job_form halut_v2_form; /* v2_infer.c */

#endif
