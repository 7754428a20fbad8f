/* halut_client.c: DESIGN. A request is built whole in one buffer and sent over a non-blocking
 * socket, every wait being a poll against the call's deadline; the answer is read whole into
 * another buffer. JSON answers are walked in place (json_*): there is no tree. Its numbers have a
 * point whatever the program's locale has. All requests but one can be repeated without harm, so a
 * broken connection is treated like a busy server: pause, connect, send again. The start of
 * learning could be queued twice: it goes over a new connection, which the server cannot have
 * closed for being idle, and is given up if that breaks. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "halut_client.h"

#include <errno.h>
#include <fcntl.h>
#include <locale.h>
#include <math.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum {
  TIMEOUT_MS = 30000,
  ATTEMPTS = 5,
  PAUSE_FIRST_MS = 50,
  PAUSE_LONGEST_MS = 2000,
  HEAD_MAX = 16384,   /* bytes of an answer's headers */
  LOOK_FIRST_MS = 50, /* between two looks at a job */
  LOOK_LONGEST_MS = 1000
};

struct buffer {
  char *data;
  size_t bytes, capacity;
};

struct halut_client {
  struct halut_client_options options;
  char header[512];
  char authority[256]; /* the Host header: host, in brackets if need be, and port as in the URL */
  char host[256], port[8]; /* or: */
  char unix_path[sizeof((struct sockaddr_un *)0)->sun_path];
  int descriptor; /* -1 if not connected */
  uint64_t deadline_ms;
  int status;         /* HTTP */
  int retry_after_ms; /* -1 if the answer did not say */
  char error[256];
  uint64_t random;
  locale_t plain; /* "C" */
  struct buffer request, answer;
  bool unrepeatable; /* sending the request twice would do it twice */
  size_t body_at;    /* of the answer */
  size_t body_bytes;
  long json_bytes; /* Inference-Header-Content-Length of the answer, or -1 */
};

__attribute__((format(printf, 3, 4))) static int set_error(struct halut_client *client, int error,
                                                           const char *format, ...) {
  va_list list;
  va_start(list, format);
  vsnprintf(client->error, sizeof client->error, format, list);
  va_end(list);
  return error;
}

static uint64_t now_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

const char *halut_client_error(const struct halut_client *client) {
  return client == NULL ? "out of memory" : client->error;
}

int halut_client_http_status(const struct halut_client *client) {
  return client->status;
}

/* ---- Buffers ---- */

static bool buffer_reserve(struct buffer *buffer, size_t more) {
  if (buffer->capacity - buffer->bytes > more)
    return true;
  size_t capacity = buffer->capacity < 1024 ? 1024 : buffer->capacity;
  while (capacity - buffer->bytes <= more) {
    if (capacity > SIZE_MAX / 2)
      return false;
    capacity *= 2;
  }
  char *data = realloc(buffer->data, capacity);
  if (data == NULL)
    return false;
  buffer->data = data;
  buffer->capacity = capacity;
  return true;
}

static bool buffer_add(struct buffer *buffer, const void *data, size_t bytes) {
  if (!buffer_reserve(buffer, bytes))
    return false;
  if (bytes > 0)
    memcpy(buffer->data + buffer->bytes, data, bytes);
  buffer->bytes += bytes;
  return true;
}

__attribute__((format(printf, 2, 3))) static bool buffer_format(struct buffer *buffer,
                                                                const char *format, ...) {
  char text[1024];
  va_list list;
  va_start(list, format);
  int bytes = vsnprintf(text, sizeof text, format, list);
  va_end(list);
  return bytes >= 0 && (size_t)bytes < sizeof text && buffer_add(buffer, text, (size_t)bytes);
}

/* ---- Opening ---- */

static int parse_url(struct halut_client *client, const char *url) {
  if (strncmp(url, "unix:", 5) == 0) {
    if (url[5] == '\0' || strlen(url + 5) >= sizeof client->unix_path) {
      return set_error(client, HALUT_CLIENT_EINVALID, "%.100s: no path, or too long", url);
    }
    memcpy(client->unix_path, url + 5, strlen(url + 5) + 1);
    snprintf(client->host, sizeof client->host, "localhost");
    snprintf(client->authority, sizeof client->authority, "localhost");
    return 0;
  }
  const char *host = strncmp(url, "http://", 7) == 0 ? url + 7 : NULL;
  size_t bytes = host == NULL ? 0 : strcspn(host, "/");
  if (bytes > 0 && host[bytes] == '/' && host[bytes + 1] != '\0')
    bytes = 0;
  if (bytes == 0 || bytes >= sizeof client->host) {
    return set_error(client, HALUT_CLIENT_EINVALID, "%.100s: must be http://HOST:PORT or unix:PATH",
                     url);
  }
  memcpy(client->host, host, bytes);
  memcpy(client->authority, host, bytes);
  char *colon = strrchr(client->host, ':');
  bool has_port = colon != NULL && strchr(colon, ']') == NULL;
  const char *port = has_port ? colon + 1 : "80";
  if (strlen(port) >= sizeof client->port || strspn(port, "0123456789") != strlen(port)) {
    return set_error(client, HALUT_CLIENT_EINVALID, "%.100s: no port", url);
  }
  memcpy(client->port, port, strlen(port) + 1);
  if (has_port)
    *colon = '\0';
  size_t length = strlen(client->host);
  if (client->host[0] == '[' && length > 2 && client->host[length - 1] == ']') {
    memmove(client->host, client->host + 1, length);
    client->host[length - 2] = '\0';
  }
  return 0;
}

int halut_client_open(const char *url, const struct halut_client_options *options,
                      struct halut_client **out) {
  struct halut_client *client = calloc(1, sizeof *client);
  *out = NULL;
  if (client == NULL)
    return HALUT_CLIENT_ENOMEM;
  client->plain = newlocale(LC_NUMERIC_MASK, "C", (locale_t)0);
  if (client->plain == (locale_t)0) {
    free(client);
    return HALUT_CLIENT_ENOMEM;
  }
  *out = client;
  client->descriptor = -1;
  if (options != NULL)
    client->options = *options;
  if (client->options.timeout_ms == 0)
    client->options.timeout_ms = TIMEOUT_MS;
  if (client->options.attempts == 0)
    client->options.attempts = ATTEMPTS;
  if (client->options.answer_max == 0)
    client->options.answer_max = UINT64_C(1) << 28;
  const char *header = client->options.header;
  client->options.header = NULL; /* borrowed no longer: kept in client->header */
  if (header != NULL && (strpbrk(header, "\r\n") != NULL || strchr(header, ':') == NULL ||
                         strlen(header) + 3 > sizeof client->header)) {
    return set_error(client, HALUT_CLIENT_EINVALID, "header: must be one \"Name: value\" line");
  }
  if (header != NULL)
    snprintf(client->header, sizeof client->header, "%s\r\n", header);
  client->random = (now_ms() * 2654435761u ^ ((uint64_t)getpid() << 32)) | 1;
  return parse_url(client, url);
}

static void disconnect(struct halut_client *client) {
  if (client->descriptor >= 0)
    close(client->descriptor);
  client->descriptor = -1;
}

void halut_client_close(struct halut_client *client) {
  if (client == NULL)
    return;
  disconnect(client);
  freelocale(client->plain);
  free(client->request.data);
  free(client->answer.data);
  free(client);
}

/* ---- The connection ---- */

/* Until the socket is ready for `events`; HALUT_CLIENT_ETIMEOUT at the deadline. */
static int wait_ready(struct halut_client *client, short events) {
  for (;;) {
    uint64_t now = now_ms();
    if (now >= client->deadline_ms) {
      return set_error(client, HALUT_CLIENT_ETIMEOUT, "no answer within %u ms",
                       client->options.timeout_ms);
    }
    struct pollfd ready = {.fd = client->descriptor, .events = events};
    int count = poll(&ready, 1, (int)(client->deadline_ms - now));
    if (count > 0)
      return 0;
    if (count < 0 && errno != EINTR) {
      return set_error(client, HALUT_CLIENT_ECONNECT, "poll: %s", strerror(errno));
    }
  }
}

static int connect_to(struct halut_client *client, const struct sockaddr *address,
                      socklen_t bytes) {
  disconnect(client);
  client->descriptor = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (client->descriptor < 0) {
    return set_error(client, HALUT_CLIENT_ECONNECT, "socket: %s", strerror(errno));
  }
  int reason = 0;
  if (connect(client->descriptor, address, bytes) != 0)
    reason = errno;
  if (reason == EINPROGRESS) {
    int error = wait_ready(client, POLLOUT);
    if (error != 0)
      return error;
    socklen_t size = sizeof reason;
    getsockopt(client->descriptor, SOL_SOCKET, SO_ERROR, &reason, &size);
  }
  if (reason != 0) {
    return set_error(client, HALUT_CLIENT_ECONNECT, "%s:%s: %s", client->host, client->port,
                     strerror(reason));
  }
  int on = 1;
  if (address->sa_family != AF_UNIX) {
    setsockopt(client->descriptor, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  }
  return 0;
}

static int connect_any(struct halut_client *client) {
  if (client->unix_path[0] != '\0') {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    memcpy(address.sun_path, client->unix_path, sizeof address.sun_path);
    return connect_to(client, (struct sockaddr *)&address, sizeof address);
  }
  struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list = NULL;
  int code = getaddrinfo(client->host, client->port, &hints, &list);
  if (code != 0) {
    return set_error(client, HALUT_CLIENT_ECONNECT, "%s: %s", client->host, gai_strerror(code));
  }
  int error = HALUT_CLIENT_ECONNECT;
  for (struct addrinfo *one = list; one != NULL && error == HALUT_CLIENT_ECONNECT;
       one = one->ai_next) {
    error = connect_to(client, one->ai_addr, one->ai_addrlen);
  }
  freeaddrinfo(list);
  return error;
}

static int send_request(struct halut_client *client) {
  size_t sent = 0;
  while (sent < client->request.bytes) {
    ssize_t bytes = send(client->descriptor, client->request.data + sent,
                         client->request.bytes - sent, MSG_NOSIGNAL);
    if (bytes > 0) {
      sent += (size_t)bytes;
    } else if (bytes < 0 && errno == EAGAIN) {
      int error = wait_ready(client, POLLOUT);
      if (error != 0)
        return error;
    } else if (bytes < 0 && errno != EINTR) {
      return set_error(client, HALUT_CLIENT_ECONNECT, "send: %s", strerror(errno));
    }
  }
  return 0;
}

/* Reads some more of the answer; *end_out is set if the server has closed. */
static int receive(struct halut_client *client, bool *end_out) {
  if (client->answer.bytes > HEAD_MAX &&
      client->answer.bytes - HEAD_MAX > client->options.answer_max) {
    return set_error(client, HALUT_CLIENT_EANSWER, "the answer is longer than answer_max");
  }
  if (!buffer_reserve(&client->answer, 65536)) {
    return set_error(client, HALUT_CLIENT_ENOMEM, "no memory for the answer");
  }
  for (;;) {
    int error = wait_ready(client, POLLIN);
    if (error != 0)
      return error;
    ssize_t bytes = recv(client->descriptor, client->answer.data + client->answer.bytes,
                         client->answer.capacity - client->answer.bytes - 1, 0);
    if (bytes >= 0) {
      client->answer.bytes += (size_t)bytes;
      client->answer.data[client->answer.bytes] = '\0';
      *end_out = bytes == 0;
      return 0;
    }
    if (errno != EAGAIN && errno != EINTR) {
      return set_error(client, HALUT_CLIENT_ECONNECT, "receive: %s", strerror(errno));
    }
  }
}

/* The value of header `name` in the head of the answer, or NULL; ends with "\r". */
static const char *find_header(const struct halut_client *client, const char *name) {
  size_t name_bytes = strlen(name);
  const char *line = client->answer.data;
  const char *end = client->answer.data + client->body_at;
  while ((line = memchr(line, '\n', (size_t)(end - line))) != NULL && ++line < end) {
    if (strncasecmp(line, name, name_bytes) != 0 || line[name_bytes] != ':')
      continue;
    const char *value = line + name_bytes + 1;
    return value + strspn(value, " \t");
  }
  return NULL;
}

static long header_number(const struct halut_client *client, const char *name) {
  const char *value = find_header(client, name);
  if (value == NULL || *value < '0' || *value > '9')
    return -1;
  errno = 0;
  long number = strtol(value, NULL, 10);
  return errno == ERANGE ? -1 : number;
}

static int read_head(struct halut_client *client) {
  client->answer.bytes = 0;
  client->body_at = 0;
  bool end = false;
  const char *stop = NULL;
  while (stop == NULL) {
    int error = receive(client, &end);
    if (error != 0)
      return error;
    if (end)
      return set_error(client, HALUT_CLIENT_ECONNECT, "the server hung up");
    stop = memmem(client->answer.data, client->answer.bytes, "\r\n\r\n", 4);
    if (stop == NULL && client->answer.bytes > HEAD_MAX) {
      return set_error(client, HALUT_CLIENT_EANSWER, "the answer's headers are too long");
    }
  }
  client->body_at = (size_t)(stop - client->answer.data) + 4;
  if (strncmp(client->answer.data, "HTTP/1.", 7) != 0 ||
      sscanf(client->answer.data + 8, " %3d", &client->status) != 1) {
    return set_error(client, HALUT_CLIENT_EANSWER, "the answer is not HTTP");
  }
  return 0;
}

/* The whole answer. The daemon always says its length; a body that ends with the connection is also
 * taken. */
static int read_answer(struct halut_client *client) {
  int error = read_head(client);
  if (error != 0)
    return error;
  long length = header_number(client, "Content-Length");
  long seconds = header_number(client, "Retry-After");
  client->retry_after_ms = seconds < 0 || seconds > 3600 ? -1 : (int)seconds * 1000;
  client->json_bytes = header_number(client, "Inference-Header-Content-Length");
  if (find_header(client, "Transfer-Encoding") != NULL) {
    return set_error(client, HALUT_CLIENT_EANSWER, "the answer is chunked, which is not supported");
  }
  bool end = false;
  while (!end && (length < 0 || client->answer.bytes - client->body_at < (size_t)length)) {
    error = receive(client, &end);
    if (error != 0)
      return error;
  }
  client->body_bytes = client->answer.bytes - client->body_at;
  if (length >= 0 && client->body_bytes < (size_t)length) {
    return set_error(client, HALUT_CLIENT_ECONNECT, "the server hung up within its answer");
  }
  if (length >= 0)
    client->body_bytes = (size_t)length;
  client->answer.data[client->body_at + client->body_bytes] = '\0';
  const char *connection = find_header(client, "Connection");
  if (length < 0 || (connection != NULL && strncasecmp(connection, "close", 5) == 0)) {
    disconnect(client);
  }
  return 0;
}

static int exchange_once(struct halut_client *client) {
  if (client->unrepeatable)
    disconnect(client);
  for (;;) {
    bool reused = client->descriptor >= 0;
    client->status = 0;
    client->retry_after_ms = -1;
    int error = reused ? 0 : connect_any(client);
    if (error == 0)
      error = send_request(client);
    if (error == 0)
      error = read_answer(client);
    if (error == 0)
      return 0;
    disconnect(client);
    /* A kept connection may have been closed meanwhile: that is no failure of the server. */
    if (error != HALUT_CLIENT_ECONNECT || !reused)
      return error;
  }
}

/* ---- JSON in place ---- */

static const char *json_blank(const char *p) {
  return p + strspn(p, " \t\r\n");
}

static const char *json_string_end(const char *p) {
  for (p++; *p != '"'; p++) {
    if (*p == '\0')
      return NULL;
    if (*p == '\\' && *++p == '\0')
      return NULL;
  }
  return p + 1;
}

/* Past the value at p, or NULL if it has no end. Brackets are counted; the server's JSON is trusted
 * to be well-formed otherwise. */
static const char *json_skip(const char *p) {
  size_t depth = 0;
  for (p = json_blank(p); *p != '\0';) {
    if (*p == '"') {
      p = json_string_end(p);
      if (p == NULL || depth == 0)
        return p;
    } else if (*p == '{' || *p == '[') {
      depth++;
      p++;
    } else if (*p == '}' || *p == ']') {
      if (depth == 0)
        return NULL;
      p++;
      if (--depth == 0)
        return p;
    } else if (depth == 0) {
      return p + strcspn(p, ",]} \t\r\n");
    } else {
      p++;
    }
  }
  return NULL;
}

/* The value of member `key` of the object at p, or NULL. */
static const char *json_member(const char *p, const char *key) {
  if (p == NULL || *(p = json_blank(p)) != '{')
    return NULL;
  p = json_blank(p + 1);
  size_t key_bytes = strlen(key);
  while (*p == '"') {
    const char *end = json_string_end(p);
    if (end == NULL)
      return NULL;
    bool found = (size_t)(end - p) == key_bytes + 2 && memcmp(p + 1, key, key_bytes) == 0;
    p = json_blank(end);
    if (*p != ':')
      return NULL;
    p = json_blank(p + 1);
    if (found)
      return p;
    p = json_skip(p);
    if (p == NULL || *(p = json_blank(p)) != ',')
      return NULL;
    p = json_blank(p + 1);
  }
  return NULL;
}

/* The first element of the array at p, or NULL if there is none. */
static const char *json_first(const char *p) {
  if (p == NULL || *(p = json_blank(p)) != '[')
    return NULL;
  p = json_blank(p + 1);
  return *p == ']' || *p == '\0' ? NULL : p;
}

static const char *json_next(const char *p) {
  p = json_skip(p);
  if (p == NULL || *(p = json_blank(p)) != ',')
    return NULL;
  return json_blank(p + 1);
}

/* Copies a string, cut to fit; escapes other than of one character stay as they are. */
static bool json_text(const char *p, char *out, size_t bytes) {
  if (p == NULL || *p != '"')
    return false;
  size_t used = 0;
  for (p++; *p != '"' && *p != '\0'; p++) {
    if (*p == '\\' && (p[1] == '"' || p[1] == '\\' || p[1] == '/'))
      p++;
    if (used + 1 < bytes)
      out[used++] = *p;
  }
  out[used] = '\0';
  return *p == '"';
}

/* ---- Calls ---- */

/* A 503, and anything that happened to the connection, may go better the next time. */
static bool may_retry(const struct halut_client *client, int error) {
  return (error == HALUT_CLIENT_ECONNECT && !client->unrepeatable) ||
         (error == 0 && client->status == 503);
}

static void pause_before(struct halut_client *client, uint32_t attempt) {
  uint64_t longest = PAUSE_FIRST_MS;
  for (uint32_t i = 1; i < attempt && longest < PAUSE_LONGEST_MS; i++)
    longest *= 2;
  if (longest > PAUSE_LONGEST_MS)
    longest = PAUSE_LONGEST_MS;
  client->random ^= client->random << 13; /* xorshift: spreads clients that were refused together */
  client->random ^= client->random >> 7;
  client->random ^= client->random << 17;
  uint64_t pause = longest / 2 + client->random % (longest / 2 + 1);
  if (client->retry_after_ms >= 0 && (uint64_t)client->retry_after_ms > pause) {
    pause = client->retry_after_ms < PAUSE_LONGEST_MS ? (uint64_t)client->retry_after_ms
                                                      : PAUSE_LONGEST_MS;
  }
  uint64_t now = now_ms();
  uint64_t left = client->deadline_ms > now ? client->deadline_ms - now : 0;
  poll(NULL, 0, (int)(pause < left ? pause : left));
}

static int answer_error(struct halut_client *client) {
  char text[200] = "no explanation";
  json_text(json_member(client->answer.data + client->body_at, "error"), text, sizeof text);
  return set_error(client, client->status == 503 ? HALUT_CLIENT_EBUSY : HALUT_CLIENT_EREFUSED,
                   "%s (HTTP %d)", text, client->status);
}

/* Sends client->request, again if that may help. 0 if the status is 2xx. */
static int call(struct halut_client *client, uint32_t attempts) {
  client->deadline_ms = now_ms() + client->options.timeout_ms;
  int error = 0;
  for (uint32_t attempt = 1;; attempt++) {
    error = exchange_once(client);
    if (!may_retry(client, error) || attempt >= attempts)
      break;
    pause_before(client, attempt);
    if (now_ms() >= client->deadline_ms)
      break;
  }
  if (error != 0)
    return error;
  return client->status >= 200 && client->status < 300 ? 0 : answer_error(client);
}

/* Starts a request; the body's `bytes` follow by buffer_add. `extra` are header lines with their
 * ends. */
static bool begin(struct halut_client *client, const char *method, const char *path, size_t bytes,
                  const char *extra) {
  struct buffer *request = &client->request;
  request->bytes = 0;
  client->unrepeatable = false;
  bool ok =
      buffer_format(request, "%s %s HTTP/1.1\r\nHost: %s\r\n", method, path, client->authority) &&
      buffer_format(request, "%s%s", client->header, extra);
  if (strcmp(method, "POST") == 0)
    ok = ok && buffer_format(request, "Content-Length: %zu\r\n", bytes);
  return ok && buffer_add(request, "\r\n", 2);
}

/* Appends `name` as it must be in a path or query. */
static bool add_escaped(char *out, size_t room, const char *name) {
  static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.~";
  size_t used = strlen(out);
  for (; *name != '\0'; name++) {
    if (used + 4 > room)
      return false;
    if (strchr(plain, *name) != NULL) {
      out[used++] = *name;
      out[used] = '\0';
    } else {
      used += (size_t)snprintf(out + used, room - used, "%%%02X", (unsigned)(unsigned char)*name);
    }
  }
  return true;
}

static int no_memory(struct halut_client *client) {
  return set_error(client, HALUT_CLIENT_ENOMEM, "no memory for the request");
}

static int bad_answer(struct halut_client *client, const char *what) {
  return set_error(client, HALUT_CLIENT_EANSWER, "the answer has no %s: %.100s", what,
                   client->answer.data + client->body_at);
}

int halut_client_health(struct halut_client *client) {
  if (!begin(client, "GET", "/healthz", 0, ""))
    return no_memory(client);
  return call(client, 1);
}

int halut_client_classify(struct halut_client *client, const char *model, const void *image,
                          size_t bytes, struct halut_client_label *labels, size_t *count) {
  char path[512];
  snprintf(path, sizeof path, "/v1/classify?top=%zu%s", *count, model != NULL ? "&model=" : "");
  if (model != NULL && !add_escaped(path, sizeof path, model)) {
    return set_error(client, HALUT_CLIENT_EINVALID, "model: the name is too long");
  }
  if (!begin(client, "POST", path, bytes, "Content-Type: application/octet-stream\r\n") ||
      !buffer_add(&client->request, image, bytes)) {
    return no_memory(client);
  }
  int error = call(client, client->options.attempts);
  if (error != 0)
    return error;
  size_t found = 0;
  const char *entry = json_first(json_member(client->answer.data + client->body_at, "top"));
  for (; entry != NULL && found < *count; entry = json_next(entry)) {
    struct halut_client_label *label = &labels[found++];
    const char *index = json_member(entry, "index");
    const char *probability = json_member(entry, "probability");
    if (!json_text(json_member(entry, "label"), label->label, sizeof label->label) ||
        index == NULL || probability == NULL) {
      return bad_answer(client, "label, index and probability");
    }
    label->index = (uint32_t)strtoul(index, NULL, 10);
    label->probability = strtod_l(probability, NULL, client->plain);
  }
  if (found == 0)
    return bad_answer(client, "labels");
  *count = found;
  return 0;
}

/* The head of a .npy file for f32 [rows][columns], a multiple of 64 bytes; returns its size. */
static size_t npy_head(char out[192], size_t rows, size_t columns) {
  char text[160];
  int bytes =
      snprintf(text, sizeof text, "{'descr': '<f4', 'fortran_order': False, 'shape': (%zu, %zu), }",
               rows, columns);
  size_t padded = ((size_t)bytes + 11 + 63) / 64 * 64;
  memset(out, ' ', padded);
  memcpy(out, "\x93NUMPY\x01\x00", 8);
  out[8] = (char)((padded - 10) & 0xff);
  out[9] = (char)((padded - 10) >> 8);
  memcpy(out + 10, text, (size_t)bytes);
  out[padded - 1] = '\n';
  return padded;
}

/* Takes apart the answer, an array f32 [rows][*columns_out]; *data_out points into it. */
static int npy_parse(struct halut_client *client, size_t rows, size_t *columns_out,
                     const char **data_out) {
  const char *body = client->answer.data + client->body_at;
  if (client->body_bytes < 10 || memcmp(body, "\x93NUMPY\x01", 7) != 0) {
    return set_error(client, HALUT_CLIENT_EANSWER, "the answer is not a .npy array");
  }
  size_t head = 10 + (size_t)(unsigned char)body[8] + ((size_t)(unsigned char)body[9] << 8);
  char text[512] = "";
  if (head <= client->body_bytes && head - 10 < sizeof text)
    memcpy(text, body + 10, head - 10);
  const char *shape = strstr(text, "'shape': (");
  size_t got_rows = 0, columns = 0;
  bool fine = shape != NULL && sscanf(shape + 10, "%zu, %zu)", &got_rows, &columns) == 2 &&
              strstr(text, "'<f4'") != NULL && strstr(text, "True") == NULL;
  size_t bytes = 0;
  fine = fine && got_rows == rows && !__builtin_mul_overflow(columns, rows * sizeof(float), &bytes);
  if (!fine || client->body_bytes - head != bytes) {
    return set_error(client, HALUT_CLIENT_EANSWER, "the answer is not a float32 array of %zu rows",
                     rows);
  }
  *columns_out = columns;
  *data_out = body + head;
  return 0;
}

int halut_client_matmul(struct halut_client *client, const char *model, const float *a, size_t rows,
                        size_t columns, float **c_out, size_t *outputs_out) {
  char path[512] = "/v1/matmul?model=", head[192];
  size_t values = 0, bytes = 0;
  if (!add_escaped(path, sizeof path, model)) {
    return set_error(client, HALUT_CLIENT_EINVALID, "model: the name is too long");
  }
  if (rows == 0 || columns == 0 || __builtin_mul_overflow(rows, columns, &values) ||
      __builtin_mul_overflow(values, sizeof *a, &bytes)) {
    return set_error(client, HALUT_CLIENT_EINVALID, "a: %zu x %zu values", rows, columns);
  }
  size_t head_bytes = npy_head(head, rows, columns);
  if (!begin(client, "POST", path, head_bytes + bytes,
             "Content-Type: application/x-npy\r\nAccept: application/x-npy\r\n") ||
      !buffer_add(&client->request, head, head_bytes) || !buffer_add(&client->request, a, bytes)) {
    return no_memory(client);
  }
  int error = call(client, client->options.attempts);
  const char *data = NULL;
  size_t outputs = 0;
  if (error == 0)
    error = npy_parse(client, rows, &outputs, &data);
  if (error != 0)
    return error;
  float *c = malloc(rows * outputs * sizeof *c + 1);
  if (c == NULL)
    return set_error(client, HALUT_CLIENT_ENOMEM, "no memory for the result");
  memcpy(c, data, rows * outputs * sizeof *c);
  *c_out = c;
  *outputs_out = outputs;
  return 0;
}

/* ---- The Open Inference Protocol ---- */

enum kind { KIND_UNSIGNED, KIND_SIGNED, KIND_FLOAT };

static const struct type {
  const char *name;
  size_t bytes;
  enum kind kind;
} types[] = {
    {"BOOL", 1, KIND_UNSIGNED},   {"UINT8", 1, KIND_UNSIGNED},  {"UINT16", 2, KIND_UNSIGNED},
    {"UINT32", 4, KIND_UNSIGNED}, {"UINT64", 8, KIND_UNSIGNED}, {"INT8", 1, KIND_SIGNED},
    {"INT16", 2, KIND_SIGNED},    {"INT32", 4, KIND_SIGNED},    {"INT64", 8, KIND_SIGNED},
    {"FP32", 4, KIND_FLOAT},      {"FP64", 8, KIND_FLOAT}};

static const struct type *find_type(const char *name) {
  for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
    if (strcmp(types[i].name, name) == 0)
      return &types[i];
  }
  return NULL;
}

/* The bytes a tensor of this type and shape has, or -1 if it cannot be. */
static int64_t tensor_bytes(const struct halut_client_tensor *tensor) {
  const struct type *type = find_type(tensor->datatype);
  if (type == NULL || tensor->rank == 0 || tensor->rank > HALUT_CLIENT_RANK_MAX)
    return -1;
  int64_t bytes = (int64_t)type->bytes;
  for (uint32_t i = 0; i < tensor->rank; i++) {
    if (tensor->dim[i] > INT64_MAX ||
        __builtin_mul_overflow(bytes, (int64_t)tensor->dim[i], &bytes)) {
      return -1;
    }
  }
  return bytes;
}

/* Little-endian machines only, as the daemon itself: memory is the wire format. */
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "tensors go out as they are in memory");

static bool add_number(struct buffer *out, const struct type *type, const char *at) {
  uint64_t bits = 0;
  memcpy(&bits, at, type->bytes);
  unsigned unused = (unsigned)(64 - 8 * type->bytes);
  if (type->kind == KIND_UNSIGNED)
    return buffer_format(out, "%llu", (unsigned long long)bits);
  if (type->kind == KIND_SIGNED) {
    return buffer_format(out, "%lld", (long long)((int64_t)(bits << unused) >> unused));
  }
  float narrow = 0;
  double wide = 0;
  memcpy(&narrow, at, sizeof narrow);
  if (type->bytes == 8)
    memcpy(&wide, at, sizeof wide);
  return type->bytes == 4 ? buffer_format(out, "%.9g", (double)narrow)
                          : buffer_format(out, "%.17g", wide);
}

static bool add_json_data(struct buffer *out, const struct halut_client_tensor *tensor) {
  const struct type *type = find_type(tensor->datatype);
  bool ok = buffer_format(out, ",\"data\":[");
  for (size_t at = 0; ok && at < tensor->bytes; at += type->bytes) {
    ok = (at == 0 || buffer_add(out, ",", 1)) &&
         add_number(out, type, (const char *)tensor->data + at);
  }
  return ok && buffer_add(out, "]", 1);
}

/* The JSON part of an inference request. */
static bool add_infer_json(struct buffer *out, const struct halut_client_tensor *inputs,
                           size_t count, int binary) {
  bool ok = buffer_format(out, "{%s\"inputs\":[",
                          binary ? "\"parameters\":{\"binary_data_output\":true}," : "");
  for (size_t i = 0; ok && i < count; i++) {
    const struct halut_client_tensor *input = &inputs[i];
    ok = buffer_format(out, "%s{\"name\":\"%s\",\"datatype\":\"%s\",\"shape\":[", i > 0 ? "," : "",
                       input->name, input->datatype);
    for (uint32_t d = 0; ok && d < input->rank; d++) {
      ok = buffer_format(out, "%s%llu", d > 0 ? "," : "", (unsigned long long)input->dim[d]);
    }
    ok = ok && buffer_add(out, "]", 1);
    if (binary) {
      ok = ok && buffer_format(out, ",\"parameters\":{\"binary_data_size\":%zu}", input->bytes);
    } else {
      ok = ok && add_json_data(out, input);
    }
    ok = ok && buffer_add(out, "}", 1);
  }
  return ok && buffer_format(out, "]}");
}

/* Reads "data":[…], nested or flat, into the tensor's memory; false if the count is another. */
static bool read_json_data(const char *p, locale_t plain, struct halut_client_tensor *tensor) {
  const struct type *type = find_type(tensor->datatype);
  const char *end = p == NULL ? NULL : json_skip(p);
  size_t at = 0;
  for (; p != NULL && p < end;) {
    p += strspn(p, "[], \t\r\n");
    if (p >= end)
      break;
    if (at + type->bytes > tensor->bytes)
      return false;
    char *stop = NULL;
    char *to = (char *)tensor->data + at;
    if (type->kind == KIND_FLOAT) {
      double wide = strtod_l(p, &stop, plain);
      float narrow = strtof_l(p, NULL, plain);
      memcpy(to, type->bytes == 4 ? (void *)&narrow : (void *)&wide, type->bytes);
    } else if (strncmp(p, "true", 4) == 0 || strncmp(p, "false", 5) == 0) {
      *to = *p == 't';
      stop = (char *)(uintptr_t)p + (*p == 't' ? 4 : 5);
    } else {
      uint64_t bits =
          type->kind == KIND_SIGNED ? (uint64_t)strtoll(p, &stop, 10) : strtoull(p, &stop, 10);
      memcpy(to, &bits, type->bytes);
    }
    if (stop == p)
      return false;
    p = stop;
    at += type->bytes;
  }
  return at == tensor->bytes && end != NULL;
}

/* One output from its JSON entry; binary data, if it has some, is at *blob, which moves past it. */
static int read_output(struct halut_client *client, const char *entry, const char **blob,
                       struct halut_client_tensor *out) {
  *out = (struct halut_client_tensor){0};
  const char *size_text = json_member(json_member(entry, "parameters"), "binary_data_size");
  bool ok = json_text(json_member(entry, "name"), out->name, sizeof out->name) &&
            json_text(json_member(entry, "datatype"), out->datatype, sizeof out->datatype);
  const char *dim = json_first(json_member(entry, "shape"));
  for (; ok && dim != NULL && out->rank < HALUT_CLIENT_RANK_MAX; dim = json_next(dim)) {
    out->dim[out->rank++] = strtoull(dim, NULL, 10);
  }
  int64_t bytes = ok ? tensor_bytes(out) : -1;
  const char *end = client->answer.data + client->body_at + client->body_bytes;
  if (bytes < 0 || dim != NULL || (uint64_t)bytes > client->options.answer_max) {
    return bad_answer(client, "tensor that can be read");
  }
  out->bytes = (size_t)bytes;
  out->data = malloc(out->bytes + 1);
  if (out->data == NULL)
    return set_error(client, HALUT_CLIENT_ENOMEM, "no memory for an output");
  if (size_text == NULL) {
    return read_json_data(json_member(entry, "data"), client->plain, out)
               ? 0
               : bad_answer(client, "data as its shape says");
  }
  if (strtoull(size_text, NULL, 10) != out->bytes || (size_t)(end - *blob) < out->bytes) {
    return bad_answer(client, "binary data as its shape says");
  }
  memcpy(out->data, *blob, out->bytes);
  *blob += out->bytes;
  return 0;
}

static int read_outputs(struct halut_client *client, struct halut_client_tensor *outputs,
                        size_t room, size_t *count) {
  const char *body = client->answer.data + client->body_at;
  size_t json_bytes = client->json_bytes < 0 ? client->body_bytes : (size_t)client->json_bytes;
  if (json_bytes > client->body_bytes)
    return bad_answer(client, "whole JSON part");
  char *json = strndup(body, json_bytes); /* ends with a NUL, which the JSON part itself does not */
  if (json == NULL)
    return set_error(client, HALUT_CLIENT_ENOMEM, "no memory for the answer");
  const char *entry = json_first(json_member(json, "outputs"));
  const char *blob = body + json_bytes;
  size_t found = 0;
  int error = entry == NULL ? bad_answer(client, "outputs") : 0;
  for (; error == 0 && entry != NULL; entry = json_next(entry)) {
    if (found < room) {
      error = read_output(client, entry, &blob, &outputs[found++]);
    } else {
      error =
          set_error(client, HALUT_CLIENT_EINVALID, "room for %zu outputs is too little", room);
    }
  }
  free(json);
  if (error != 0) {
    halut_client_free_outputs(outputs, found);
    found = 0;
  }
  *count = found;
  return error;
}

int halut_client_infer(struct halut_client *client, const char *model,
                       const struct halut_client_tensor *inputs, size_t input_count, int binary,
                       struct halut_client_tensor *outputs, size_t *output_count) {
  char path[512] = "/v2/models/", length[96] = "";
  const size_t room = *output_count;
  *output_count = 0; /* whatever fails from here on */
  if (!add_escaped(path, sizeof path - 8, model)) {
    return set_error(client, HALUT_CLIENT_EINVALID, "model: the name is too long");
  }
  memcpy(path + strlen(path), "/infer", 7);
  size_t bytes = 0;
  for (size_t i = 0; i < input_count; i++) {
    int64_t expected = tensor_bytes(&inputs[i]);
    if (expected < 0 || (size_t)expected != inputs[i].bytes ||
        strpbrk(inputs[i].name, "\"\\") != NULL) {
      return set_error(client, HALUT_CLIENT_EINVALID,
                       "input %zu: type, shape and size do not go together", i);
    }
    bytes += binary ? inputs[i].bytes : 0;
  }
  struct buffer json = {0};
  locale_t theirs = uselocale(client->plain);
  bool ok = add_infer_json(&json, inputs, input_count, binary);
  uselocale(theirs);
  if (binary)
    snprintf(length, sizeof length, "Inference-Header-Content-Length: %zu\r\n", json.bytes);
  char extra[192];
  snprintf(extra, sizeof extra, "Content-Type: application/%s\r\n%s",
           binary ? "octet-stream" : "json", length);
  ok = ok && begin(client, "POST", path, json.bytes + bytes, extra) &&
       buffer_add(&client->request, json.data, json.bytes);
  for (size_t i = 0; ok && binary && i < input_count; i++) {
    ok = buffer_add(&client->request, inputs[i].data, inputs[i].bytes);
  }
  free(json.data);
  if (!ok)
    return no_memory(client);
  int error = call(client, client->options.attempts);
  return error != 0 ? error : read_outputs(client, outputs, room, output_count);
}

void halut_client_free_outputs(struct halut_client_tensor *outputs, size_t count) {
  for (size_t i = 0; i < count; i++) {
    free(outputs[i].data);
    outputs[i].data = NULL;
  }
}

/* ---- Learning ---- */

static int read_job(struct halut_client *client, struct halut_client_job *out) {
  const char *body = client->answer.data + client->body_at;
  const char *progress = json_member(body, "progress"), *seconds = json_member(body, "seconds");
  struct halut_client_job job = {.nmse = NAN};
  if (!json_text(json_member(body, "id"), job.id, sizeof job.id) ||
      !json_text(json_member(body, "name"), job.name, sizeof job.name) ||
      !json_text(json_member(body, "state"), job.state, sizeof job.state) || progress == NULL ||
      seconds == NULL) {
    return bad_answer(client, "job");
  }
  json_text(json_member(body, "stage"), job.stage, sizeof job.stage);
  json_text(json_member(body, "error"), job.error, sizeof job.error);
  job.progress = strtod_l(progress, NULL, client->plain);
  job.seconds = strtod_l(seconds, NULL, client->plain);
  const char *result = json_member(body, "result");
  const char *version = json_member(result, "version"), *nmse = json_member(result, "nmse");
  if (version != NULL)
    job.version = (uint32_t)strtoul(version, NULL, 10);
  if (nmse != NULL && *nmse != 'n') /* null */
    job.nmse = strtod_l(nmse, NULL, client->plain);
  *out = job;
  return 0;
}

static int ask_job(struct halut_client *client, const char *method, const char *id,
                   struct halut_client_job *job_out) {
  char path[256] = "/v1/jobs/";
  if (*id == '\0' || !add_escaped(path, sizeof path, id))
    return set_error(client, HALUT_CLIENT_EINVALID, "id: none, or too long");
  if (!begin(client, method, path, 0, ""))
    return no_memory(client);
  int error = call(client, client->options.attempts);
  return error != 0 ? error : read_job(client, job_out);
}

int halut_client_job(struct halut_client *client, const char *id,
                     struct halut_client_job *job_out) {
  return ask_job(client, "GET", id, job_out);
}

int halut_client_cancel(struct halut_client *client, const char *id,
                        struct halut_client_job *job_out) {
  return ask_job(client, "DELETE", id, job_out);
}

/* The head of one part of a form. */
static bool add_part(struct buffer *out, const char *boundary, const char *name) {
  return buffer_format(out, "--%s\r\nContent-Disposition: form-data; name=\"%s\"\r\n\r\n", boundary,
                       name);
}

static bool add_matrix_head(struct buffer *out, const char *boundary, const char *name, size_t rows,
                            size_t columns) {
  char head[192];
  size_t bytes = npy_head(head, rows, columns);
  return add_part(out, boundary, name) && buffer_add(out, head, bytes);
}

static bool add_field(struct buffer *out, const char *boundary, const char *name,
                      const char *value) {
  return add_part(out, boundary, name) && buffer_add(out, value, strlen(value)) &&
         buffer_add(out, "\r\n", 2);
}

static int check_lesson(struct halut_client *client, const struct halut_client_lesson *lesson,
                        size_t *a_bytes_out, size_t *b_bytes_out) {
  size_t rows = lesson->rows, columns = lesson->columns, outputs = lesson->outputs;
  if (rows == 0 || columns == 0 || outputs == 0 || columns > SIZE_MAX / sizeof(float) ||
      __builtin_mul_overflow(rows, columns * sizeof(float), a_bytes_out) ||
      __builtin_mul_overflow(columns * sizeof(float), outputs, b_bytes_out) ||
      *a_bytes_out > SIZE_MAX / 2 - *b_bytes_out) {
    return set_error(client, HALUT_CLIENT_EINVALID, "a: %zu x %zu values, b: %zu x %zu", rows,
                     columns, columns, outputs);
  }
  for (size_t i = 0; i < lesson->field_count; i++) {
    const char *name = lesson->fields[i].name;
    if (name[strcspn(name, "\"\r\n")] != '\0')
      return set_error(client, HALUT_CLIENT_EINVALID, "fields[%zu]: a quote or line end", i);
  }
  return 0;
}

/* The form in client->request: fields, then a, then b. */
static bool add_lesson(struct halut_client *client, const struct halut_client_lesson *lesson,
                       size_t a_bytes, size_t b_bytes) {
  char boundary[32], end[48], type[96];
  snprintf(boundary, sizeof boundary, "halut%016llx%08x", (unsigned long long)client->random,
           (unsigned)now_ms());
  snprintf(end, sizeof end, "\r\n--%s--\r\n", boundary);
  snprintf(type, sizeof type, "Content-Type: multipart/form-data; boundary=%s\r\n", boundary);
  struct buffer before = {0}, between = {0};
  bool ok = add_field(&before, boundary, "name", lesson->name);
  for (size_t i = 0; ok && i < lesson->field_count; i++)
    ok = add_field(&before, boundary, lesson->fields[i].name, lesson->fields[i].value);
  ok = ok && add_matrix_head(&before, boundary, "a", lesson->rows, lesson->columns) &&
       buffer_add(&between, "\r\n", 2) &&
       add_matrix_head(&between, boundary, "b", lesson->columns, lesson->outputs);
  size_t bytes = before.bytes + a_bytes + between.bytes + b_bytes + strlen(end);
  ok = ok && begin(client, "POST", "/v1/learn", bytes, type) &&
       buffer_add(&client->request, before.data, before.bytes) &&
       buffer_add(&client->request, lesson->a, a_bytes) &&
       buffer_add(&client->request, between.data, between.bytes) &&
       buffer_add(&client->request, lesson->b, b_bytes) &&
       buffer_add(&client->request, end, strlen(end));
  free(before.data);
  free(between.data);
  client->unrepeatable = true;
  return ok;
}

int halut_client_start_learning(struct halut_client *client,
                                const struct halut_client_lesson *lesson,
                                struct halut_client_job *job_out) {
  size_t a_bytes = 0, b_bytes = 0;
  int error = check_lesson(client, lesson, &a_bytes, &b_bytes);
  if (error != 0)
    return error;
  if (!add_lesson(client, lesson, a_bytes, b_bytes))
    return no_memory(client);
  error = call(client, client->options.attempts);
  char id[sizeof job_out->id];
  if (error == 0 &&
      !json_text(json_member(client->answer.data + client->body_at, "id"), id, sizeof id)) {
    error = bad_answer(client, "id");
  }
  return error != 0 ? error : halut_client_job(client, id, job_out);
}

static bool is_state(const struct halut_client_job *job, const char *state) {
  return strcmp(job->state, state) == 0;
}

/* 0 if the job is done, 1 if it goes on. */
static int judge_job(struct halut_client *client, const struct halut_client_job *job) {
  if (is_state(job, "done"))
    return 0;
  if (is_state(job, "queued") || is_state(job, "running"))
    return 1;
  return set_error(client, HALUT_CLIENT_ELEARN, "job %s (%s): %.150s", job->id, job->name,
                   job->error[0] != '\0' ? job->error : job->state);
}

int halut_client_learn(struct halut_client *client, const struct halut_client_lesson *lesson,
                       uint32_t wait_ms, halut_client_progress *progress, void *self,
                       struct halut_client_job *job_out) {
  uint64_t begun = now_ms();
  bool cancelled = false;
  int error = halut_client_start_learning(client, lesson, job_out);
  while (error == 0) {
    bool stop = progress != NULL && progress(self, job_out) != 0;
    int state = judge_job(client, job_out);
    if (state != 1)
      return state;
    if (stop && !cancelled) {
      cancelled = true;
      error = halut_client_cancel(client, job_out->id, job_out);
      if (error == HALUT_CLIENT_EREFUSED && client->status == 409)
        error = 0; /* too late: it will be done */
      continue;
    }
    uint64_t waited = now_ms() - begun;
    if (wait_ms != 0 && waited >= wait_ms)
      return set_error(client, HALUT_CLIENT_ETIMEOUT, "job %s has not ended within %u ms",
                       job_out->id, wait_ms);
    uint64_t pause = waited / 10 < LOOK_LONGEST_MS ? waited / 10 : LOOK_LONGEST_MS;
    poll(NULL, 0, (int)(pause > LOOK_FIRST_MS ? pause : LOOK_FIRST_MS));
    error = halut_client_job(client, job_out->id, job_out);
  }
  return error;
}
