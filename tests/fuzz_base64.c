/* fuzz_base64.c: what decodes has one spelling, which encoding gives back; and any bytes survive
 * both ways. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "../server/base64.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void text_check(const char *text, size_t bytes) {
  uint8_t *decoded = malloc(halut_base64_decoded_max(bytes));
  size_t count = 0;
  struct halut_diag diag = {0};
  if (decoded == NULL)
    return;
  int error = halut_base64_decode(text, bytes, decoded, &count, &diag);
  if (error != HALUT_OK && (diag.text[0] == '\0' || diag.offset > bytes))
    abort();
  char *again = error == HALUT_OK ? malloc(halut_base64_encoded_bytes(count) + 1) : NULL;
  if (again != NULL) {
    halut_base64_encode(decoded, count, again);
    if (bytes != halut_base64_encoded_bytes(count) || memcmp(again, text, bytes) != 0)
      abort();
  }
  free(again);
  free(decoded);
}

static void bytes_check(const uint8_t *data, size_t size) {
  size_t bytes = halut_base64_encoded_bytes(size), count = 0;
  char *text = malloc(bytes + 1);
  uint8_t *back = malloc(halut_base64_decoded_max(bytes));
  if (text != NULL && back != NULL) {
    halut_base64_encode(data, size, text);
    if (halut_base64_decode(text, bytes, back, &count, NULL) != HALUT_OK || count != size ||
        (size > 0 && memcmp(back, data, size) != 0))
      abort();
  }
  free(back);
  free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  char *text = malloc(size + 1); /* of its own, so that a sanitizer sees its ends */
  if (text == NULL)
    return 0;
  if (size > 0)
    memcpy(text, data, size);
  text[size] = '\0';
  text_check(text, size);
  bytes_check(data, size);
  free(text);
  return 0;
}
