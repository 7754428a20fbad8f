#include "auth.h"

#include <errno.h>
#include <nettle/memops.h>
#include <nettle/sha2.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { LINE_BYTES_MAX = 512, LINES_MAX = 65536 };

struct key {
  uint8_t digest[SHA256_DIGEST_SIZE];
  uint32_t scopes;
  char name[HALUT_KEY_NAME_MAX];
};

struct halut_keys {
  uint32_t count;
  struct key key[HALUT_KEYS_MAX];
};

static const struct {
  const char *name;
  enum halut_scope scope;
} scopes[] = {{"infer", HALUT_INFER}, {"admin", HALUT_ADMIN}, {"metrics", HALUT_METRICS}};

enum { SCOPES = sizeof scopes / sizeof scopes[0] };

static const char *scope_name(enum halut_scope scope) {
  for (size_t i = 0; i < SCOPES; i++)
    if (scopes[i].scope == scope)
      return scopes[i].name;
  return "?";
}

/* ---- the file ---- */

struct reader {
  struct halut_keys *keys;
  const char *path;
  unsigned line, problems;
  halut_keys_problem_fn *problem;
  void *self;
};

static void __attribute__((format(printf, 2, 3)))
complain(struct reader *reader, const char *format, ...) {
  char what[160], text[768];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(what, sizeof what, format, arguments);
  va_end(arguments);
  if (reader->line > 0)
    snprintf(text, sizeof text, "keys-file: %.500s:%u: %s", reader->path, reader->line, what);
  else
    snprintf(text, sizeof text, "keys-file: %.500s: %s", reader->path, what);
  reader->problems++;
  reader->problem(reader->self, text);
}

static bool is_printable(const char *text) {
  for (; *text != '\0'; text++)
    if ((unsigned char)*text <= 0x20 || (unsigned char)*text >= 0x7f)
      return false;
  return true;
}

/* Constant time in what is compared: all keys, all bytes. Returns the key, or NULL. */
static const struct key *find(const struct halut_keys *keys, const char *text) {
  uint8_t digest[SHA256_DIGEST_SIZE];
  struct sha256_ctx hash;
  const struct key *found = NULL;
  sha256_init(&hash);
  sha256_update(&hash, strlen(text), (const uint8_t *)text);
  sha256_digest(&hash, sizeof digest, digest);
  for (uint32_t i = 0; i < keys->count; i++)
    if (memeql_sec(keys->key[i].digest, digest, sizeof digest))
      found = &keys->key[i];
  return found;
}

static bool read_scopes(struct reader *reader, char *text, uint32_t *scopes_out) {
  char *rest = NULL;
  for (char *word = strtok_r(text, ",", &rest); word; word = strtok_r(NULL, ",", &rest)) {
    size_t i = 0;
    while (i < SCOPES && strcmp(scopes[i].name, word) != 0)
      i++;
    if (i == SCOPES) {
      complain(reader, "no scope \"%.32s\"; there are infer, admin and metrics", word);
      return false;
    }
    *scopes_out |= scopes[i].scope;
  }
  return true;
}

static void read_line(struct reader *reader, char *line) {
  static const char blanks[] = " \t\r\n";
  char *rest = NULL;
  char *text = strtok_r(line, blanks, &rest);
  if (text == NULL || text[0] == '#')
    return;
  char *scope = strtok_r(NULL, blanks, &rest), *name = strtok_r(NULL, blanks, &rest);
  struct key key = {.scopes = 0};
  size_t bytes = strlen(text);
  if (scope == NULL || strtok_r(NULL, blanks, &rest) != NULL)
    complain(reader, "must be `key scope[,scope] [name]`");
  else if (bytes < HALUT_KEY_BYTES_MIN || bytes > HALUT_KEY_BYTES_MAX)
    complain(reader, "a key has %d to %d characters, not %zu", HALUT_KEY_BYTES_MIN,
             HALUT_KEY_BYTES_MAX, bytes);
  else if (!is_printable(text))
    complain(reader, "a key has visible ASCII characters only");
  else if (name != NULL && (strlen(name) >= sizeof key.name || !is_printable(name)))
    complain(reader, "a name has at most %d visible ASCII characters", HALUT_KEY_NAME_MAX - 1);
  else if (!read_scopes(reader, scope, &key.scopes))
    return;
  else if (find(reader->keys, text) != NULL)
    complain(reader, "a key that is there already");
  else if (reader->keys->count == HALUT_KEYS_MAX)
    complain(reader, "more than %d keys", HALUT_KEYS_MAX);
  else {
    struct sha256_ctx hash;
    sha256_init(&hash);
    sha256_update(&hash, bytes, (const uint8_t *)text);
    sha256_digest(&hash, sizeof key.digest, key.digest);
    if (name != NULL)
      memcpy(key.name, name, strlen(name) + 1);
    else
      snprintf(key.name, sizeof key.name, "line-%u", reader->line);
    reader->keys->key[reader->keys->count++] = key;
  }
}

struct halut_keys *halut_keys_open(const char *path, halut_keys_problem_fn *problem, void *self) {
  struct reader reader = {.path = path, .problem = problem, .self = self};
  char line[LINE_BYTES_MAX];
  FILE *file = fopen(path, "re");
  if (file == NULL) {
    complain(&reader, "%s", strerror(errno));
    return NULL;
  }
  reader.keys = calloc(1, sizeof *reader.keys);
  if (reader.keys == NULL)
    complain(&reader, "no memory");
  while (reader.keys != NULL && fgets(line, sizeof line, file) != NULL) {
    if (++reader.line > LINES_MAX || (strchr(line, '\n') == NULL && !feof(file))) {
      complain(&reader, "%s",
               reader.line > LINES_MAX ? "too many lines"
                                       : "a line that is too long, or a NUL in it");
      break;
    }
    read_line(&reader, line);
  }
  reader.line = 0;
  if (ferror(file))
    complain(&reader, "%s", strerror(errno));
  fclose(file);
  explicit_bzero(line, sizeof line);
  if (reader.problems == 0 && reader.keys->count == 0)
    complain(&reader, "has no key");
  if (reader.problems == 0)
    return reader.keys;
  halut_keys_close(reader.keys);
  return NULL;
}

void halut_keys_close(struct halut_keys *keys) {
  free(keys);
}

uint32_t halut_keys_count(const struct halut_keys *keys) {
  return keys->count;
}

/* ---- a request ---- */

static void __attribute__((format(printf, 3, 4)))
refuse(struct halut_verdict *verdict, unsigned status, const char *format, ...) {
  va_list arguments;
  verdict->status = status;
  va_start(arguments, format);
  vsnprintf(verdict->reason, sizeof verdict->reason, format, arguments);
  va_end(arguments);
}

/* The key of "Bearer KEY", or NULL. */
static const char *bearer_key(const char *authorization) {
  static const char scheme[] = "Bearer";
  size_t bytes = sizeof scheme - 1;
  if (authorization == NULL || strncasecmp(authorization, scheme, bytes) != 0 ||
      authorization[bytes] != ' ')
    return NULL;
  return authorization + bytes + strspn(authorization + bytes, " ");
}

static void check_unkeyed(enum halut_scope scope, const struct halut_claim *claim,
                          struct halut_verdict *verdict) {
  if (scope != HALUT_ADMIN)
    return;
  if (!claim->is_local)
    refuse(verdict, 403,
           "without a keys-file this path answers peers on a loopback address or a Unix socket "
           "only");
  else if (claim->is_from_page)
    refuse(verdict, 403, "this path does not answer web pages of other sites");
}

void halut_auth_check(const struct halut_keys *keys, enum halut_scope scope,
                      const struct halut_claim *claim, struct halut_verdict *verdict) {
  *verdict = (struct halut_verdict){0};
  if (scope == HALUT_OPEN)
    return;
  if (keys == NULL) {
    check_unkeyed(scope, claim, verdict);
    return;
  }
  const char *text = bearer_key(claim->authorization);
  if (text == NULL)
    text = claim->api_key;
  if (text == NULL) {
    refuse(verdict, 401,
           "this path needs an API key: Authorization: Bearer KEY, or X-API-Key: KEY");
    return;
  }
  const struct key *key = find(keys, text);
  if (key == NULL) {
    refuse(verdict, 401, "the API key is not known here");
    return;
  }
  memcpy(verdict->name, key->name, sizeof verdict->name);
  if ((key->scopes & scope) == 0)
    refuse(verdict, 403, "the API key \"%s\" has not the scope %s", key->name, scope_name(scope));
}
