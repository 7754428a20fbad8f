/* json.h: JSON bodies in, JSON bodies out.
 *
 * In: a request is an envelope of a few short members around one or more big arrays.
 * halut_json_open cuts the big values out, leaves them to number.h and base64.h, and gives the
 * small rest to jansson, strictly (duplicate keys, NaN, bad UTF-8, junk after the end are errors).
 * So a body costs what its arrays cost. Out: a growing buffer with exact escaping and number
 * formatting, for replies too big for json_pack.
 *
 * Any thread, one thread at a time for each struct. json_object_seed(0) must have been called at
 * startup.
 */
#ifndef HALUT_JSON_H
#define HALUT_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../core/halut.h"

enum {
  HALUT_JSON_ENVELOPE_MAX =
      65536,                   /* bytes left for jansson, which may need 79 times as much memory */
  HALUT_JSON_SLICES_MAX = 1024 /* big values in one body */
};

/* A big value, still as text in the body. */
struct halut_json_slice {
  const char
      *text; /* borrowed from the body; array: from '[' to ']'; string: between the quotes, raw */
  size_t bytes;
  uint64_t offset; /* of text in the body */
  bool is_string;
  bool is_taken; /* by halut_json_slice */
};

struct halut_json {
  json_t *root;     /* the envelope: always an object */
  const char *body; /* borrowed */
  uint32_t slice_count;
  struct halut_json_slice *slices; /* in body order */
};

/* Opens `body`, which must stay until halut_json_close and whose byte body[bytes] must be readable
 * and 0.
 *
 * A big value is the value of a member, at any depth, whose key is in `keys` (NULL-terminated) and
 * which is a string, or an array whose first scalar is not a string or object: numbers, however
 * nested. Such a value is replaced in the envelope by a mark of its own: see halut_json_slice.
 * An array at such a key that holds strings or objects stays in the envelope: each string in it, or
 * in an array in it, is a big value too, and those inside its objects are found by their own keys.
 *
 * Errors: HALUT_EINVALID (not JSON; text names line and column, diag->offset the byte),
 * HALUT_ELIMIT (nesting of the envelope past depth_max, envelope or slice count past their limits),
 * HALUT_ENOMEM. */
int halut_json_open(const char *body, size_t bytes, const char *const *keys, uint32_t depth_max,
                    struct halut_json **out, struct halut_diag *diag)
    __attribute__((warn_unused_result));
void halut_json_close(struct halut_json *json); /* NULL is fine */

/* The slice that stands for `value` (a value found in json->root), or NULL if it is anything else.
 * Whoever takes it finds out whether it is well-formed. */
const struct halut_json_slice *halut_json_slice(const struct halut_json *json, const json_t *value);

/* Whether `value` is a string, in the envelope or as a slice, which is not taken by this. */
bool halut_json_is_text(const struct halut_json *json, const json_t *value);

/* The characters of a string, in memory that is the caller's: a slice's escapes of ASCII characters
 * are undone, of which encoders write more than JSON asks for; others are left as they are. NULL
 * without memory. */
char *halut_json_unescape(const struct halut_json_slice *slice, size_t *bytes_out);

/* Once everything is read: whether the slices that nobody took are JSON. HALUT_EINVALID,
 * HALUT_ELIMIT (they are more than an envelope may have), HALUT_ENOMEM. */
int halut_json_rest(const struct halut_json *json, struct halut_diag *diag)
    __attribute__((warn_unused_result));

/* Members with their checks: 0 and *out set if `object` has `key` with a value of the type and
 * range, or if it is absent and `required` is false (*out is then left as it was). Otherwise
 * HALUT_EINVALID with a text like "top: must be an integer in 1..10, not \"many\"". Strings are
 * borrowed from the envelope. */
int halut_json_get_text(const json_t *object, const char *key, bool required, const char **out,
                        struct halut_diag *diag) __attribute__((warn_unused_result));
int halut_json_get_int(const json_t *object, const char *key, bool required, int64_t min,
                       int64_t max, int64_t *out, struct halut_diag *diag)
    __attribute__((warn_unused_result));
int halut_json_get_bool(const json_t *object, const char *key, bool required, bool *out,
                        struct halut_diag *diag) __attribute__((warn_unused_result));
/* HALUT_EINVALID if `object` has a member not in `keys` (NULL-terminated); the text suggests the
 * nearest. */
int halut_json_only(const json_t *object, const char *const *keys, struct halut_diag *diag)
    __attribute__((warn_unused_result));

/* A body being written. Zero it to start. Once memory has run out, `failed` is set, further calls
 * do nothing, and halut_json_out_take gives NULL: check once, at the end. */
struct halut_json_out {
  char *data;
  size_t bytes, capacity;
  bool failed;
};

void halut_json_out_format(struct halut_json_out *out, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* Quoted and escaped; bytes that are not UTF-8 become U+FFFD, so that the result is always JSON. */
void halut_json_out_string(struct halut_json_out *out, const char *text);
/* As they are: for what follows the JSON in a body. */
void halut_json_out_bytes(struct halut_json_out *out, const void *data, size_t bytes);
/* values[rows][columns], shortest round-trip: flat "[1,2,3,4]", or nested "[[1,2],[3,4]]". */
void halut_json_out_f32(struct halut_json_out *out, const float *values, size_t rows,
                        size_t columns, bool nested);
void halut_json_out_i32(struct halut_json_out *out, const int32_t *values, size_t rows,
                        size_t columns, bool nested);
void halut_json_out_u8(struct halut_json_out *out, const uint8_t *values, size_t rows,
                       size_t columns, bool nested);
/* The text, NUL-terminated, to free(); *bytes_out is without the NUL. NULL if `failed`. Empties
 * `out`. */
char *halut_json_out_take(struct halut_json_out *out, size_t *bytes_out);
void halut_json_out_close(struct halut_json_out *out); /* frees what was not taken */

/* {"error":"<text>"} with the text formatted and escaped; to free(). NULL only without memory. */
char *halut_json_error(size_t *bytes_out, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

#endif
