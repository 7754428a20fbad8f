/* fuzz_guard.c: any bytes as the headers of a request: a line a header, "name:value". What passes
 * has one framing: a length or chunks, never both. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "../server/guard.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct halut_guard_header headers[HALUT_HEADERS_MAX];
  char *text = malloc(size + 1);
  if (text == NULL)
    return 0;
  if (size > 0)
    memcpy(text, data, size);
  text[size] = '\0';
  (void)halut_guard_target(text);
  size_t count = 0;
  for (char *line = text; line < text + size; line++) {
    size_t bytes = strcspn(line, "\n");
    const char *colon = memchr(line, ':', bytes);
    if (colon != NULL) {
      if (count < HALUT_HEADERS_MAX) {
        headers[count] =
            (struct halut_guard_header){.name = line,
                                        .value = colon + 1,
                                        .name_bytes = (size_t)(colon - line),
                                        .value_bytes = bytes - (size_t)(colon - line) - 1};
      }
      count++;
    }
    line += bytes;
  }
  struct halut_guard_framing framing;
  const char *reason = NULL;
  static const struct halut_guard_limits limits = {64, 6144};
  unsigned status = halut_guard_check(&limits, "HTTP/1.1", headers, count, &framing, &reason);
  if (status == 0 && framing.has_length && framing.chunked)
    abort();
  if (status != 0 && (reason == NULL || status < 400 || status > 599))
    abort();
  free(text);
  return 0;
}
