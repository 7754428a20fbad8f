/* tls.h: the certificate and key of secure listeners, checked before they are used.
 *
 * libmicrohttpd does TLS, with GnuTLS; this reads the files and says what is wrong with them, which
 * it cannot, and puts a newer pair under new connections, which it cannot either. Those that have
 * begun end on the pair that they began with.
 *
 * Opened on any thread; then the loop's.
 */
#ifndef HALUT_TLS_H
#define HALUT_TLS_H

#include <stdint.h>

#include "../core/halut.h"

struct halut_tls {
  char *certificate, *key; /* PEM, NUL-terminated */
  void *credentials;       /* gnutls_certificate_credentials_t */
  uint64_t expires_s;      /* since 1970: when the certificate ends */
  uint32_t holders;
};

/* TLS 1.2 and 1.3 without what is weak, in the words of GnuTLS. */
extern const char halut_tls_priorities[];

/* Reads a chain of certificates, the server's own first, and the key of that one. HALUT_EIO: a file
 * cannot be read; HALUT_EFORMAT: it is no such thing, or they do not belong together. */
int halut_tls_open(const char *certificate_path, const char *key_path, struct halut_tls **out,
                   struct halut_diag *diag) __attribute__((warn_unused_result));
struct halut_tls *halut_tls_hold(struct halut_tls *tls);
void halut_tls_drop(struct halut_tls *tls); /* the last one forgets the key; NULL is fine */

/* Before its handshake: `session` (gnutls_session_t) shows this certificate. It must be held until
 * the session has ended. */
void halut_tls_show(const struct halut_tls *tls, void *session);

#endif
