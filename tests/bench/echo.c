/* A bare libuv server, to hold the daemon against (http.py): it answers each POST with its body.
 *
 *   echo PORT      listens on 127.0.0.1 and prints a line when it does
 *
 * It does what no server can do without: it finds the end of the headers and Content-Length, reads
 * that many bytes and writes them back in one go. No limit, no check, no time-out, no log: it is
 * for the client of that benchmark alone, which sends a request when it has the answer to the last.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <uv.h>

enum { HEAD_MAX = 128, REQUEST_MAX = 65536, BACKLOG = 128 };

struct peer {
  uv_tcp_t tcp;
  uv_write_t write;
  size_t used;
  char head[HEAD_MAX];
  char bytes[REQUEST_MAX + 1];
};

static void fail(const char *what) {
  fprintf(stderr, "echo: %s\n", what);
  exit(1);
}

static void on_close(uv_handle_t *handle) {
  free(handle->data);
}

static void on_room(uv_handle_t *handle, size_t suggested, uv_buf_t *room) {
  struct peer *peer = handle->data;
  (void)suggested;
  *room = uv_buf_init(peer->bytes + peer->used, (unsigned)(REQUEST_MAX - peer->used));
}

static void on_written(uv_write_t *write, int status) {
  if (status < 0)
    uv_close((uv_handle_t *)write->handle, on_close);
}

/* Answers a request that is there to its last byte. */
static void peer_answer(struct peer *peer) {
  peer->bytes[peer->used] = '\0';
  const char *body = strstr(peer->bytes, "\r\n\r\n"), *length;
  if (body == NULL)
    return;
  body += 4;
  length = strcasestr(peer->bytes, "\r\ncontent-length:");
  if (length == NULL || length >= body)
    fail("a request without Content-Length");
  size_t bytes = strtoul(length + strlen("\r\ncontent-length:"), NULL, 10);
  if (peer->used - (size_t)(body - peer->bytes) < bytes)
    return;
  int head = snprintf(peer->head, sizeof peer->head,
                      "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n", bytes);
  uv_buf_t answer[2] = {uv_buf_init(peer->head, (unsigned)head),
                        uv_buf_init((char *)(size_t)body, (unsigned)bytes)};
  peer->used = 0;
  if (uv_write(&peer->write, (uv_stream_t *)&peer->tcp, answer, 2, on_written) != 0)
    fail("cannot write");
}

static void on_read(uv_stream_t *stream, ssize_t bytes, const uv_buf_t *room) {
  struct peer *peer = stream->data;
  (void)room;
  if (bytes < 0) {
    uv_close((uv_handle_t *)stream, on_close);
    return;
  }
  peer->used += (size_t)bytes;
  peer_answer(peer);
}

static void on_connection(uv_stream_t *server, int status) {
  struct peer *peer = malloc(sizeof *peer);
  if (status < 0 || peer == NULL)
    fail("no connection");
  peer->used = 0;
  uv_tcp_init(server->loop, &peer->tcp);
  peer->tcp.data = peer;
  if (uv_accept(server, (uv_stream_t *)&peer->tcp) != 0)
    fail("cannot accept");
  uv_tcp_nodelay(&peer->tcp, 1);
  uv_read_start((uv_stream_t *)&peer->tcp, on_room, on_read);
}

int main(int count, char **words) {
  uv_tcp_t server;
  struct sockaddr_in address;
  if (count != 2 || uv_ip4_addr("127.0.0.1", (int)strtoul(words[1], NULL, 10), &address) != 0)
    fail("usage: echo PORT");
  uv_tcp_init(uv_default_loop(), &server);
  if (uv_tcp_bind(&server, (const struct sockaddr *)&address, 0) != 0 ||
      uv_listen((uv_stream_t *)&server, BACKLOG, on_connection) != 0)
    fail("cannot listen there");
  printf("echo on port %s\n", words[1]);
  fflush(stdout);
  return uv_run(uv_default_loop(), UV_RUN_DEFAULT);
}
