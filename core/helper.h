/* helper.h: a second thread that takes part of a computation of some microseconds.
 *
 * A helper is where two threads meet: the owner, who computes, and for as long as it likes another
 * who serves. The owner never waits for a thread that does not run: what it offered and nobody has
 * begun, it does itself.
 */
#ifndef HALUT_HELPER_H
#define HALUT_HELPER_H

#include <stdbool.h>

#include "halut.h"

struct halut_helper;

/* Nobody serves it yet. HALUT_ENOMEM. */
int halut_helper_open(struct halut_helper **out, struct halut_diag *diag)
    __attribute__((warn_unused_result));

/* A thread of its own serves until close(). HALUT_ENOMEM: none to be had. */
int halut_helper_staff(struct halut_helper *helper, struct halut_diag *diag)
    __attribute__((warn_unused_result));

/* Owner. Does somebody serve who was not dismissed? NULL: no. */
bool halut_helper_is_served(const struct halut_helper *helper);

/* Owner. run(own) here and run(other) on whoever serves, or here too if it has not been begun by
 * then; returns when both are done, and whether the other thread did its part. What was written
 * before is seen by it, and what it wrote after. */
bool halut_helper_share(struct halut_helper *helper, void (*run)(void *self), void *own,
                        void *other);

/* Any thread. meet() says that somebody is going to serve, which nobody may be doing; that thread
 * then calls serve(), which returns once it was dismissed and is not in the midst of a part. */
void halut_helper_meet(struct halut_helper *helper);
void halut_helper_serve(struct halut_helper *helper);
void halut_helper_dismiss(struct halut_helper *helper); /* any thread; nobody there is fine */

/* Nothing is shared, and nobody serves but a thread of its own. NULL is fine. */
void halut_helper_close(struct halut_helper *helper);

#endif
