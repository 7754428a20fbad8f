/* DESIGN: one daemon without a listening socket and without threads. This file accepts, so that
 * limits, counters and running out of descriptors are decided here, and hands each connection to
 * the daemon. The daemon's epoll descriptor sits under a uv_poll_t and its timeout under a
 * uv_timer_t.
 *
 * The daemon's own timeouts are off: they restart with each byte, so that one byte a second would
 * hold a connection for ever. A tick walks the connections instead and shuts those whose phase has
 * lasted too long. A connection's descriptor is never closed here, only shut down: closing is the
 * daemon's. */
#include "http.h"

#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../core/clock.h"
#include "guard.h"
#include "http_internal.h"

enum {
  TICK_MS = 100,
  LOOKS = 10, /* ticks in which each connection is asked once whether its peer has left */
  TICK_DRAIN_MS = 20,
  ACCEPTS_PER_EVENT = 32,
  RUNS_PER_EVENT = 4,
  GRACE_MS = 200,    /* an idle connection this young may have a request on its way */
  LINGER_MS = 1,     /* a request that waits longer has its connection suspended */
  HEADER_COSTS = 64, /* bytes that the daemon wants for a header beside its name and value */
  OTHER_COSTS = 2048 /* bytes: the first line of a request, the head of its answer */
};

static void http_run(struct halut_http *http);
static void http_tick(uv_timer_t *handle);

/* ---- driving the daemon ---- */

static void http_on_again(uv_idle_t *handle) {
  http_run(handle->data);
}
static void http_on_timer(uv_timer_t *handle) {
  struct halut_http *http = handle->data;
  http->impatient = true;
  http_run(http);
  http->impatient = false;
}

static void http_on_poll(uv_poll_t *handle, int status, int events) {
  (void)status;
  (void)events;
  http_run(handle->data);
}

static void http_resume_accepting(struct halut_http *http);

/* One run of each engine. False if none has a time to be run again; else the nearest. */
static bool engines_run(struct halut_http *http, MHD_UNSIGNED_LONG_LONG *wait_ms_out) {
  bool is_timed = false;
  for (int e = 0; e < HALUT_ENGINES; e++)
    if (http->engine[e].daemon != NULL)
      MHD_run(http->engine[e].daemon);
  for (int e = 0; e < HALUT_ENGINES; e++) {
    MHD_UNSIGNED_LONG_LONG ms = 0;
    if (http->engine[e].daemon == NULL || MHD_get_timeout(http->engine[e].daemon, &ms) != MHD_YES)
      continue;
    if (!is_timed || ms < *wait_ms_out)
      *wait_ms_out = ms;
    is_timed = true;
  }
  return is_timed;
}

/* Runs the daemon until it has nothing ready. A connection that ended inside a run needs one more
 * run to be released; more work than RUNS_PER_EVENT waits for other handles to have their turn.
 * Requests that linger make the daemon want to be run at once for ever: then `moved` decides, and
 * for what that does not see a timer which suspends them. */
static void http_run(struct halut_http *http) {
  MHD_UNSIGNED_LONG_LONG wait_ms = 0;
  bool is_timed = true, has_closed = false;
  for (int i = 0; i < RUNS_PER_EVENT; i++) {
    http->closed = http->moved = false;
    is_timed = engines_run(http, &wait_ms);
    has_closed |= http->closed;
    if (http->closed)
      continue;
    if (http->lingering > 0 && !http->moved && wait_ms < LINGER_MS)
      wait_ms = LINGER_MS;
    if (!is_timed || wait_ms > 0)
      break;
  }
  /* Without descriptors another try at once would fail alike: that waits for the tick. */
  if (http->paused && http->connections < http->options.connections_max &&
      (has_closed || !http->starved))
    http_resume_accepting(http);
  if (http->closed || (is_timed && wait_ms == 0)) {
    uv_idle_start(&http->again, http_on_again);
    return;
  }
  uv_idle_stop(&http->again);
  if (is_timed)
    uv_timer_start(&http->timer, http_on_timer, wait_ms, 0);
  else
    uv_timer_stop(&http->timer);
}

void halut_http_run(struct halut_http *http) {
  http_run(http);
}

/* ---- connections ---- */

struct halut_connection *halut_connection_of(struct MHD_Connection *connection) {
  const union MHD_ConnectionInfo *info =
      MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
  assert(info != NULL && info->socket_context != NULL);
  return info->socket_context;
}

void halut_connection_enter(struct halut_connection *connection, enum halut_phase phase) {
  connection->phase = phase;
  connection->since_ns = halut_clock_ns();
}

static uint32_t address_bucket(const uint8_t *address) {
  uint32_t hash = 2166136261u;
  for (int i = 0; i < HALUT_ADDRESS_BYTES; i++)
    hash = (hash ^ address[i]) * 16777619u;
  return hash % HALUT_BUCKETS;
}

/* IPv4 as it is, also inside IPv6; IPv6 by its /64, which is what one host is usually given. */
static void address_read(const struct sockaddr_storage *from, uint8_t *address) {
  memset(address, 0, HALUT_ADDRESS_BYTES);
  if (from->ss_family == AF_INET) {
    const struct sockaddr_in *ip4 = (const struct sockaddr_in *)from;
    address[10] = address[11] = 0xff;
    memcpy(address + 12, &ip4->sin_addr, 4);
  } else if (from->ss_family == AF_INET6) {
    const struct sockaddr_in6 *ip6 = (const struct sockaddr_in6 *)from;
    bool is_mapped = IN6_IS_ADDR_V4MAPPED(&ip6->sin6_addr);
    memcpy(address, &ip6->sin6_addr, is_mapped ? 16 : 8);
    if (!is_mapped)
      address[15] = 1; /* so that "::" counts as an address too */
  }
}

static bool address_is_local(const struct sockaddr_storage *from) {
  const struct sockaddr_in *ip4 = (const struct sockaddr_in *)from;
  const struct sockaddr_in6 *ip6 = (const struct sockaddr_in6 *)from;
  if (from->ss_family == AF_INET)
    return ntohl(ip4->sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
  if (from->ss_family == AF_INET6)
    return IN6_IS_ADDR_LOOPBACK(&ip6->sin6_addr) ||
           (IN6_IS_ADDR_V4MAPPED(&ip6->sin6_addr) && ip6->sin6_addr.s6_addr[12] == IN_LOOPBACKNET);
  return from->ss_family == AF_UNIX || from->ss_family == AF_UNSPEC;
}

static bool address_is_full(const struct halut_http *http, const uint8_t *address) {
  static const uint8_t none[HALUT_ADDRESS_BYTES];
  uint32_t count = 0, limit = http->options.connections_per_address_max;
  if (limit == 0 || memcmp(address, none, sizeof none) == 0)
    return false;
  const struct halut_connection *other = http->bucket[address_bucket(address)];
  for (; other != NULL && count < limit; other = other->next)
    if (memcmp(other->address, address, HALUT_ADDRESS_BYTES) == 0)
      count++;
  return count >= limit;
}

/* Its handshake is still to come. */
static void connection_certify(struct halut_http *http, struct MHD_Connection *mhd,
                               struct halut_connection *connection) {
  if (!connection->is_secure)
    return;
  const union MHD_ConnectionInfo *info =
      MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_GNUTLS_SESSION);
  if (info == NULL || info->tls_session == NULL)
    return;
  connection->tls = halut_tls_hold(http->tls);
  halut_tls_show(connection->tls, info->tls_session);
}

static void connection_begin(struct halut_http *http, struct MHD_Connection *mhd, void **context) {
  struct halut_connection *connection = calloc(1, sizeof *connection);
  const union MHD_ConnectionInfo *info =
      MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD);
  *context = connection;
  if (connection == NULL)
    return; /* http_access refuses it */
  connection->fd = info->connect_fd;
  memcpy(connection->address, http->arriving, HALUT_ADDRESS_BYTES);
  connection->is_local = http->arriving_is_local;
  connection->is_secure = http->arriving_is_secure;
  connection_certify(http, mhd, connection);
  halut_connection_enter(connection, HALUT_PHASE_IDLE);
  struct halut_connection **bucket = &http->bucket[address_bucket(connection->address)];
  connection->next = *bucket;
  connection->link = bucket;
  if (*bucket != NULL)
    (*bucket)->link = &connection->next;
  *bucket = connection;
  if (http->connections++ == 0 && !http->draining)
    uv_timer_start(&http->tick, http_tick, TICK_MS, TICK_MS);
}

static void connection_end(struct halut_http *http, void **context) {
  struct halut_connection *connection = *context;
  *context = NULL;
  http->closed = true;
  if (connection == NULL)
    return;
  *connection->link = connection->next;
  if (connection->next != NULL)
    connection->next->link = connection->link;
  halut_tls_drop(connection->tls);
  free(connection);
  if (--http->connections == 0 && !http->draining && !http->paused)
    uv_timer_stop(&http->tick);
}

static void http_on_connection(void *self, struct MHD_Connection *connection, void **context,
                               enum MHD_ConnectionNotificationCode code) {
  if (code == MHD_CONNECTION_NOTIFY_STARTED)
    connection_begin(self, connection, context);
  else
    connection_end(self, context);
}

/* The first sign of a request: its first line is complete. */
static void *http_on_target(void *self, const char *target, struct MHD_Connection *mhd) {
  (void)self;
  const union MHD_ConnectionInfo *info =
      MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
  struct halut_connection *connection = info != NULL ? info->socket_context : NULL;
  if (connection == NULL)
    return NULL;
  halut_connection_enter(connection, HALUT_PHASE_READING);
  connection->target_fault = halut_guard_target(target);
  connection->target_bytes = strlen(target);
  return NULL;
}

void halut_connection_abort(const struct halut_connection *connection, const char *status,
                            const char *text) {
  char answer[512];
  if (connection->is_secure)
    return;
  int body = (int)strlen("{\"error\":\"\"}\n") + (int)strlen(text);
  int bytes = snprintf(answer, sizeof answer,
                       "HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
                       "Connection: close\r\n\r\n{\"error\":\"%s\"}\n",
                       status, body, text);
  assert(bytes > 0 && (size_t)bytes < sizeof answer);
  (void)!send(connection->fd, answer, (size_t)bytes, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* ---- accepting ---- */

static void http_pause_accepting(struct halut_http *http) {
  for (uint32_t i = 0; i < http->options.listener_count; i++)
    uv_poll_stop(&http->accepting[i]);
  http->paused = true;
  uv_timer_start(&http->tick, http_tick, TICK_MS, TICK_MS);
}

/* False when there is nothing more to accept for now. */
static bool http_accept(struct halut_http *http, const struct halut_listener *listener) {
  struct sockaddr_storage from;
  socklen_t bytes = sizeof from;
  int one = 1;
  if (http->connections >= http->options.connections_max) {
    http->options.dropped(http->options.self, "connections-max");
    http_pause_accepting(http);
    return false;
  }
  memset(&from, 0, sizeof from);
  int fd = accept4(listener->fd, (struct sockaddr *)&from, &bytes, SOCK_NONBLOCK | SOCK_CLOEXEC);
  if (fd < 0) {
    if (errno == ECONNABORTED || errno == EINTR)
      return true;
    if (errno == EAGAIN || errno == EWOULDBLOCK)
      return false;
    http->options.dropped(http->options.self, "no-descriptor");
    http->starved = true;
    http_pause_accepting(http); /* the tick tries again */
    return false;
  }
  address_read(&from, http->arriving);
  http->arriving_is_local = address_is_local(&from);
  if (address_is_full(http, http->arriving)) {
    http->options.dropped(http->options.self, "connections-per-address-max");
    close(fd);
    return true;
  }
  if (from.ss_family == AF_INET || from.ss_family == AF_INET6)
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  struct halut_engine *engine =
      &http->engine[listener->is_secure ? HALUT_ENGINE_TLS : HALUT_ENGINE_PLAIN];
  http->arriving_is_secure = listener->is_secure;
  if (MHD_add_connection(engine->daemon, fd, (struct sockaddr *)&from, bytes) != MHD_YES)
    http->options.dropped(http->options.self, "no-memory"); /* the daemon has closed fd */
  return true;
}

static void http_on_accept(uv_poll_t *handle, int status, int events) {
  struct halut_http *http = handle->data;
  (void)events;
  if (status < 0)
    return;
  size_t index = (size_t)(handle - http->accepting);
  for (int i = 0; i < ACCEPTS_PER_EVENT; i++)
    if (!http_accept(http, &http->listeners[index]))
      break;
  http_run(http);
}

static void http_resume_accepting(struct halut_http *http) {
  http->paused = http->starved = false;
  if (http->draining)
    return;
  for (uint32_t i = 0; i < http->options.listener_count; i++)
    uv_poll_start(&http->accepting[i], UV_READABLE, http_on_accept);
}

/* ---- deadlines and draining ---- */

/* The daemon reads until the data ends and then waits for the next event, so that it never sees the
 * end of a peer whose last bytes and end arrived together. Bytes it has not read yet are its own;
 * but TLS says goodbye in bytes of its own, which stay unread while a request is parked. */
bool halut_connection_is_over(const struct halut_connection *connection) {
  struct pollfd end = {.fd = connection->fd, .events = POLLRDHUP};
  char byte;
  if (connection->is_secure)
    return poll(&end, 1, 0) == 1 && (end.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0;
  ssize_t bytes = recv(connection->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
  return bytes == 0 || (bytes < 0 && errno == ECONNRESET);
}

static void connection_check(struct halut_http *http, struct halut_connection *connection,
                             uint64_t now_ns) {
  uint64_t age_ms = (now_ns - connection->since_ns) / 1000000u;
  uint64_t request_ms = http->options.request_timeout_ms, idle_ms = http->options.idle_timeout_ms;
  bool is_past_drain = http->draining && now_ns >= http->drain_deadline_ns;
  const char *reason = NULL;
  switch (connection->phase) {
  case HALUT_PHASE_PARKED:
    return; /* its job has a deadline of its own */
  case HALUT_PHASE_IDLE:
    if (http->draining && age_ms > GRACE_MS)
      shutdown(connection->fd, SHUT_RD);
    if (age_ms > idle_ms)
      reason = "idle-timeout-ms";
    break;
  case HALUT_PHASE_READING:
    if (age_ms <= request_ms)
      break;
    reason = "request-timeout-ms";
    halut_connection_abort(connection, "408 Request Timeout",
                           "the request did not arrive within request-timeout-ms");
    break;
  case HALUT_PHASE_SENDING:
    if (age_ms > (request_ms > idle_ms ? request_ms : idle_ms))
      reason = "slow-reader";
    break;
  }
  /* Of those that are quiet for long a few are looked at each time: it takes a system call. */
  bool is_due = age_ms < LOOKS * TICK_MS || (uint32_t)connection->fd % LOOKS == http->ticks % LOOKS;
  if (reason == NULL && age_ms >= TICK_MS && connection->phase != HALUT_PHASE_SENDING && is_due &&
      halut_connection_is_over(connection)) {
    shutdown(connection->fd, SHUT_RDWR);
    return;
  }
  if (reason == NULL && is_past_drain)
    reason = "drain-timeout-ms";
  if (reason == NULL)
    return;
  shutdown(connection->fd, SHUT_RDWR); /* the daemon sees the end and cleans up */
  http->options.dropped(http->options.self, reason);
  connection->since_ns = now_ns;
}

static void http_tick(uv_timer_t *handle) {
  struct halut_http *http = handle->data;
  uint64_t now_ns = halut_clock_ns();
  http->ticks++;
  for (size_t i = 0; i < HALUT_BUCKETS; i++)
    for (struct halut_connection *c = http->bucket[i]; c != NULL; c = c->next)
      connection_check(http, c, now_ns);
  if (http->paused && !http->draining && http->connections < http->options.connections_max)
    http_resume_accepting(http);
  if (http->connections == 0 && !http->draining && !http->paused)
    uv_timer_stop(&http->tick);
  if (!http->draining || http->drained || http->parked + http->asleep > 0)
    return;
  if (http->connections > 0 && now_ns < http->drain_deadline_ns)
    return;
  http->drained = true;
  uv_timer_stop(&http->tick);
  http->options.drained(http->options.self);
}

void halut_http_certify(struct halut_http *http, struct halut_tls *tls) {
  assert(http->tls != NULL);
  halut_tls_drop(http->tls);
  http->tls = halut_tls_hold(tls);
}

void halut_http_drain(struct halut_http *http, uint64_t timeout_ms) {
  http->drain_deadline_ns = halut_clock_ns() + timeout_ms * 1000000u;
  if (http->draining)
    return;
  http->farewell = true;
  /* Connections that the kernel has already completed are ours to answer. */
  for (uint32_t i = 0; i < http->options.listener_count; i++) {
    while (http_accept(http, &http->listeners[i]))
      continue;
    uv_poll_stop(&http->accepting[i]);
    halut_listener_close(&http->listeners[i]);
  }
  http->draining = true;
  http_run(http);
  uv_timer_start(&http->tick, http_tick, TICK_DRAIN_MS, TICK_DRAIN_MS);
}

uint32_t halut_http_connections(const struct halut_http *http) {
  return http->connections;
}
uint32_t halut_http_parked(const struct halut_http *http) {
  return http->parked;
}
uint64_t halut_http_body_bytes(const struct halut_http *http) {
  return http->body_bytes;
}

/* ---- open and close ---- */

static void http_panic(void *self, const char *file, unsigned line, const char *reason) {
  (void)self;
  fprintf(stderr, "halutd: libmicrohttpd: %s:%u: %s\n", file, line,
          reason != NULL ? reason : "panic");
  abort();
}

static void http_on_close(uv_handle_t *handle) {
  struct halut_http *http = handle->data;
  if (--http->handles == 0)
    free(http);
}

/* Of a connection, for what the daemon reads and keeps of a request: no more than the headers may
 * need, since it zeroes all of it after each request, and half of it once more. */
static size_t connection_memory(const struct halut_guard_limits *limits) {
  return limits->header_bytes_max + limits->headers_max * HEADER_COSTS + OTHER_COSTS;
}

static int engine_open(struct halut_http *http, int index, struct halut_diag *diag) {
  struct halut_engine *engine = &http->engine[index];
  const struct halut_tls *tls = http->options.tls;
  bool is_secure = index == HALUT_ENGINE_TLS;
  struct MHD_OptionItem secrets[] = {
      {MHD_OPTION_HTTPS_MEM_CERT, 0, is_secure ? tls->certificate : NULL},
      {MHD_OPTION_HTTPS_MEM_KEY, 0, is_secure ? tls->key : NULL},
      {MHD_OPTION_HTTPS_PRIORITIES, 0, (void *)(uintptr_t)halut_tls_priorities},
      {MHD_OPTION_END, 0, NULL}};
  struct MHD_OptionItem none[] = {{MHD_OPTION_END, 0, NULL}};
  unsigned flags = MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_NO_LISTEN_SOCKET;
  engine->daemon = MHD_start_daemon(
      is_secure ? flags | MHD_USE_TLS : flags, 0, NULL, NULL, halut_request_access, http,
      MHD_OPTION_CONNECTION_LIMIT, 2 * http->options.connections_max + 64,
      MHD_OPTION_CONNECTION_TIMEOUT, 0u, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
      connection_memory(&http->options.headers), MHD_OPTION_STRICT_FOR_CLIENT, 0,
      MHD_OPTION_NOTIFY_COMPLETED, halut_request_completed, http, MHD_OPTION_NOTIFY_CONNECTION,
      http_on_connection, http, MHD_OPTION_URI_LOG_CALLBACK, http_on_target, http,
      MHD_OPTION_SIGPIPE_HANDLED_BY_APP, 1, MHD_OPTION_ARRAY, is_secure ? secrets : none,
      MHD_OPTION_END);
  if (engine->daemon == NULL)
    return halut_fail(diag, HALUT_EIO, 0, "libmicrohttpd does not start%s",
                      is_secure ? " with this certificate" : "");
  const union MHD_DaemonInfo *info = MHD_get_daemon_info(engine->daemon, MHD_DAEMON_INFO_EPOLL_FD);
  if (info == NULL || info->epoll_fd < 0)
    return halut_fail(diag, HALUT_EIO, 0, "libmicrohttpd was built without epoll");
  if (uv_poll_init(http->loop, &engine->poll, info->epoll_fd) != 0)
    return halut_fail(diag, HALUT_EIO, 0, "no poll handle for libmicrohttpd");
  engine->poll.data = http;
  engine->has_poll = true;
  http->handles++;
  uv_poll_start(&engine->poll, UV_READABLE, http_on_poll);
  return 0;
}

static int engines_open(struct halut_http *http, struct halut_diag *diag) {
  MHD_set_panic_func(http_panic, NULL);
  int error = engine_open(http, HALUT_ENGINE_PLAIN, diag);
  if (error == 0 && http->options.tls != NULL)
    error = engine_open(http, HALUT_ENGINE_TLS, diag);
  return error;
}

/* The poll handle goes first: the daemon closes its descriptor. */
static void engine_close(struct halut_engine *engine) {
  if (engine->has_poll)
    uv_poll_stop(&engine->poll);
  if (engine->daemon != NULL)
    MHD_stop_daemon(engine->daemon);
  engine->daemon = NULL;
  if (engine->has_poll)
    uv_close((uv_handle_t *)&engine->poll, http_on_close);
}

static void http_start_handles(struct halut_http *http) {
  uv_timer_init(http->loop, &http->timer); /* these three cannot fail */
  uv_timer_init(http->loop, &http->tick);
  uv_idle_init(http->loop, &http->again);
  http->timer.data = http->tick.data = http->again.data = http;
  http->handles += 3;
}

int halut_http_open(uv_loop_t *loop, const struct halut_http_options *options,
                    struct halut_http **out, struct halut_diag *diag) {
  assert(options->listener_count <= HALUT_LISTEN_MAX);
  struct halut_http *http = calloc(1, sizeof *http);
  if (http == NULL)
    return halut_fail(diag, HALUT_ENOMEM, 0, "no memory for the HTTP server");
  http->options = *options;
  http->options.listeners = NULL;
  http->options.listener_count = 0;
  http->tls = options->tls != NULL ? halut_tls_hold(options->tls) : NULL;
  http->loop = loop;
  http_start_handles(http);
  int error = engines_open(http, diag);
  if (error != 0)
    goto fail;
  for (uint32_t i = 0; i < options->listener_count; i++) {
    if (uv_poll_init(loop, &http->accepting[i], options->listeners[i].fd) != 0) {
      error = halut_fail(diag, HALUT_EIO, 0, "no poll handle for %s", options->listeners[i].url);
      for (uint32_t j = 0; j < i; j++)
        http->listeners[j].fd = -1;
      goto fail;
    }
    http->accepting[i].data = http;
    http->handles++;
    http->listeners[i] = options->listeners[i];
    http->options.listener_count = i + 1;
  }
  http_resume_accepting(http);
  http_run(http);
  *out = http;
  return 0;
fail:
  halut_http_close(http);
  return error;
}

void halut_http_close(struct halut_http *http) {
  if (http == NULL)
    return;
  assert(http->parked == 0);
  assert(http->asleep == 0);
  for (uint32_t i = 0; i < http->options.listener_count; i++) {
    uv_poll_stop(&http->accepting[i]);
    uv_close((uv_handle_t *)&http->accepting[i], http_on_close);
    if (http->listeners[i].fd >= 0)
      halut_listener_close(&http->listeners[i]);
  }
  for (int e = 0; e < HALUT_ENGINES; e++)
    engine_close(&http->engine[e]);
  halut_tls_drop(http->tls);
  uv_close((uv_handle_t *)&http->timer, http_on_close);
  uv_close((uv_handle_t *)&http->tick, http_on_close);
  uv_close((uv_handle_t *)&http->again, http_on_close);
}
