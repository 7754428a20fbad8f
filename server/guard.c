/* DESIGN: one pass over the headers fills a tally; the verdict reads the tally. The rules are those
 * of RFC 9112 section 6.3 (message body length), read in their strictest sense, plus the ways in
 * which libmicrohttpd 0.9.75 shows a folded line: it glues the text onto the NAME of the header
 * before. */
#include "guard.h"

#include <string.h>
#include <strings.h>

struct tally {
  size_t bytes;
  unsigned lengths, encodings, hosts, heads;
  const char *reason;
  struct halut_guard_framing *framing;
};

static bool is_token(unsigned char c) {
  return c > 0x20 && c < 0x7f && strchr("\"(),/:;<=>?@[\\]{}", c) == NULL;
}

static bool is_named(const struct halut_guard_header *header, const char *name) {
  return header->name_bytes == strlen(name) &&
         strncasecmp(header->name, name, header->name_bytes) == 0;
}

static bool starts_with(const struct halut_guard_header *header, const char *name) {
  size_t bytes = strlen(name);
  return header->name_bytes > bytes && strncasecmp(header->name, name, bytes) == 0;
}

static const char *check_characters(const struct halut_guard_header *header) {
  if (header->name_bytes == 0)
    return "a header has no name";
  for (size_t i = 0; i < header->name_bytes; i++)
    if (!is_token((unsigned char)header->name[i]))
      return "a header name holds a character that names may not have";
  for (size_t i = 0; i < header->value_bytes; i++) {
    unsigned char c = (unsigned char)header->value[i];
    if ((c < 0x20 && c != '\t') || c == 0x7f)
      return "a header value holds a control character";
  }
  return NULL;
}

static const char *read_length(const struct halut_guard_header *header, uint64_t *length_out) {
  uint64_t length = 0;
  if (header->value_bytes == 0)
    return "Content-Length is empty";
  for (size_t i = 0; i < header->value_bytes; i++) {
    unsigned digit = (unsigned)(header->value[i] - '0');
    if (digit > 9)
      return "Content-Length is not a whole number";
    if (__builtin_mul_overflow(length, 10, &length) ||
        __builtin_add_overflow(length, digit, &length))
      return "Content-Length is out of range";
  }
  *length_out = length;
  return NULL;
}

static const char *count_header(struct tally *tally, const struct halut_guard_header *header) {
  const char *reason = check_characters(header);
  if (reason != NULL)
    return reason;
  if (is_named(header, "Content-Length")) {
    if (++tally->lengths > 1)
      return "Content-Length is given more than once";
    tally->framing->has_length = true;
    return read_length(header, &tally->framing->content_length);
  }
  if (is_named(header, "Transfer-Encoding")) {
    if (++tally->encodings > 1)
      return "Transfer-Encoding is given more than once";
    if (header->value_bytes != 7 || strncasecmp(header->value, "chunked", 7) != 0)
      return "Transfer-Encoding is not exactly chunked";
    tally->framing->chunked = true;
    return NULL;
  }
  if (starts_with(header, "Content-Length") || starts_with(header, "Transfer-Encoding"))
    return "a framing header is followed by a folded line";
  if (is_named(header, "Host") && ++tally->hosts > 1)
    return "Host is given more than once";
  if (is_named(header, "Inference-Header-Content-Length") && ++tally->heads > 1)
    return "Inference-Header-Content-Length is given more than once";
  return NULL;
}

const char *halut_guard_target(const char *target) {
  if (strstr(target, "%00") != NULL)
    return "the request target holds %00";
  for (const char *c = target; *c != '\0'; c++)
    if ((unsigned char)*c <= 0x20 || *c == 0x7f)
      return "the request target holds a blank or a control character";
  return NULL;
}

int64_t halut_guard_excess(size_t head_bytes, size_t line_bytes,
                           const struct halut_guard_header *headers, size_t count) {
  static const size_t colon = 1, blank = 1, line_end = 2;
  size_t known = line_bytes + line_end + line_end;
  for (size_t i = 0; i < count; i++)
    known += headers[i].name_bytes + colon + blank + headers[i].value_bytes + line_end;
  return (int64_t)head_bytes - (int64_t)known;
}

unsigned halut_guard_check(const struct halut_guard_limits *limits, const char *version,
                           const struct halut_guard_header *headers, size_t count,
                           struct halut_guard_framing *framing, const char **reason_out) {
  struct tally tally = {.framing = framing};
  bool is_11 = strcmp(version, "HTTP/1.1") == 0;
  memset(framing, 0, sizeof *framing);
  *reason_out = "only HTTP/1.1 and HTTP/1.0 are spoken here";
  if (!is_11 && strcmp(version, "HTTP/1.0") != 0)
    return 505;
  *reason_out = "more headers than headers-max";
  if (count > limits->headers_max)
    return 431;
  for (size_t i = 0; i < count; i++) {
    tally.bytes += headers[i].name_bytes + headers[i].value_bytes;
    if ((*reason_out = count_header(&tally, &headers[i])) != NULL)
      return 400;
  }
  *reason_out = "the headers have more bytes than header-bytes-max";
  if (tally.bytes > limits->header_bytes_max)
    return 431;
  *reason_out = "both Content-Length and Transfer-Encoding are given";
  if (tally.lengths > 0 && tally.encodings > 0)
    return 400;
  *reason_out = "Transfer-Encoding in an HTTP/1.0 request";
  if (tally.encodings > 0 && !is_11)
    return 400;
  *reason_out = "HTTP/1.1 needs exactly one Host header";
  if (is_11 && tally.hosts != 1)
    return 400;
  for (size_t i = 0; i < count; i++) {
    if (!is_named(&headers[i], "Expect"))
      continue;
    *reason_out = "the only expectation met here is 100-continue";
    if (headers[i].value_bytes != 12 || strncasecmp(headers[i].value, "100-continue", 12) != 0)
      return 417;
    framing->expects_continue = true;
  }
  *reason_out = NULL;
  return 0;
}
