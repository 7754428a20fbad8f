#include "systemd.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { FIRST_PASSED = 3, PASSED_MAX = 64 };

static unsigned long number_of(const char *variable) {
  const char *text = getenv(variable);
  char *end = NULL;
  unsigned long number = text != NULL ? strtoul(text, &end, 10) : 0;
  return end != NULL && end != text && *end == '\0' ? number : 0;
}

uint32_t halut_systemd_sockets(int *first_out) {
  static const char *const variables[] = {"LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"};
  unsigned long count = number_of("LISTEN_FDS");
  if (number_of("LISTEN_PID") != (unsigned long)getpid() || count > PASSED_MAX)
    count = 0;
  *first_out = FIRST_PASSED;
  for (size_t i = 0; i < sizeof variables / sizeof variables[0]; i++)
    unsetenv(variables[i]);
  return (uint32_t)count;
}

void halut_systemd_notify(const char *state) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  const char *path = getenv("NOTIFY_SOCKET");
  size_t bytes = path != NULL ? strlen(path) : 0;
  if (bytes < 2 || bytes >= sizeof address.sun_path || (path[0] != '/' && path[0] != '@'))
    return;
  memcpy(address.sun_path, path, bytes);
  if (path[0] == '@') /* an abstract name */
    address.sun_path[0] = '\0';
  int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0)
    return;
  (void)!sendto(fd, state, strlen(state), MSG_NOSIGNAL, (const struct sockaddr *)&address,
                (socklen_t)(offsetof(struct sockaddr_un, sun_path) + bytes));
  close(fd);
}
