/* base64.h: strict RFC 4648 base64 (section 4, the plain alphabet), both ways.
 *
 * Pure functions on the caller's memory; any thread.
 */
#ifndef HALUT_BASE64_H
#define HALUT_BASE64_H

#include <stddef.h>
#include <stdint.h>

#include "../core/halut.h"

/* Bytes that decoding `text_bytes` characters needs at most. */
static inline size_t halut_base64_decoded_max(size_t text_bytes) {
  return text_bytes / 4 * 3 + 3;
}
/* Characters that encoding `bytes` bytes gives, without a final NUL. */
static inline size_t halut_base64_encoded_bytes(size_t bytes) {
  return (bytes + 2) / 3 * 4;
}

/* Decodes `text` to `out` (halut_base64_decoded_max bytes) and sets *bytes_out. Refused, with
 * HALUT_EINVALID and diag->offset the character at fault: any other character (blanks and line ends
 * too), missing or misplaced padding, and non-zero bits under the padding, so that every byte
 * string has one spelling. */
int halut_base64_decode(const char *text, size_t text_bytes, uint8_t *out, size_t *bytes_out,
                        struct halut_diag *diag) __attribute__((warn_unused_result));

/* Writes halut_base64_encoded_bytes(bytes) characters, padded, no NUL. */
void halut_base64_encode(const uint8_t *data, size_t bytes, char *out);

#endif
