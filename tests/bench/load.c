/* An open-loop client: requests leave at even distances, whether or not earlier ones are answered.
 *
 *   load PORT PATH BODY RATE SECONDS CONNECTIONS
 *
 * posts the file BODY to 127.0.0.1 RATE times a second and prints a line of JSON: the answers, and
 * percentiles of their latency in microseconds, counted from when each was due. A request that
 * finds all connections busy waits for one, and that counts: a client which waits for answers
 * before it sends would hide the very delays that it is to measure. `unpunctual_us` is by how much
 * the client itself was late at worst although a connection was free; it should be small beside the
 * figures.
 *
 * Anything but an answer of 200 to every request ends it with an error. */
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/timerfd.h>
#include <uv.h>

enum { ANSWER_MAX = 65536, CONNECTIONS_MAX = 1000, REQUESTS_MAX = 10000000, BODY_MAX = 1 << 26 };

struct peer {
  uv_tcp_t tcp;
  uv_connect_t connect;
  uv_write_t write;
  struct peer *next_free;
  uint64_t due_ns; /* of the request that it is to answer */
  size_t used;
  bool is_busy;
  char answer[ANSWER_MAX + 1];
};

static struct {
  uv_loop_t *loop;
  uv_poll_t clock;
  int clock_fd;
  struct sockaddr_in address;
  char *request;
  size_t request_bytes;
  struct peer *peers, *free;
  size_t peer_count, connected;
  uint64_t start_ns, period_ns, unpunctual_ns;
  size_t total, sent, answered;
  uint64_t *took_ns; /* [total] */
} load;

static void fail(const char *what, const char *detail) {
  fprintf(stderr, "load: %s%s%s\n", what, detail[0] != '\0' ? ": " : "", detail);
  exit(1);
}

static void check(int error, const char *what) {
  if (error < 0)
    fail(what, uv_strerror(error));
}

static uint64_t due_ns(size_t index) {
  return load.start_ns + index * load.period_ns;
}

static void on_written(uv_write_t *write, int status) {
  (void)write;
  check(status, "cannot send");
}

/* Sends the next request, which is due. */
static void peer_send(struct peer *peer) {
  uv_buf_t whole = uv_buf_init(load.request, (unsigned)load.request_bytes);
  peer->due_ns = due_ns(load.sent++);
  peer->used = 0;
  peer->is_busy = true;
  check(uv_write(&peer->write, (uv_stream_t *)&peer->tcp, &whole, 1, on_written), "cannot send");
}

/* Wakes the loop when the next request is due. */
static void clock_set(void) {
  uint64_t at = due_ns(load.sent);
  struct itimerspec when = {.it_value = {(time_t)(at / 1000000000u), (long)(at % 1000000000u)}};
  if (timerfd_settime(load.clock_fd, TFD_TIMER_ABSTIME, &when, NULL) != 0)
    fail("cannot set a timer", strerror(errno));
}

static void on_due(uv_poll_t *handle, int status, int events) {
  uint64_t count, now_ns = uv_hrtime();
  (void)handle, (void)status, (void)events;
  if (read(load.clock_fd, &count, sizeof count) < 0 && errno != EAGAIN)
    fail("cannot read the timer", strerror(errno));
  while (load.free != NULL && load.sent < load.total && due_ns(load.sent) <= now_ns) {
    struct peer *peer = load.free;
    uint64_t late_ns = now_ns - due_ns(load.sent);
    if (late_ns > load.unpunctual_ns)
      load.unpunctual_ns = late_ns;
    load.free = peer->next_free;
    peer_send(peer);
  }
  if (load.free != NULL && load.sent < load.total)
    clock_set(); /* else the next answer frees a connection, or there is nothing more to send */
}

/* The bytes of the answer, or 0 while its header is not complete. */
static size_t answer_bytes(const struct peer *peer) {
  const char *body = strstr(peer->answer, "\r\n\r\n");
  if (body == NULL)
    return 0;
  const char *length = strcasestr(peer->answer, "\r\ncontent-length:");
  if (strncmp(peer->answer, "HTTP/1.1 200 ", 13) != 0 || length == NULL || length > body)
    fail("not an answer of 200 with a length", peer->answer);
  return (size_t)(body + 4 - peer->answer) +
         strtoul(length + strlen("\r\ncontent-length:"), NULL, 10);
}

static void peer_answered(struct peer *peer) {
  uint64_t now_ns = uv_hrtime();
  load.took_ns[load.answered++] = now_ns - peer->due_ns;
  peer->is_busy = false;
  if (load.answered == load.total) {
    uv_stop(load.loop);
  } else if (load.sent < load.total && load.free == NULL && due_ns(load.sent) <= now_ns) {
    peer_send(peer); /* one has waited for a connection */
  } else {
    bool is_first = load.free == NULL;
    peer->next_free = load.free;
    load.free = peer;
    if (is_first && load.sent < load.total)
      clock_set();
  }
}

static void on_room(uv_handle_t *handle, size_t suggested, uv_buf_t *room) {
  struct peer *peer = handle->data;
  (void)suggested;
  *room = uv_buf_init(peer->answer + peer->used, (unsigned)(ANSWER_MAX - peer->used));
}

static void on_read(uv_stream_t *stream, ssize_t bytes, const uv_buf_t *room) {
  struct peer *peer = stream->data;
  (void)room;
  check((int)bytes, "cannot read");
  if (!peer->is_busy)
    fail("an answer that nothing asked for", "");
  peer->used += (size_t)bytes;
  peer->answer[peer->used] = '\0';
  size_t whole = answer_bytes(peer);
  if (whole > ANSWER_MAX || (whole > 0 && peer->used > whole))
    fail("an answer that is too long", "");
  if (whole > 0 && peer->used == whole)
    peer_answered(peer);
}

static void on_connect(uv_connect_t *connect, int status) {
  struct peer *peer = connect->handle->data;
  check(status, "cannot connect");
  uv_tcp_nodelay(&peer->tcp, 1);
  check(uv_read_start((uv_stream_t *)&peer->tcp, on_room, on_read), "cannot read");
  peer->next_free = load.free;
  load.free = peer;
  if (++load.connected < load.peer_count)
    return;
  load.start_ns = uv_hrtime() + 1000000;
  check(uv_poll_start(&load.clock, UV_READABLE, on_due), "cannot wait");
  clock_set();
}

static void peers_connect(void) {
  load.peers = calloc(load.peer_count, sizeof *load.peers);
  if (load.peers == NULL)
    fail("no memory", "");
  for (size_t i = 0; i < load.peer_count; i++) {
    struct peer *peer = &load.peers[i];
    uv_tcp_init(load.loop, &peer->tcp);
    peer->tcp.data = peer;
    check(uv_tcp_connect(&peer->connect, &peer->tcp, (const struct sockaddr *)&load.address,
                         on_connect),
          "cannot connect");
  }
}

static void request_make(const char *path, const char *file) {
  FILE *body = fopen(file, "rb");
  if (body == NULL || fseek(body, 0, SEEK_END) != 0)
    fail(file, strerror(errno));
  size_t bytes = (size_t)ftell(body), room = bytes + strlen(path) + 128;
  if (bytes > BODY_MAX)
    fail(file, "too large, or no file");
  load.request = malloc(room);
  if (load.request == NULL)
    fail("no memory", "");
  int head =
      snprintf(load.request, room,
               "POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %zu\r\n\r\n", path, bytes);
  rewind(body);
  if (fread(load.request + head, 1, bytes, body) != bytes)
    fail(file, "cannot be read");
  fclose(body);
  load.request_bytes = (size_t)head + bytes;
}

static int ascending(const void *a, const void *b) {
  uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
  return (x > y) - (x < y);
}

static double percentile_us(double share) {
  return (double)load.took_ns[(size_t)(share * (double)(load.total - 1))] / 1e3;
}

/* A number of the command line in (0, most]. */
static double number(const char *text, double most, const char *name) {
  char *end;
  double value = strtod(text, &end);
  if (end == text || *end != '\0' || !(value > 0 && value <= most))
    fail(name, "not a number above 0 that is small enough");
  return value;
}

int main(int count, char **words) {
  if (count != 7)
    fail("usage: load PORT PATH BODY RATE SECONDS CONNECTIONS", "");
  double rate = number(words[4], 1e6, "RATE"), seconds = number(words[5], 3600, "SECONDS");
  load.loop = uv_default_loop();
  load.peer_count = (size_t)number(words[6], CONNECTIONS_MAX, "CONNECTIONS");
  load.total = (size_t)(rate * seconds);
  load.period_ns = (uint64_t)(1e9 / rate);
  if (load.total < 1 || load.total > REQUESTS_MAX || load.peer_count < 1)
    fail("RATE, SECONDS", "must give 1 to 10,000,000 requests");
  check(uv_ip4_addr("127.0.0.1", (int)number(words[1], 65535, "PORT"), &load.address), "PORT");
  request_make(words[2], words[3]);
  load.took_ns = calloc(load.total, sizeof *load.took_ns);
  load.clock_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
  if (load.took_ns == NULL || load.clock_fd < 0)
    fail("no memory or no timer", "");
  check(uv_poll_init(load.loop, &load.clock, load.clock_fd), "cannot wait");
  peers_connect();
  uv_run(load.loop, UV_RUN_DEFAULT);
  double took_s = (double)(uv_hrtime() - load.start_ns) / 1e9;
  qsort(load.took_ns, load.total, sizeof *load.took_ns, ascending);
  printf("{\"answers\":%zu,\"seconds\":%.3f,\"p50_us\":%.1f,\"p90_us\":%.1f,\"p99_us\":%.1f,"
         "\"p999_us\":%.1f,\"most_us\":%.1f,\"unpunctual_us\":%.1f}\n",
         load.answered, took_s, percentile_us(0.5), percentile_us(0.9), percentile_us(0.99),
         percentile_us(0.999), percentile_us(1.0), (double)load.unpunctual_ns / 1e3);
  return 0;
}
