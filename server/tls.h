/* tls.h: the certificate and key of secure listeners, checked before they are used.
 *
 * libmicrohttpd does TLS, with GnuTLS; this reads the files and says what is wrong with them, which
 * it cannot. Main only.
 */
#ifndef HALUT_TLS_H
#define HALUT_TLS_H

#include "../core/halut.h"

struct halut_tls {
  char *certificate, *key; /* PEM, NUL-terminated */
};

/* TLS 1.2 and 1.3 without what is weak, in the words of GnuTLS. */
extern const char halut_tls_priorities[];

/* Reads a chain of certificates, the server's own first, and the key of that one. HALUT_EIO: a file
 * cannot be read; HALUT_EFORMAT: it is no such thing, or they do not belong together. */
int halut_tls_open(const char *certificate_path, const char *key_path, struct halut_tls *out,
                   struct halut_diag *diag) __attribute__((warn_unused_result));
void halut_tls_close(struct halut_tls *tls); /* forgets the key; zeroed is fine */

#endif
