/* cors.h: which web pages of other origins a browser lets read the answers (cross-origin resource
 * sharing).
 *
 * Immutable once read; any thread.
 */
#ifndef HALUT_CORS_H
#define HALUT_CORS_H

#include <stdbool.h>
#include <stdint.h>

enum { HALUT_ORIGINS_MAX = 16, HALUT_ORIGIN_BYTES_MAX = 128 };

struct halut_cors {
  uint32_t count; /* 0: off */
  char origin[HALUT_ORIGINS_MAX][HALUT_ORIGIN_BYTES_MAX];
};

/* Headers that pages may send, and read, beyond the few that they always may. */
extern const char halut_cors_sent[], halut_cors_read_back[];

/* Reads "off" or origins with commas between, as browsers send them: "https://app.example.org".
 * False at the first one that cannot be such; *bad_out is where in `text`. */
bool halut_cors_read(const char *text, struct halut_cors *out, const char **bad_out);

/* Exactly equal to one of them. */
bool halut_cors_allows(const struct halut_cors *cors, const char *origin);

/* A page that this machine itself serves: "http://localhost:3000". */
bool halut_cors_is_local(const char *origin);
/* A Host that a name server may answer for: a name with a dot. A page of such a name, which by now
 * stands for this machine, asks here without an Origin (DNS rebinding). */
bool halut_cors_is_domain(const char *host);

#endif
