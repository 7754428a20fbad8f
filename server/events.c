#include "events.h"

#include <stdlib.h>
#include <string.h>

#include "../core/clock.h"
#include "json.h"
#include "learning.h"

enum {
  BEAT_MS = 1000,         /* how soon a peer that has left is noticed */
  COMMENT_AFTER_MS = 5000 /* of silence; proxies cut connections that are silent for long */
};

struct halut_event_stream {
  struct halut_event_stream *next, **link;
  struct halut_events *events;
  struct halut_request *request;
  struct halut_task *task;
  char *text; /* being sent */
  size_t bytes, at;
  bool has_news, is_over, is_gone;
  uint64_t sent_ns;
};

/* Makes the next text if there is something to say. */
static void stream_compose(struct halut_event_stream *stream) {
  struct halut_json_out out = {0};
  bool has_ended = halut_task_has_ended(stream->task);
  free(stream->text);
  stream->text = NULL;
  stream->bytes = stream->at = 0;
  if (stream->has_news) {
    halut_json_out_format(&out, "event: %s\ndata: ",
                          has_ended ? halut_task_state_name(stream->task->state) : "progress");
    halut_task_write(stream->task, &out);
    halut_json_out_format(&out, "\n\n");
    stream->is_over = has_ended;
  } else if (halut_clock_ns() - stream->sent_ns > COMMENT_AFTER_MS * UINT64_C(1000000)) {
    halut_json_out_format(&out, ": still here\n\n");
  } else {
    return;
  }
  stream->has_news = false;
  stream->text = halut_json_out_take(&out, &stream->bytes);
  stream->is_gone = stream->text == NULL; /* without memory the stream is cut */
}

static int64_t stream_next(void *context, char *to, size_t room) {
  struct halut_event_stream *stream = context;
  if (stream->at == stream->bytes && !stream->is_over)
    stream_compose(stream);
  if (stream->is_gone || (stream->at == stream->bytes && stream->is_over))
    return HALUT_STREAM_END;
  size_t left = stream->bytes - stream->at, piece = left < room ? left : room;
  if (piece > 0) {
    memcpy(to, stream->text + stream->at, piece);
    stream->sent_ns = halut_clock_ns();
  }
  stream->at += piece;
  return (int64_t)piece;
}

static void stream_free(void *context) {
  struct halut_event_stream *stream = context;
  *stream->link = stream->next;
  if (stream->next != NULL)
    stream->next->link = stream->link;
  stream->task->holds--;
  if (--stream->events->count == 0)
    uv_timer_stop(&stream->events->beat);
  free(stream->text);
  free(stream);
}

static void events_on_beat(uv_timer_t *timer) {
  struct halut_events *events = timer->data;
  uint64_t now_ns = halut_clock_ns();
  for (struct halut_event_stream *stream = events->first; stream != NULL; stream = stream->next) {
    stream->is_gone = stream->is_gone || halut_request_gone(stream->request);
    if (stream->is_gone || now_ns - stream->sent_ns > COMMENT_AFTER_MS * UINT64_C(1000000))
      halut_stream_wake(stream->request);
  }
  halut_http_run(events->http);
}

void halut_events_open(struct halut_events *events, uv_loop_t *loop) {
  uv_timer_init(loop, &events->beat); /* cannot fail */
  events->beat.data = events;
}

void halut_events_close(struct halut_events *events) {
  uv_close((uv_handle_t *)&events->beat, NULL);
}

int halut_events_follow(struct halut_events *events, struct halut_request *request,
                        struct halut_task *task) {
  struct halut_reply reply = {.status = 200, .type = "text/event-stream"};
  struct halut_event_stream *stream = calloc(1, sizeof *stream);
  if (stream == NULL)
    return HALUT_ENOMEM;
  *stream = (struct halut_event_stream){
      .events = events, .request = request, .task = task, .has_news = true};
  stream->next = events->first;
  stream->link = &events->first;
  if (stream->next != NULL)
    stream->next->link = &stream->next;
  events->first = stream;
  events->http = request->http;
  task->holds++;
  if (events->count++ == 0)
    uv_timer_start(&events->beat, events_on_beat, BEAT_MS, BEAT_MS);
  request->context = stream;
  request->context_free = stream_free;
  halut_reply_header(&reply, "Cache-Control", "no-store");
  halut_reply_header(&reply, "X-Accel-Buffering", "no");
  halut_request_stream(request, &reply, stream_next);
  return HALUT_OK;
}

void halut_events_tell(struct halut_events *events, const struct halut_task *task) {
  bool is_any = false;
  for (struct halut_event_stream *stream = events->first; stream != NULL; stream = stream->next)
    if (stream->task == task) {
      stream->has_news = is_any = true;
      halut_stream_wake(stream->request);
    }
  if (is_any)
    uv_timer_start(&events->beat, events_on_beat, 0, BEAT_MS);
}
