#include "listener.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { BACKLOG = 1024 };

union address {
  struct sockaddr any;
  struct sockaddr_in ip4;
  struct sockaddr_in6 ip6;
  struct sockaddr_un local;
};

static int address_fill(const struct halut_listen *listen, union address *address,
                        socklen_t *bytes_out) {
  memset(address, 0, sizeof *address);
  switch (listen->kind) {
  case HALUT_LISTEN_IP4:
    address->ip4.sin_family = AF_INET;
    address->ip4.sin_port = htons(listen->port);
    *bytes_out = sizeof address->ip4;
    return inet_pton(AF_INET, listen->host, &address->ip4.sin_addr) == 1 ? 0 : -1;
  case HALUT_LISTEN_IP6:
    address->ip6.sin6_family = AF_INET6;
    address->ip6.sin6_port = htons(listen->port);
    *bytes_out = sizeof address->ip6;
    return inet_pton(AF_INET6, listen->host, &address->ip6.sin6_addr) == 1 ? 0 : -1;
  case HALUT_LISTEN_UNIX:
    if (strlen(listen->host) >= sizeof address->local.sun_path)
      return -1;
    address->local.sun_family = AF_UNIX;
    memcpy(address->local.sun_path, listen->host, strlen(listen->host) + 1);
    *bytes_out = sizeof address->local;
    return 0;
  }
  return -1;
}

/* A socket file left by a daemon that died refuses connections; one that answers belongs to
 * somebody. */
static void remove_stale(const union address *address, socklen_t bytes) {
  struct stat status;
  if (lstat(address->local.sun_path, &status) != 0 || !S_ISSOCK(status.st_mode))
    return;
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0)
    return;
  if (connect(fd, &address->any, bytes) != 0 && errno == ECONNREFUSED)
    unlink(address->local.sun_path);
  close(fd);
}

static void name_listener(const struct halut_listen *listen, struct halut_listener *listener) {
  union address bound;
  socklen_t bytes = sizeof bound;
  unsigned port = listen->port;
  memset(&bound, 0, sizeof bound);
  if (listen->kind != HALUT_LISTEN_UNIX && getsockname(listener->fd, &bound.any, &bytes) == 0)
    port = ntohs(listen->kind == HALUT_LISTEN_IP4 ? bound.ip4.sin_port : bound.ip6.sin6_port);
  if (listen->kind == HALUT_LISTEN_UNIX)
    snprintf(listener->url, sizeof listener->url, "unix:%s", listen->host);
  else if (listen->kind == HALUT_LISTEN_IP4)
    snprintf(listener->url, sizeof listener->url, "http://%s:%u", listen->host, port);
  else
    snprintf(listener->url, sizeof listener->url, "http://[%s]:%u", listen->host, port);
}

int halut_listener_open(const struct halut_listen *listen_on, struct halut_listener *out,
                        struct halut_diag *diag) {
  struct halut_listener listener = {.fd = -1};
  union address address;
  socklen_t bytes = 0;
  const char *step = "address";
  int one = 1, zero = 0;
  if (address_fill(listen_on, &address, &bytes) != 0) {
    errno = EINVAL;
    goto fail;
  }
  step = "socket";
  listener.fd = socket(address.any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (listener.fd < 0)
    goto fail;
  if (listen_on->kind == HALUT_LISTEN_UNIX)
    remove_stale(&address, bytes);
  else
    setsockopt(listener.fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (listen_on->kind == HALUT_LISTEN_IP6)
    setsockopt(listener.fd, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof zero);
  step = "bind";
  if (bind(listener.fd, &address.any, bytes) != 0)
    goto fail;
  if (listen_on->kind == HALUT_LISTEN_UNIX)
    snprintf(listener.unlink_path, sizeof listener.unlink_path, "%s", listen_on->host);
  step = "listen";
  if (listen(listener.fd, BACKLOG) != 0)
    goto fail;
  name_listener(listen_on, &listener);
  *out = listener;
  return 0;
fail:
  halut_fail(diag, HALUT_EIO, 0, "listen on %s%s port %u: %s: %s",
             listen_on->kind == HALUT_LISTEN_UNIX ? "unix:" : "", listen_on->host, listen_on->port,
             step, strerror(errno));
  halut_listener_close(&listener);
  return HALUT_EIO;
}

void halut_listener_close(struct halut_listener *listener) {
  if (listener->fd >= 0)
    close(listener->fd);
  listener->fd = -1;
  if (listener->unlink_path[0] != '\0')
    unlink(listener->unlink_path);
  listener->unlink_path[0] = '\0';
}
