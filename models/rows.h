/* rows.h: any number of inputs through a session, as plain memory.
 *
 * Pure but for the session, which belongs to the calling thread.
 */
#ifndef HALUT_ROWS_H
#define HALUT_ROWS_H

#include "session.h"

struct halut_rows {
  struct halut_session *session;
  const struct halut_model_info *info;
  uint32_t batch_max; /* of the session */
};

/* Bytes of one image or row, and of what comes out of it. */
size_t halut_rows_in_bytes(const struct halut_model_info *info);
size_t halut_rows_out_bytes(const struct halut_model_info *info);

/* A view of `rows` inputs (or outputs) at `data` as halut_session_run takes them. */
struct halut_tensor halut_rows_in(const struct halut_model_info *info, void *data, uint32_t rows);
struct halut_tensor halut_rows_out(const struct halut_model_info *info, void *data, uint32_t rows);

/* All `rows` inputs, batch_max at a time. `in` is not written; stats may be NULL. Errors as
 * halut_session_run. */
int halut_rows_run(const struct halut_rows *self, const void *in, uint32_t rows, void *out,
                   struct halut_stats *stats) __attribute__((warn_unused_result));

#endif
