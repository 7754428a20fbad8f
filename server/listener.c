#include "listener.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "systemd.h"

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
  const char *scheme = listen->is_secure ? "https" : "http";
  listener->is_secure = listen->is_secure;
  memset(&bound, 0, sizeof bound);
  if (listen->kind != HALUT_LISTEN_UNIX && getsockname(listener->fd, &bound.any, &bytes) == 0)
    port = ntohs(listen->kind == HALUT_LISTEN_IP4 ? bound.ip4.sin_port : bound.ip6.sin6_port);
  if (listen->kind == HALUT_LISTEN_UNIX)
    snprintf(listener->url, sizeof listener->url, "unix:%s", listen->host);
  else if (listen->kind == HALUT_LISTEN_IP4)
    snprintf(listener->url, sizeof listener->url, "%s://%s:%u", scheme, listen->host, port);
  else
    snprintf(listener->url, sizeof listener->url, "%s://[%s]:%u", scheme, listen->host, port);
}

int halut_listener_open(const struct halut_listen *listen_on, unsigned socket_mode,
                        struct halut_listener *out, struct halut_diag *diag) {
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
  step = "permissions";
  if (listen_on->kind == HALUT_LISTEN_UNIX && chmod(listen_on->host, socket_mode) != 0)
    goto fail;
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

static bool is_listening(int fd) {
  int type = 0, listening = 0;
  socklen_t bytes = sizeof type;
  return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &bytes) == 0 && type == SOCK_STREAM &&
         getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &bytes) == 0 && listening != 0;
}

int halut_listener_adopt(int fd, bool has_tls, struct halut_listener *out,
                         struct halut_diag *diag) {
  struct halut_listener listener = {.fd = fd};
  struct halut_listen listen_on = {.kind = HALUT_LISTEN_UNIX};
  union address address;
  socklen_t bytes = sizeof address;
  memset(&address, 0, sizeof address);
  if (!is_listening(fd) || getsockname(fd, &address.any, &bytes) != 0)
    goto fail;
  switch (address.any.sa_family) {
  case AF_INET:
    listen_on.kind = HALUT_LISTEN_IP4;
    inet_ntop(AF_INET, &address.ip4.sin_addr, listen_on.host, sizeof listen_on.host);
    break;
  case AF_INET6:
    listen_on.kind = HALUT_LISTEN_IP6;
    inet_ntop(AF_INET6, &address.ip6.sin6_addr, listen_on.host, sizeof listen_on.host);
    break;
  case AF_UNIX:
    snprintf(listen_on.host, sizeof listen_on.host, "%s", address.local.sun_path);
    break;
  default:
    goto fail;
  }
  if (fcntl(fd, F_SETFL, O_NONBLOCK) != 0 || fcntl(fd, F_SETFD, FD_CLOEXEC) != 0)
    goto fail;
  listen_on.is_secure = has_tls && listen_on.kind != HALUT_LISTEN_UNIX;
  name_listener(&listen_on, &listener);
  *out = listener;
  return 0;
fail:
  close(fd);
  return halut_fail(diag, HALUT_EINVALID, 0,
                    "the passed descriptor %d is no listening stream socket of IPv4, IPv6 or Unix",
                    fd);
}

int halut_listeners_open(const struct halut_config *config, struct halut_listener *out,
                         uint32_t *count_out, struct halut_diag *diag) {
  bool has_tls = strcmp(config->tls_cert, "off") != 0;
  int first = 0, error = 0;
  uint32_t passed = halut_systemd_sockets(&first), count = 0;
  uint32_t wanted = passed > 0 ? passed : config->listen_count;
  if (wanted > HALUT_LISTEN_MAX)
    return halut_fail(diag, HALUT_ELIMIT, 0, "%u sockets were passed, the most is %d", wanted,
                      HALUT_LISTEN_MAX);
  while (count < wanted && error == 0) {
    error = passed > 0 ? halut_listener_adopt(first + (int)count, has_tls, &out[count], diag)
                       : halut_listener_open(&config->listens[count], config->socket_mode_bits,
                                             &out[count], diag);
    if (error == 0)
      count++;
  }
  for (uint32_t i = 0; i < count && error != 0; i++)
    halut_listener_close(&out[i]);
  *count_out = error == 0 ? count : 0;
  return error;
}

void halut_listener_close(struct halut_listener *listener) {
  if (listener->fd >= 0)
    close(listener->fd);
  listener->fd = -1;
  if (listener->unlink_path[0] != '\0')
    unlink(listener->unlink_path);
  listener->unlink_path[0] = '\0';
}
