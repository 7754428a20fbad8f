#include "multipart.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

enum { BOUNDARY_MAX = 70, HEADERS_MAX = 4096 };

int halut_multipart_boundary(const char *content_type, char *boundary) {
  static const char type[] = "multipart/form-data";
  if (content_type == NULL || strncasecmp(content_type, type, sizeof type - 1) != 0)
    return HALUT_ENOTFOUND;
  const char *at = strcasestr(content_type, "boundary=");
  if (at == NULL)
    return HALUT_EINVALID;
  at += strlen("boundary=");
  size_t bytes = *at == '"' ? strcspn(++at, "\"") : strcspn(at, "; \t");
  if (bytes == 0 || bytes > BOUNDARY_MAX)
    return HALUT_EINVALID;
  memcpy(boundary, at, bytes);
  boundary[bytes] = '\0';
  return HALUT_OK;
}

/* True if the headers of a part (text up to the blank line) call it `name`. */
static int is_named(const char *headers, size_t bytes, const char *name) {
  char line[HEADERS_MAX + 1], quoted[128];
  memcpy(line, headers, bytes);
  line[bytes] = '\0';
  const char *disposition = strcasestr(line, "content-disposition:");
  if (disposition == NULL)
    return 0;
  snprintf(quoted, sizeof quoted, " name=\"%s\"", name);
  const char *found = strstr(disposition, quoted);
  const char *end = strstr(disposition, "\r\n");
  return found != NULL && (end == NULL || found < end);
}

int halut_multipart_find(const uint8_t *body, size_t bytes, const char *boundary, const char *name,
                         const uint8_t **part_out, size_t *bytes_out, struct halut_diag *diag) {
  char mark[BOUNDARY_MAX + 5];
  size_t mark_bytes = (size_t)snprintf(mark, sizeof mark, "\r\n--%s", boundary);
  const uint8_t *end = body + bytes, *at;
  /* The first boundary has no line end before it. */
  if (bytes < mark_bytes - 2 || memcmp(body, mark + 2, mark_bytes - 2) != 0)
    return halut_fail(diag, HALUT_EINVALID, 0,
                      "multipart: the body does not begin with its boundary");
  at = body + mark_bytes - 2;
  for (;;) {
    if (end - at >= 2 && at[0] == '-' && at[1] == '-')
      return halut_fail(diag, HALUT_ENOTFOUND, (uint64_t)(at - body),
                        "multipart: no part named \"%s\"", name != NULL ? name : "");
    if (end - at < 2 || at[0] != '\r' || at[1] != '\n')
      return halut_fail(diag, HALUT_EINVALID, (uint64_t)(at - body),
                        "multipart: a broken boundary line");
    const uint8_t *headers = at;
    const uint8_t *blank = memmem(headers, (size_t)(end - headers), "\r\n\r\n", 4);
    if (blank == NULL || blank - headers > HEADERS_MAX)
      return halut_fail(diag, HALUT_EINVALID, (uint64_t)(at - body),
                        "multipart: a part's headers do not end");
    const uint8_t *data = blank + 4;
    const uint8_t *next = memmem(data, (size_t)(end - data), mark, mark_bytes);
    if (next == NULL)
      return halut_fail(diag, HALUT_EINVALID, bytes, "multipart: the body ends inside a part");
    if (name == NULL || is_named((const char *)headers, (size_t)(blank - headers), name)) {
      *part_out = data;
      *bytes_out = (size_t)(next - data);
      return HALUT_OK;
    }
    at = next + mark_bytes;
  }
}
