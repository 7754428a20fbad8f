/* listener.h: listening sockets from configuration: TCP over IPv4 and IPv6, and Unix sockets.
 *
 * Called by main before the loop runs.
 */
#ifndef HALUT_LISTENER_H
#define HALUT_LISTENER_H

#include "../core/halut.h"
#include "config.h"

struct halut_listener {
  int fd; /* non-blocking, close-on-exec, listening; -1 if closed */
  char url[HALUT_LISTEN_HOST_MAX +
           16]; /* "http://127.0.0.1:8080" with the port in use, "unix:/path" */
  char unlink_path[HALUT_LISTEN_HOST_MAX]; /* of a Unix socket we made, "" otherwise */
};

/* A "::" address takes IPv4 as well. A Unix socket that nobody answers on is replaced. HALUT_EIO,
 * with the address and the reason. */
int halut_listener_open(const struct halut_listen *listen, struct halut_listener *out,
                        struct halut_diag *diag) __attribute__((warn_unused_result));
/* Closes the socket if it is open, and removes the path it made. */
void halut_listener_close(struct halut_listener *listener);

#endif
