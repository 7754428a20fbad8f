/* auth.h: who may do what: API keys with scopes, from a file.
 *
 * A line of the file is `key scope[,scope] [name]`; "#" starts a comment line. The scopes are
 * infer, admin and metrics; a key has those it names and no other. Keys are kept as SHA-256 only,
 * and a key that is offered is compared with all of them in constant time.
 *
 * Without keys, everything but the admin routes is open, and those only to peers on this machine.
 * With keys, every route that has a scope needs one, wherever the peer is: behind a proxy all peers
 * look local.
 *
 * Immutable once open; any thread.
 */
#ifndef HALUT_AUTH_H
#define HALUT_AUTH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum halut_scope {
  HALUT_OPEN = 0, /* needs no key */
  HALUT_INFER = 1,
  HALUT_ADMIN = 2,
  HALUT_METRICS = 4
};

enum {
  HALUT_KEYS_MAX = 1024,
  HALUT_KEY_BYTES_MIN = 8, /* shorter ones are guessed */
  HALUT_KEY_BYTES_MAX = 255,
  HALUT_KEY_NAME_MAX = 32 /* bytes with the NUL */
};

struct halut_keys;

/* What is told of each line that is refused: a text with the line number, never with the key. */
typedef void halut_keys_problem_fn(void *self, const char *text);

/* Reads the file. NULL if there was any problem, or no key; all of them are told first. */
struct halut_keys *halut_keys_open(const char *path, halut_keys_problem_fn *problem, void *self)
    __attribute__((warn_unused_result));
void halut_keys_close(struct halut_keys *keys); /* NULL is fine */
uint32_t halut_keys_count(const struct halut_keys *keys);

/* What a request shows of itself. */
struct halut_claim {
  const char *authorization; /* headers, or NULL */
  const char *api_key;
  bool is_local;     /* over a Unix socket or from a loopback address */
  bool is_from_page; /* made by a web page of a site that is not allowed here */
};

struct halut_verdict {
  unsigned status;               /* 0: go on; else 401 or 403 */
  char name[HALUT_KEY_NAME_MAX]; /* of the key; "" without one */
  char reason[160];              /* of a refusal */
};

/* `keys` may be NULL: there are none. */
void halut_auth_check(const struct halut_keys *keys, enum halut_scope scope,
                      const struct halut_claim *claim, struct halut_verdict *verdict);

#endif
