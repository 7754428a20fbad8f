/* http_internal.h: what http.c (loop, connections, shutdown) and request.c (one request) share. */
#ifndef HALUT_HTTP_INTERNAL_H
#define HALUT_HTTP_INTERNAL_H

#include <microhttpd.h>

#include "http.h"

enum { HALUT_BUCKETS = 256, HALUT_ADDRESS_BYTES = 16 };

/* What a connection is doing, for its deadline. */
enum halut_phase { HALUT_PHASE_IDLE, HALUT_PHASE_READING, HALUT_PHASE_PARKED, HALUT_PHASE_SENDING };

struct halut_connection {
  struct halut_connection *next, **link; /* in the bucket of its address */
  int fd;
  enum halut_phase phase;
  uint32_t requests;                    /* begun */
  uint64_t since_ns;                    /* start of the phase */
  const char *target_fault;             /* of the request being read, or NULL */
  size_t target_bytes;                  /* of its target, as it came */
  uint8_t address[HALUT_ADDRESS_BYTES]; /* all zero: has none (Unix socket) */
  bool is_local;                        /* a Unix socket or a loopback address */
  bool is_secure;                       /* speaks TLS: nothing plain may be sent */
  struct halut_tls *tls;                /* what it shows, or NULL */
};

/* One daemon of the library; it speaks TLS or it does not. */
struct halut_engine {
  struct MHD_Daemon *daemon; /* NULL: not needed */
  uv_poll_t poll;            /* on the daemon's epoll */
  bool has_poll;
};

enum { HALUT_ENGINE_PLAIN = 0, HALUT_ENGINE_TLS, HALUT_ENGINES };

struct halut_http {
  struct halut_http_options options;
  struct halut_tls *tls; /* for new connections, or NULL */
  struct halut_listener listeners[HALUT_LISTEN_MAX];
  uv_loop_t *loop;
  struct halut_engine engine[HALUT_ENGINES];
  uv_poll_t accepting[HALUT_LISTEN_MAX]; /* on the listeners */
  uv_timer_t timer, tick;
  uv_idle_t again;
  uint32_t handles; /* of uv, to be closed before the struct is freed */
  bool closed;      /* a connection ended inside this MHD_run */
  bool moved;       /* one was not done with what it had, so that another MHD_run is due */
  bool impatient;   /* whoever lingers now is suspended */
  bool paused;      /* not accepting: at a limit or out of descriptors */
  bool starved;     /* paused for want of a descriptor */
  bool farewell, draining, drained;
  uint64_t drain_deadline_ns;
  uint32_t ticks;
  uint32_t connections, parked, asleep;
  uint32_t lingering;                    /* parked, and their connections not suspended */
  _Atomic uint64_t body_bytes;           /* workers charge what they decompress */
  uint64_t ids;                          /* requests given an id by us */
  uint8_t arriving[HALUT_ADDRESS_BYTES]; /* address of the connection being added */
  bool arriving_is_local, arriving_is_secure;
  struct halut_connection *bucket[HALUT_BUCKETS];
};

/* request.c: the callbacks of the daemon. */
enum MHD_Result halut_request_access(void *self, struct MHD_Connection *connection, const char *url,
                                     const char *method, const char *version, const char *data,
                                     size_t *bytes, void **slot);
void halut_request_completed(void *self, struct MHD_Connection *connection, void **slot,
                             enum MHD_RequestTerminationCode code);

/* stream.c: the response to queue for a request with private.next; NULL without memory. */
struct MHD_Response *halut_stream_response(struct halut_request *request);

struct halut_connection *halut_connection_of(struct MHD_Connection *connection);
/* The peer has closed its side, and all it sent before has been read. Any thread. */
bool halut_connection_is_over(const struct halut_connection *connection);
void halut_connection_enter(struct halut_connection *connection, enum halut_phase phase);

/* Sends a whole answer past the daemon, which can say nothing while it reads. Best effort; the
 * connection must be shut after it. Over TLS nothing is sent. */
void halut_connection_abort(const struct halut_connection *connection, const char *status,
                            const char *text);

#endif
