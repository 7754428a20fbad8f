#include "health.h"

#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

struct target {
  char host[256], port[8], path[512];
};

static int url_parse(const char *url, struct target *target) {
  static const char scheme[] = "http://";
  if (strncmp(url, scheme, sizeof scheme - 1) != 0)
    return -1;
  const char *host = url + sizeof scheme - 1;
  size_t all = strcspn(host, "/"), bytes = all;
  const char *colon = memrchr(host, ':', all);
  snprintf(target->port, sizeof target->port, "80");
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
  const struct timeval limit = {.tv_sec = 3};
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

int halut_health(const char *url) {
  struct target target;
  char text[1024], answer[64] = "";
  size_t got = 0;
  if (url_parse(url, &target) != 0) {
    fprintf(stderr, "halutd: --health takes http://HOST[:PORT][/PATH], not \"%s\"\n", url);
    return 1;
  }
  int fd = dial(&target);
  if (fd < 0)
    return 1;
  int bytes =
      snprintf(text, sizeof text, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n",
               target.path, target.host);
  if (send(fd, text, (size_t)bytes, MSG_NOSIGNAL) == bytes)
    while (got < sizeof answer - 1) {
      ssize_t more = recv(fd, answer + got, sizeof answer - 1 - got, 0);
      if (more <= 0)
        break;
      got += (size_t)more;
    }
  close(fd);
  answer[got] = '\0';
  if (strncmp(answer, "HTTP/1.1 200", 12) == 0)
    return 0;
  answer[strcspn(answer, "\r\n")] = '\0';
  fprintf(stderr, "halutd: %s: %s\n", url, got > 0 ? answer : "no answer");
  return 1;
}
