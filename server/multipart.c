#include "multipart.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

enum { HEADERS_MAX = 4096 };

int halut_multipart_boundary(const char *content_type, char *boundary) {
  static const char type[] = "multipart/form-data";
  if (content_type == NULL || strncasecmp(content_type, type, sizeof type - 1) != 0)
    return HALUT_ENOTFOUND;
  const char *at = strcasestr(content_type, "boundary=");
  if (at == NULL)
    return HALUT_EINVALID;
  at += strlen("boundary=");
  size_t bytes = *at == '"' ? strcspn(++at, "\"") : strcspn(at, "; \t");
  if (bytes == 0 || bytes > HALUT_BOUNDARY_MAX)
    return HALUT_EINVALID;
  memcpy(boundary, at, bytes);
  boundary[bytes] = '\0';
  return HALUT_OK;
}

/* The name that the headers of a part (text up to the blank line) give it; "" if none or too long.
 */
static void part_name(const char *headers, size_t bytes, char name[HALUT_PART_NAME_MAX]) {
  char line[HEADERS_MAX + 1];
  memcpy(line, headers, bytes);
  line[bytes] = '\0';
  name[0] = '\0';
  char *disposition = strcasestr(line, "content-disposition:");
  if (disposition == NULL)
    return;
  disposition[strcspn(disposition, "\r\n")] = '\0';
  /* ; key=token; key="any text" */
  for (const char *at = strchr(disposition, ';'); at != NULL; at = strchr(at, ';')) {
    at += 1 + strspn(at + 1, " \t");
    const char *key = at;
    at += strcspn(at, "=;");
    if (*at != '=')
      continue;
    bool is_name = at - key == 4 && strncasecmp(key, "name", 4) == 0;
    bool is_quoted = *++at == '"';
    size_t length = is_quoted ? strcspn(++at, "\"") : strcspn(at, "; \t");
    bool is_ended = !is_quoted || at[length] == '"';
    if (is_name && is_ended && length < HALUT_PART_NAME_MAX)
      snprintf(name, HALUT_PART_NAME_MAX, "%.*s", (int)length, at);
    at += length + (is_quoted && is_ended);
  }
}

int halut_multipart_open(const uint8_t *body, size_t bytes, const char *boundary,
                         struct halut_multipart *out, struct halut_diag *diag) {
  struct halut_multipart parts = {.body = body, .at = body, .end = body + bytes};
  parts.mark_bytes = (size_t)snprintf(parts.mark, sizeof parts.mark, "\r\n--%s", boundary);
  /* The first boundary may have no line end before it. */
  if (bytes >= parts.mark_bytes && memcmp(body, parts.mark, parts.mark_bytes) == 0)
    parts.at += 2;
  size_t first = parts.mark_bytes - 2;
  if ((size_t)(parts.end - parts.at) < first || memcmp(parts.at, parts.mark + 2, first) != 0)
    return halut_fail(diag, HALUT_EINVALID, 0,
                      "multipart: the body does not begin with its boundary");
  parts.at += first;
  *out = parts;
  return HALUT_OK;
}

int halut_multipart_next(struct halut_multipart *parts, const char *name, const uint8_t **part_out,
                         size_t *bytes_out, struct halut_diag *diag) {
  const uint8_t *end = parts->end;
  for (;;) {
    const uint8_t *at = parts->at;
    uint64_t offset = (uint64_t)(at - parts->body);
    if (end - at >= 2 && at[0] == '-' && at[1] == '-')
      return halut_fail(diag, HALUT_ENOTFOUND, offset, "multipart: no part named \"%s\"",
                        name != NULL ? name : "");
    while (at < end && (*at == ' ' || *at == '\t')) /* that transports added */
      at++;
    if (end - at < 2 || at[0] != '\r' || at[1] != '\n')
      return halut_fail(diag, HALUT_EINVALID, offset, "multipart: a broken boundary line");
    const uint8_t *blank = memmem(at, (size_t)(end - at), "\r\n\r\n", 4);
    if (blank == NULL || blank - at > HEADERS_MAX)
      return halut_fail(diag, HALUT_EINVALID, offset, "multipart: a part's headers do not end");
    const uint8_t *data = blank + 4;
    const uint8_t *next = memmem(data, (size_t)(end - data), parts->mark, parts->mark_bytes);
    if (next == NULL)
      return halut_fail(diag, HALUT_EINVALID, (uint64_t)(end - parts->body),
                        "multipart: the body ends inside a part");
    parts->at = next + parts->mark_bytes;
    part_name((const char *)at, (size_t)(blank - at), parts->name);
    if (name == NULL || strcmp(parts->name, name) == 0) {
      *part_out = data;
      *bytes_out = (size_t)(next - data);
      return HALUT_OK;
    }
  }
}

int halut_multipart_find(const uint8_t *body, size_t bytes, const char *boundary, const char *name,
                         const uint8_t **part_out, size_t *bytes_out, struct halut_diag *diag) {
  struct halut_multipart parts;
  int error = halut_multipart_open(body, bytes, boundary, &parts, diag);
  return error != HALUT_OK ? error : halut_multipart_next(&parts, name, part_out, bytes_out, diag);
}
