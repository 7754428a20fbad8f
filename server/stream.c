/* DESIGN: the daemon asks for the next piece whenever the socket has room. When there is none, its
 * connection is suspended from inside that call: it then has no timeout, sees no end of its peer
 * and costs nothing until it is woken. */
#include <assert.h>

#include "http_internal.h"

enum { PIECE_MAX = 4096 /* bytes asked for at a time */ };

static ssize_t stream_read(void *self, uint64_t at, char *to, size_t room) {
  struct halut_request *request = self;
  struct halut_connection *connection = halut_connection_of(request->connection);
  (void)at;
  int64_t bytes = request->private.next(request->context, to, room);
  assert(bytes <= (int64_t)room);
  halut_connection_enter(connection, bytes == 0 ? HALUT_PHASE_PARKED : HALUT_PHASE_SENDING);
  if (bytes == HALUT_STREAM_END)
    return MHD_CONTENT_READER_END_OF_STREAM;
  if (bytes == 0) {
    request->private.is_asleep = true;
    request->http->asleep++;
    MHD_suspend_connection(request->connection);
  }
  request->reply.bytes += (size_t)bytes;
  return (ssize_t)bytes;
}

struct MHD_Response *halut_stream_response(struct halut_request *request) {
  return MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, PIECE_MAX, stream_read, request, NULL);
}

void halut_request_stream(struct halut_request *request, const struct halut_reply *reply,
                          halut_stream_fn *next) {
  halut_request_reply(request, reply);
  request->private.next = next;
}

void halut_stream_wake(struct halut_request *request) {
  if (!request->private.is_asleep)
    return;
  request->private.is_asleep = false;
  request->http->asleep--;
  halut_connection_enter(halut_connection_of(request->connection), HALUT_PHASE_SENDING);
  MHD_resume_connection(request->connection);
}
