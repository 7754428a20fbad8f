/* session.h: a model on a backend, with all scratch memory for batches up to a limit.
 *
 * A session belongs to one thread at a time. Running allocates nothing.
 */
#ifndef HALUT_SESSION_H
#define HALUT_SESSION_H

#include "model.h"

struct halut_session;

enum { HALUT_BATCH_MAX = 4096 };

/* `model` must stay open until the session is closed. batch_max in 1..HALUT_BATCH_MAX: images of a
 * network, rows of a product. `options` go to the backend, but for threads=1|2 (default 1): with 2
 * a thread of its own takes half of each layer, so that one image takes less time. */
int halut_session_open(const struct halut_model *model, const struct halut_backend_ops *ops,
                    const char *options, uint32_t batch_max, struct halut_session **out,
                    struct halut_diag *diag) __attribute__((warn_unused_result));

/* Network: in U8 [n][channels][height][width], out I32 [n][classes]. Product: in F32 [n][columns],
 * out F32 [n][outputs]. n = in->dim[0] in 1..batch_max. out->data is the caller's memory. stats may
 * be NULL. Errors: HALUT_ESHAPE, HALUT_ETIMEOUT, HALUT_EDEVICE (out undefined, the session stays
 * usable). */
int halut_session_run(struct halut_session *session, const struct halut_tensor *in,
                      struct halut_tensor *out, struct halut_stats *stats)
    __attribute__((warn_unused_result));

/* A product alone, of a matrix that may lie by columns (then only those that trees read come from
 * memory): `rows` of it, in 1..batch_max, to y [rows][outputs]. The same floats and errors. */
int halut_session_multiply(struct halut_session *session, struct halut_matrix x, uint32_t rows,
                           float *y, struct halut_stats *stats) __attribute__((warn_unused_result));

/* Called on the running thread after each node (product: once, node 0) with the value it made, U8
 * [n][channels][height][width] or I32 [n][classes]; the view dies with the call. For timing by
 * layer, for comparing backends, for explaining. With `plain` every node is computed unfused, so
 * that each node is seen with its own value; without it, a fused group is reported once, as its
 * last node. A large batch runs in parts: then each part, in order, is reported node by node with
 * its own n. NULL removes it. */
typedef void halut_observe_fn(void *self, uint32_t node, const struct halut_tensor *value);
void halut_session_observe(struct halut_session *session, halut_observe_fn *observe, void *self,
                           int plain);

/* From now on who serves `helper` takes half of each layer; NULL: nobody but a thread of its own.
 * It must stay open. Nothing changes in what is computed; a backend that cannot share does all. */
void halut_session_help(struct halut_session *session, struct halut_helper *helper);

void halut_session_close(struct halut_session *session); /* NULL is fine */

#endif
