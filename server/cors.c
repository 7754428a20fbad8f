#include "cors.h"

#include <ctype.h>
#include <string.h>

const char halut_cors_sent[] =
    "Authorization, X-API-Key, Content-Type, Content-Encoding, Inference-Header-Content-Length, "
    "X-Request-Id, traceparent, tracestate";
const char halut_cors_read_back[] =
    "X-Request-Id, traceparent, Server-Timing, Retry-After, Inference-Header-Content-Length";

/* scheme "://" host [":" port], in small letters, and nothing after it. */
static bool is_origin(const char *text, size_t bytes) {
  size_t scheme = strcspn(text, ":");
  if (bytes >= HALUT_ORIGIN_BYTES_MAX || scheme == 0 || scheme + 3 >= bytes ||
      strncmp(text + scheme, "://", 3) != 0)
    return false;
  for (size_t i = 0; i < bytes; i++) {
    unsigned char c = (unsigned char)text[i];
    bool is_host = isdigit(c) || islower(c) || strchr("-.:[]", c) != NULL;
    bool is_mark = i > scheme && i < scheme + 3;
    if (i < scheme ? !(islower(c) || isdigit(c) || strchr("+-.", c) != NULL) : !is_host && !is_mark)
      return false;
  }
  return true;
}

bool halut_cors_read(const char *text, struct halut_cors *out, const char **bad_out) {
  *out = (struct halut_cors){0};
  if (strcmp(text, "off") == 0)
    return true;
  while (*(text += strspn(text, ", ")) != '\0') {
    size_t bytes = strcspn(text, ", ");
    *bad_out = text;
    if (out->count == HALUT_ORIGINS_MAX || !is_origin(text, bytes))
      return false;
    memcpy(out->origin[out->count++], text, bytes);
    text += bytes;
  }
  *bad_out = "nothing";
  return out->count > 0;
}

bool halut_cors_allows(const struct halut_cors *cors, const char *origin) {
  for (uint32_t i = 0; i < cors->count; i++)
    if (strcmp(cors->origin[i], origin) == 0)
      return true;
  return false;
}

bool halut_cors_is_local(const char *origin) {
  static const char *const own[] = {"127.0.0.1", "localhost", "[::1]"};
  const char *host = strstr(origin, "://");
  for (size_t i = 0; host != NULL && i < sizeof own / sizeof own[0]; i++) {
    size_t bytes = strlen(own[i]);
    if (strncmp(host + 3, own[i], bytes) == 0 && (host[3 + bytes] == ':' || host[3 + bytes] == 0))
      return true;
  }
  return false;
}

bool halut_cors_is_domain(const char *host) {
  size_t bytes = host[0] == '[' ? 0 : strcspn(host, ":");
  bool is_address = strspn(host, "0123456789.") == bytes;
  return !is_address && memchr(host, '.', bytes) != NULL;
}
