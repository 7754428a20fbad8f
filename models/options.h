/* options.h: what a session takes of its options; the rest is its backend's.
 *
 * Pure.
 */
#ifndef HALUT_OPTIONS_H
#define HALUT_OPTIONS_H

#include "../core/halut.h"

enum { HALUT_OPTIONS_MAX = 256 };

struct halut_options {
  uint32_t cpu_flags; /* of the dense layers: what the processor has, less what cpu=NAME denies */
  uint32_t threads;   /* threads=1|2 */
  char backend[HALUT_OPTIONS_MAX]; /* "key=value,key=value", "" for none */
};

/* `text` is "key=value,key=value" or NULL. cpu=NAME is the backend's too. HALUT_EINVALID: a value
 * that is none, or HALUT_OPTIONS_MAX bytes or more. */
int halut_options_read(const char *text, struct halut_options *options, struct halut_diag *diag)
    __attribute__((warn_unused_result));

#endif
