/* fuzz_multipart.c: the first line is a Content-Type, the rest a body. A part that is found lies
 * inside the body, between a blank line and the boundary. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "../server/multipart.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void part_check(const uint8_t *body, size_t bytes, const char *boundary, const char *name) {
  const uint8_t *part = NULL;
  size_t part_bytes = 0;
  struct halut_diag diag = {0};
  int error = halut_multipart_find(body, bytes, boundary, name, &part, &part_bytes, &diag);
  if (error != HALUT_OK) {
    if (part != NULL || diag.text[0] == '\0' || diag.offset > bytes)
      abort();
    return;
  }
  size_t before = (size_t)(part - body), mark = strlen(boundary);
  if (part < body || before < 4 || before + part_bytes + 4 + mark > bytes)
    abort();
  if (memcmp(part - 4, "\r\n\r\n", 4) != 0 || memcmp(part + part_bytes, "\r\n--", 4) != 0 ||
      memcmp(part + part_bytes + 4, boundary, mark) != 0)
    abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  char boundary[71] = "";
  const uint8_t *end = size > 0 ? memchr(data, '\n', size) : NULL;
  if (end == NULL)
    return 0;
  char *type = strndup((const char *)data, (size_t)(end - data));
  size_t bytes = size - (size_t)(end + 1 - data);
  uint8_t *body = malloc(bytes + 1); /* of its own, so that a sanitizer sees its ends */
  if (type != NULL && body != NULL && halut_multipart_boundary(type, boundary) == HALUT_OK) {
    if (boundary[0] == '\0' || memchr(boundary, '\0', sizeof boundary) == NULL)
      abort();
    memcpy(body, end + 1, bytes);
    body[bytes] = 0;
    part_check(body, bytes, boundary, NULL);
    part_check(body, bytes, boundary, "image");
  }
  free(body);
  free(type);
  return 0;
}
