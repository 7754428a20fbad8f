/* json.c: DESIGN. Splitting walks the body once, outside of big values byte by byte (that is
 * little) and inside them 64 bytes at a time, looking only for brackets and quotes. It checks no
 * grammar: what it does not understand goes into the envelope as it is, and jansson says what is
 * wrong with it. Positions in jansson's messages are mapped back to the body, so that they point
 * into what the client sent. */
#include "json.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../models/json_load.h"
#include "config.h"
#include "number.h"

/* ---- Splitting ---- */

enum { DEPTH_LIMIT = 512, CUTS_FIRST = 16, MARK_MAX = 32, OUT_FIRST = 1024, FORMAT_BYTES = 95 };

/* A piece of the body that the envelope has a mark for. */
struct cut {
  size_t body_at, body_bytes, mark_at, mark_bytes;
};

struct split {
  const char *body, *end, *p;
  const char *const *keys;
  json_int_t seal; /* of the marks, which no client can know: [0] of its own is not taken for one */
  uint32_t depth, depth_max;
  bool object[DEPTH_LIMIT + 1]; /* by depth: the container is an object */
  bool list[DEPTH_LIMIT + 1];   /* by depth: it is an array at one of the keys */
  bool is_list;                 /* the container about to be opened is one */
  char *envelope;
  size_t envelope_bytes;
  struct halut_json_slice *slices;
  struct cut *cuts;
  uint32_t count, capacity;
  struct halut_diag *diag;
};

static bool is_blank(char c) {
  return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

static const char *skip_blanks(const char *p, const char *end) {
  while (p < end && is_blank(*p))
    p++;
  return p;
}

/* From the opening quote to past the closing one, or to the end if there is none. */
static const char *skip_string(const char *p, const char *end) {
  for (p++; p < end;) {
    const char *quote = memchr(p, '"', (size_t)(end - p));
    if (quote == NULL)
      return end;
    /* It is escaped if an odd number of backslashes stands before it. */
    const char *slash = quote;
    while (slash > p && slash[-1] == '\\')
      slash--;
    p = quote + 1;
    if ((quote - slash) % 2 == 0)
      return p;
  }
  return end;
}

/* From '[' to past its ']', or to the end if there is none. */
static const char *skip_array(const char *p, const char *end) {
  size_t open = 0;
  while (p < end) {
    if (end - p >= 64) {
      uint8_t found =
          0; /* a loop of fixed length and no branch: the compiler makes vectors of it */
      for (unsigned i = 0; i < 64; i++) {
        found |= (uint8_t)((p[i] == '[') | (p[i] == ']') | (p[i] == '"'));
      }
      if (found == 0) {
        p += 64;
        continue;
      }
    }
    const char *stop = end - p < 64 ? end : p + 64;
    while (p < stop) {
      char c = *p;
      if (c == '"') {
        p = skip_string(p, end);
        break;
      }
      p++;
      if (c == '[')
        open++;
      if (c == ']' && --open == 0)
        return p;
    }
  }
  return end;
}

/* True if the array at p holds numbers (or nothing): its first scalar is no string and no object.
 */
static bool is_number_array(const char *p, const char *end) {
  while (p < end && (is_blank(*p) || *p == '['))
    p++;
  return p < end && *p != '"' && *p != '{';
}

static int put(struct split *s, const char *text, size_t bytes) {
  size_t room = HALUT_JSON_ENVELOPE_MAX + (size_t)s->count * MARK_MAX; /* marks are not counted */
  if (bytes > room - s->envelope_bytes) {
    return halut_fail(s->diag, HALUT_ELIMIT, (uint64_t)(s->p - s->body),
                      "JSON: more than %d bytes beside its arrays of numbers and base64 strings",
                      HALUT_JSON_ENVELOPE_MAX);
  }
  memcpy(s->envelope + s->envelope_bytes, text, bytes);
  s->envelope_bytes += bytes;
  return 0;
}

static int grow(struct split *s) {
  if (s->count < s->capacity)
    return 0;
  if (s->count == HALUT_JSON_SLICES_MAX) {
    return halut_fail(s->diag, HALUT_ELIMIT, (uint64_t)(s->p - s->body),
                      "JSON: more than %d arrays of numbers and base64 strings",
                      HALUT_JSON_SLICES_MAX);
  }
  uint32_t capacity = s->capacity == 0 ? CUTS_FIRST : s->capacity * 2;
  struct halut_json_slice *slices = realloc(s->slices, capacity * sizeof *slices);
  if (slices != NULL)
    s->slices = slices;
  struct cut *cuts = realloc(s->cuts, capacity * sizeof *cuts);
  if (cuts != NULL)
    s->cuts = cuts;
  if (slices == NULL || cuts == NULL) {
    return halut_fail(s->diag, HALUT_ENOMEM, 0, "JSON: no memory for %u arrays", capacity);
  }
  s->capacity = capacity;
  return 0;
}

/* Its address, a number that is not told to anyone. */
static json_int_t seal_of(const struct halut_json *json) {
  return (json_int_t)(uintptr_t)json;
}

/* Replaces the value from s->p to `next` by its mark: [index, seal]. */
static int cut_out(struct split *s, const char *next) {
  int error = grow(s);
  if (error != 0)
    return error;
  bool is_string = *s->p == '"';
  s->slices[s->count] =
      (struct halut_json_slice){.text = s->p + is_string,
                                .bytes = (size_t)(next - s->p) - (is_string ? 2 : 0),
                                .offset = (uint64_t)(s->p - s->body) + is_string,
                                .is_string = is_string};
  char mark[MARK_MAX];
  size_t mark_bytes = (size_t)snprintf(mark, sizeof mark, "[%u,%" JSON_INTEGER_FORMAT "]",
                                       s->count, s->seal);
  s->cuts[s->count] = (struct cut){.body_at = (size_t)(s->p - s->body),
                                   .body_bytes = (size_t)(next - s->p),
                                   .mark_at = s->envelope_bytes,
                                   .mark_bytes = mark_bytes};
  s->count++;
  error = put(s, mark, mark_bytes);
  s->p = next;
  return error;
}

static int hexadecimal(char c) {
  if (c >= '0' && c <= '9')
    return c - '0';
  c |= 0x20;
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The character at p, below `end`, and how long its spelling is. Escapes are undone that spell an
 * ASCII character which needs none. */
static size_t character_read(const char *p, const char *end, char *out) {
  *out = *p;
  if (*p != '\\' || end - p < 2)
    return 1;
  if (p[1] == '/') {
    *out = '/';
    return 2;
  }
  if (p[1] != 'u' || end - p < 6 || p[2] != '0' || p[3] != '0')
    return 1;
  int high = hexadecimal(p[4]), low = hexadecimal(p[5]);
  int c = high * 16 + low;
  if (high < 0 || low < 0 || c < ' ' || c > '~' || c == '"' || c == '\\')
    return 1;
  *out = (char)c;
  return 6;
}

static bool is_spelled(const char *word, const char *p, const char *end) {
  for (; p < end && *word != '\0'; word++) {
    char c;
    p += character_read(p, end, &c);
    if (c != *word)
      return false;
  }
  return p == end && *word == '\0';
}

static bool is_key(const struct split *s, const char *text, size_t bytes) {
  for (const char *const *key = s->keys; *key != NULL; key++) {
    if (is_spelled(*key, text, text + bytes))
      return true;
  }
  return false;
}

/* At a quote. Copies the string, and if it is one of the keys and its value is big, cuts that out;
 * one in a list is big itself. */
static int split_string(struct split *s) {
  const char *start = s->p;
  const char *next = skip_string(start, s->end);
  if (s->list[s->depth] && next - start >= 2 && next[-1] == '"')
    return cut_out(s, next);
  const char *colon = skip_blanks(next, s->end);
  bool member = s->object[s->depth] && colon < s->end && *colon == ':' && next - start >= 2 &&
                is_key(s, start + 1, (size_t)(next - start) - 2);
  const char *value = member ? skip_blanks(colon + 1, s->end) : next;
  int error = put(s, start, (size_t)(value - start));
  s->p = value;
  if (error != 0 || !member || value == s->end)
    return error;
  const char *past = value;
  if (*value == '"')
    past = skip_string(value, s->end);
  if (*value == '[' && is_number_array(value, s->end))
    past = skip_array(value, s->end);
  /* One that has no end is left to jansson to complain of, without its (perhaps long) contents. */
  if (past == value) {
    s->is_list = *value == '[';
    return 0;
  }
  bool closed = past - value >= 2 && past[-1] == (*value == '"' ? '"' : ']');
  if (closed)
    return cut_out(s, past);
  return halut_fail(s->diag, HALUT_EINVALID, (uint64_t)(value - s->body),
                    "JSON: the %s at byte %zu has no end", *value == '"' ? "string" : "array",
                    (size_t)(value - s->body));
}

static int split_body(struct split *s) {
  while (s->p < s->end) {
    char c = *s->p;
    if (c == '"') {
      int error = split_string(s);
      if (error != 0)
        return error;
      continue;
    }
    if (c == '{' || c == '[') {
      if (s->depth == s->depth_max) {
        return halut_fail(s->diag, HALUT_ELIMIT, (uint64_t)(s->p - s->body),
                          "JSON: nested deeper than %u levels at byte %zu", s->depth_max,
                          (size_t)(s->p - s->body));
      }
      s->object[++s->depth] = c == '{';
      s->list[s->depth] = s->is_list || (c == '[' && s->list[s->depth - 1]);
      s->is_list = false;
    }
    if ((c == '}' || c == ']') && s->depth > 0)
      s->depth--;
    int error = put(s, s->p, 1);
    if (error != 0)
      return error;
    s->p++;
  }
  return 0;
}

/* Where byte `at` of the envelope came from. */
static size_t body_offset(const struct split *s, size_t at) {
  size_t moved = 0;
  for (uint32_t i = 0; i < s->count && s->cuts[i].mark_at + s->cuts[i].mark_bytes <= at; i++) {
    moved += s->cuts[i].body_bytes - s->cuts[i].mark_bytes;
  }
  size_t offset = at + moved;
  return offset < (size_t)(s->end - s->body) ? offset : (size_t)(s->end - s->body);
}

/* What jansson says of byte `at` of the body. */
static int fail_syntax(const char *body, size_t at, const json_error_t *error,
                       struct halut_diag *diag) {
  size_t line = 1, column = 1;
  for (size_t i = 0; i < at; i++) {
    line += body[i] == '\n';
    column = body[i] == '\n' ? 1 : column + 1;
  }
  return halut_fail(diag, HALUT_EINVALID, at, "JSON: line %zu, column %zu: %.100s", line, column,
                    error->text);
}

static size_t position_of(const json_error_t *error) {
  return error->position > 0 ? (size_t)error->position : 0;
}

static int load_envelope(struct split *s, struct halut_json *json) {
  json_error_t error;
  int failed = halut_json_load(s->envelope, s->envelope_bytes, &json->root, &error);
  if (failed == HALUT_ENOMEM)
    return halut_fail(s->diag, HALUT_ENOMEM, 0, "JSON: no memory for the body");
  if (failed != HALUT_OK)
    return fail_syntax(s->body, body_offset(s, position_of(&error)), &error, s->diag);
  if (!json_is_object(json->root)) {
    return halut_fail(s->diag, HALUT_EINVALID, 0, "JSON: the body must be an object");
  }
  return 0;
}

int halut_json_open(const char *body, size_t bytes, const char *const *keys, uint32_t depth_max,
                    struct halut_json **out, struct halut_diag *diag) {
  assert(depth_max <= DEPTH_LIMIT);
  struct split split = {.body = body,
                        .end = body + bytes,
                        .p = body,
                        .keys = keys,
                        .depth_max = depth_max,
                        .diag = diag};
  struct halut_json *json = calloc(1, sizeof *json);
  split.seal = seal_of(json);
  size_t room = bytes < HALUT_JSON_ENVELOPE_MAX ? bytes : HALUT_JSON_ENVELOPE_MAX;
  split.envelope = malloc(room + HALUT_JSON_SLICES_MAX * MARK_MAX + 1);
  int error = json == NULL || split.envelope == NULL
                  ? halut_fail(diag, HALUT_ENOMEM, 0, "JSON: no memory for the envelope")
                  : split_body(&split);
  if (error == 0) {
    json->body = body;
    json->slice_count = split.count;
    error = load_envelope(&split, json);
  }
  if (json != NULL)
    json->slices = split.slices;
  free(split.envelope);
  free(split.cuts);
  if (error != 0) {
    halut_json_close(json);
    return error;
  }
  *out = json;
  return 0;
}

void halut_json_close(struct halut_json *json) {
  if (json == NULL)
    return;
  json_decref(json->root);
  free(json->slices);
  free(json);
}

static struct halut_json_slice *slice_of(const struct halut_json *json, const json_t *value) {
  if (!json_is_array(value) || json_array_size(value) != 2)
    return NULL;
  const json_t *index = json_array_get(value, 0), *seal = json_array_get(value, 1);
  if (!json_is_integer(index) || !json_is_integer(seal) ||
      json_integer_value(seal) != seal_of(json))
    return NULL;
  json_int_t i = json_integer_value(index);
  return i >= 0 && i < (json_int_t)json->slice_count ? &json->slices[i] : NULL;
}

const struct halut_json_slice *halut_json_slice(const struct halut_json *json,
                                                const json_t *value) {
  struct halut_json_slice *slice = slice_of(json, value);
  if (slice != NULL)
    slice->is_taken = true;
  return slice;
}

bool halut_json_is_text(const struct halut_json *json, const json_t *value) {
  const struct halut_json_slice *slice = slice_of(json, value);
  return slice != NULL ? slice->is_string : json_is_string(value);
}

char *halut_json_unescape(const struct halut_json_slice *slice, size_t *bytes_out) {
  const char *p = slice->text, *end = p + slice->bytes;
  char *text = malloc(slice->bytes + 1), *to = text;
  if (text == NULL)
    return NULL;
  while (p < end)
    p += character_read(p, end, to++);
  *to = '\0';
  *bytes_out = (size_t)(to - text);
  return text;
}

/* The slice alone as a JSON value: in brackets, as jansson reads arrays and objects only. */
static int slice_check(const struct halut_json *json, const struct halut_json_slice *slice,
                       char *room, struct halut_diag *diag) {
  json_error_t error;
  json_t *value = NULL;
  size_t at = (size_t)slice->offset - slice->is_string;
  size_t bytes = slice->bytes + (slice->is_string ? 2 : 0);
  room[0] = '[';
  memcpy(room + 1, json->body + at, bytes);
  room[bytes + 1] = ']';
  int failed = halut_json_load(room, bytes + 2, &value, &error);
  json_decref(value);
  if (failed == HALUT_ENOMEM)
    return halut_fail(diag, HALUT_ENOMEM, 0, "JSON: no memory for the body");
  size_t position = position_of(&error);
  return failed == HALUT_OK
             ? 0
             : fail_syntax(json->body, at + (position > 0 ? position - 1 : 0), &error, diag);
}

int halut_json_rest(const struct halut_json *json, struct halut_diag *diag) {
  size_t total = 0, largest = 0;
  for (uint32_t i = 0; i < json->slice_count; i++) {
    const struct halut_json_slice *slice = &json->slices[i];
    size_t bytes = slice->is_taken ? 0 : slice->bytes;
    total += bytes;
    largest = bytes > largest ? bytes : largest;
    if (total > HALUT_JSON_ENVELOPE_MAX)
      return halut_fail(diag, HALUT_ELIMIT, slice->offset,
                        "JSON: more than %d bytes at byte %llu and before that nobody asks for",
                        HALUT_JSON_ENVELOPE_MAX, (unsigned long long)slice->offset);
  }
  char *room = malloc(largest + 4);
  int error = room == NULL ? halut_fail(diag, HALUT_ENOMEM, 0, "JSON: no memory for the body") : 0;
  for (uint32_t i = 0; i < json->slice_count && error == 0; i++)
    if (!json->slices[i].is_taken)
      error = slice_check(json, &json->slices[i], room, diag);
  free(room);
  return error;
}

/* ---- Members ---- */

enum { VALUE_TEXT_MAX = 48 };

/* What a value is, for "must be …, not …". */
static const char *describe(const json_t *value, char out[VALUE_TEXT_MAX]) {
  switch (json_typeof(value)) {
  case JSON_STRING:
    snprintf(out, VALUE_TEXT_MAX, "\"%.24s\"", json_string_value(value));
    break;
  case JSON_INTEGER:
    snprintf(out, VALUE_TEXT_MAX, "%lld", (long long)json_integer_value(value));
    break;
  case JSON_REAL:
    snprintf(out, VALUE_TEXT_MAX, "%.9g", json_real_value(value));
    break;
  case JSON_TRUE:
    return "true";
  case JSON_FALSE:
    return "false";
  case JSON_NULL:
    return "null";
  case JSON_ARRAY:
    return "an array";
  case JSON_OBJECT:
    return "an object";
  }
  return out;
}

static int fail_missing(const char *key, struct halut_diag *diag) {
  return halut_fail(diag, HALUT_EINVALID, 0, "%.40s: missing", key);
}

int halut_json_get_text(const json_t *object, const char *key, bool required, const char **out,
                        struct halut_diag *diag) {
  const json_t *value = json_object_get(object, key);
  if (value == NULL)
    return required ? fail_missing(key, diag) : 0;
  if (!json_is_string(value)) {
    char text[VALUE_TEXT_MAX];
    return halut_fail(diag, HALUT_EINVALID, 0, "%.40s: must be a string, not %s", key,
                      describe(value, text));
  }
  *out = json_string_value(value);
  return 0;
}

int halut_json_get_int(const json_t *object, const char *key, bool required, int64_t min,
                       int64_t max, int64_t *out, struct halut_diag *diag) {
  const json_t *value = json_object_get(object, key);
  if (value == NULL)
    return required ? fail_missing(key, diag) : 0;
  if (!json_is_integer(value) || json_integer_value(value) < min ||
      json_integer_value(value) > max) {
    char text[VALUE_TEXT_MAX];
    return halut_fail(diag, HALUT_EINVALID, 0, "%.40s: must be an integer in %lld..%lld, not %s",
                      key, (long long)min, (long long)max, describe(value, text));
  }
  *out = json_integer_value(value);
  return 0;
}

int halut_json_get_bool(const json_t *object, const char *key, bool required, bool *out,
                        struct halut_diag *diag) {
  const json_t *value = json_object_get(object, key);
  if (value == NULL)
    return required ? fail_missing(key, diag) : 0;
  if (!json_is_boolean(value)) {
    char text[VALUE_TEXT_MAX];
    return halut_fail(diag, HALUT_EINVALID, 0, "%.40s: must be true or false, not %s", key,
                      describe(value, text));
  }
  *out = json_is_true(value);
  return 0;
}

int halut_json_only(const json_t *object, const char *const *keys, struct halut_diag *diag) {
  const char *key;
  json_t *value;
  /* The iterator needs a plain pointer; nothing is changed. */
  json_object_foreach((json_t *)(uintptr_t)object, key, value) {
    bool known = false;
    for (const char *const *k = keys; *k != NULL; k++)
      known |= strcmp(*k, key) == 0;
    if (known)
      continue;
    const char *nearest = halut_config_nearest(key, keys);
    return nearest != NULL ? halut_fail(diag, HALUT_EINVALID, 0,
                                        "%.40s: unknown member; is \"%s\" meant?", key, nearest)
                           : halut_fail(diag, HALUT_EINVALID, 0, "%.40s: unknown member", key);
  }
  return 0;
}

/* ---- Writing ---- */

/* Makes room for `bytes` more and a NUL; false if there is none. */
static bool room_make(struct halut_json_out *out, size_t bytes) {
  size_t needed;
  if (out->failed)
    return false;
  if (__builtin_add_overflow(out->bytes, bytes, &needed) || needed > SIZE_MAX / 4) {
    out->failed = true;
    return false;
  }
  size_t capacity = out->capacity < OUT_FIRST ? OUT_FIRST : out->capacity * 2;
  if (capacity <= needed)
    capacity = needed + 1;
  char *data = realloc(out->data, capacity);
  if (data == NULL) {
    out->failed = true;
    return false;
  }
  out->data = data;
  out->capacity = capacity;
  return true;
}

static inline bool reserve(struct halut_json_out *out, size_t bytes) {
  if (!out->failed && bytes < out->capacity - out->bytes)
    return true;
  return room_make(out, bytes);
}

static inline void append(struct halut_json_out *out, const char *text, size_t bytes) {
  if (!reserve(out, bytes))
    return;
  memcpy(out->data + out->bytes, text, bytes);
  out->bytes += bytes;
}

__attribute__((format(printf, 2, 0))) static void append_printed(struct halut_json_out *out,
                                                                 const char *format, va_list list) {
  va_list again;
  va_copy(again, list);
  /* Formatted where it belongs, and once more only if there was too little room. */
  size_t room = reserve(out, FORMAT_BYTES) ? FORMAT_BYTES + 1 : 0;
  int bytes = vsnprintf(room > 0 ? out->data + out->bytes : NULL, room, format, list);
  if (bytes < 0)
    out->failed = true;
  bool is_whole = bytes >= 0 && (size_t)bytes < room;
  if (bytes >= 0 && !is_whole && reserve(out, (size_t)bytes)) {
    vsnprintf(out->data + out->bytes, (size_t)bytes + 1, format, again);
    is_whole = true;
  }
  if (is_whole)
    out->bytes += (size_t)bytes;
  va_end(again);
}

/* What formats here nearly always are made of is written without printf, which takes its slow path
 * for every format once a library has registered a conversion of its own, and LAPACK brings one
 * that does (measured: 29,000 instructions of an answer's 82,000 were printf's). */
struct conversion {
  enum { IS_OTHER, IS_TEXT, IS_UNSIGNED, IS_LONG, IS_LONG_LONG, IS_SIZE } argument;
  size_t letters; /* that it is written with */
  size_t digits;  /* at least, with zeros before */
};

/* That which begins after a "%". */
static inline struct conversion conversion_of(const char *letters) {
  switch (letters[0]) {
  case 's':
    return (struct conversion){IS_TEXT, 1, 0};
  case 'u':
    return (struct conversion){IS_UNSIGNED, 1, 0};
  case 'z':
    return (struct conversion){letters[1] == 'u' ? IS_SIZE : IS_OTHER, 2, 0};
  case 'l':
    if (letters[1] == 'l')
      return (struct conversion){letters[2] == 'u' ? IS_LONG_LONG : IS_OTHER, 3, 0};
    return (struct conversion){letters[1] == 'u' ? IS_LONG : IS_OTHER, 2, 0};
  case '0': /* "%06u" */
    return (struct conversion){letters[1] == '6' && letters[2] == 'u' ? IS_UNSIGNED : IS_OTHER, 3,
                               6};
  default:
    return (struct conversion){0};
  }
}

static void append_unsigned(struct halut_json_out *out, uint64_t value, size_t digits) {
  if (!reserve(out, digits + HALUT_NUMBER_TEXT_MAX))
    return;
  char *at = out->data + out->bytes;
  size_t bytes = halut_number_write_u64(value, at);
  if (bytes < digits) {
    memmove(at + digits - bytes, at, bytes);
    memset(at, '0', digits - bytes);
    bytes = digits;
  }
  out->bytes += bytes;
}

__attribute__((format(printf, 2, 0))) static void append_format(struct halut_json_out *out,
                                                                const char *format, va_list list) {
  for (;;) {
    const char *percent = strchrnul(format, '%');
    if (percent > format)
      append(out, format, (size_t)(percent - format));
    if (*percent == '\0')
      return;
    const struct conversion conversion = conversion_of(percent + 1);
    if (conversion.argument == IS_OTHER) {
      append_printed(out, percent, list);
      return;
    }
    format = percent + 1 + conversion.letters;
    if (conversion.argument == IS_TEXT) {
      const char *text = va_arg(list, const char *);
      append(out, text, strlen(text));
      continue;
    }
    uint64_t value = conversion.argument == IS_UNSIGNED    ? va_arg(list, unsigned)
                     : conversion.argument == IS_LONG      ? va_arg(list, unsigned long)
                     : conversion.argument == IS_LONG_LONG ? va_arg(list, unsigned long long)
                                                           : va_arg(list, size_t);
    append_unsigned(out, value, conversion.digits);
  }
}

void halut_json_out_format(struct halut_json_out *out, const char *format, ...) {
  va_list list;
  va_start(list, format);
  append_format(out, format, list);
  va_end(list);
}

void halut_json_out_bytes(struct halut_json_out *out, const void *data, size_t bytes) {
  if (bytes > 0)
    append(out, data, bytes);
}

/* The bytes of the UTF-8 character at text, or 0 if it is none (overlong, surrogate, past
 * U+10FFFF). */
static size_t utf8_bytes(const unsigned char *text) {
  unsigned char c = text[0];
  if (c < 0x80)
    return 1;
  size_t bytes = c >= 0xc2 && c <= 0xdf   ? 2
                 : c >= 0xe0 && c <= 0xef ? 3
                 : c >= 0xf0 && c <= 0xf4 ? 4
                                          : 0;
  for (size_t i = 1; i < bytes; i++) {
    if ((text[i] & 0xc0) != 0x80)
      return 0;
  }
  bool bad = (c == 0xe0 && text[1] < 0xa0) || (c == 0xed && text[1] > 0x9f) ||
             (c == 0xf0 && text[1] < 0x90) || (c == 0xf4 && text[1] > 0x8f);
  return bad ? 0 : bytes;
}

void halut_json_out_string(struct halut_json_out *out, const char *text) {
  append(out, "\"", 1);
  const char *plain = text; /* start of what needs no change */
  while (*text != '\0') {
    size_t bytes = utf8_bytes((const unsigned char *)text);
    bool change =
        bytes == 0 || *text == '"' || *text == '\\' || (unsigned char)*text < ' ' || *text == 0x7f;
    if (!change) {
      text += bytes;
      continue;
    }
    append(out, plain, (size_t)(text - plain));
    if (bytes == 0) {
      append(out, "\xef\xbf\xbd", 3);
    } else if (*text == '"' || *text == '\\') {
      halut_json_out_format(out, "\\%c", *text);
    } else {
      halut_json_out_format(out, "\\u%04x", (unsigned)*text);
    }
    plain = ++text;
  }
  append(out, plain, (size_t)(text - plain));
  append(out, "\"", 1);
}

/* One function an element type: write_row(row, columns, at) gives the characters written. */
static size_t write_row_f32(const void *row, size_t columns, char *at) {
  const float *values = row;
  char *p = at;
  for (size_t i = 0; i < columns; i++) {
    p += halut_number_write_f32(values[i], p);
    *p++ = ',';
  }
  return (size_t)(p - at);
}

static size_t write_row_i32(const void *row, size_t columns, char *at) {
  const int32_t *values = row;
  char *p = at;
  for (size_t i = 0; i < columns; i++) {
    p += halut_number_write_i64(values[i], p);
    *p++ = ',';
  }
  return (size_t)(p - at);
}

static size_t write_row_u8(const void *row, size_t columns, char *at) {
  const uint8_t *values = row;
  char *p = at;
  for (size_t i = 0; i < columns; i++) {
    p += halut_number_write_u64(values[i], p);
    *p++ = ',';
  }
  return (size_t)(p - at);
}

typedef size_t write_row_fn(const void *row, size_t columns, char *at);

static void write_rows(struct halut_json_out *out, const void *values, size_t rows, size_t columns,
                       bool nested, size_t value_bytes, write_row_fn *write_row) {
  append(out, "[", 1);
  for (size_t row = 0; row < rows; row++) {
    size_t room;
    if (__builtin_mul_overflow(columns, (size_t)HALUT_NUMBER_TEXT_MAX, &room))
      out->failed = true;
    if (out->failed || !reserve(out, room + 3))
      return;
    char *p = out->data + out->bytes;
    if (nested)
      *p++ = '[';
    p += write_row((const char *)values + row * columns * value_bytes, columns, p);
    if (nested) {
      if (columns > 0)
        p--; /* the last comma */
      *p++ = ']';
      *p++ = ',';
    }
    out->bytes = (size_t)(p - out->data);
  }
  if (out->failed)
    return;
  if (out->data[out->bytes - 1] == ',')
    out->bytes--;
  append(out, "]", 1);
}

void halut_json_out_f32(struct halut_json_out *out, const float *values, size_t rows,
                        size_t columns, bool nested) {
  write_rows(out, values, rows, columns, nested, sizeof *values, write_row_f32);
}

void halut_json_out_i32(struct halut_json_out *out, const int32_t *values, size_t rows,
                        size_t columns, bool nested) {
  write_rows(out, values, rows, columns, nested, sizeof *values, write_row_i32);
}

void halut_json_out_u8(struct halut_json_out *out, const uint8_t *values, size_t rows,
                       size_t columns, bool nested) {
  write_rows(out, values, rows, columns, nested, sizeof *values, write_row_u8);
}

char *halut_json_out_take(struct halut_json_out *out, size_t *bytes_out) {
  append(out, "", 0); /* a NUL has room even after nothing */
  if (out->failed) {
    halut_json_out_close(out);
    return NULL;
  }
  char *data = out->data;
  data[out->bytes] = '\0';
  *bytes_out = out->bytes;
  *out = (struct halut_json_out){0};
  return data;
}

void halut_json_out_close(struct halut_json_out *out) {
  free(out->data);
  *out = (struct halut_json_out){0};
}

char *halut_json_error(size_t *bytes_out, const char *format, ...) {
  struct halut_json_out text = {0}, out = {0};
  va_list list;
  va_start(list, format);
  append_format(&text, format, list);
  append(&text, "", 1);
  va_end(list);
  halut_json_out_format(&out, "{\"error\":");
  halut_json_out_string(&out, text.failed ? "out of memory" : text.data);
  halut_json_out_format(&out, "}");
  halut_json_out_close(&text);
  return halut_json_out_take(&out, bytes_out);
}
