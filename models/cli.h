/* cli.h: what the commands of `halut` share: options, exit codes, errors, progress, JSON output.
 *
 * Each command is one file models/cmd_<name>.c that defines one struct halut_command and is listed
 * in halut.c. Parsing, --help, the shell completion and the man page are all read from that struct,
 * so an option is written down once. Only the command line tool links this; the tool is one thread
 * here.
 */
#ifndef HALUT_CLI_H
#define HALUT_CLI_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "../core/halut.h"
#include "session.h"

enum halut_exit { HALUT_EXIT_OK = 0, HALUT_EXIT_FAILURE = 1, HALUT_EXIT_USAGE = 2 };

enum halut_option_kind {
  HALUT_OPTION_FLAG = 1, /* bool: no argument, sets true */
  HALUT_OPTION_TEXT,     /* const char *: borrowed from argv */
  HALUT_OPTION_COUNT,    /* uint64_t within min..max */
  HALUT_OPTION_REAL      /* double within min..max */
};

/* One option. A list of them ends with an entry whose name is NULL. */
struct halut_option {
  const char *name;     /* "threads" for --threads */
  char letter;          /* 't' for -t, or 0 */
  const char *argument; /* "N" in the help; NULL for a flag */
  const char *help;     /* one sentence, no period; says the default */
  enum halut_option_kind kind;
  size_t target; /* offsetof the member of the command's own struct of arguments */
  double min, max;
};

struct halut_command {
  const char *name;
  const char *operands; /* "MODEL IMAGE..." in the help */
  const char *summary;  /* one line, imperative */
  const char *details;  /* paragraphs for --help and the man page, or NULL */
  const struct halut_option *options;
  int operands_min, operands_max; /* operands_max -1 for any number */
  int (*run)(const struct halut_command *command, int argc, char **argv); /* returns an exit code */
};

/* Reads argv[1..argc) into `args` (a struct that holds the defaults) and moves the operands, which
 * may stand between options, to the front of argv: argv[0..*count_out). "--" ends the options.
 * Returns true to go on; otherwise *exit_out is the exit code: help was printed, or an error was.
 */
bool halut_cli_parse(const struct halut_command *command, int argc, char **argv, void *args,
                     int *count_out, int *exit_out);
void halut_cli_help(const struct halut_command *command, FILE *to);

/* "halut eval: …" on stderr, or "halut: …" where `command` is NULL; returns `code`. */
int halut_cli_error(const struct halut_command *command, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* "halut eval: FILE: malformed file: … (byte 123)"; returns HALUT_EXIT_FAILURE. `subject` may be
 * NULL. */
int halut_cli_fail(const struct halut_command *command, const char *subject, int error,
                   const struct halut_diag *diag);

/* Opens a model; false after an error was printed. */
bool halut_cli_model(const struct halut_command *command, const char *path,
                     struct halut_model **out);
/* Opens a session for the model from `path` on the backend called `backend` with the CPU ceiling
 * `cpu` (NULL for none); false after an error was printed, *exit_out being the exit code:
 * HALUT_EXIT_USAGE if it is one of the options, whatever the model. */
bool halut_cli_session(const struct halut_command *command, const char *path,
                       const struct halut_model *model, const char *backend, const char *cpu,
                       uint32_t batch_max, struct halut_session **out, int *exit_out);

/* The instruction sets (core/cpu.h) that such a session may use, both having been accepted, and the
 * name of the best. */
uint32_t halut_cli_cpu_flags(const char *backend, const char *cpu);
const char *halut_cli_cpu_used(const char *backend, const char *cpu);

/* A JSON string of `text`, a path say, each byte of which that is no UTF-8 becomes U+FFFD; NULL if
 * memory runs out. */
json_t *halut_cli_text(const char *text);
/* A JSON number, or null for what is none there: an infinity, or not a number. */
json_t *halut_cli_real(double value);
/* Prints and releases `object`, which may be NULL for out of memory. Returns an exit code. */
int halut_cli_json(const struct halut_command *command, json_t *object);
/* Checks that everything printed on stdout arrived: the last call of a command that prints.
 * `command` may be NULL. */
int halut_cli_finish(const struct halut_command *command);

/* Prints text from a model file, at most `most` bytes of it (negative: all), as "%*s" would: on the
 * right of `width` columns, on the left of -width. Control characters, which a terminal would obey,
 * become '?'. */
void halut_cli_print(FILE *to, const char *text, int width, int most);

enum { HALUT_NUMBER_TEXT = 32 };
/* `value` with six digits after the point, if `is_share` and it is not huge, else with six digits;
 * "not finite" for an infinity and what is no number. Returns `text`. */
const char *halut_cli_number(double value, bool is_share, char text[HALUT_NUMBER_TEXT]);
/* Is `path` a file to write? False for "-", after an error was printed. */
bool halut_cli_output(const struct halut_command *command, const char *path);

/* The entry of `words` (NULL-ended) nearest to `word`, or NULL if none is near. */
const char *halut_cli_nearest(const char *word, const char *const *words);

/* A bar with rate and time left on stderr, if that is a terminal; silent otherwise. Redrawn at most
 * ten times a second, so it may be called for every row. */
struct halut_progress {
  const char *label, *unit; /* "eval", "images" */
  uint64_t total;           /* 0 if unknown */
  uint64_t began_ns, drawn_ns;
  bool active;
};
void halut_progress_begin(struct halut_progress *progress, const char *label, const char *unit,
                          uint64_t total);
void halut_progress_show(struct halut_progress *progress, uint64_t done);
void halut_progress_end(struct halut_progress *progress); /* removes the bar */

bool halut_cli_colour(FILE *to);    /* a terminal, and neither NO_COLOR nor TERM=dumb is set */
double halut_cli_cpu_seconds(void); /* of this process, all threads */

#endif
