/* number.c: DESIGN. One loop reads an array of any nesting: a counter for each level is all its
 * state, so depth costs no stack. A number is scanned once into a decimal significand (up to 19
 * digits, so it fits 64 bits) and a power of ten; what it is worth is then decided by type:
 *
 * - FP64: when both significand and power are exactly representable, one multiplication or division
 * is correctly rounded (Clinger). On x86 that is done in the 64-bit significands of long double,
 * which covers 19 digits and powers to 10^27; the second rounding, to double, can only go wrong
 * when the first result lies exactly between two doubles, which its low 11 bits show.
 * - FP32: the same in double. Here even an inexact first result is good: it is off by less than two
 * units in its last place, so the float is certain unless the 29 bits that it drops are within 4 of
 * a tie.
 * - Whatever is left (about one in 10^7 of random floats; long digit strings; extreme exponents) is
 * read again by strtod or strtof, which glibc rounds correctly.
 *
 * The float writer is Schubfach (Giulietti 2020; after the public-domain presentation by A. Bolz):
 * the shortest decimal in the rounding interval from three 64 x 32-bit products. */
#include "number.h"

#include <errno.h>
#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
  const char *name;
  size_t bytes;
} number_types[] = {{"NONE", 0},
#define XX(name, bytes) {#name, bytes},
                    HALUT_NUMBER_MAP(XX)
#undef XX
};

enum { NUMBER_TYPES = sizeof number_types / sizeof number_types[0] };

const char *halut_number_name(enum halut_number_type type) {
  return number_types[type].name;
}

size_t halut_number_bytes(enum halut_number_type type) {
  return number_types[type].bytes;
}

enum halut_number_type halut_number_type(const char *name) {
  for (unsigned i = 1; i < NUMBER_TYPES; i++) {
    if (strcmp(name, number_types[i].name) == 0)
      return (enum halut_number_type)i;
  }
  return HALUT_NUMBER_NONE;
}

size_t halut_number_count_max(const char *text, size_t bytes) {
  size_t commas = 0;
  /* In blocks whose counter fits a byte, so that the compiler makes vectors of it. */
  while (bytes >= 128) {
    uint8_t part = 0;
    for (unsigned i = 0; i < 128; i++)
      part = (uint8_t)(part + (text[i] == ','));
    commas += part;
    text += 128;
    bytes -= 128;
  }
  for (size_t i = 0; i < bytes; i++)
    commas += text[i] == ',';
  return commas + 1;
}

/* One number as written: (-1)^negative * digits * 10^power; digits is cut to 19 places. */
struct decimal {
  uint64_t digits;
  int power;
  bool negative;
  bool integer; /* written without "." and exponent */
  bool cut;     /* digits were dropped: digits is a truncation */
};

static inline bool is_digit(char c) {
  return (unsigned char)(c - '0') <= 9;
}
static inline bool is_blank(char c) {
  return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

/* Eight digits at once: true if all of text[0..7] are digits, then *value_out is their number.
 * Carries cannot cross bytes, as each sum below stays under 256 (Lemire, "Quickly parsing eight
 * digits"). */
static inline bool eight_digits(const char *text, uint64_t *value_out) {
  uint64_t v;
  memcpy(&v, text, 8);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
  v = __builtin_bswap64(v);
#endif
  if (((v & 0xf0f0f0f0f0f0f0f0u) | (((v + 0x0606060606060606u) & 0xf0f0f0f0f0f0f0f0u) >> 4)) !=
      0x3333333333333333u) {
    return false;
  }
  v -= 0x3030303030303030u;
  v = v * 10 + (v >> 8);
  *value_out = (((v & 0x000000ff000000ffu) * 0x000f424000000064u) +
                (((v >> 16) & 0x000000ff000000ffu) * 0x0000271000000001u)) >>
               32;
  return true;
}

enum { DIGITS_MAX = 19, POWER_LIMIT = 100000 };

/* Goes on over more digits than 19. Those after the point do not move the power. */
static const char *skip_digits(const char *p, struct decimal *d, bool fraction) {
  while (is_digit(*p)) {
    d->cut |= *p != '0';
    if (!fraction && d->power < POWER_LIMIT)
      d->power++;
    p++;
  }
  return p;
}

/* Reads digits at p, which `places` have come before, without regard to what ends them. */
static inline const char *take_digits(const char *p, const char *end, struct decimal *d,
                                      unsigned *places, bool fraction) {
  const char *start = p;
  uint64_t eight = 0;
  if (d->digits == 0) { /* leading zeros cost no place */
    while (*p == '0')
      p++;
  }
  while (*places + 8 <= DIGITS_MAX && end - p >= 8 && eight_digits(p, &eight)) {
    d->digits = d->digits * 100000000u + eight;
    *places += 8;
    p += 8;
  }
  while (*places < DIGITS_MAX && is_digit(*p)) {
    d->digits = d->digits * 10 + (uint64_t)(*p - '0');
    *places += 1;
    p++;
  }
  if (fraction)
    d->power -= (int)(p - start);
  return is_digit(*p) ? skip_digits(p, d, fraction) : p;
}

static const char *take_exponent(const char *p, struct decimal *d) {
  p++;
  bool negative = *p == '-';
  if (*p == '-' || *p == '+')
    p++;
  if (!is_digit(*p))
    return NULL;
  int power = 0;
  for (; is_digit(*p); p++) {
    if (power < POWER_LIMIT)
      power = power * 10 + (*p - '0');
  }
  d->power += negative ? -power : power;
  d->integer = false;
  return p;
}

/* The end of the number at p, or NULL if there is none by JSON's grammar. text[bytes], at `end`, is
 * no digit, so that loops over digits need no other bound. */
static inline const char *take_number(const char *p, const char *end, struct decimal *d) {
  d->negative = *p == '-';
  p += d->negative;
  d->digits = 0;
  d->power = 0;
  d->integer = true;
  d->cut = false;
  unsigned places = 0;
  if (*p == '0') {
    p++;
    if (is_digit(*p))
      return NULL;
  } else if (is_digit(*p)) {
    p = take_digits(p, end, d, &places, false);
  } else {
    return NULL;
  }
  if (*p == '.') {
    p++;
    if (!is_digit(*p))
      return NULL;
    d->integer = false;
    p = take_digits(p, end, d, &places, true);
  }
  if (*p == 'e' || *p == 'E')
    return take_exponent(p, d);
  return p;
}

static const double power10[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
                                 1e8,  1e9,  1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
                                 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
enum { POWER10_MAX = 22 }; /* 10^22 = 5^22 * 2^22 and 5^22 < 2^53 */

static inline bool float_fast(const struct decimal *d, float *out) {
  if (d->power < -POWER10_MAX || d->power > POWER10_MAX)
    return false;
  double value = (double)d->digits;
  value = d->power < 0 ? value / power10[-d->power] : value * power10[d->power];
  uint64_t bits;
  memcpy(&bits, &value, sizeof bits);
  uint32_t dropped = (uint32_t)bits & 0x1fffffffu; /* a tie is 0x10000000 */
  if (value != 0.0) {
    if (dropped - 0x0ffffffcu <= 8)
      return false;
    if (value < (double)FLT_MIN || value > (double)FLT_MAX)
      return false;
  }
  *out = d->negative ? -(float)value : (float)value;
  return true;
}

static inline bool double_fast(const struct decimal *d, double *out) {
  double value;
  if (d->cut)
    return false;
  if (d->digits <= (UINT64_C(1) << 53) && d->power >= -POWER10_MAX && d->power <= POWER10_MAX) {
    value = (double)d->digits;
    value = d->power < 0 ? value / power10[-d->power] : value * power10[d->power];
  } else {
#if LDBL_MANT_DIG == 64
    static const long double power10l[] = {1e0L,  1e1L,  1e2L,  1e3L,  1e4L,  1e5L,  1e6L,
                                           1e7L,  1e8L,  1e9L,  1e10L, 1e11L, 1e12L, 1e13L,
                                           1e14L, 1e15L, 1e16L, 1e17L, 1e18L, 1e19L, 1e20L,
                                           1e21L, 1e22L, 1e23L, 1e24L, 1e25L, 1e26L, 1e27L};
    if (d->power < -27 || d->power > 27)
      return false; /* 5^27 < 2^64 */
    long double wide = (long double)d->digits;
    wide = d->power < 0 ? wide / power10l[-d->power] : wide * power10l[d->power];
    uint64_t bits;
    memcpy(&bits, &wide, sizeof bits); /* the significand comes first */
    if ((bits & 0x7ff) == 0x400)
      return false;
    value = (double)wide;
#else
    return false;
#endif
  }
  *out = d->negative ? -value : value;
  return true;
}

/* Why a value was refused; the caller adds where. */
enum verdict { VALUE_OK, VALUE_OVERFLOW, VALUE_RANGE, VALUE_FRACTION };

/* The slow and certain way, from the text. `strtod` stops where the grammar above did: hex,
 * infinities and blanks were refused before. */
static enum verdict float_slow(const char *text, float *out) {
  float value = strtof(text, NULL);
  if (isinf(value))
    return VALUE_OVERFLOW;
  *out = value;
  return VALUE_OK;
}

static enum verdict double_slow(const char *text, double *out) {
  double value = strtod(text, NULL);
  if (isinf(value))
    return VALUE_OVERFLOW;
  *out = value;
  return VALUE_OK;
}

/* Integers: the magnitude must be whole and at most `max`, or `max_negative` below zero. */
static inline enum verdict integer_value(const char *text, const struct decimal *d, uint64_t max,
                                         uint64_t max_negative, uint64_t *magnitude_out) {
  if (!d->integer)
    return VALUE_FRACTION;
  uint64_t magnitude = d->digits;
  if (d->power != 0) { /* 20 digits or more: only UINT64 has some of those */
    errno = 0;
    magnitude = strtoull(text + d->negative, NULL, 10);
    if (errno == ERANGE)
      return VALUE_RANGE;
  }
  if (magnitude > (d->negative ? max_negative : max))
    return VALUE_RANGE;
  *magnitude_out = magnitude;
  return VALUE_OK;
}

#define NUMBER_UNSIGNED(type, max)                                                                 \
  do {                                                                                             \
    enum verdict verdict = integer_value(text, d, max, 0, &magnitude);                             \
    if (verdict == VALUE_OK)                                                                       \
      ((type *)values)[i] = (type)magnitude;                                                       \
    return verdict;                                                                                \
  } while (0)

/* Negation is done unsigned, so that the most negative value needs no wider type. */
#define NUMBER_SIGNED(type, max)                                                                   \
  do {                                                                                             \
    enum verdict verdict = integer_value(text, d, max, (uint64_t)(max) + 1, &magnitude);           \
    if (verdict == VALUE_OK) {                                                                     \
      ((type *)values)[i] = (type)(int64_t)(d->negative ? 0 - magnitude : magnitude);              \
    }                                                                                              \
    return verdict;                                                                                \
  } while (0)

/* Stores one number as values[i]. `type` is a constant wherever this is inlined. */
static inline __attribute__((always_inline)) enum verdict store(enum halut_number_type type,
                                                                const char *text,
                                                                const struct decimal *d,
                                                                void *values, size_t i) {
  uint64_t magnitude = 0;
  switch (type) {
  case HALUT_NUMBER_FP32:
    if (float_fast(d, (float *)values + i))
      return VALUE_OK;
    return float_slow(text, (float *)values + i);
  case HALUT_NUMBER_FP64:
    if (double_fast(d, (double *)values + i))
      return VALUE_OK;
    return double_slow(text, (double *)values + i);
  case HALUT_NUMBER_BOOL:
    NUMBER_UNSIGNED(uint8_t, 1);
  case HALUT_NUMBER_UINT8:
    NUMBER_UNSIGNED(uint8_t, UINT8_MAX);
  case HALUT_NUMBER_UINT16:
    NUMBER_UNSIGNED(uint16_t, UINT16_MAX);
  case HALUT_NUMBER_UINT32:
    NUMBER_UNSIGNED(uint32_t, UINT32_MAX);
  case HALUT_NUMBER_UINT64:
    NUMBER_UNSIGNED(uint64_t, UINT64_MAX);
  case HALUT_NUMBER_INT8:
    NUMBER_SIGNED(int8_t, INT8_MAX);
  case HALUT_NUMBER_INT16:
    NUMBER_SIGNED(int16_t, INT16_MAX);
  case HALUT_NUMBER_INT32:
    NUMBER_SIGNED(int32_t, INT32_MAX);
  case HALUT_NUMBER_INT64:
    NUMBER_SIGNED(int64_t, INT64_MAX);
  case HALUT_NUMBER_NONE:
    break;
  }
  return VALUE_FRACTION;
}

struct scan {
  const char *begin, *end, *p;
  const struct halut_number_options *options;
  void *values;
  size_t count, capacity;
  uint32_t depth;                        /* arrays open at p */
  uint32_t rank;                         /* 0 until the first scalar or empty array is met */
  uint64_t index[HALUT_NUMBER_RANK_MAX]; /* of the element at p, by level */
  uint64_t dim[HALUT_NUMBER_RANK_MAX];
  bool known[HALUT_NUMBER_RANK_MAX]; /* dim is set: by the first array closed at that level */
  struct halut_diag *diag;
};

static inline const char *skip_blanks(const char *p, const char *end) {
  while (p < end && is_blank(*p))
    p++;
  return p;
}

enum { ELEMENT_TEXT_MAX = 96, TOKEN_TEXT_MAX = 28 };

/* "a[3][17]", from the first `levels` indices. */
static void name_element(const struct scan *s, uint32_t levels, char out[ELEMENT_TEXT_MAX]) {
  size_t used = (size_t)snprintf(out, ELEMENT_TEXT_MAX, "%.32s", s->options->name);
  for (uint32_t level = 0; level < levels && used < ELEMENT_TEXT_MAX; level++) {
    used += (size_t)snprintf(out + used, ELEMENT_TEXT_MAX - used, "[%llu]",
                             (unsigned long long)s->index[level]);
  }
}

/* What stands at p, as far as a person needs it to find the place. */
static void name_token(const struct scan *s, char out[TOKEN_TEXT_MAX]) {
  size_t used = 0;
  const char *p = s->p;
  for (; p < s->end && used < TOKEN_TEXT_MAX - 4; p++) {
    char c = *p;
    if (used > 0 && (is_blank(c) || c == ',' || c == ']' || c == '[' || c == '}'))
      break;
    out[used++] = c >= ' ' && c <= '~' ? c : '?';
  }
  if (used == TOKEN_TEXT_MAX - 4) {
    memcpy(out + used, "...", 3);
    used += 3;
  }
  out[used] = '\0';
}

static int fail_at(const struct scan *s, int error, uint32_t levels, const char *what) {
  char element[ELEMENT_TEXT_MAX];
  char token[TOKEN_TEXT_MAX];
  name_element(s, levels, element);
  name_token(s, token);
  uint64_t offset = s->options->offset + (uint64_t)(s->p - s->begin);
  if (s->p >= s->end) {
    return halut_fail(s->diag, error, offset, "%s: the array ends early", element);
  }
  return halut_fail(s->diag, error, offset, "%s: %s, found '%s'", element, what, token);
}

static int fail_value(const struct scan *s, enum verdict verdict) {
  char element[ELEMENT_TEXT_MAX];
  char token[TOKEN_TEXT_MAX];
  name_element(s, s->depth, element);
  name_token(s, token);
  const char *why = verdict == VALUE_OVERFLOW ? "is too large for"
                    : verdict == VALUE_RANGE  ? "is out of the range of"
                                              : "is not an integer, as needed for";
  return halut_fail(s->diag, HALUT_EINVALID, s->options->offset + (uint64_t)(s->p - s->begin),
                    "%s: %s %s %s", element, token, why, halut_number_name(s->options->type));
}

/* true and false stand for 1 and 0 where BOOL is wanted. */
static const char *take_bool(const char *p, const char *end, struct decimal *d) {
  bool is_true = end - p >= 4 && memcmp(p, "true", 4) == 0;
  bool is_false = end - p >= 5 && memcmp(p, "false", 5) == 0;
  if (!is_true && !is_false)
    return NULL;
  *d = (struct decimal){.digits = is_true, .integer = true};
  return p + (is_true ? 4 : 5);
}

/* The scalars of an innermost array, from the first one to its ']', at which p stays. */
static inline __attribute__((always_inline)) int read_row(struct scan *s,
                                                          enum halut_number_type type) {
  uint64_t *index = &s->index[s->depth - 1];
  const char *p = s->p;
  const char *const end = s->end;
  size_t count = s->count;
  for (;;) {
    struct decimal d;
    const char *next = take_number(p, end, &d);
    if (next == NULL && type == HALUT_NUMBER_BOOL)
      next = take_bool(p, end, &d);
    s->p = p;
    if (next == NULL || next > end) {
      return *p == '[' && p < end
                 ? fail_at(s, HALUT_ESHAPE, s->depth, "expected a number as in the rows before")
                 : fail_at(s, HALUT_EINVALID, s->depth, "not a number");
    }
    if (count == s->capacity) {
      return halut_fail(s->diag, HALUT_ELIMIT, s->options->offset + (uint64_t)(p - s->begin),
                        "%.32s: more than %zu values", s->options->name, s->capacity);
    }
    enum verdict verdict = store(type, p, &d, s->values, count);
    if (__builtin_expect(verdict != VALUE_OK, 0))
      return fail_value(s, verdict);
    count++;
    p = skip_blanks(next, end);
    if (*p == ',' && p < end) {
      p = skip_blanks(p + 1, end);
      ++*index;
      continue;
    }
    if (*p != ']' || p >= end) {
      if (p < end && p == next)
        return fail_at(s, HALUT_EINVALID, s->depth, "not a number");
      s->p = p;
      return fail_at(s, HALUT_EINVALID, s->depth, "expected ',' or ']' after it");
    }
    s->p = p;
    ++*index; /* now the number of elements */
    s->count = count;
    return 0;
  }
}

static int read_scalars(struct scan *s) {
  switch (s->options->type) {
#define XX(name, bytes)                                                                            \
  case HALUT_NUMBER_##name:                                                                        \
    return read_row(s, HALUT_NUMBER_##name);
    HALUT_NUMBER_MAP(XX)
#undef XX
  case HALUT_NUMBER_NONE:
    break;
  }
  return halut_fail(s->diag, HALUT_EINVALID, s->options->offset, "%.32s: no number type",
                    s->options->name);
}

/* At the '[' of an array: goes down, to the first scalar or to the array's end. */
static int open_array(struct scan *s) {
  for (;;) {
    if (s->depth == s->options->rank_max) {
      char what[64];
      snprintf(what, sizeof what, "nested deeper than %u levels", s->options->rank_max);
      return fail_at(s, HALUT_ESHAPE, s->depth, what);
    }
    if (s->rank != 0 && s->depth == s->rank) {
      return fail_at(s, HALUT_ESHAPE, s->depth, "expected a number as in the rows before");
    }
    s->index[s->depth] = 0;
    s->depth++;
    s->p = skip_blanks(s->p + 1, s->end);
    if (s->p >= s->end || *s->p != '[')
      break;
  }
  bool empty = s->p < s->end && *s->p == ']';
  if (s->rank == 0)
    s->rank = s->depth;
  if (empty)
    return 0;
  if (s->depth < s->rank) {
    return fail_at(s, HALUT_ESHAPE, s->depth, "expected an array as in the rows before");
  }
  return read_scalars(s);
}

/* At the ']' of an array whose elements index[depth - 1] counts: checks its length against its
 * siblings'. */
static int close_array(struct scan *s) {
  uint32_t level = s->depth - 1;
  uint64_t elements = s->index[level];
  if (!s->known[level]) {
    s->known[level] = true;
    s->dim[level] = elements;
  } else if (s->dim[level] != elements) {
    char element[ELEMENT_TEXT_MAX];
    name_element(s, level, element);
    return halut_fail(s->diag, HALUT_ESHAPE, s->options->offset + (uint64_t)(s->p - s->begin),
                      "%s: %llu elements where the first has %llu", element,
                      (unsigned long long)elements, (unsigned long long)s->dim[level]);
  }
  s->p++;
  s->depth--;
  return 0;
}

/* After an array that is an element of another: to the '[' of the next one, or to the ']' of the
 * outer. */
static int next_array(struct scan *s, bool *closed_out) {
  s->index[s->depth - 1]++;
  s->p = skip_blanks(s->p, s->end);
  *closed_out = s->p < s->end && *s->p == ']';
  if (*closed_out)
    return 0;
  if (s->p >= s->end || *s->p != ',') {
    return fail_at(s, HALUT_EINVALID, s->depth, "expected ',' or ']' before it");
  }
  if (s->depth == 1 && s->options->rows_max != 0 && s->index[0] >= s->options->rows_max) {
    return halut_fail(s->diag, HALUT_ELIMIT, s->options->offset + (uint64_t)(s->p - s->begin),
                      "%.32s: more than %llu rows", s->options->name,
                      (unsigned long long)s->options->rows_max);
  }
  s->p = skip_blanks(s->p + 1, s->end);
  if (s->p < s->end && *s->p == '[')
    return 0;
  bool number = s->p < s->end && (is_digit(*s->p) || *s->p == '-');
  return fail_at(s, number ? HALUT_ESHAPE : HALUT_EINVALID, s->depth,
                 number ? "expected an array as in the rows before" : "not an array");
}

int halut_number_read(const char *text, size_t bytes, const struct halut_number_options *options,
                      void *values, size_t capacity, struct halut_number_shape *shape_out,
                      struct halut_diag *diag) {
  assert(options->rank_max >= 1 && options->rank_max <= HALUT_NUMBER_RANK_MAX);
  struct scan s = {.begin = text,
                   .end = text + bytes,
                   .p = skip_blanks(text, text + bytes),
                   .options = options,
                   .values = values,
                   .capacity = capacity,
                   .diag = diag};
  if (s.p >= s.end || *s.p != '[')
    return fail_at(&s, HALUT_EINVALID, 0, "not an array");
  int error = open_array(&s);
  if (error != 0)
    return error;
  for (;;) {
    error = close_array(&s);
    if (error != 0)
      return error;
    if (s.depth == 0)
      break;
    bool closed = false;
    error = next_array(&s, &closed);
    if (error == 0 && !closed)
      error = open_array(&s);
    if (error != 0)
      return error;
  }
  s.p = skip_blanks(s.p, s.end);
  if (s.p != s.end)
    return fail_at(&s, HALUT_EINVALID, 0, "more text after the array");
  *shape_out = (struct halut_number_shape){.rank = s.rank, .count = s.count};
  for (uint32_t level = 0; level < HALUT_NUMBER_RANK_MAX; level++) {
    shape_out->dim[level] = level < s.rank ? s.dim[level] : 1;
  }
  return 0;
}

/* POWERS[i] = 10^(i + POWER_MIN) as 64 bits, the first one set, rounded up where it is not exact:
 * computed with whole numbers as floor(10^k * 2^s) + 1. */
enum { POWER_MIN = -31, POWER_MAX = 45 };
static const uint64_t powers[POWER_MAX - POWER_MIN + 1] = {
    0x81ceb32c4b43fcf5, 0xa2425ff75e14fc32, 0xcad2f7f5359a3b3f, 0xfd87b5f28300ca0e,
    0x9e74d1b791e07e49, 0xc612062576589ddb, 0xf79687aed3eec552, 0x9abe14cd44753b53,
    0xc16d9a0095928a28, 0xf1c90080baf72cb2, 0x971da05074da7bef, 0xbce5086492111aeb,
    0xec1e4a7db69561a6, 0x9392ee8e921d5d08, 0xb877aa3236a4b44a, 0xe69594bec44de15c,
    0x901d7cf73ab0acda, 0xb424dc35095cd810, 0xe12e13424bb40e14, 0x8cbccc096f5088cc,
    0xafebff0bcb24aaff, 0xdbe6fecebdedd5bf, 0x89705f4136b4a598, 0xabcc77118461cefd,
    0xd6bf94d5e57a42bd, 0x8637bd05af6c69b6, 0xa7c5ac471b478424, 0xd1b71758e219652c,
    0x83126e978d4fdf3c, 0xa3d70a3d70a3d70b, 0xcccccccccccccccd, 0x8000000000000000,
    0xa000000000000000, 0xc800000000000000, 0xfa00000000000000, 0x9c40000000000000,
    0xc350000000000000, 0xf424000000000000, 0x9896800000000000, 0xbebc200000000000,
    0xee6b280000000000, 0x9502f90000000000, 0xba43b74000000000, 0xe8d4a51000000000,
    0x9184e72a00000000, 0xb5e620f480000000, 0xe35fa931a0000000, 0x8e1bc9bf04000000,
    0xb1a2bc2ec5000000, 0xde0b6b3a76400000, 0x8ac7230489e80000, 0xad78ebc5ac620000,
    0xd8d726b7177a8000, 0x878678326eac9000, 0xa968163f0a57b400, 0xd3c21bcecceda100,
    0x84595161401484a0, 0xa56fa5b99019a5c8, 0xcecb8f27f4200f3a, 0x813f3978f8940985,
    0xa18f07d736b90be6, 0xc9f2c9cd04674edf, 0xfc6f7c4045812297, 0x9dc5ada82b70b59e,
    0xc5371912364ce306, 0xf684df56c3e01bc7, 0x9a130b963a6c115d, 0xc097ce7bc90715b4,
    0xf0bdc21abb48db21, 0x96769950b50d88f5, 0xbc143fa4e250eb32, 0xeb194f8e1ae525fe,
    0x92efd1b8d0cf37bf, 0xb7abc627050305ae, 0xe596b7b0c643c71a, 0x8f7e32ce7bea5c70,
    0xb35dbf821ae4f38c,
};

/* Bits 64 to 95 of power * value, with a last bit that says whether anything was below them. */
static inline uint32_t round_to_odd(uint64_t power, uint32_t value) {
  uint64_t low = (power & 0xffffffffu) * value;
  uint64_t high = (power >> 32) * value + (low >> 32);
  return (uint32_t)(high >> 32) | ((uint32_t)high > 1);
}

/* The shortest decimal digits * 10^power that rounds to the finite positive float with these
 * fields. */
static void shortest(uint32_t fraction, uint32_t exponent, uint32_t *digits_out, int *power_out) {
  uint32_t c = exponent != 0 ? fraction | 0x800000u : fraction;
  int q = exponent != 0 ? (int)exponent - 150 : -149; /* the value is c * 2^q */
  if (exponent != 0 && q <= 0 && q > -24 && (c & ((1u << -q) - 1)) == 0) {
    *digits_out = c >> -q; /* a small integer */
    *power_out = 0;
    return;
  }
  /* At a power of two the float below is half as far away as the one above. */
  bool closer = fraction == 0 && exponent > 1;
  uint32_t odd = c & 1; /* even significands own the ends of their interval */
  int k = (q * 1262611 - (closer ? 524031 : 0)) >> 22; /* floor(log10(2^q or 3/4 2^q)) */
  int h = q + ((-k * 1741647) >> 19) + 1;              /* floor(log2(10^-k)) */
  uint64_t power = powers[-k - POWER_MIN];
  uint32_t lower = round_to_odd(power, (4 * c - 2 + closer) << h) + odd;
  uint32_t value = round_to_odd(power, (4 * c) << h);
  uint32_t upper = round_to_odd(power, (4 * c + 2) << h) - odd;
  uint32_t s = value / 4;
  if (s >= 10) { /* try one digit less */
    uint32_t tens = s / 10;
    bool down = lower <= 40 * tens;
    bool up = 40 * tens + 40 <= upper;
    if (down != up) {
      *digits_out = tens + up;
      *power_out = k + 1;
      return;
    }
  }
  bool down = lower <= 4 * s;
  bool up = 4 * s + 4 <= upper;
  uint32_t middle = 4 * s + 2;
  if (down == up)
    up = value > middle || (value == middle && (s & 1) != 0);
  *digits_out = s + up;
  *power_out = k;
}

/* Decimal digits of value, without leading zeros; the count. */
static size_t write_digits(uint64_t value, char *out) {
  char reversed[20];
  size_t count = 0;
  do {
    reversed[count++] = (char)('0' + value % 10);
    value /= 10;
  } while (value != 0);
  for (size_t i = 0; i < count; i++)
    out[i] = reversed[count - 1 - i];
  return count;
}

/* Lays digits * 10^power out: plain from 0.0001 to under 10^10, else with an exponent. */
static size_t write_decimal(uint32_t digits, int power, char *out) {
  while (digits % 10 == 0) {
    digits /= 10;
    power++;
  }
  char text[20];
  int count = (int)write_digits(digits, text);
  int point = count + power; /* digits before the point */
  char *p = out;
  if (point > -4 && point <= 10) {
    if (point <= 0) {
      *p++ = '0';
      *p++ = '.';
      for (int i = point; i < 0; i++)
        *p++ = '0';
      point = 0;
    }
    int before = point < count ? point : count;
    memcpy(p, text, (size_t)before);
    p += before;
    for (int i = count; i < point; i++)
      *p++ = '0';
    if (before < count) {
      if (before > 0)
        *p++ = '.';
      memcpy(p, text + before, (size_t)(count - before));
      p += count - before;
    }
    return (size_t)(p - out);
  }
  *p++ = text[0];
  if (count > 1) {
    *p++ = '.';
    memcpy(p, text + 1, (size_t)(count - 1));
    p += count - 1;
  }
  *p++ = 'e';
  int exponent = point - 1;
  if (exponent < 0)
    *p++ = '-';
  p += write_digits((uint64_t)abs(exponent), p);
  return (size_t)(p - out);
}

size_t halut_number_write_f32(float value, char *out) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  uint32_t fraction = bits & 0x7fffffu;
  uint32_t exponent = bits >> 23 & 0xff;
  if (exponent == 0xff) {
    memcpy(out, "null", 4);
    return 4;
  }
  size_t sign = bits >> 31;
  if (sign != 0)
    out[0] = '-';
  if (fraction == 0 && exponent == 0) {
    out[sign] = '0';
    return sign + 1;
  }
  uint32_t digits = 0;
  int power = 0;
  shortest(fraction, exponent, &digits, &power);
  return sign + write_decimal(digits, power, out + sign);
}

size_t halut_number_write_u64(uint64_t value, char *out) {
  return write_digits(value, out);
}

size_t halut_number_write_i64(int64_t value, char *out) {
  if (value >= 0)
    return write_digits((uint64_t)value, out);
  out[0] = '-';
  return 1 + write_digits(0 - (uint64_t)value, out + 1);
}
