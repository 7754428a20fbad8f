#include "health.h"

#include <errno.h>
#include <gnutls/gnutls.h>
#include <netdb.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

enum { LIMIT_S = 3, RETRIES = 8 };

struct target {
  bool is_secure;
  char host[256], port[8], path[512];
};

static int url_parse(const char *url, struct target *target) {
  target->is_secure = strncmp(url, "https://", 8) == 0;
  if (!target->is_secure && strncmp(url, "http://", 7) != 0)
    return -1;
  const char *host = url + (target->is_secure ? 8 : 7);
  size_t all = strcspn(host, "/"), bytes = all;
  const char *colon = memrchr(host, ':', all);
  snprintf(target->port, sizeof target->port, "%s", target->is_secure ? "443" : "80");
  if (host[0] == '[') {
    const char *end = memchr(host, ']', all);
    if (end == NULL)
      return -1;
    if (colon != NULL && colon < end)
      colon = NULL;
    bytes = (size_t)(end - ++host);
  } else if (colon != NULL) {
    bytes = (size_t)(colon - host);
  }
  if (colon != NULL)
    snprintf(target->port, sizeof target->port, "%.*s", (int)strcspn(colon + 1, "/"), colon + 1);
  if (bytes == 0 || bytes >= sizeof target->host)
    return -1;
  snprintf(target->host, sizeof target->host, "%.*s", (int)bytes, host);
  const char *path = strchr(host, '/');
  snprintf(target->path, sizeof target->path, "%s", path != NULL ? path : "/healthz");
  return 0;
}

static int dial(const struct target *target) {
  static const struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
  const struct timeval limit = {.tv_sec = LIMIT_S};
  struct addrinfo *list = NULL;
  int fd = -1, error = getaddrinfo(target->host, target->port, &hints, &list);
  if (error != 0) {
    fprintf(stderr, "halutd: %s: %s\n", target->host, gai_strerror(error));
    return -1;
  }
  for (struct addrinfo *at = list; at != NULL && fd < 0; at = at->ai_next) {
    fd = socket(at->ai_family, at->ai_socktype | SOCK_CLOEXEC, at->ai_protocol);
    if (fd < 0)
      continue;
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    if (connect(fd, at->ai_addr, at->ai_addrlen) != 0) {
      close(fd);
      fd = -1;
    }
  }
  freeaddrinfo(list);
  if (fd < 0)
    fprintf(stderr, "halutd: %s port %s: %s\n", target->host, target->port, strerror(errno));
  return fd;
}

/* ---- the two ways to ask: each returns how many bytes of the answer came ---- */

static size_t plain_ask(int fd, const char *text, size_t bytes, char *answer, size_t room) {
  size_t got = 0;
  if (send(fd, text, bytes, MSG_NOSIGNAL) != (ssize_t)bytes)
    return 0;
  while (got < room) {
    ssize_t more = recv(fd, answer + got, room - got, 0);
    if (more <= 0)
      break;
    got += (size_t)more;
  }
  return got;
}

/* The daemon may be known by another name than the one it is asked by here, which tells nothing of
 * its health: its certificate is not checked. Nothing secret is sent. */
static size_t secure_ask(int fd, const char *text, size_t bytes, char *answer, size_t room) {
  gnutls_session_t session;
  gnutls_certificate_credentials_t credentials;
  size_t got = 0;
  int code = GNUTLS_E_AGAIN;
  if (gnutls_certificate_allocate_credentials(&credentials) < 0)
    return 0;
  if (gnutls_init(&session, GNUTLS_CLIENT) < 0) {
    gnutls_certificate_free_credentials(credentials);
    return 0;
  }
  gnutls_set_default_priority(session);
  gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, credentials);
  gnutls_transport_set_int(session, fd);
  for (int i = 0; i < RETRIES && code < 0 && gnutls_error_is_fatal(code) == 0; i++)
    code = gnutls_handshake(session);
  if (code < 0)
    fprintf(stderr, "halutd: TLS: %s\n", gnutls_strerror(code));
  else if (gnutls_record_send(session, text, bytes) == (ssize_t)bytes)
    for (int i = 0; i < RETRIES && got < room; i++) {
      ssize_t more = gnutls_record_recv(session, answer + got, room - got);
      if (more == 0 || (more < 0 && gnutls_error_is_fatal((int)more) != 0))
        break;
      got += more > 0 ? (size_t)more : 0;
    }
  gnutls_deinit(session);
  gnutls_certificate_free_credentials(credentials);
  return got;
}

int halut_health(const char *url) {
  struct target target;
  char text[1024], answer[64] = "";
  if (url_parse(url, &target) != 0) {
    fprintf(stderr, "halutd: --health takes http[s]://HOST[:PORT][/PATH], not \"%s\"\n", url);
    return 1;
  }
  int fd = dial(&target);
  if (fd < 0)
    return 1;
  int bytes =
      snprintf(text, sizeof text, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n",
               target.path, target.host);
  size_t got = (target.is_secure ? secure_ask : plain_ask)(fd, text, (size_t)bytes, answer,
                                                           sizeof answer - 1);
  close(fd);
  answer[got] = '\0';
  if (strncmp(answer, "HTTP/1.1 200", 12) == 0)
    return 0;
  answer[strcspn(answer, "\r\n")] = '\0';
  fprintf(stderr, "halutd: %s: %s\n", url, got > 0 ? answer : "no answer");
  return 1;
}
