/* DESIGN: the daemon calls halut_request_access when the headers are in, for each piece of the
 * body, when the body is complete, and again after a resume. A request moves
 *
 *   READING -> READY (answered at once) or PARKED -> READY -> SENT
 *   READING -> REFUSED (its answer is known, the rest of its body is thrown away) -> SENT
 *
 * A parked request lingers first: the daemon asks for its answer whenever it runs, and is told to
 * ask again. To suspend the connection and to resume it costs three system calls, about 2 us; many
 * answers are there sooner than the daemon has asked LOOKS_MAX times. While it lingers the daemon
 * may find the connection reset and end it: the request is LOST then, and lives until its worker is
 * done with it.
 *
 * An answer queued while the body is still expected makes the daemon close the connection, so a
 * refusal waits for the end of the body if that is near: a client that has its answer can send its
 * next request, and a close with unread bytes could destroy the answer on its way. */
#include "http.h"

#include <assert.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "../core/clock.h"
#include "guard.h"
#include "http_internal.h"
#include "json.h"

enum { REQUEST_READING, REQUEST_REFUSED, REQUEST_PARKED, REQUEST_READY, REQUEST_SENT };

/* What a parked request has of its connection: its worker may look at it while it is HELD. */
enum { HOLD_LINGERING, HOLD_HELD, HOLD_LOST };

enum {
  LOOKS_MAX = 8,         /* of the daemon at a request that lingers */
  EXCESS_MAX = 2,        /* bytes of a head beside its headers; any ends the connection */
  DISCARD_MAX = 1 << 20, /* bytes of a refused body that are read and thrown away */
  BODY_FIRST = 4096      /* first allocation for a body of unknown length */
};

/* ---- replies ---- */

void halut_reply_header(struct halut_reply *reply, const char *name, const char *format, ...) {
  va_list arguments;
  size_t room = sizeof reply->header - reply->header_bytes;
  char *line = reply->header + reply->header_bytes;
  int head = snprintf(line, room, "%s: ", name);
  if (head < 0 || (size_t)head >= room)
    return;
  va_start(arguments, format);
  int rest = vsnprintf(line + head, room - (size_t)head, format, arguments);
  va_end(arguments);
  if (rest < 0 || (size_t)head + (size_t)rest + 1 >= room)
    return;
  line[head + rest] = '\n';
  reply->header_bytes += (size_t)head + (size_t)rest + 1;
}

static void reply_set_error(struct halut_reply *reply, halut_error_fn *error, unsigned status,
                            const char *text) {
  static const char fallback[] = "{\"error\":\"out of memory\"}";
  reply->status = status;
  reply->type = "application/json";
  reply->body = error != NULL ? error(status, text, &reply->bytes)
                              : halut_json_error(&reply->bytes, "%s", text);
  reply->owned = reply->body != NULL;
  if (reply->body == NULL) {
    reply->body = (void *)(uintptr_t)fallback;
    reply->bytes = sizeof fallback - 1;
  }
  if (status == 503)
    halut_reply_header(reply, "Retry-After", "1");
}

void halut_reply_error(struct halut_reply *reply, unsigned status, const char *format, ...) {
  char text[1024];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  reply_set_error(reply, NULL, status, text);
}

void halut_request_fail(struct halut_request *request, unsigned status, const char *format, ...) {
  char text[1024];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  reply_set_error(&request->reply, request->error, status, text);
}

void halut_request_reply(struct halut_request *request, const struct halut_reply *reply) {
  assert(request->private.state == REQUEST_READING);
  request->reply = *reply;
  request->private.state = REQUEST_READY;
}

void halut_request_error(struct halut_request *request, unsigned status, const char *format, ...) {
  char text[1024];
  struct halut_reply reply = {0};
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  reply_set_error(&reply, request->error, status, text);
  halut_request_reply(request, &reply);
}

static void response_add_headers(struct MHD_Response *response, struct halut_reply *reply) {
  char *line = reply->header, *end = reply->header + reply->header_bytes;
  while (line < end) {
    char *stop = memchr(line, '\n', (size_t)(end - line));
    char *colon = memchr(line, ':', (size_t)(end - line));
    assert(stop != NULL && colon != NULL && colon < stop);
    *stop = *colon = '\0';
    MHD_add_response_header(response, line, colon + 2);
    line = stop + 1;
  }
  reply->header_bytes = 0;
}

/* Also on errors, which a page could not read otherwise. */
static void response_add_cors(const struct halut_request *request, struct MHD_Response *response) {
  const char *origin = halut_request_header(request, "Origin");
  MHD_add_response_header(response, "Vary", "Origin");
  if (origin == NULL || !halut_cors_allows(&request->http->options.cors, origin))
    return;
  MHD_add_response_header(response, "Access-Control-Allow-Origin", origin);
  MHD_add_response_header(response, "Access-Control-Expose-Headers", halut_cors_read_back);
}

/* The body stays the request's until it has ended, after sending. */
static enum MHD_Result request_send(struct halut_request *request) {
  struct halut_reply *reply = &request->reply;
  struct MHD_Response *response =
      request->private.next != NULL
          ? halut_stream_response(request)
          : MHD_create_response_from_buffer(reply->bytes, reply->body, MHD_RESPMEM_PERSISTENT);
  if (response == NULL)
    return MHD_NO;
  if (reply->type != NULL)
    MHD_add_response_header(response, "Content-Type", reply->type);
  if (request->id[0] != '\0')
    MHD_add_response_header(response, "X-Request-Id", request->id);
  if (request->trace[0] != '\0')
    MHD_add_response_header(response, "traceparent", request->trace);
  response_add_headers(response, reply);
  if (request->http->options.cors.count > 0)
    response_add_cors(request, response);
  if (request->http->farewell || request->private.close)
    MHD_add_response_header(response, "Connection", "close");
  enum MHD_Result result = MHD_queue_response(request->connection, reply->status, response);
  MHD_destroy_response(response);
  request->private.state = REQUEST_SENT;
  request->http->moved = true;
  halut_connection_enter(halut_connection_of(request->connection), HALUT_PHASE_SENDING);
  return result;
}

/* ---- looking at a request ---- */

const char *halut_request_header(const struct halut_request *request, const char *name) {
  return MHD_lookup_connection_value(request->connection, MHD_HEADER_KIND, name);
}

const char *halut_request_query(const struct halut_request *request, const char *name) {
  const char *value = NULL;
  size_t bytes = 0;
  /* "?flag" has no value: the flag is there, and empty. */
  if (MHD_lookup_connection_value_n(request->connection, MHD_GET_ARGUMENT_KIND, name, strlen(name),
                                    &value, &bytes) != MHD_YES)
    return NULL;
  return value != NULL ? value : "";
}

struct stranger {
  const char *const *names;
  const char *found;
  bool is_twice;
  uint32_t seen; /* a bit for each of the names */
};

static enum MHD_Result stranger_check(void *self, enum MHD_ValueKind kind, const char *key,
                                      const char *value) {
  struct stranger *stranger = self;
  uint32_t bit = 1;
  (void)kind;
  if (key[0] == '\0' && (value == NULL || value[0] == '\0'))
    return MHD_YES; /* nothing between two "&" */
  const char *const *name = stranger->names;
  for (; *name != NULL && strcmp(*name, key) != 0; name++)
    bit <<= 1;
  stranger->is_twice = *name != NULL && (stranger->seen & bit) != 0;
  stranger->seen |= bit;
  if (*name != NULL && !stranger->is_twice)
    return MHD_YES;
  stranger->found = key;
  return MHD_NO;
}

const char *halut_request_stranger(const struct halut_request *request, const char *const *names,
                                   bool *is_twice) {
  struct stranger stranger = {.names = names};
  MHD_get_connection_values(request->connection, MHD_GET_ARGUMENT_KIND, stranger_check, &stranger);
  *is_twice = stranger.is_twice;
  return stranger.found;
}

/* Any header that proxies alone send. */
static enum MHD_Result forwarded_check(void *self, enum MHD_ValueKind kind, const char *key,
                                       const char *value) {
  static const char *const forwarded[] = {"Forwarded", "X-Forwarded", "X-Real-IP", "Via"};
  bool *is_local = self;
  (void)kind, (void)value;
  for (size_t i = 0; i < sizeof forwarded / sizeof forwarded[0]; i++)
    if (strncasecmp(key, forwarded[i], strlen(forwarded[i])) == 0)
      *is_local = false;
  return MHD_YES;
}

bool halut_request_is_local(const struct halut_request *request) {
  bool is_local = halut_connection_of(request->connection)->is_local;
  MHD_get_connection_values(request->connection, MHD_HEADER_KIND, forwarded_check, &is_local);
  return is_local;
}

bool halut_request_gone(const struct halut_request *request) {
  int hold = atomic_load_explicit(&request->private.hold, memory_order_acquire);
  bool is_held = hold == HOLD_HELD || request->private.is_asleep;
  return hold == HOLD_LOST || (is_held && halut_connection_is_over(request->private.connection));
}

/* ---- the first call: headers ---- */

struct header_list {
  struct halut_guard_header header[HALUT_HEADERS_MAX];
  size_t count; /* may exceed the array */
};

static enum MHD_Result header_collect(void *self, enum MHD_ValueKind kind, const char *key,
                                      size_t key_bytes, const char *value, size_t value_bytes) {
  struct header_list *list = self;
  (void)kind;
  if (list->count < HALUT_HEADERS_MAX)
    list->header[list->count] =
        (struct halut_guard_header){.name = key,
                                    .name_bytes = key_bytes,
                                    .value = value != NULL ? value : "",
                                    .value_bytes = value != NULL ? value_bytes : 0};
  list->count++;
  return MHD_YES;
}

static unsigned method_parse(const char *verb) {
  if (strcmp(verb, "GET") == 0 || strcmp(verb, "HEAD") == 0)
    return HALUT_GET;
  if (strcmp(verb, "POST") == 0)
    return HALUT_POST;
  if (strcmp(verb, "PUT") == 0)
    return HALUT_PUT;
  if (strcmp(verb, "DELETE") == 0)
    return HALUT_DELETE;
  return 0;
}

static bool pattern_match(const char *pattern, struct halut_request *request) {
  const char *path = request->path;
  size_t captures = 0;
  memset(request->capture, 0, sizeof request->capture);
  while (*pattern != '\0') {
    if (pattern[0] != '{') {
      if (*pattern++ != *path++)
        return false;
      continue;
    }
    size_t bytes = strcspn(path, "/:");
    if (bytes == 0)
      return false;
    assert(captures < HALUT_CAPTURES_MAX && pattern[1] == '}');
    request->capture[captures].text = path;
    request->capture[captures++].bytes = bytes;
    path += bytes;
    pattern += 2;
  }
  while (captures < HALUT_CAPTURES_MAX)
    request->capture[captures++].bytes = 0; /* what a pattern that failed has left */
  return *path == '\0';
}

static void request_refuse(struct halut_request *request, unsigned status, const char *text) {
  reply_set_error(&request->reply, request->error, status, text);
  request->private.state = REQUEST_REFUSED;
}

static void allow_list(unsigned methods, char *text, size_t bytes) {
  snprintf(text, bytes, "%s%s%s%sOPTIONS", methods & HALUT_GET ? "GET, HEAD, " : "",
           methods & HALUT_POST ? "POST, " : "", methods & HALUT_PUT ? "PUT, " : "",
           methods & HALUT_DELETE ? "DELETE, " : "");
}

/* A browser asks before it sends what a form could not. */
static void request_preflight(struct halut_request *request, const char *allow) {
  const char *origin = halut_request_header(request, "Origin");
  if (origin == NULL || halut_request_header(request, "Access-Control-Request-Method") == NULL ||
      !halut_cors_allows(&request->http->options.cors, origin))
    return;
  halut_reply_header(&request->reply, "Access-Control-Allow-Methods", "%s", allow);
  halut_reply_header(&request->reply, "Access-Control-Allow-Headers", "%s", halut_cors_sent);
  halut_reply_header(&request->reply, "Access-Control-Max-Age", "600");
}

/* Sets the route, or the refusal that says why there is none. */
static void request_route(struct halut_request *request) {
  const struct halut_http_options *options = &request->http->options;
  unsigned methods = 0;
  char allow[48];
  for (size_t i = 0; i < options->route_count; i++) {
    if (!pattern_match(options->routes[i].pattern, request))
      continue;
    methods |= options->routes[i].methods;
    request->error = options->wording(&options->routes[i]);
    if ((options->routes[i].methods & request->method) == 0)
      continue;
    request->route = &options->routes[i];
    return;
  }
  if (methods == 0) {
    char text[HALUT_PATH_MAX + 64];
    snprintf(text, sizeof text, "no such path: %s", request->path);
    request_refuse(request, 404, text);
    return;
  }
  allow_list(methods, allow, sizeof allow);
  if (strcmp(request->verb, "OPTIONS") == 0) {
    request->reply.status = 204;
    request->private.state = REQUEST_REFUSED;
    request_preflight(request, allow);
  } else {
    char text[HALUT_PATH_MAX + 128];
    snprintf(text, sizeof text, "%s is not a method of %s; it has %s", request->verb, request->path,
             allow);
    request_refuse(request, 405, text);
  }
  halut_reply_header(&request->reply, "Allow", "%s", allow);
}

static void request_admit(struct halut_request *request) {
  const struct halut_http_options *options = &request->http->options;
  if (!options->admit(options->self, request))
    request->private.state = REQUEST_REFUSED;
}

/* W3C Trace Context, version 00: "00-" 32 hex "-" 16 hex "-" 2 hex, small letters, no id all zero.
 */
static void request_trace(struct halut_request *request) {
  static const char form[] = "00-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx-xxxxxxxxxxxxxxxx-xx";
  const char *given = halut_request_header(request, "traceparent");
  if (given == NULL || strlen(given) != sizeof form - 1)
    return;
  for (size_t i = 0; i < sizeof form - 1; i++)
    if (form[i] == 'x' ? strchr("0123456789abcdef", given[i]) == NULL : given[i] != form[i])
      return;
  if (strspn(given + 3, "0") < 32 && strspn(given + 36, "0") < 16)
    memcpy(request->trace, given, sizeof form);
}

/* The last `digits` hexadecimal digits of a number. */
static char *hex_write(char *at, uint64_t value, int digits) {
  while (digits-- > 0)
    *at++ = "0123456789abcdef"[value >> (4 * digits) & 15];
  return at;
}

/* The client's, if it is fit to be logged and echoed; else one of our own. */
static void request_identify(struct halut_request *request) {
  static const char fit[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:+/=";
  const char *given = halut_request_header(request, "X-Request-Id");
  if (given != NULL && given[0] != '\0' && strlen(given) < sizeof request->id &&
      strspn(given, fit) == strlen(given)) {
    memcpy(request->id, given, strlen(given) + 1);
    return;
  }
  char *at = hex_write(request->id, request->arrived_ns, 8);
  *at++ = '-';
  hex_write(at, ++request->http->ids, 12);
}

static bool body_charge(void *self, size_t more) {
  struct halut_http *http = self;
  if (atomic_fetch_add(&http->body_bytes, more) + more <= http->options.body_total_max)
    return true;
  atomic_fetch_sub(&http->body_bytes, more);
  return false;
}

int halut_request_inflate(struct halut_request *request, struct halut_diag *diag) {
  struct halut_http *http = request->http;
  uint8_t *data = NULL;
  size_t bytes = 0, charged = 0;
  if (request->coding == HALUT_IDENTITY)
    return HALUT_OK;
  uint64_t most = request->route->body == HALUT_BODY_SETTINGS ? (uint64_t)HALUT_SETTINGS_MAX
                                                              : http->options.body_inflated_max;
  int error = halut_coding_inflate(request->coding, request->body, request->body_bytes,
                                   (size_t)most, body_charge, http, &data, &bytes, &charged, diag);
  if (error != HALUT_OK) {
    atomic_fetch_sub(&http->body_bytes, charged);
    return error;
  }
  atomic_fetch_sub(&http->body_bytes, request->private.capacity);
  free(request->body);
  request->body = data;
  request->body_bytes = bytes;
  request->private.capacity = charged;
  request->coding = HALUT_IDENTITY;
  return HALUT_OK;
}

void halut_request_deflate(struct halut_request *request) {
  struct halut_reply *reply = &request->reply;
  uint8_t *data = NULL;
  size_t bytes = 0;
  if (request->accepts == HALUT_IDENTITY || reply->status != 200 || !reply->owned)
    return;
  if (halut_coding_deflate(request->accepts, reply->body, reply->bytes, &data, &bytes) != HALUT_OK)
    return;
  free(reply->body);
  reply->body = data;
  reply->bytes = bytes;
  halut_reply_header(reply, "Content-Encoding", "%s", halut_coding_name(request->accepts));
  halut_reply_header(reply, "Vary", "Accept-Encoding");
}

/* Makes room for `bytes` in all; false after a refusal. */
static bool body_reserve(struct halut_request *request, size_t bytes) {
  struct halut_http *http = request->http;
  if (bytes <= request->private.capacity)
    return true;
  uint64_t more = bytes - request->private.capacity;
  if (!body_charge(http, (size_t)more)) {
    http->options.dropped(http->options.self, "body-total-max");
    request_refuse(request, 503,
                   "the bodies of all requests together exceed body-total-max; try again");
    return false;
  }
  uint8_t *body = realloc(request->body, bytes + 1);
  if (body == NULL) {
    atomic_fetch_sub(&http->body_bytes, more);
    request_refuse(request, 503, "no memory for the body; try again");
    return false;
  }
  request->body = body;
  request->private.capacity = bytes;
  return true;
}

static void body_release(struct halut_request *request) {
  atomic_fetch_sub(&request->http->body_bytes, request->private.capacity);
  request->private.capacity = 0;
  request->body_bytes = 0;
  free(request->body);
  request->body = NULL;
}

static uint64_t body_limit(const struct halut_request *request) {
  const struct halut_http_options *options = &request->http->options;
  switch (request->route != NULL ? request->route->body : HALUT_BODY_NONE) {
  case HALUT_BODY_DATA:
    return options->body_max;
  case HALUT_BODY_SAMPLES:
    return options->samples_max;
  case HALUT_BODY_SETTINGS:
    return HALUT_SETTINGS_MAX;
  default:
    return HALUT_BODY_SMALL;
  }
}

static void request_refuse_size(struct halut_request *request) {
  static const char *const names[] = {[HALUT_BODY_NONE] = "",
                                      [HALUT_BODY_DATA] = " (body-max)",
                                      [HALUT_BODY_SAMPLES] = " (learn-bytes-max)",
                                      [HALUT_BODY_SETTINGS] = ""};
  char text[HALUT_PATH_MAX + 128];
  snprintf(text, sizeof text, "the body exceeds the %llu bytes that %s takes%s",
           (unsigned long long)request->private.body_max, request->path,
           request->route != NULL ? names[request->route->body] : "");
  request_refuse(request, 413, text);
}

/* What reads its body takes a compressed one: that is a worker's time, or bounded to be short. Only
 * what computes gives one: clients that ask for compression everywhere do not always undo it. */
static void request_read_codings(struct halut_request *request, const struct header_list *list,
                                 bool has_body) {
  enum halut_body body = request->route->body;
  bool reads = body != HALUT_BODY_NONE;
  unsigned given = 0;
  for (size_t i = 0; i < list->count; i++)
    given += list->header[i].name_bytes == 16 &&
             strncasecmp(list->header[i].name, "Content-Encoding", 16) == 0;
  const char *text = halut_request_header(request, "Content-Encoding");
  if (!has_body && !reads)
    return; /* clients that compress every body say so of none, too */
  if (given > 1 || !halut_coding_parse(text, &request->coding) ||
      (request->coding != HALUT_IDENTITY && !reads)) {
    request_refuse(request, 415,
                   reads ? "Content-Encoding: gzip or deflate, once, is taken here"
                         : "this path takes no compressed body");
    halut_reply_header(&request->reply, "Accept-Encoding", reads ? "gzip, deflate" : "identity");
  } else if (reads && body != HALUT_BODY_SETTINGS) {
    request->accepts = halut_coding_choose(halut_request_header(request, "Accept-Encoding"));
  }
}

static enum MHD_Result request_refuse_now(struct halut_request *request, unsigned status,
                                          const char *text) {
  request_refuse(request, status, text);
  request->private.close = true;
  return request_send(request);
}

static int64_t head_excess(const struct halut_request *request, const char *method,
                           const char *version, const struct header_list *list) {
  const union MHD_ConnectionInfo *info =
      MHD_get_connection_info(request->connection, MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE);
  size_t line =
      strlen(method) + 1 + request->private.connection->target_bytes + 1 + strlen(version);
  return info == NULL ? 0 : halut_guard_excess(info->header_size, line, list->header, list->count);
}

static enum MHD_Result request_check(struct halut_request *request, const char *method,
                                     const char *version) {
  struct header_list list;
  struct halut_guard_framing framing;
  const char *reason = halut_connection_of(request->connection)->target_fault;
  if (reason != NULL)
    return request_refuse_now(request, 400, reason);
  list.count = 0;
  MHD_get_connection_values_n(request->connection, MHD_HEADER_KIND, header_collect, &list);
  unsigned status = halut_guard_check(&request->http->options.headers, version, list.header,
                                      list.count, &framing, &reason);
  if (status != 0)
    return request_refuse_now(request, status, reason);
  const int64_t excess = head_excess(request, method, version, &list);
  if (excess > EXCESS_MAX)
    return request_refuse_now(
        request, 400,
        "the head holds bytes that belong to no header: a folded line, a NUL, "
        "a line without a name, or blanks before values");
  uint32_t most = request->http->options.requests_per_connection_max;
  const bool is_last = ++request->private.connection->requests >= most && most > 0;
  request->private.close = is_last || excess > 0;
  request_trace(request);
  request_route(request);
  if (request->private.state == REQUEST_READING)
    request_admit(request);
  if (request->private.state == REQUEST_READING)
    request_read_codings(request, &list, framing.chunked || framing.content_length > 0);
  request->private.body_max = body_limit(request);
  request->private.expected = framing.chunked ? UINT64_MAX : framing.content_length;
  if (request->private.state == REQUEST_READING &&
      framing.content_length > request->private.body_max)
    request_refuse_size(request);
  if (request->private.state == REQUEST_READING && framing.content_length > 0)
    body_reserve(request, (size_t)framing.content_length);
  bool is_large = framing.content_length > request->private.body_max; /* and little more is read */
  bool is_far = framing.content_length > DISCARD_MAX + (is_large ? request->private.body_max : 0) ||
                (framing.expects_continue && framing.content_length > 0) ||
                (framing.expects_continue && framing.chunked);
  if (request->private.state != REQUEST_REFUSED || !is_far)
    return MHD_YES;
  request->private.close = true;
  return request_send(request);
}

static enum MHD_Result request_begin(struct halut_http *http, struct MHD_Connection *connection,
                                     const char *url, const char *method, const char *version,
                                     void **slot) {
  const union MHD_ConnectionInfo *info =
      MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
  if (info == NULL || info->socket_context == NULL)
    return MHD_NO; /* no memory at its start */
  struct halut_request *request = calloc(1, sizeof *request);
  if (request == NULL)
    return MHD_NO;
  *slot = request;
  request->http = http;
  request->connection = connection;
  request->arrived_ns = halut_clock_ns();
  request->private.connection = halut_connection_of(connection);
  request->private.state = REQUEST_READING;
  request->method = method_parse(method);
  request->is_head = strcmp(method, "HEAD") == 0;
  request_identify(request);
  strncpy(request->verb, method, sizeof request->verb - 1);
  if (strncasecmp(url, "http://", 7) == 0 || strncasecmp(url, "https://", 8) == 0) {
    const char *host = strchr(url, ':') + 3; /* a proxy may send the absolute form */
    url = host[strcspn(host, "/")] != '\0' ? host + strcspn(host, "/") : "/";
  }
  if (strlen(url) >= sizeof request->path)
    return request_refuse_now(request, 414, "the path is too long");
  memcpy(request->path, url, strlen(url) + 1);
  return request_check(request, method, version);
}

/* ---- the body, and what follows it ---- */

static enum MHD_Result request_collect(struct halut_request *request, const char *data,
                                       size_t *bytes) {
  size_t piece = *bytes;
  *bytes = 0;
  if (request->private.state == REQUEST_READING &&
      request->body_bytes + piece > request->private.body_max) {
    request_refuse_size(request);
    request->private.discarded = request->body_bytes;
    body_release(request);
  }
  if (request->private.state == REQUEST_READING &&
      request->body_bytes + piece > request->private.capacity) {
    uint64_t grown =
        request->private.capacity < BODY_FIRST ? BODY_FIRST : request->private.capacity * 2;
    while (grown < request->body_bytes + piece)
      grown *= 2;
    if (grown > request->private.body_max)
      grown = request->private.body_max;
    if (!body_reserve(request, (size_t)grown))
      body_release(request);
  }
  if (request->private.state == REQUEST_READING) {
    memcpy(request->body + request->body_bytes, data, piece);
    request->body_bytes += piece;
    request->http->moved |= request->body_bytes < request->private.expected;
    return MHD_YES;
  }
  request->http->moved = true;
  if (request->private.state != REQUEST_REFUSED)
    return MHD_YES; /* answered already: closing */
  request->private.discarded += piece;
  if (request->private.discarded <= request->private.body_max + DISCARD_MAX)
    return MHD_YES;
  halut_connection_abort(halut_connection_of(request->connection), "413 Content Too Large",
                         "the body exceeds what this path takes");
  return MHD_NO;
}

static void request_suspend(struct halut_request *request) {
  request->http->lingering--;
  MHD_suspend_connection(request->connection);
  atomic_store_explicit(&request->private.hold, HOLD_HELD, memory_order_release);
}

static enum MHD_Result request_wait(struct halut_request *request) {
  if (request->private.looks++ >= LOOKS_MAX || request->http->impatient)
    request_suspend(request);
  return MHD_YES;
}

static enum MHD_Result request_finish(struct halut_request *request) {
  if (request->private.state == REQUEST_READING) {
    request->received_bytes = request->body_bytes;
    if (request->body != NULL)
      request->body[request->body_bytes] = 0;
    request->route->handler(request->http->options.self, request);
    assert(request->private.state != REQUEST_READING);
  }
  if (request->private.state == REQUEST_PARKED)
    return request_wait(request);
  if (request->private.state == REQUEST_SENT)
    return MHD_YES;
  return request_send(request);
}

enum MHD_Result halut_request_access(void *self, struct MHD_Connection *connection, const char *url,
                                     const char *method, const char *version, const char *data,
                                     size_t *bytes, void **slot) {
  if (*slot == NULL)
    return request_begin(self, connection, url, method, version, slot);
  if (*bytes > 0)
    return request_collect(*slot, data, bytes);
  return request_finish(*slot);
}

void halut_request_park(struct halut_request *request) {
  assert(request->private.state == REQUEST_READING);
  request->private.state = REQUEST_PARKED;
  request->http->parked++;
  request->http->lingering++;
  halut_connection_enter(halut_connection_of(request->connection), HALUT_PHASE_PARKED);
}

static void request_end(struct halut_request *request, bool sent) {
  struct halut_http *http = request->http;
  http->options.ended(http->options.self, request, sent);
  if (request->context_free != NULL)
    request->context_free(request->context);
  if (request->reply.owned)
    free(request->reply.body);
  body_release(request);
  free(request);
}

void halut_http_resume(struct halut_request *request) {
  assert(request->private.state == REQUEST_PARKED);
  request->private.state = REQUEST_READY;
  request->http->parked--;
  if (request->private.hold == HOLD_LOST) {
    request_end(request, false);
    return;
  }
  halut_connection_enter(halut_connection_of(request->connection), HALUT_PHASE_SENDING);
  if (request->private.hold == HOLD_LINGERING)
    request->http->lingering--;
  else
    MHD_resume_connection(request->connection);
}

void halut_request_completed(void *self, struct MHD_Connection *connection, void **slot,
                             enum MHD_RequestTerminationCode code) {
  struct halut_http *http = self;
  struct halut_request *request = *slot;
  const union MHD_ConnectionInfo *info =
      MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
  if (info != NULL && info->socket_context != NULL)
    halut_connection_enter(info->socket_context, HALUT_PHASE_IDLE);
  *slot = NULL;
  if (request == NULL)
    return;
  assert(!request->private.is_asleep);
  if (request->private.state != REQUEST_PARKED) {
    request_end(request, code == MHD_REQUEST_TERMINATED_COMPLETED_OK);
    return;
  }
  assert(request->private.hold == HOLD_LINGERING);
  http->lingering--;
  request->connection = NULL;
  atomic_store_explicit(&request->private.hold, HOLD_LOST, memory_order_release);
}
