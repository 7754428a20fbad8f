/* guard.h: what the framing of a request must look like before anything else reads it.
 *
 * libmicrohttpd 0.9.75 accepts forms on which two servers in a row can disagree about where a
 * request ends (request smuggling). This check runs on the parsed headers, before the body, and
 * refuses them all. Pure: no I/O, no allocation, no state; any thread.
 */
#ifndef HALUT_GUARD_H
#define HALUT_GUARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { HALUT_HEADERS_MAX = 128 }; /* the most that headers-max can be */

struct halut_guard_limits {
  size_t headers_max, header_bytes_max;
};

struct halut_guard_header {
  const char *name, *value; /* need not end with NUL */
  size_t name_bytes, value_bytes;
};

struct halut_guard_framing {
  uint64_t content_length; /* 0 if there is none */
  bool has_length, chunked, expects_continue;
};

/* NULL if the request target, as it came and not yet decoded, is fine, else a static sentence. */
const char *halut_guard_target(const char *target);

/* How many bytes of a head have no header to them: `line_bytes` are those of the request line
 * without its end, and a header has one blank after its colon. 0 or less (no blank, bare line
 * feeds) is as clients send it. libmicrohttpd drops what is folded, what follows a NUL, and a line
 * that begins with a colon, which it takes for the end of the head, so that the rest is read as a
 * request. */
int64_t halut_guard_excess(size_t head_bytes, size_t line_bytes,
                           const struct halut_guard_header *headers, size_t count);

/* `version` is "HTTP/1.1"; `count` may exceed what headers[] holds once it is past
 * limits->headers_max. Returns 0 and fills `framing`, or the HTTP status to refuse with (400, 417,
 * 431, 505) and sets *reason_out to a static sentence. After any refusal the connection must be
 * closed: its next byte has no known meaning. */
unsigned halut_guard_check(const struct halut_guard_limits *limits, const char *version,
                           const struct halut_guard_header *headers, size_t count,
                           struct halut_guard_framing *framing, const char **reason_out);

#endif
