#include "base64.h"

#include <stdbool.h>

/* The value of a base64 character, or 255. Arithmetic on the classes instead of a table of 256: the
 * compiler makes selects of it, and there is nothing to get wrong. */
static inline uint8_t character_value(unsigned char c) {
  if (c >= 'A' && c <= 'Z')
    return (uint8_t)(c - 'A');
  if (c >= 'a' && c <= 'z')
    return (uint8_t)(c - 'a' + 26);
  if (c >= '0' && c <= '9')
    return (uint8_t)(c - '0' + 52);
  if (c == '+')
    return 62;
  if (c == '/')
    return 63;
  return 255;
}

static int fail_character(const char *text, size_t at, struct halut_diag *diag) {
  unsigned char c = (unsigned char)text[at];
  if (c == ':' || c == ';') {
    return halut_fail(diag, HALUT_EINVALID, at,
                      "base64: '%c' at character %zu (leave out the \"data:...;base64,\" prefix)",
                      c, at);
  }
  if (c == '-' || c == '_') {
    return halut_fail(diag, HALUT_EINVALID, at,
                      "base64: '%c' at character %zu (the URL alphabet is not accepted)", c, at);
  }
  if (c < ' ' || c > '~') {
    return halut_fail(diag, HALUT_EINVALID, at, "base64: byte 0x%02x at character %zu", c, at);
  }
  return halut_fail(diag, HALUT_EINVALID, at, "base64: '%c' at character %zu", c, at);
}

/* What follows the first '=': one that completes a group, and the end. */
static int check_padding(const char *text, size_t bytes, size_t at, unsigned have, uint32_t group,
                         struct halut_diag *diag) {
  size_t padding = bytes - at;
  if (have < 2 || padding != 4 - have || (padding == 2 && text[at + 1] != '=')) {
    return halut_fail(diag, HALUT_EINVALID, at, "base64: misplaced '=' at character %zu", at);
  }
  uint32_t unused = have == 2 ? group & 0xf : group & 0x3;
  if (unused != 0) {
    return halut_fail(diag, HALUT_EINVALID, at - 1,
                      "base64: bits that are not 0 before the padding at character %zu", at);
  }
  return 0;
}

int halut_base64_decode(const char *text, size_t text_bytes, uint8_t *out, size_t *bytes_out,
                        struct halut_diag *diag) {
  uint8_t *p = out;
  uint32_t group = 0;
  unsigned have = 0; /* characters in the group */
  size_t i = 0;
  for (; i < text_bytes; i++) {
    uint8_t value = character_value((unsigned char)text[i]);
    if (value == 255) {
      if (text[i] == '=')
        break;
      return fail_character(text, i, diag);
    }
    group = group << 6 | value;
    if (++have == 4) {
      p[0] = (uint8_t)(group >> 16);
      p[1] = (uint8_t)(group >> 8);
      p[2] = (uint8_t)group;
      p += 3;
      group = 0;
      have = 0;
    }
  }
  if (i < text_bytes) {
    int error = check_padding(text, text_bytes, i, have, group, diag);
    if (error != 0)
      return error;
    if (have == 3)
      group >>= 2;
    if (have == 2)
      group >>= 4;
    for (unsigned n = have - 1; n-- > 0;)
      *p++ = (uint8_t)(group >> (8 * n));
  } else if (have != 0) {
    return halut_fail(diag, HALUT_EINVALID, text_bytes,
                      "base64: ends within a group of four characters (truncated, or '=' missing)");
  }
  *bytes_out = (size_t)(p - out);
  return 0;
}

void halut_base64_encode(const uint8_t *data, size_t bytes, char *out) {
  static const char alphabet[65] =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  for (size_t i = 0; i < bytes; i += 3) {
    size_t have = bytes - i < 3 ? bytes - i : 3;
    uint32_t group = (uint32_t)data[i] << 16;
    if (have > 1)
      group |= (uint32_t)data[i + 1] << 8;
    if (have > 2)
      group |= data[i + 2];
    out[0] = alphabet[group >> 18];
    out[1] = alphabet[group >> 12 & 63];
    out[2] = have > 1 ? alphabet[group >> 6 & 63] : '=';
    out[3] = have > 2 ? alphabet[group & 63] : '=';
    out += 4;
  }
}
