#include "tls.h"

#include <errno.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FILE_BYTES_MAX = 262144 };

const char halut_tls_priorities[] = "SECURE128:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2";

static int read_text(const char *path, char **out, struct halut_diag *diag) {
  FILE *file = fopen(path, "re");
  char *text = file != NULL ? calloc(1, FILE_BYTES_MAX + 1) : NULL;
  size_t bytes = text != NULL ? fread(text, 1, FILE_BYTES_MAX + 1, file) : 0;
  int error = HALUT_OK;
  if (text == NULL || ferror(file))
    error = halut_fail(diag, HALUT_EIO, 0, "%.120s: %s", path, strerror(errno));
  else if (bytes > FILE_BYTES_MAX)
    error =
        halut_fail(diag, HALUT_EFORMAT, 0, "%.120s: longer than %d bytes", path, FILE_BYTES_MAX);
  if (file != NULL)
    fclose(file);
  if (error == HALUT_OK)
    *out = text;
  else
    free(text);
  return error;
}

/* Of the server's own certificate, which is the first; the others sign it. */
static int expiry_read(struct halut_tls *tls, const gnutls_datum_t *text) {
  gnutls_x509_crt_t *list = NULL;
  unsigned count = 0;
  if (gnutls_x509_crt_list_import2(&list, &count, text, GNUTLS_X509_FMT_PEM, 0) < 0)
    return -1;
  tls->expires_s = count > 0 ? (uint64_t)gnutls_x509_crt_get_expiration_time(list[0]) : 0;
  for (unsigned i = 0; i < count; i++)
    gnutls_x509_crt_deinit(list[i]);
  gnutls_free(list);
  return count > 0 ? 0 : -1;
}

/* Tells a bad certificate from a bad key from two that are strangers. */
static int pair_read(struct halut_tls *tls, const char *certificate_path, const char *key_path,
                     struct halut_diag *diag) {
  const gnutls_datum_t certificate = {(unsigned char *)tls->certificate,
                                      (unsigned)strlen(tls->certificate)};
  const gnutls_datum_t key = {(unsigned char *)tls->key, (unsigned)strlen(tls->key)};
  gnutls_certificate_credentials_t pair;
  if (gnutls_certificate_allocate_credentials(&pair) < 0)
    return halut_fail(diag, HALUT_ENOMEM, 0, "no memory for the certificate");
  tls->credentials = pair;
  if (expiry_read(tls, &certificate) != 0)
    return halut_fail(diag, HALUT_EFORMAT, 0, "%.120s: no certificate in PEM form",
                      certificate_path);
  int code = gnutls_certificate_set_x509_key_mem(pair, &certificate, &key, GNUTLS_X509_FMT_PEM);
  if (code == GNUTLS_E_CERTIFICATE_KEY_MISMATCH)
    return halut_fail(diag, HALUT_EFORMAT, 0, "%.60s is not the key of %.60s", key_path,
                      certificate_path);
  if (code < 0)
    return halut_fail(diag, HALUT_EFORMAT, 0, "%.100s: no private key in PEM form: %s", key_path,
                      gnutls_strerror(code));
  return HALUT_OK;
}

int halut_tls_open(const char *certificate_path, const char *key_path, struct halut_tls **out,
                   struct halut_diag *diag) {
  struct halut_tls *tls = calloc(1, sizeof *tls);
  if (tls == NULL)
    return halut_fail(diag, HALUT_ENOMEM, 0, "no memory for the certificate");
  tls->holders = 1;
  int error = read_text(certificate_path, &tls->certificate, diag);
  if (error == HALUT_OK)
    error = read_text(key_path, &tls->key, diag);
  if (error == HALUT_OK)
    error = pair_read(tls, certificate_path, key_path, diag);
  if (error == HALUT_OK)
    *out = tls;
  else
    halut_tls_drop(tls);
  return error;
}

struct halut_tls *halut_tls_hold(struct halut_tls *tls) {
  tls->holders++;
  return tls;
}

void halut_tls_drop(struct halut_tls *tls) {
  if (tls == NULL || --tls->holders > 0)
    return;
  if (tls->key != NULL)
    explicit_bzero(tls->key, strlen(tls->key));
  if (tls->credentials != NULL)
    gnutls_certificate_free_credentials(tls->credentials);
  free(tls->certificate);
  free(tls->key);
  free(tls);
}

void halut_tls_show(const struct halut_tls *tls, void *session) {
  gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, tls->credentials);
}
