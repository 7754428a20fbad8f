/* events.h: clients that follow a learning job by Server-Sent Events.
 *
 * Loop thread. A stream sends the job whenever it is another than what was sent last, however often
 * it changed meanwhile, and ends with the job. A stream without news sends a comment now and then,
 * which is also how a peer that has left is found out.
 */
#ifndef HALUT_EVENTS_H
#define HALUT_EVENTS_H

#include <uv.h>

#include "http.h"
#include "learner.h"

struct halut_events {
  uv_timer_t beat; /* while there are streams */
  struct halut_http *http;
  struct halut_event_stream *first;
  uint32_t count;
};

void halut_events_open(struct halut_events *events, uv_loop_t *loop);
/* Every stream has ended. */
void halut_events_close(struct halut_events *events);

/* Answers with a stream of the task. HALUT_ENOMEM: not answered. */
int halut_events_follow(struct halut_events *events, struct halut_request *request,
                        struct halut_task *task) __attribute__((warn_unused_result));
/* Sends the news of a task to who follows it. */
void halut_events_tell(struct halut_events *events, const struct halut_task *task);

#endif
