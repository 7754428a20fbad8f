/* config.h: the settings of halutd, from defaults, a file, the environment and the command line.
 *
 * config.inc is the list. Later sources win: default, file (--config PATH or HALUTD_CONFIG),
 * environment (HALUTD_ and the key in capitals with "_" for "-"), command line (--key VALUE or
 * --key=VALUE). A file has `key = value` lines; "#" starts a comment at the start of a line or
 * after a blank; values may be "quoted".
 *
 * Called once, by main, before any thread.
 */
#ifndef HALUT_CONFIG_H
#define HALUT_CONFIG_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "../core/halut.h"

enum { HALUT_CONFIG_TEXT_MAX = 512, HALUT_LISTEN_MAX = 8,
  HALUT_SHADOW_EVERY_MAX = 1000000, HALUT_LISTEN_HOST_MAX = 108 };

/* What the command line asks for. */
enum halut_config_mode {
  HALUT_MODE_SERVE = 0,
  HALUT_MODE_CHECK,   /* --check-config: report and stop; 0 if there is no problem */
  HALUT_MODE_PRINT,   /* --print-config: halut_config_print and stop */
  HALUT_MODE_HELP,    /* --help: halut_config_help and stop */
  HALUT_MODE_MAN,     /* --man: halut_config_man and stop */
  HALUT_MODE_VERSION, /* --version */
  HALUT_MODE_HEALTH   /* --health URL: ask a running daemon and exit 0 if it is healthy; see
                         health_url */
};

enum halut_listen_kind { HALUT_LISTEN_IP4 = 1, HALUT_LISTEN_IP6, HALUT_LISTEN_UNIX };

struct halut_listen {
  enum halut_listen_kind kind;
  bool is_secure;                   /* speaks TLS */
  bool is_explicit;                 /* it says so itself: http:// or https:// */
  uint16_t port;                    /* IP4, IP6; 0 is any free one */
  char host[HALUT_LISTEN_HOST_MAX]; /* a numeric address without brackets, or the path of a Unix
                                       socket */
};

/* The words of each WORD key, in the order of config.inc. */
enum { HALUT_BACKEND_CPU = 0, HALUT_BACKEND_RTL, HALUT_BACKEND_BOTH };
enum { HALUT_LEARN_OFF = 0, HALUT_LEARN_ON };
enum { HALUT_PRIORITY_IDLE = 0, HALUT_PRIORITY_LOW, HALUT_PRIORITY_NORMAL };
enum { HALUT_LOG_ERROR = 0, HALUT_LOG_WARNING, HALUT_LOG_INFO, HALUT_LOG_DEBUG };

struct halut_config {
#define GROUP(title)
#define TEXT(field, key, value, argument, help) char field[HALUT_CONFIG_TEXT_MAX];
#define WORD(field, key, value, help, ...) uint32_t field;
#define COUNT(field, key, value, min, max, argument, help) uint64_t field;
#define BYTES(field, key, value, min, max, argument, help) uint64_t field;
#include "config.inc"
#undef GROUP
#undef TEXT
#undef WORD
#undef COUNT
#undef BYTES
  enum halut_config_mode mode;
  char config_path[HALUT_CONFIG_TEXT_MAX]; /* "" if no file was read */
  char health_url[HALUT_CONFIG_TEXT_MAX];  /* HALUT_MODE_HEALTH */
  uint64_t shadow_every;                   /* `shadow` as N; 0: off */
  uint32_t listen_count;                   /* `listen`, taken apart: 1..HALUT_LISTEN_MAX */
  struct halut_listen listens[HALUT_LISTEN_MAX];
  unsigned socket_mode_bits; /* `socket-mode`, read */
};

/* Every problem found, each one line ended by "\n", as a person should read them. */
struct halut_config_problems {
  uint32_t count;
  size_t bytes;
  char text[16384]; /* NUL-terminated; a last line says how many did not fit */
};

/* Fills *config from all sources. `environment` is like environ. Returns 0, or HALUT_EINVALID if
 * there was any problem: all of them are then in *problems, and *config holds the defaults where a
 * value was bad. Unknown keys are problems, with the nearest known key as a suggestion; so are
 * HALUTD_ variables that are neither keys nor the ones Kubernetes makes for a service of that name.
 * With a mode of HELP, MAN or VERSION nothing else is looked at. */
int halut_config_read(int argc, char *const *argv, char *const *environment,
                      struct halut_config *config, struct halut_config_problems *problems)
    __attribute__((warn_unused_result));

/* Adds a line to the report: for checks that need more than this module knows (a model directory).
 */
void halut_config_problem(struct halut_config_problems *problems, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* The word that `value` of WORD key `key` stands for: halut_config_word("backend", config.backend).
 */
const char *halut_config_word(const char *key, uint32_t value);

void halut_config_help(FILE *stream); /* --help */
void halut_config_man(FILE *stream);  /* OPTIONS of the manual, as mdoc */
void halut_config_print(const struct halut_config *config,
                        FILE *stream); /* as a file that gives the same */

/* The entry of NULL-terminated `names` nearest to `name`, or NULL if none is near enough to be
 * meant. */
const char *halut_config_nearest(const char *name, const char *const *names);

#endif
