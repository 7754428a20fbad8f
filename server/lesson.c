/* DESIGN: both kinds of body end in the same places: numbers in option_set, matrices in matrix_new
 * and lesson_check. Number options are doubles on the way, which hold every value in their ranges
 * exactly. */
#include "lesson.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../models/graph.h"
#include "../models/npy.h"
#include "json.h"
#include "multipart.h"
#include "number.h"

enum { TEXT_MAX = 64 /* bytes of a number or word in a form, with the NUL */ };

#define OPTION_MAP(XX)                                                                             \
  XX(CODEBOOKS, "codebooks", true, 1, HALUT_LEARN_CODEBOOKS_MAX)                                   \
  XX(PROTOTYPES, "prototypes", true, 2, HALUT_PROTOTYPES)                                          \
  XX(RIDGE, "ridge", false, 0, 1e300)                                                              \
  XX(HELDOUT, "heldout", false, 0, 0.5)                                                            \
  XX(SEED, "seed", true, 0, 9007199254740992)                                                      \
  XX(CANDIDATES, "candidates", true, 0, HALUT_COLUMNS_MAX)                                         \
  XX(TREE_ROWS, "tree_rows", true, 0, 2147483647)

enum option {
#define XX(id, key, is_whole, min, max) OPTION_##id,
  OPTION_MAP(XX)
#undef XX
      OPTIONS
};

static const struct {
  const char *key;
  bool is_whole;
  double min, max;
} options_known[OPTIONS] = {
#define XX(id, key, is_whole, min, max) {key, is_whole, min, max},
    OPTION_MAP(XX)
#undef XX
};

static const char *const members[] = {"name", "a", "b", "by",
#define XX(id, key, is_whole, min, max) key,
                                      OPTION_MAP(XX)
#undef XX
                                          NULL};

/* A lesson being read. */
struct reading {
  const struct halut_lesson_limits *limits;
  struct halut_lesson *lesson;
  bool has[sizeof members / sizeof *members];
  double option[OPTIONS];
  uint64_t b_rows;
};

/* ---- fields ---- */

static int option_set(struct reading *reading, enum option option, double value, const char *shown,
                      struct halut_diag *diag) {
  const char *key = options_known[option].key;
  double min = options_known[option].min, max = options_known[option].max;
  if (!(value >= min && value <= max) || (options_known[option].is_whole && value != rint(value)))
    return halut_fail(diag, HALUT_EINVALID, 0, "%s: must be a %snumber in %.15g..%.15g, not %.32s",
                      key, options_known[option].is_whole ? "whole " : "", min, max, shown);
  if (option == OPTION_CODEBOOKS && value > (double)reading->limits->codebooks_max)
    return halut_fail(diag, HALUT_ELIMIT, 0, "codebooks: %.0f exceed learn-codebooks-max %llu",
                      value, (unsigned long long)reading->limits->codebooks_max);
  if (option == OPTION_PROTOTYPES && ((uint32_t)value & ((uint32_t)value - 1)) != 0)
    return halut_fail(diag, HALUT_EINVALID, 0, "prototypes: must be 2, 4, 8 or %d, not %.0f",
                      HALUT_PROTOTYPES, value);
  reading->option[option] = value;
  return HALUT_OK;
}

static int name_set(struct reading *reading, const char *name, struct halut_diag *diag) {
  if (!halut_name_ok(name))
    return halut_fail(diag, HALUT_EINVALID, 0,
                      "name: \"%.70s\" is not 1 to %d of A-Z a-z 0-9 _ . - without a dot first",
                      name, HALUT_NAME_MAX - 1);
  if (strcmp(name, "stats") == 0) /* /v2/models/stats is something else */
    return halut_fail(diag, HALUT_EINVALID, 0, "name: \"stats\" is none for a model");
  memcpy(reading->lesson->name, name, strlen(name) + 1);
  return HALUT_OK;
}

static int by_set(struct reading *reading, const char *word, struct halut_diag *diag) {
  if (strcmp(word, "output") != 0 && strcmp(word, "input") != 0)
    return halut_fail(diag, HALUT_EINVALID, 0, "by: must be \"output\" or \"input\", not \"%.32s\"",
                      word);
  reading->lesson->options.by_output = word[0] == 'o';
  return HALUT_OK;
}

/* Memory for a or b of that shape, which is checked as far as one matrix can be. */
static int matrix_new(struct reading *reading, const char *key, uint64_t rows, uint64_t columns,
                      float **out, struct halut_diag *diag) {
  bool is_a = key[0] == 'a';
  uint64_t rows_max = is_a ? reading->limits->rows_max : HALUT_COLUMNS_MAX;
  uint64_t columns_max = is_a ? HALUT_COLUMNS_MAX : HALUT_OUTPUTS_MAX;
  if (rows == 0 || columns == 0)
    return halut_fail(diag, HALUT_ESHAPE, 0, "%s: has no values", key);
  if (rows > rows_max)
    return halut_fail(diag, HALUT_ELIMIT, 0, "%s: %llu rows exceed %s%llu", key,
                      (unsigned long long)rows, is_a ? "learn-rows-max " : "",
                      (unsigned long long)rows_max);
  if (columns > columns_max)
    return halut_fail(diag, HALUT_ELIMIT, 0, "%s: %llu columns exceed %llu", key,
                      (unsigned long long)columns, (unsigned long long)columns_max);
  size_t bytes = (size_t)(rows * columns) * sizeof **out;
  if (bytes > reading->limits->memory_max)
    return halut_fail(diag, HALUT_ELIMIT, 0, "%s: %zu bytes as floats exceed learn-memory-max %llu",
                      key, bytes, (unsigned long long)reading->limits->memory_max);
  *out = malloc(bytes);
  if (*out == NULL)
    return halut_fail(diag, HALUT_ENOMEM, 0, "no memory for %s; try again", key);
  if (is_a) {
    reading->lesson->rows = (size_t)rows;
    reading->lesson->columns = (uint32_t)columns;
  } else {
    reading->b_rows = rows;
    reading->lesson->outputs = (uint32_t)columns;
  }
  return HALUT_OK;
}

static float **matrix_of(struct reading *reading, const char *key) {
  return key[0] == 'a' ? &reading->lesson->a : &reading->lesson->b;
}

/* ---- forms ---- */

static int npy_set(struct reading *reading, const char *key, const uint8_t *data, size_t bytes,
                   struct halut_diag *diag) {
  struct halut_npy npy = {0};
  struct halut_diag why = {0};
  int error = halut_npy_parse(data, bytes, &npy, &why);
  if (error != HALUT_OK)
    return halut_fail(diag, error, why.offset, "%s: %.160s", key, why.text);
  if (npy.rank != 2)
    return halut_fail(diag, HALUT_ESHAPE, 0, "%s: an array of %u dimensions, not 2", key, npy.rank);
  float **to = matrix_of(reading, key);
  error = matrix_new(reading, key, npy.dim[0], npy.dim[1], to, diag);
  if (error != HALUT_OK)
    return error;
  halut_npy_floats(&npy, 0, npy.count, *to);
  for (size_t i = 0; i < npy.count; i++)
    if (!isfinite((*to)[i]))
      return halut_fail(diag, HALUT_EINVALID, 0, "%s[%zu][%zu]: not a finite float32", key,
                        i / npy.dim[1], i % npy.dim[1]);
  return HALUT_OK;
}

static int option_text(struct reading *reading, const char *key, const char *text,
                       struct halut_diag *diag) {
  enum option option = 0;
  char *end = NULL;
  while (strcmp(options_known[option].key, key) != 0)
    option++;
  /* strtod also takes blanks, hex and names of no number: those are refused. */
  bool is_plain = text[strspn(text, "0123456789.eE+-")] == '\0' && text[0] != '\0';
  double value = is_plain ? strtod(text, &end) : NAN;
  if (end == NULL || *end != '\0')
    value = NAN;
  return option_set(reading, option, value, text, diag);
}

static int field_set(struct reading *reading, const char *name, const uint8_t *data, size_t bytes,
                     struct halut_diag *diag) {
  char text[TEXT_MAX + HALUT_NAME_MAX];
  size_t i = 0;
  while (members[i] != NULL && strcmp(members[i], name) != 0)
    i++;
  if (members[i] == NULL)
    return halut_fail(diag, HALUT_EINVALID, 0, "unknown field \"%.32s\"", name);
  if (reading->has[i])
    return halut_fail(diag, HALUT_EINVALID, 0, "%s: is given twice", name);
  reading->has[i] = true;
  if (strcmp(name, "a") == 0 || strcmp(name, "b") == 0)
    return npy_set(reading, name, data, bytes, diag);
  if (bytes >= sizeof text || memchr(data, 0, bytes) != NULL)
    return halut_fail(diag, HALUT_EINVALID, 0, "%s: is too long or has a NUL byte", name);
  memcpy(text, data, bytes);
  text[bytes] = '\0';
  if (strcmp(name, "name") == 0)
    return name_set(reading, text, diag);
  if (strcmp(name, "by") == 0)
    return by_set(reading, text, diag);
  return option_text(reading, name, text, diag);
}

static int form_read(struct reading *reading, const uint8_t *body, size_t bytes,
                     const char *boundary, struct halut_diag *diag) {
  struct halut_multipart parts;
  const uint8_t *data = NULL;
  size_t data_bytes = 0;
  int error = halut_multipart_open(body, bytes, boundary, &parts, diag);
  while (error == HALUT_OK) {
    error = halut_multipart_next(&parts, NULL, &data, &data_bytes, diag);
    if (error == HALUT_ENOTFOUND)
      return HALUT_OK; /* each name may be there once, so there were few */
    if (error == HALUT_OK)
      error = field_set(reading, parts.name, data, data_bytes, diag);
  }
  return error;
}

/* ---- JSON ---- */

static int numbers_set(struct reading *reading, const struct halut_json *json, const char *key,
                       struct halut_diag *diag) {
  const json_t *member = json_object_get(json->root, key);
  const struct halut_json_slice *slice = member != NULL ? halut_json_slice(json, member) : NULL;
  struct halut_number_shape shape;
  if (slice == NULL || slice->is_string)
    return halut_fail(diag, HALUT_EINVALID, 0, "%s: must be an array of rows of numbers", key);
  size_t capacity = halut_number_count_max(slice->text, slice->bytes);
  struct halut_number_options options = {.type = HALUT_NUMBER_FP32,
                                         .name = key,
                                         .offset = slice->offset,
                                         .rank_max = 2,
                                         .rows_max = key[0] == 'a' ? reading->limits->rows_max
                                                                   : HALUT_COLUMNS_MAX};
  float *values = malloc((capacity + 1) * sizeof *values);
  if (values == NULL)
    return halut_fail(diag, HALUT_ENOMEM, 0, "no memory for %s; try again", key);
  int error =
      halut_number_read(slice->text, slice->bytes, &options, values, capacity, &shape, diag);
  if (error == HALUT_OK && shape.rank != 2)
    error = halut_fail(diag, HALUT_ESHAPE, slice->offset, "%s: must be an array of rows", key);
  float **to = matrix_of(reading, key);
  if (error == HALUT_OK)
    error = matrix_new(reading, key, shape.dim[0], shape.dim[1], to, diag);
  if (error == HALUT_OK)
    memcpy(*to, values, shape.count * sizeof **to);
  free(values);
  return error;
}

/* A number as a double; NaN for anything else, and for one that is not exactly one. */
static double exactly(const json_t *value) {
  double number = json_is_number(value) ? json_number_value(value) : (double)NAN;
  bool is_rounded = json_is_integer(value) && (fabs(number) > 0x1p53 ||
                                               (json_int_t)number != json_integer_value(value));
  return is_rounded ? (double)NAN : number;
}

static int options_set(struct reading *reading, const json_t *root, struct halut_diag *diag) {
  int error = HALUT_OK;
  for (size_t i = 0; i < OPTIONS && error == HALUT_OK; i++) {
    const json_t *value = json_object_get(root, options_known[i].key);
    char shown[32] = "that";
    if (value == NULL)
      continue;
    if (json_is_integer(value))
      snprintf(shown, sizeof shown, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
    else if (json_is_number(value))
      snprintf(shown, sizeof shown, "%.15g", json_number_value(value));
    error = option_set(reading, (enum option)i, exactly(value), shown, diag);
  }
  return error;
}

static int json_read(struct reading *reading, const char *body, size_t bytes,
                     struct halut_diag *diag) {
  static const char *const big[] = {"a", "b", NULL};
  struct halut_json *json = NULL;
  const char *name = NULL, *by = "output";
  int error = halut_json_open(body, bytes, big, reading->limits->depth_max, &json, diag);
  if (error != HALUT_OK)
    return error;
  error = halut_json_only(json->root, members, diag);
  error = error ? error : halut_json_get_text(json->root, "name", true, &name, diag);
  error = error ? error : name_set(reading, name, diag);
  error = error ? error : halut_json_get_text(json->root, "by", false, &by, diag);
  error = error ? error : by_set(reading, by, diag);
  error = error ? error : options_set(reading, json->root, diag);
  error = error ? error : numbers_set(reading, json, "a", diag);
  error = error ? error : numbers_set(reading, json, "b", diag);
  error = error ? error : halut_json_rest(json, diag);
  halut_json_close(json);
  return error;
}

/* ---- the whole ---- */

static int lesson_check(struct reading *reading, struct halut_diag *diag) {
  struct halut_lesson *lesson = reading->lesson;
  struct halut_learn_options *options = &lesson->options;
  double codebooks = reading->option[OPTION_CODEBOOKS];
  if (lesson->name[0] == '\0' || lesson->a == NULL || lesson->b == NULL)
    return halut_fail(diag, HALUT_EINVALID, 0, "%s: is missing",
                      lesson->name[0] == '\0' ? "name"
                      : lesson->a == NULL     ? "a"
                                              : "b");
  if (reading->b_rows != lesson->columns)
    return halut_fail(diag, HALUT_ESHAPE, 0, "b: has %llu rows, but a has %u columns",
                      (unsigned long long)reading->b_rows, lesson->columns);
  if (isnan(codebooks))
    codebooks = fmin((lesson->columns + 7) / 8, (double)reading->limits->codebooks_max);
  if (codebooks > lesson->columns)
    return halut_fail(diag, HALUT_EINVALID, 0, "codebooks: %.0f, but a has only %u columns",
                      codebooks, lesson->columns);
  if (lesson->columns > codebooks * (double)reading->limits->width_max)
    return halut_fail(diag, HALUT_ELIMIT, 0,
                      "codebooks: %.0f of a's %u columns are wider than learn-width-max %llu",
                      codebooks, lesson->columns, (unsigned long long)reading->limits->width_max);
  options->codebooks = (uint32_t)codebooks;
  options->prototypes = (uint32_t)reading->option[OPTION_PROTOTYPES];
  options->ridge = reading->option[OPTION_RIDGE];
  options->heldout = reading->option[OPTION_HELDOUT];
  options->seed = (uint64_t)reading->option[OPTION_SEED];
  options->candidates = (uint32_t)reading->option[OPTION_CANDIDATES];
  options->tree_rows = (size_t)reading->option[OPTION_TREE_ROWS];
  options->threads = reading->limits->threads;
  lesson->sample_bytes =
      ((size_t)lesson->rows + lesson->outputs) * lesson->columns * sizeof *lesson->a;
  lesson->work_bytes = halut_learn_bytes(lesson->rows, lesson->columns, lesson->outputs, options);
  if (lesson->sample_bytes + lesson->work_bytes > reading->limits->memory_max)
    return halut_fail(diag, HALUT_ELIMIT, 0,
                      "learning would take %zu bytes, more than learn-memory-max %llu: fewer rows, "
                      "tree_rows or codebooks need less",
                      lesson->sample_bytes + lesson->work_bytes,
                      (unsigned long long)reading->limits->memory_max);
  return HALUT_OK;
}

int halut_lesson_read(const char *body, size_t bytes, const char *boundary,
                      const struct halut_lesson_limits *limits, struct halut_lesson **out,
                      struct halut_diag *diag) {
  struct reading reading = {
      .limits = limits,
      .option = {[OPTION_CODEBOOKS] = NAN,
                 [OPTION_PROTOTYPES] = HALUT_PROTOTYPES,
                 [OPTION_RIDGE] = 1.0,
                 [OPTION_HELDOUT] = 0.1}};
  if (bytes == 0)
    return halut_fail(diag, HALUT_EINVALID, 0,
                      "the body is empty: send a multipart form with a and b as .npy, or JSON");
  reading.lesson = calloc(1, sizeof *reading.lesson);
  if (reading.lesson == NULL)
    return halut_fail(diag, HALUT_ENOMEM, 0, "no memory for the request; try again");
  reading.lesson->options.by_output = 1;
  int error = boundary[0] != '\0'
                  ? form_read(&reading, (const uint8_t *)body, bytes, boundary, diag)
                  : json_read(&reading, body, bytes, diag);
  error = error ? error : lesson_check(&reading, diag);
  if (error != HALUT_OK)
    halut_lesson_free(reading.lesson);
  else
    *out = reading.lesson;
  return error;
}

void halut_lesson_free(struct halut_lesson *lesson) {
  if (lesson == NULL)
    return;
  free(lesson->a);
  free(lesson->b);
  free(lesson);
}
