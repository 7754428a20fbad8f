/* listener.h: listening sockets from configuration: TCP over IPv4 and IPv6, and Unix sockets.
 *
 * Called by main before the loop runs.
 */
#ifndef HALUT_LISTENER_H
#define HALUT_LISTENER_H

#include "../core/halut.h"
#include "config.h"

struct halut_listener {
  bool is_secure; /* TLS is spoken on it */
  int fd;         /* non-blocking, close-on-exec, listening; -1 if closed */
  char url[HALUT_LISTEN_HOST_MAX +
           16]; /* "http://127.0.0.1:8080" with the port in use, "unix:/path" */
  char unlink_path[HALUT_LISTEN_HOST_MAX]; /* of a Unix socket we made, "" otherwise */
};

/* A "::" address takes IPv4 as well. A Unix socket that nobody answers on is replaced, and gets the
 * permissions `socket_mode`. HALUT_EIO, with the address and the reason. */
int halut_listener_open(const struct halut_listen *listen, unsigned socket_mode,
                        struct halut_listener *out, struct halut_diag *diag)
    __attribute__((warn_unused_result));
/* Takes over a socket that listens already. HALUT_EINVALID if it is not one, or of another family
 * than IPv4, IPv6 and Unix; it is then closed. With `has_tls`, TCP is secure. */
int halut_listener_adopt(int fd, bool has_tls, struct halut_listener *out, struct halut_diag *diag)
    __attribute__((warn_unused_result));
/* All that were passed by systemd or, if there are none, all of config->listens, into
 * out[HALUT_LISTEN_MAX]. On failure all are closed. */
int halut_listeners_open(const struct halut_config *config, struct halut_listener *out,
                         uint32_t *count_out, struct halut_diag *diag)
    __attribute__((warn_unused_result));
/* Closes the socket if it is open, and removes the path it made. */
void halut_listener_close(struct halut_listener *listener);

#endif
