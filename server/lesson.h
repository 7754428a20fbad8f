/* lesson.h: what POST /v1/learn asks for, read from its body: samples of A, B, a name and options.
 *
 * Pure functions on the caller's memory; any thread.
 */
#ifndef HALUT_LESSON_H
#define HALUT_LESSON_H

#include <stdbool.h>

#include "../models/learn.h"
#include "../models/model.h"

/* From the configuration. */
struct halut_lesson_limits {
  uint64_t rows_max, codebooks_max, width_max;
  uint64_t memory_max; /* bytes: samples and what learning from them takes */
  uint32_t depth_max;  /* of a JSON body */
  uint32_t threads;    /* that will learn */
};

struct halut_lesson {
  char name[HALUT_NAME_MAX];
  size_t rows;
  uint32_t columns, outputs;
  float *a, *b;                       /* [rows][columns], [columns][outputs]; finite; owned */
  struct halut_learn_options options; /* all but progress and self */
  size_t sample_bytes, work_bytes;    /* memory: of a and b, and of learning */
};

/* Reads a body of `bytes` bytes, body[bytes] being a readable 0. `boundary`: of
 * multipart/form-data, whose parts a and b are .npy arrays; "" for JSON. Everything halut_learn
 * would refuse is refused here. HALUT_EINVALID, HALUT_ESHAPE, HALUT_EFORMAT, HALUT_ELIMIT,
 * HALUT_ENOMEM; *diag names the field and, of an array, the element. */
int halut_lesson_read(const char *body, size_t bytes, const char *boundary,
                      const struct halut_lesson_limits *limits, struct halut_lesson **out,
                      struct halut_diag *diag) __attribute__((warn_unused_result));
void halut_lesson_free(struct halut_lesson *lesson); /* NULL is fine */

#endif
