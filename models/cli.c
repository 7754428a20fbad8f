#include "cli.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "../core/cpu.h"
#include "../core/clock.h"
#include "backends.h"

enum { WORD_MAX = 48, OPTIONS_MAX = 256, HELP_COLUMN = 26, DRAW_NS = 100000000 };

int halut_cli_error(const struct halut_command *command, int code, const char *format, ...) {
  va_list args;
  va_start(args, format);
  fprintf(stderr, "halut%s%s: ", command ? " " : "", command ? command->name : "");
  vfprintf(stderr, format, args);
  fputc('\n', stderr);
  va_end(args);
  return code;
}

int halut_cli_fail(const struct halut_command *command, const char *subject, int error,
                   const struct halut_diag *diag) {
  fprintf(stderr, "halut %s: ", command->name);
  if (subject)
    fprintf(stderr, "%s: ", subject);
  fputs(halut_error_text(error), stderr);
  if (diag && diag->text[0]) {
    fputs(": ", stderr);
    halut_cli_print(stderr, diag->text, 0, -1); /* it may quote the file */
  }
  if (diag && diag->offset)
    fprintf(stderr, " (byte %llu)", (unsigned long long)diag->offset);
  fputc('\n', stderr);
  return HALUT_EXIT_FAILURE;
}

bool halut_cli_model(const struct halut_command *command, const char *path,
                     struct halut_model **out) {
  struct halut_diag diag = {0};
  int rc = halut_model_open(path, out, &diag);
  if (rc)
    halut_cli_fail(command, path, rc, &diag);
  return rc == 0;
}

static int backend_unknown(const struct halut_command *command, const char *name) {
  char known[128] = "";
  for (size_t i = 0; halut_backends[i]; i++) {
    size_t used = strlen(known);
    snprintf(known + used, sizeof(known) - used, "%s%s", i ? ", " : "", halut_backends[i]->name);
  }
  return halut_cli_error(command, HALUT_EXIT_USAGE, "unknown backend \"%s\"; this program has: %s",
                         name, known);
}

bool halut_cli_session(const struct halut_command *command, const char *path,
                       const struct halut_model *model, const char *backend, const char *cpu,
                       uint32_t batch_max, struct halut_session **out, int *exit_out) {
  const char *colon = strchr(backend, ':');
  char name[WORD_MAX], text[OPTIONS_MAX];
  snprintf(name, sizeof(name), "%.*s", colon ? (int)(colon - backend) : WORD_MAX, backend);
  const struct halut_backend_ops *ops = halut_backends_find(name);
  if (!ops) {
    *exit_out = backend_unknown(command, name);
    return false;
  }
  int length = snprintf(text, sizeof(text), "%s%s%s%s", colon ? colon + 1 : "",
                        colon && cpu ? "," : "", cpu ? "cpu=" : "", cpu ? cpu : "");
  if (length >= (int)sizeof(text)) {
    *exit_out = halut_cli_error(command, HALUT_EXIT_USAGE, "options of the backend are too long");
    return false;
  }
  struct halut_diag diag = {0};
  int rc = halut_session_open(model, ops, length ? text : NULL, batch_max, out, &diag);
  if (rc) {
    const bool is_usage = rc == HALUT_EINVALID;
    halut_cli_fail(command, is_usage ? NULL : path, rc, &diag);
    *exit_out = is_usage ? HALUT_EXIT_USAGE : HALUT_EXIT_FAILURE;
  }
  return rc == 0;
}

uint32_t halut_cli_cpu_flags(const char *backend, const char *cpu) {
  uint32_t flags = halut_cpu_flags(), mask;
  if (cpu && halut_cpu_ceiling(cpu, &mask, NULL) == 0)
    flags &= mask;
  for (const char *option = strchr(backend, ':'); option; option = strchr(option + 1, ',')) {
    char name[16];
    if (sscanf(option + 1, "cpu=%15[^,]", name) == 1 && halut_cpu_ceiling(name, &mask, NULL) == 0)
      flags &= mask;
  }
  return flags;
}

const char *halut_cli_cpu_used(const char *backend, const char *cpu) {
  return halut_cpu_name(halut_cli_cpu_flags(backend, cpu));
}

int halut_cli_finish(const struct halut_command *command) {
  if (fflush(stdout) != 0 || ferror(stdout))
    return halut_cli_error(command, HALUT_EXIT_FAILURE, "cannot write the output: %s",
                           strerror(errno));
  return HALUT_EXIT_OK;
}

/* Bytes of the control character that `text` begins with (C0, DEL, or C1 in UTF-8), or 0. */
static size_t control_bytes(const char *text, size_t left) {
  const unsigned char first = (unsigned char)text[0];
  if (first < 0x20 || first == 0x7f)
    return 1;
  const unsigned char second = left > 1 ? (unsigned char)text[1] : 0;
  return first == 0xc2 && second >= 0x80 && second < 0xa0 ? 2 : 0;
}

void halut_cli_print(FILE *to, const char *text, int width, int most) {
  const size_t bytes = most < 0 ? strlen(text) : strnlen(text, (size_t)most);
  const int fill = abs(width) > (int)bytes ? abs(width) - (int)bytes : 0;
  if (width > 0)
    fprintf(to, "%*s", fill, "");
  for (size_t i = 0; i < bytes;) {
    const size_t control = control_bytes(text + i, bytes - i);
    fputc(control ? '?' : text[i], to);
    i += control ? control : 1;
  }
  if (width < 0)
    fprintf(to, "%*s", fill, "");
}

const char *halut_cli_number(double value, bool is_share, char text[HALUT_NUMBER_TEXT]) {
  static const double huge = 1e9;
  if (!isfinite(value))
    snprintf(text, HALUT_NUMBER_TEXT, "not finite");
  else
    snprintf(text, HALUT_NUMBER_TEXT, is_share && fabs(value) < huge ? "%.6f" : "%.6g", value);
  return text;
}

bool halut_cli_output(const struct halut_command *command, const char *path) {
  if (strcmp(path, "-") != 0)
    return true;
  halut_cli_error(command, HALUT_EXIT_USAGE,
                  "--output - is no file: the standard output takes no arrays or models; to write "
                  "a file of that name say ./-");
  return false;
}

/* Bytes of the character that `text` begins with, 0 if they are none for jansson. */
static size_t character_bytes(const char *text) {
  for (size_t bytes = 1; bytes <= 4 && text[bytes - 1]; bytes++) {
    json_t *one = json_stringn(text, bytes);
    const bool is_character = one != NULL;
    json_decref(one);
    if (is_character)
      return bytes;
  }
  return 0;
}

json_t *halut_cli_text(const char *text) {
  static const char replacement[] = "\xef\xbf\xbd";
  char *valid = malloc(strlen(text) * (sizeof replacement - 1) + 1);
  size_t used = 0;
  if (!valid)
    return NULL;
  while (*text) {
    const size_t bytes = character_bytes(text);
    const size_t added = bytes ? bytes : sizeof replacement - 1;
    memcpy(valid + used, bytes ? text : replacement, added);
    used += added;
    text += bytes ? bytes : 1;
  }
  json_t *string = json_stringn(valid, used);
  free(valid);
  return string;
}

json_t *halut_cli_real(double value) {
  return isfinite(value) ? json_real(value) : json_null();
}

int halut_cli_json(const struct halut_command *command, json_t *object) {
  if (!object)
    return halut_cli_error(command, HALUT_EXIT_FAILURE, "no memory for the result");
  int failed = json_dumpf(object, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
  json_decref(object);
  if (failed)
    return halut_cli_error(command, HALUT_EXIT_FAILURE, "cannot write the output");
  putchar('\n');
  return halut_cli_finish(command);
}

/* Edit distance where a swap of neighbours counts one; both words shorter than WORD_MAX. */
static size_t word_distance(const char *a, const char *b) {
  size_t rows[3][WORD_MAX + 1], a_length = strlen(a), b_length = strlen(b);
  for (size_t j = 0; j <= b_length; j++)
    rows[0][j] = j;
  for (size_t i = 1; i <= a_length; i++) {
    size_t *now = rows[i % 3];
    const size_t *last = rows[(i + 2) % 3], *before = rows[(i + 1) % 3];
    now[0] = i;
    for (size_t j = 1; j <= b_length; j++) {
      size_t best = last[j - 1] + (a[i - 1] != b[j - 1]);
      if (last[j] + 1 < best)
        best = last[j] + 1;
      if (now[j - 1] + 1 < best)
        best = now[j - 1] + 1;
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
          before[j - 2] + 1 < best)
        best = before[j - 2] + 1;
      now[j] = best;
    }
  }
  return rows[a_length % 3][b_length];
}

const char *halut_cli_nearest(const char *word, const char *const *words) {
  size_t length = strlen(word), limit = 1 + length / 4;
  const char *nearest = NULL;
  if (length >= WORD_MAX)
    return NULL;
  for (size_t i = 0; words[i]; i++) {
    if (strlen(words[i]) >= WORD_MAX)
      continue;
    size_t distance = word_distance(word, words[i]);
    if (distance <= limit) {
      nearest = words[i];
      if (distance == 0)
        break;
      limit = distance - 1;
    }
  }
  return nearest;
}

void halut_cli_help(const struct halut_command *command, FILE *to) {
  fprintf(to, "Usage: halut %s [OPTION]... %s\n%s.\n", command->name, command->operands,
          command->summary);
  if (command->details)
    fprintf(to, "\n%s\n", command->details);
  fputs("\nOptions:\n", to);
  for (const struct halut_option *option = command->options; option->name; option++) {
    char left[64];
    snprintf(left, sizeof(left), "%c%c%s--%s%s%s", option->letter ? '-' : ' ',
             option->letter ? option->letter : ' ', option->letter ? ", " : "  ", option->name,
             option->argument ? " " : "", option->argument ? option->argument : "");
    fprintf(to, "  %-*s %s\n", HELP_COLUMN, left, option->help);
  }
  fprintf(to, "  %-*s %s\n", HELP_COLUMN, "-h, --help", "show this help");
}

static int option_unknown(const struct halut_command *command, const char *word, size_t length) {
  const char *names[WORD_MAX];
  char name[WORD_MAX];
  size_t count = 0;
  for (; command->options[count].name && count < WORD_MAX - 2; count++)
    names[count] = command->options[count].name;
  names[count] = "help";
  names[count + 1] = NULL;
  if (length < sizeof(name)) {
    memcpy(name, word, length);
    name[length] = '\0';
    const char *nearest = halut_cli_nearest(name, names);
    if (nearest)
      return halut_cli_error(command, HALUT_EXIT_USAGE, "unknown option --%s; did you mean --%s?",
                             name, nearest);
  }
  return halut_cli_error(command, HALUT_EXIT_USAGE, "unknown option --%.*s; see halut %s --help",
                         (int)(length > WORD_MAX ? WORD_MAX : length), word, command->name);
}

static const struct halut_option *option_find(const struct halut_command *command, const char *name,
                                              size_t length) {
  for (const struct halut_option *option = command->options; option->name; option++)
    if (strlen(option->name) == length && memcmp(option->name, name, length) == 0)
      return option;
  return NULL;
}

/* Stores the argument of `option` (NULL for a flag); 0, or an exit code after an error was printed.
 */
static int option_store(const struct halut_command *command, const struct halut_option *option,
                        const char *text, void *args) {
  char *target = (char *)args + option->target, *end = NULL;
  errno = 0;
  if (option->kind == HALUT_OPTION_FLAG) {
    *(bool *)target = true;
  } else if (option->kind == HALUT_OPTION_TEXT) {
    *(const char **)(void *)target = text;
  } else if (option->kind == HALUT_OPTION_COUNT) {
    uint64_t number = 0;
    if (text[0] >= '0' && text[0] <= '9')
      number = strtoull(text, &end, 10);
    if (!end || *end || errno || (double)number < option->min || (double)number > option->max)
      return halut_cli_error(command, HALUT_EXIT_USAGE,
                             "--%s takes a whole number from %.0f to %.0f, not \"%s\"",
                             option->name, option->min, option->max, text);
    *(uint64_t *)(void *)target = number;
  } else {
    double number = strtod(text, &end);
    if (end == text || *end || !(number >= option->min && number <= option->max))
      return halut_cli_error(command, HALUT_EXIT_USAGE,
                             "--%s takes a number from %g to %g, not \"%s\"", option->name,
                             option->min, option->max, text);
    *(double *)(void *)target = number;
  }
  return 0;
}

/* "--name", "--name=value" or "--name value" at argv[*at]; moves *at past what it took. */
static int option_long(const struct halut_command *command, int argc, char **argv, int *at,
                       void *args) {
  const char *word = argv[*at] + 2, *equals = strchr(word, '=');
  size_t length = equals ? (size_t)(equals - word) : strlen(word);
  const struct halut_option *option = option_find(command, word, length);
  if (!option)
    return option_unknown(command, word, length);
  const char *text = equals ? equals + 1 : NULL;
  if (!option->argument && text)
    return halut_cli_error(command, HALUT_EXIT_USAGE, "--%s takes no argument", option->name);
  if (option->argument && !text) {
    if (*at + 1 >= argc)
      return halut_cli_error(command, HALUT_EXIT_USAGE, "--%s needs %s", option->name,
                             option->argument);
    text = argv[++*at];
  }
  ++*at;
  return option_store(command, option, text, args);
}

/* "-j", "-t4", "-t 4" or "-jt4" at argv[*at]. */
static int option_short(const struct halut_command *command, int argc, char **argv, int *at,
                        void *args) {
  const char *word = argv[(*at)++] + 1;
  for (; *word; word++) {
    const struct halut_option *option = command->options;
    while (option->name && option->letter != *word)
      option++;
    if (!option->name)
      return halut_cli_error(command, HALUT_EXIT_USAGE, "unknown option -%c; see halut %s --help",
                             *word, command->name);
    if (option->argument) {
      const char *text = word[1] ? word + 1 : *at < argc ? argv[(*at)++] : NULL;
      if (!text)
        return halut_cli_error(command, HALUT_EXIT_USAGE, "-%c needs %s", *word, option->argument);
      return option_store(command, option, text, args);
    }
    int failed = option_store(command, option, NULL, args);
    if (failed)
      return failed;
  }
  return 0;
}

bool halut_cli_parse(const struct halut_command *command, int argc, char **argv, void *args,
                     int *count_out, int *exit_out) {
  int count = 0;
  bool options = true;
  for (int at = 1; at < argc;) {
    const char *word = argv[at];
    if (!options || word[0] != '-' || word[1] == '\0') {
      argv[count++] = argv[at++];
      continue;
    }
    if (strcmp(word, "--") == 0) {
      options = false;
      at++;
      continue;
    }
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) {
      halut_cli_help(command, stdout);
      *exit_out = halut_cli_finish(command);
      return false;
    }
    *exit_out = word[1] == '-' ? option_long(command, argc, argv, &at, args)
                               : option_short(command, argc, argv, &at, args);
    if (*exit_out)
      return false;
  }
  if (count < command->operands_min ||
      (command->operands_max >= 0 && count > command->operands_max)) {
    *exit_out =
        halut_cli_error(command, HALUT_EXIT_USAGE, "%s operand; usage: halut %s [OPTION]... %s",
                        count < command->operands_min ? "missing" : "one too many", command->name,
                        command->operands);
    return false;
  }
  *count_out = count;
  return true;
}

double halut_cli_cpu_seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

bool halut_cli_colour(FILE *to) {
  const char *none = getenv("NO_COLOR"), *term = getenv("TERM");
  return isatty(fileno(to)) && !(none && none[0]) && term && strcmp(term, "dumb") != 0;
}

void halut_progress_begin(struct halut_progress *progress, const char *label, const char *unit,
                          uint64_t total) {
  *progress = (struct halut_progress){.label = label,
                                      .unit = unit,
                                      .total = total,
                                      .began_ns = halut_clock_ns(),
                                      .active = isatty(STDERR_FILENO) != 0};
}

void halut_progress_show(struct halut_progress *progress, uint64_t done) {
  if (!progress->active)
    return;
  uint64_t now = halut_clock_ns();
  if (now - progress->drawn_ns < DRAW_NS && done != progress->total)
    return;
  progress->drawn_ns = now;
  double seconds = (double)(now - progress->began_ns) * 1e-9;
  double rate = seconds > 0 ? (double)done / seconds : 0;
  if (progress->total == 0) {
    fprintf(stderr, "\r%s %llu %s, %.0f/s\033[K", progress->label, (unsigned long long)done,
            progress->unit, rate);
    return;
  }
  char bar[31];
  size_t filled = (size_t)((double)done / (double)progress->total * (sizeof(bar) - 1));
  for (size_t i = 0; i < sizeof(bar) - 1; i++)
    bar[i] = i < filled ? '#' : '.';
  bar[sizeof(bar) - 1] = '\0';
  double left = rate > 0 ? (double)(progress->total - done) / rate : 0;
  fprintf(stderr, "\r%s [%s] %3.0f%% %llu/%llu %s, %.0f/s, %.0f s left\033[K", progress->label, bar,
          100.0 * (double)done / (double)progress->total, (unsigned long long)done,
          (unsigned long long)progress->total, progress->unit, rate, left);
}

void halut_progress_end(struct halut_progress *progress) {
  if (progress->active)
    fputs("\r\033[K", stderr);
  progress->active = false;
}
