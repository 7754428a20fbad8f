/* http.h: HTTP/1.1 on the loop: libmicrohttpd in external epoll mode under one uv_loop.
 *
 * Owns the listening sockets, the connections and the requests on them. It accepts, checks framing
 * (guard.h), finds the route, bounds and collects the body, and calls the route's handler with all
 * of it. The handler answers at once, or parks the request while workers compute and answers later.
 * Policy ends here: what a path means is the routing table's business.
 *
 * Everything is called on the loop thread. While a request is parked its struct is stable, and a
 * worker may read its body and write the reply that it was lent; nothing else.
 */
#ifndef HALUT_HTTP_H
#define HALUT_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "../core/halut.h"
#include "auth.h"
#include "coding.h"
#include "cors.h"
#include "guard.h"
#include "listener.h"
#include "tls.h"

struct halut_http;
struct MHD_Connection;
struct halut_connection;

enum {
  HALUT_CAPTURES_MAX = 3,
  HALUT_PATH_MAX = 256,      /* bytes of a path with its NUL; no route is longer */
  HALUT_REQUEST_ID_MAX = 64, /* bytes with the NUL */
  HALUT_TRACE_MAX = 56,      /* bytes of a traceparent with its NUL */
  HALUT_REPLY_HEADERS_MAX = 1024,
  HALUT_BODY_SMALL = 65536,    /* bytes: the body limit of routes that take no data */
  HALUT_SETTINGS_MAX = 1 << 20 /* bytes, also decompressed: of routes whose JSON the loop reads */
};

/* What bodies a route takes, and so which limit holds. */
enum halut_body {
  HALUT_BODY_NONE = 0,    /* HALUT_BODY_SMALL: nothing reads it */
  HALUT_BODY_DATA = 1,    /* body_max */
  HALUT_BODY_SAMPLES = 2, /* samples_max */
  HALUT_BODY_SETTINGS = 3 /* HALUT_SETTINGS_MAX */
};

enum halut_method {
  HALUT_GET = 1, /* HEAD comes with it */
  HALUT_POST = 2,
  HALUT_PUT = 4,
  HALUT_DELETE = 8
};

/* An answer being made. Zero it to start. */
struct halut_reply {
  unsigned status;
  const char *type; /* Content-Type, static; NULL for none */
  void *body;       /* `owned`: from malloc, freed once sent; else outlives the server */
  size_t bytes;
  bool owned;
  size_t header_bytes;
  char header[HALUT_REPLY_HEADERS_MAX]; /* "Name: value\n" lines; see halut_reply_header */
};

/* Writes the next piece of a streamed body, at most `room` bytes, and returns its length; 0 if
 * there is nothing for now, HALUT_STREAM_END after the last. */
typedef int64_t halut_stream_fn(void *context, char *to, size_t room);
enum { HALUT_STREAM_END = -1 };

struct halut_route;

/* An error as a JSON body, in malloc'ed text; NULL without memory. Any thread. */
typedef char *halut_error_fn(unsigned status, const char *text, size_t *bytes_out);

struct halut_request {
  struct MHD_Connection *connection;
  struct halut_http *http;
  const struct halut_route *route; /* NULL if none matched */
  unsigned method;                 /* enum halut_method; 0 for any other */
  bool is_head;
  char verb[16];             /* as it came, cut */
  char path[HALUT_PATH_MAX]; /* decoded, NUL-terminated */
  struct {
    const char *text; /* into path, not NUL-terminated */
    size_t bytes;
  } capture[HALUT_CAPTURES_MAX]; /* the {} of the pattern, in order */
  uint8_t *body;                 /* body[body_bytes] is 0; NULL if there was none */
  size_t body_bytes;
  enum halut_coding coding;          /* of the body as it came; see halut_request_inflate */
  enum halut_coding accepts;         /* of the reply, if it is a result */
  uint64_t arrived_ns;               /* headers complete */
  size_t received_bytes;             /* of the whole body as it came, perhaps compressed */
  char id[HALUT_REQUEST_ID_MAX];     /* X-Request-Id, the client's or ours */
  char trace[HALUT_TRACE_MAX];       /* traceparent, if it was well formed, else "" */
  char key_name[HALUT_KEY_NAME_MAX]; /* of the API key it came with, or "" */
  struct halut_reply reply;
  halut_error_fn *error; /* of the path, also where it has no such method */
  void *context;         /* the handler's; context_free is called when the request ends */
  void (*context_free)(void *context);
  struct { /* of http.c */
    struct halut_connection *connection;
    int state;
    size_t capacity, discarded;
    uint64_t body_max, expected; /* bytes of the body; UINT64_MAX: not told */
    bool close;
    _Atomic int hold; /* of a parked request, on its connection */
    unsigned looks;
    halut_stream_fn *next; /* of a streamed answer */
    bool is_asleep;
  } private;
};

/* Must call halut_request_reply, one of the error calls, or halut_request_park, exactly once. */
typedef void halut_handler_fn(void *self, struct halut_request *request);

struct halut_route {
  unsigned methods; /* enum halut_method, or-ed */
  const char
      *pattern; /* "/v1/models/{}:predict": {} takes one or more characters but "/" and ":" */
  halut_handler_fn *handler;
  enum halut_body body;
  enum halut_scope scope;
};

struct halut_http_options {
  const struct halut_listener
      *listeners; /* copied; their sockets are http's to close from then on */
  uint32_t listener_count;
  struct halut_guard_limits headers;
  uint32_t requests_per_connection_max; /* 0: no limit */
  uint32_t connections_max;
  uint32_t connections_per_address_max; /* 0: no limit */
  uint64_t request_timeout_ms, idle_timeout_ms;
  uint64_t body_max, samples_max, body_total_max, body_inflated_max;
  struct halut_cors cors;
  struct halut_tls *tls;            /* held; NULL if no listener is secure */
  const struct halut_route *routes; /* borrowed; matched in order */
  size_t route_count;
  /* The headers are complete, the route is known, no byte of the body is read: false after
   * halut_request_fail, to refuse. */
  bool (*admit)(void *self, struct halut_request *request);
  /* How the errors of a route are worded; NULL: {"error": text}. */
  halut_error_fn *(*wording)(const struct halut_route *route);
  /* After a request has ended, for logs and counters; `sent` is false if the peer left before. */
  void (*ended)(void *self, const struct halut_request *request, bool sent);
  /* A connection was refused ("connections-per-address-max") or cut ("request-timeout-ms"). */
  void (*dropped)(void *self, const char *reason);
  void (*drained)(void *self); /* once, after halut_http_drain, when nothing is left */
  void *self;
};

/* HALUT_ENOMEM, HALUT_EIO. On failure the listeners' sockets stay the caller's. */
int halut_http_open(uv_loop_t *loop, const struct halut_http_options *options,
                    struct halut_http **out, struct halut_diag *diag)
    __attribute__((warn_unused_result));

/* Waits for workers: answer later with halut_http_resume, after filling request->reply. */
void halut_request_park(struct halut_request *request);
/* Answers a parked request, or ends it if its peer has gone. After any number of these, call
 * halut_http_run once. */
void halut_http_resume(struct halut_request *request);
void halut_http_run(struct halut_http *http);

/* Takes `reply` over. */
void halut_request_reply(struct halut_request *request, const struct halut_reply *reply);
/* Answers with a status and {"error": text}, or as request->error words it. */
void halut_request_error(struct halut_request *request, unsigned status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* stream.c. Answers 200 with a body that comes in pieces: `next` is called with request->context
 * whenever the peer can take more. After it has given 0 the connection sleeps, without any time
 * limit, until halut_stream_wake; after that, call halut_http_run once. `reply` has the type and
 * the headers. */
void halut_request_stream(struct halut_request *request, const struct halut_reply *reply,
                          halut_stream_fn *next);
void halut_stream_wake(struct halut_request *request); /* no harm if it is awake */

/* A header or query parameter of the request, or NULL. Loop thread; the text lives as long as the
 * request. */
const char *halut_request_header(const struct halut_request *request, const char *name);
const char *halut_request_query(const struct halut_request *request, const char *name);
/* The first query parameter that is not in the NULL-terminated `names` (at most 32), or stands
 * there again: *is_twice. NULL if there is none. */
const char *halut_request_stranger(const struct halut_request *request, const char *const *names,
                                   bool *is_twice);
/* True if the peer is on this machine (a Unix socket or a loopback address) and no proxy says that
 * it asks for somebody else. Loop thread. */
bool halut_request_is_local(const struct halut_request *request);
/* True if the peer has closed its side. Any thread while parked; one system call. */
bool halut_request_gone(const struct halut_request *request);

/* Any thread while parked, or the loop: undoes the body's content coding; nothing to do without
 * one. Errors as halut_coding_inflate. */
int halut_request_inflate(struct halut_request *request, struct halut_diag *diag)
    __attribute__((warn_unused_result));
/* Any thread while parked: compresses the reply's body if the client takes that and it helps. */
void halut_request_deflate(struct halut_request *request);

/* Adds a header line; a line that does not fit is left out. Name and value hold no control
 * characters. */
void halut_reply_header(struct halut_reply *reply, const char *name, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void halut_reply_error(struct halut_reply *reply, unsigned status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Makes request->reply an error, worded as above, for who is to answer later. Any thread while
 * parked, or `admit`. */
void halut_request_fail(struct halut_request *request, unsigned status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

uint32_t halut_http_connections(const struct halut_http *http);
uint32_t halut_http_parked(const struct halut_http *http);
uint64_t halut_http_body_bytes(const struct halut_http *http); /* held for all requests */

/* New connections show this certificate; there was one before. */
void halut_http_certify(struct halut_http *http, struct halut_tls *tls);

/* Stops accepting, closes idle connections, and others with their replies; waits for those at most
 * timeout_ms (parked requests and streams that sleep are always waited for), then calls drained().
 * Again: shortens the wait. */
void halut_http_drain(struct halut_http *http, uint64_t timeout_ms);

/* No request may be parked, no stream asleep. Frees itself once the loop has run its close
 * callbacks. NULL is fine.
 */
void halut_http_close(struct halut_http *http);

#endif
