/* helper.h: a second thread that takes half of a computation of some microseconds.
 *
 * Owned and used by one thread, the caller. Handing over is cheap while the helper still waits
 * spinning, and costs a wake-up by the system once it has fallen asleep.
 */
#ifndef HALUT_HELPER_H
#define HALUT_HELPER_H

#include "halut.h"

struct halut_helper;

/* HALUT_ENOMEM: no memory, or no thread to be had. */
int halut_helper_open(struct halut_helper **out, struct halut_diag *diag)
    __attribute__((warn_unused_result));

/* Calls run(self) on the helper. It must be idle: newly open, or waited for since. What was written
 * before is seen by it. */
void halut_helper_start(struct halut_helper *helper, void (*run)(void *self), void *self);

/* Returns when run() has; what it wrote is then seen. */
void halut_helper_wait(struct halut_helper *helper);

void halut_helper_close(struct halut_helper *helper); /* idle; NULL is fine */

#endif
