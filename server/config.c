#include "config.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "../models/graph.h"
#include "../models/learn.h"

static_assert(HALUT_LISTEN_HOST_MAX <= sizeof((struct sockaddr_un *)0)->sun_path,
              "every path that fits struct halut_listen fits a socket address");

enum kind { KIND_GROUP, KIND_TEXT, KIND_WORD, KIND_COUNT, KIND_BYTES };

enum { WORDS_MAX = 8 };

struct setting {
  enum kind kind;
  const char *key;
  size_t offset;    /* of the field */
  const char *text; /* default of TEXT and WORD */
  uint64_t value;   /* default of COUNT and BYTES */
  uint64_t min, max;
  const char *argument;
  const char *help;             /* GROUP: the title */
  const char *words[WORDS_MAX]; /* WORD: NULL after the last */
};

static const struct setting settings[] = {
#define GROUP(title) {.kind = KIND_GROUP, .help = title},
#define TEXT(field, name, value_, argument_, help_)                                                \
  {.kind = KIND_TEXT,                                                                              \
   .key = name,                                                                                    \
   .offset = offsetof(struct halut_config, field),                                                 \
   .text = value_,                                                                                 \
   .argument = argument_,                                                                          \
   .help = help_},
#define WORD(field, name, value_, help_, ...)                                                      \
  {.kind = KIND_WORD,                                                                              \
   .key = name,                                                                                    \
   .offset = offsetof(struct halut_config, field),                                                 \
   .text = value_,                                                                                 \
   .help = help_,                                                                                  \
   .words = {__VA_ARGS__}},
#define NUMBER(kind_, field, name, value_, min_, max_, argument_, help_)                           \
  {.kind = kind_,                                                                                  \
   .key = name,                                                                                    \
   .offset = offsetof(struct halut_config, field),                                                 \
   .value = value_,                                                                                \
   .min = min_,                                                                                    \
   .max = max_,                                                                                    \
   .argument = argument_,                                                                          \
   .help = help_},
#define COUNT(...) NUMBER(KIND_COUNT, __VA_ARGS__)
#define BYTES(...) NUMBER(KIND_BYTES, __VA_ARGS__)
#include "config.inc"
#undef GROUP
#undef TEXT
#undef WORD
#undef NUMBER
#undef COUNT
#undef BYTES
};

enum { SETTINGS = sizeof settings / sizeof settings[0] };

/* Flags that are not settings. */
static const struct command {
  const char *key, *argument, *help;
  enum halut_config_mode mode;
} commands[] = {
    {"config", "PATH", "read settings from a file of `key = value` lines", HALUT_MODE_SERVE},
    {"check-config", NULL, "report every problem of the settings and stop", HALUT_MODE_CHECK},
    {"print-config", NULL, "print the settings in force, as such a file, and stop",
     HALUT_MODE_PRINT},
    {"health", "URL",
     "ask the daemon at URL, http:// or https://, whether it is healthy; exit 0 if so; whose "
     "certificate it shows does not matter",
     HALUT_MODE_HEALTH},
    {"help", NULL, "print this and stop", HALUT_MODE_HELP},
    {"man", NULL, "print the options as mdoc and stop", HALUT_MODE_MAN},
    {"version", NULL, "print the version and stop", HALUT_MODE_VERSION},
};

enum { COMMANDS = sizeof commands / sizeof commands[0] };

void halut_config_problem(struct halut_config_problems *problems, const char *format, ...) {
  enum { TAIL = 64 }; /* bytes kept for the line that says what did not fit */
  char line[1024];
  va_list list;
  va_start(list, format);
  vsnprintf(line, sizeof line, format, list);
  va_end(list);
  problems->count++;
  size_t bytes = strlen(line);
  size_t room = sizeof problems->text - problems->bytes;
  char *at = problems->text + problems->bytes;
  if (bytes + 1 + TAIL < room) {
    snprintf(at, room, "%s\n", line);
    problems->bytes += bytes + 1;
  } else {
    snprintf(at, room, "... and more: %u problems in all\n", problems->count);
  }
}

/* ---- Names ---- */

enum { NAME_MAX_BYTES = 64 };

/* Edits (insert, delete, replace, swap neighbours) that turn a into b; both under NAME_MAX_BYTES.
 */
static size_t edit_distance(const char *a, const char *b) {
  size_t rows[3][NAME_MAX_BYTES + 1];
  size_t *before = rows[0], *above = rows[1], *row = rows[2];
  size_t a_bytes = strlen(a), b_bytes = strlen(b);
  for (size_t j = 0; j <= b_bytes; j++)
    above[j] = j;
  for (size_t i = 1; i <= a_bytes; i++) {
    row[0] = i;
    for (size_t j = 1; j <= b_bytes; j++) {
      size_t best = above[j - 1] + (a[i - 1] != b[j - 1]);
      if (above[j] + 1 < best)
        best = above[j] + 1;
      if (row[j - 1] + 1 < best)
        best = row[j - 1] + 1;
      bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
      if (swapped && before[j - 2] + 1 < best)
        best = before[j - 2] + 1;
      row[j] = best;
    }
    size_t *free_row = before;
    before = above;
    above = row;
    row = free_row;
  }
  return above[b_bytes];
}

const char *halut_config_nearest(const char *name, const char *const *names) {
  const char *nearest = NULL;
  size_t bytes = strlen(name);
  if (bytes >= NAME_MAX_BYTES)
    return NULL;
  size_t best = bytes / 3 + 1; /* a third of it may be wrong */
  for (; *names != NULL; names++) {
    if (strlen(*names) >= NAME_MAX_BYTES)
      continue;
    size_t distance = edit_distance(name, *names);
    /* Half a name is also meant: "batch" for "batch-max". */
    if (bytes >= 4 && strncmp(*names, name, bytes) == 0 && distance > 1)
      distance = 1;
    if (distance < best || (distance == best && nearest == NULL && distance < bytes)) {
      best = distance;
      nearest = *names;
    }
  }
  return nearest;
}

static const struct setting *find_setting(const char *key) {
  for (unsigned i = 0; i < SETTINGS; i++) {
    if (settings[i].kind != KIND_GROUP && strcmp(settings[i].key, key) == 0)
      return &settings[i];
  }
  return NULL;
}

/* Says that `key` is unknown; `with_commands` if the flags that are not settings are candidates
 * too. */
static void unknown_key(struct halut_config_problems *problems, const char *source, const char *key,
                        bool with_commands) {
  const char *names[SETTINGS + COMMANDS + 1];
  size_t count = 0;
  for (unsigned i = 0; i < SETTINGS; i++) {
    if (settings[i].kind != KIND_GROUP)
      names[count++] = settings[i].key;
  }
  for (unsigned i = 0; with_commands && i < COMMANDS; i++)
    names[count++] = commands[i].key;
  names[count] = NULL;
  const char *nearest = halut_config_nearest(key, names);
  if (nearest != NULL) {
    halut_config_problem(problems, "%s: unknown key \"%.64s\"; is \"%s\" meant?", source, key,
                         nearest);
  } else {
    halut_config_problem(problems, "%s: unknown key \"%.64s\"; --help lists them", source, key);
  }
}

/* ---- Values ---- */

/* "a|b|c": what a help text calls the argument of a setting. */
static void name_argument(const struct setting *setting, char *out, size_t bytes) {
  if (setting->kind != KIND_WORD) {
    snprintf(out, bytes, "%s", setting->argument);
    return;
  }
  size_t used = 0;
  for (unsigned i = 0; i < WORDS_MAX && setting->words[i] != NULL && used < bytes; i++) {
    used += (size_t)snprintf(out + used, bytes - used, "%s%s", i > 0 ? "|" : "", setting->words[i]);
  }
}

const char *halut_config_word(const char *key, uint32_t value) {
  const struct setting *setting = find_setting(key);
  assert(setting != NULL);
  assert(setting->kind == KIND_WORD);
  assert(value < WORDS_MAX);
  return setting->words[value];
}

/* Digits and, for sizes, a unit. False if that is not what `value` is. */
static bool parse_number(const char *value, bool units, uint64_t *out) {
  static const struct {
    const char *name;
    unsigned shift;
  } table[] = {{"", 0},     {"K", 10},   {"M", 20},   {"G", 30},
               {"KiB", 10}, {"MiB", 20}, {"GiB", 30}, {"B", 0}};
  if (!isdigit((unsigned char)*value))
    return false;
  char *unit = NULL;
  errno = 0;
  unsigned long long number = strtoull(value, &unit, 10);
  if (errno == ERANGE)
    number = UINT64_MAX; /* out of every range: reported as that */
  for (unsigned i = 0; i < (units ? sizeof table / sizeof table[0] : 1); i++) {
    if (strcasecmp(unit, table[i].name) != 0)
      continue;
    *out = number > UINT64_MAX >> table[i].shift ? UINT64_MAX : (uint64_t)number << table[i].shift;
    return true;
  }
  return false;
}

/* One HOST:PORT, [V6]:PORT or unix:PATH, the first two perhaps after http:// or https://. On
 * failure, *why_out says what is wrong. */
static bool parse_address(const char *text, struct halut_listen *out, const char **why_out) {
  *out = (struct halut_listen){0};
  *why_out = "longer than an address can be";
  if (strncmp(text, "unix:", 5) == 0) {
    out->kind = HALUT_LISTEN_UNIX;
    *why_out = text[5] == '\0' ? "the path is missing" : *why_out;
    return text[5] != '\0' &&
           snprintf(out->host, sizeof out->host, "%s", text + 5) < (int)sizeof out->host;
  }
  out->is_secure = strncmp(text, "https://", 8) == 0;
  out->is_explicit = out->is_secure || strncmp(text, "http://", 7) == 0;
  text += out->is_secure ? 8 : out->is_explicit ? 7 : 0;
  const char *colon = strrchr(text, ':');
  bool bracket = text[0] == '[';
  *why_out = "a port must follow, as in 127.0.0.1:8080 or [::1]:8080 (0 is any free one)";
  if (colon == NULL || (bracket && (colon == text || colon[-1] != ']')))
    return false;
  uint64_t port = 0;
  if (!parse_number(colon + 1, false, &port) || port > UINT16_MAX)
    return false;
  const char *host = text + bracket;
  size_t bytes = (size_t)(colon - text) - (bracket ? 2 : 0);
  *why_out = "not a numeric address (0.0.0.0 is every IPv4 one, [::] every one)";
  if (bytes == 0 || bytes >= sizeof out->host)
    return false;
  memcpy(out->host, host, bytes);
  if (strcmp(out->host, "localhost") == 0)
    snprintf(out->host, sizeof out->host, "127.0.0.1");
  out->kind = bracket ? HALUT_LISTEN_IP6 : HALUT_LISTEN_IP4;
  out->port = (uint16_t)port;
  uint8_t address[16];
  if (!bracket && strchr(out->host, ':') != NULL) {
    *why_out = "an IPv6 address needs brackets, as in [::1]:8080";
    return false;
  }
  return inet_pton(bracket ? AF_INET6 : AF_INET, out->host, address) == 1;
}

static void set_listen(struct halut_config *config, const char *source,
                       struct halut_config_problems *problems) {
  struct halut_listen listens[HALUT_LISTEN_MAX];
  uint32_t count = 0;
  uint32_t before = problems->count;
  char text[HALUT_CONFIG_TEXT_MAX];
  snprintf(text, sizeof text, "%s", config->listen);
  char *rest = NULL;
  for (char *one = strtok_r(text, ", ", &rest); one != NULL; one = strtok_r(NULL, ", ", &rest)) {
    const char *why = NULL;
    if (count == HALUT_LISTEN_MAX) {
      halut_config_problem(problems, "%s: listen: more than %d addresses", source,
                           HALUT_LISTEN_MAX);
      return;
    }
    if (parse_address(one, &listens[count], &why)) {
      count++;
    } else {
      halut_config_problem(problems, "%s: listen: \"%.120s\": %s", source, one, why);
    }
  }
  if (count == 0 && problems->count == before) {
    halut_config_problem(problems, "%s: listen: no address", source);
  }
  if (problems->count != before)
    return;
  config->listen_count = count;
  memcpy(config->listens, listens, count * sizeof listens[0]);
}

static void set_socket_mode(struct halut_config *config, const char *source,
                            struct halut_config_problems *problems) {
  const char *text = config->socket_mode;
  if (strlen(text) > 4 || strspn(text, "01234567") != strlen(text) || strtoul(text, NULL, 8) > 0777)
    halut_config_problem(problems, "%s: socket-mode: \"%.32s\" is not in 0..0777, octal", source,
                         text);
  else
    config->socket_mode_bits = (unsigned)strtoul(text, NULL, 8);
}

static void set_shadow(struct halut_config *config, const char *source,
                       struct halut_config_problems *problems) {
  uint64_t every = 0;
  bool is_off = strcmp(config->shadow, "off") == 0;
  if (is_off || (strncmp(config->shadow, "1/", 2) == 0 &&
                 parse_number(config->shadow + 2, false, &every) && every >= 1 &&
                 every <= HALUT_SHADOW_EVERY_MAX))
    config->shadow_every = every;
  else
    halut_config_problem(problems, "%s: shadow: \"%.32s\" is neither off nor 1/N, N in 1..%d",
                         source, config->shadow, HALUT_SHADOW_EVERY_MAX);
}

static void set_text(struct halut_config *config, const struct setting *setting, const char *value,
                     const char *source, struct halut_config_problems *problems) {
  char *field = (char *)config + setting->offset;
  if (strlen(value) >= HALUT_CONFIG_TEXT_MAX) {
    halut_config_problem(problems, "%s: %s: longer than %d bytes", source, setting->key,
                         HALUT_CONFIG_TEXT_MAX - 1);
    return;
  }
  if (*value == '\0') {
    halut_config_problem(problems, "%s: %s: must not be empty", source, setting->key);
    return;
  }
  memcpy(field, value, strlen(value) + 1);
  if (field == config->listen)
    set_listen(config, source, problems);
  if (field == config->socket_mode)
    set_socket_mode(config, source, problems);
  if (field == config->shadow)
    set_shadow(config, source, problems);
}

static void set_word(struct halut_config *config, const struct setting *setting, const char *value,
                     const char *source, struct halut_config_problems *problems) {
  uint32_t index = 0;
  while (index < WORDS_MAX && setting->words[index] != NULL) {
    if (strcmp(setting->words[index], value) == 0) {
      memcpy((char *)config + setting->offset, &index, sizeof index);
      return;
    }
    index++;
  }
  char words[128];
  name_argument(setting, words, sizeof words);
  halut_config_problem(problems, "%s: %s: \"%.64s\" is none of %s", source, setting->key, value,
                       words);
}

static void set_number(struct halut_config *config, const struct setting *setting,
                       const char *value, const char *source,
                       struct halut_config_problems *problems) {
  uint64_t number = 0;
  bool units = setting->kind == KIND_BYTES;
  if (!parse_number(value, units, &number)) {
    halut_config_problem(problems, "%s: %s: \"%.64s\" is not a whole number%s", source,
                         setting->key, value, units ? " of bytes, perhaps with K, M or G" : "");
  } else if (number < setting->min || number > setting->max) {
    halut_config_problem(problems, "%s: %s: %.64s is not in %llu..%llu", source, setting->key,
                         value, (unsigned long long)setting->min, (unsigned long long)setting->max);
  } else {
    memcpy((char *)config + setting->offset, &number, sizeof number);
  }
}

static void set_value(struct halut_config *config, const struct setting *setting, const char *value,
                      const char *source, struct halut_config_problems *problems) {
  switch (setting->kind) {
  case KIND_TEXT:
    set_text(config, setting, value, source, problems);
    break;
  case KIND_WORD:
    set_word(config, setting, value, source, problems);
    break;
  case KIND_COUNT:
  case KIND_BYTES:
    set_number(config, setting, value, source, problems);
    break;
  case KIND_GROUP:
    break;
  }
}

static void set_defaults(struct halut_config *config, struct halut_config_problems *problems) {
  for (unsigned i = 0; i < SETTINGS; i++) {
    char number[24];
    snprintf(number, sizeof number, "%llu", (unsigned long long)settings[i].value);
    const char *value = settings[i].text != NULL ? settings[i].text : number;
    set_value(config, &settings[i], value, "default", problems);
  }
  assert(problems->count == 0);
}

/* ---- The file ---- */

enum { LINE_MAX_BYTES = 4096, LINES_MAX = 10000 };

static char *trim(char *text) {
  while (isspace((unsigned char)*text))
    text++;
  size_t bytes = strlen(text);
  while (bytes > 0 && isspace((unsigned char)text[bytes - 1]))
    bytes--;
  text[bytes] = '\0';
  return text;
}

/* Ends the line where a comment starts: a "#" at its start or after a blank, outside quotes. */
static void cut_comment(char *line) {
  bool quoted = false;
  for (char *p = line; *p != '\0'; p++) {
    if (*p == '"')
      quoted = !quoted;
    bool starts = p == line || isspace((unsigned char)p[-1]);
    if (*p == '#' && !quoted && starts) {
      *p = '\0';
      return;
    }
  }
}

/* Takes one pair of quotes off; false if they do not pair. */
static bool unquote(char **value) {
  char *text = *value;
  size_t bytes = strlen(text);
  if (text[0] != '"')
    return strchr(text, '"') == NULL;
  if (bytes < 2 || strchr(text + 1, '"') != text + bytes - 1)
    return false;
  text[bytes - 1] = '\0';
  *value = text + 1;
  return true;
}

static void read_line(struct halut_config *config, char *line, const char *source, bool *seen,
                      struct halut_config_problems *problems) {
  cut_comment(line);
  char *key = trim(line);
  if (*key == '\0')
    return;
  char *equals = strchr(key, '=');
  if (equals == NULL) {
    halut_config_problem(problems, "%s: \"%.64s\": must be key = value", source, key);
    return;
  }
  *equals = '\0';
  char *value = trim(equals + 1);
  key = trim(key);
  const struct setting *setting = find_setting(key);
  if (setting == NULL) {
    unknown_key(problems, source, key, false);
    return;
  }
  if (seen[setting - settings]) {
    halut_config_problem(problems, "%s: %s: set a second time", source, key);
  } else if (!unquote(&value)) {
    halut_config_problem(problems, "%s: %s: quotes that do not pair", source, key);
  } else {
    set_value(config, setting, value, source, problems);
  }
  seen[setting - settings] = true;
}

static void read_file(struct halut_config *config, const char *path,
                      struct halut_config_problems *problems) {
  FILE *file = fopen(path, "re");
  if (file == NULL) {
    halut_config_problem(problems, "config: %s: %s", path, strerror(errno));
    return;
  }
  bool seen[SETTINGS] = {false};
  char line[LINE_MAX_BYTES];
  for (unsigned number = 1; fgets(line, sizeof line, file) != NULL; number++) {
    char source[HALUT_CONFIG_TEXT_MAX + 16];
    snprintf(source, sizeof source, "%s:%u", path, number);
    bool whole = strchr(line, '\n') != NULL || feof(file);
    if (!whole || number > LINES_MAX) {
      halut_config_problem(problems, "%s: %s", source,
                           whole ? "too many lines" : "line too long, or a NUL in it");
      break;
    }
    read_line(config, line, source, seen, problems);
  }
  if (ferror(file))
    halut_config_problem(problems, "config: %s: %s", path, strerror(errno));
  fclose(file);
}

/* ---- The environment ---- */

static const char prefix[] = "HALUTD_";

/* Kubernetes gives every container HALUTD_SERVICE_HOST, HALUTD_PORT, HALUTD_PORT_8080_TCP and so on
 * when there is a service named halutd. They are not meant for us. */
static bool is_service_link(const char *name) {
  return strncmp(name, "SERVICE_", 8) == 0 || strcmp(name, "PORT") == 0 ||
         strncmp(name, "PORT_", 5) == 0;
}

static void read_environment(struct halut_config *config, char *const *environment,
                             struct halut_config_problems *problems) {
  for (; *environment != NULL; environment++) {
    const char *equals = strchr(*environment, '=');
    size_t prefix_bytes = sizeof prefix - 1;
    if (equals == NULL || strncmp(*environment, prefix, prefix_bytes) != 0)
      continue;
    char source[96], key[96];
    snprintf(source, sizeof source, "%.*s", (int)(equals - *environment), *environment);
    snprintf(key, sizeof key, "%s", source + (strlen(source) < prefix_bytes ? 0 : prefix_bytes));
    if (strcmp(key, "CONFIG") == 0 || is_service_link(key))
      continue;
    bool upper = true;
    for (char *p = key; *p != '\0'; p++) {
      upper &= !islower((unsigned char)*p) && *p != '-';
      *p = *p == '_' ? '-' : (char)tolower((unsigned char)*p);
    }
    const struct setting *setting = upper ? find_setting(key) : NULL;
    if (setting == NULL) {
      unknown_key(problems, source, key, false);
    } else {
      set_value(config, setting, equals + 1, source, problems);
    }
  }
}

/* ---- The command line ---- */

/* What one argument says. */
struct argument {
  char key[NAME_MAX_BYTES];
  const char *value; /* NULL if there is none */
};

static const struct command *find_command(const char *key) {
  for (unsigned i = 0; i < COMMANDS; i++) {
    if (strcmp(commands[i].key, key) == 0)
      return &commands[i];
  }
  return NULL;
}

/* Takes argv[*i], and argv[*i + 1] if that is its value. False if it is not a flag at all. */
static bool take_argument(int argc, char *const *argv, int *i, struct argument *out) {
  const char *text = argv[*i];
  if (strcmp(text, "-h") == 0)
    text = "--help";
  if (strcmp(text, "-V") == 0)
    text = "--version";
  if (strncmp(text, "--", 2) != 0 || text[2] == '\0')
    return false;
  const char *equals = strchr(text, '=');
  size_t bytes = equals != NULL ? (size_t)(equals - text - 2) : strlen(text + 2);
  if (bytes >= sizeof out->key)
    bytes = sizeof out->key - 1;
  memcpy(out->key, text + 2, bytes);
  out->key[bytes] = '\0';
  out->value = equals != NULL ? equals + 1 : NULL;
  const struct command *command = find_command(out->key);
  bool wants_value = command != NULL ? command->argument != NULL : *i + 1 < argc;
  /* What follows a misspelt key is taken for its value, not for a second mistake. */
  if (command == NULL && find_setting(out->key) == NULL) {
    wants_value = wants_value && argv[*i + 1][0] != '-';
  }
  if (out->value == NULL && wants_value && *i + 1 < argc)
    out->value = argv[++*i];
  return true;
}

static void do_command(struct halut_config *config, const struct command *command,
                       const struct argument *argument, struct halut_config_problems *problems) {
  bool wants = command->argument != NULL;
  if (wants != (argument->value != NULL)) {
    halut_config_problem(problems, "--%s: %s", command->key,
                         wants ? "a value must follow" : "takes no value");
    return;
  }
  if (command->mode != HALUT_MODE_SERVE)
    config->mode = command->mode;
  if (!wants)
    return;
  char *field = command->mode == HALUT_MODE_HEALTH ? config->health_url : config->config_path;
  if (snprintf(field, HALUT_CONFIG_TEXT_MAX, "%s", argument->value) >= HALUT_CONFIG_TEXT_MAX) {
    halut_config_problem(problems, "--%s: longer than %d bytes", command->key,
                         HALUT_CONFIG_TEXT_MAX - 1);
  }
}

/* Reads the command line twice: first the commands (which file, what to do), then, when the other
 * sources have been read, the settings. */
static void read_arguments(struct halut_config *config, int argc, char *const *argv,
                           bool want_settings, struct halut_config_problems *problems) {
  for (int i = 1; i < argc; i++) {
    struct argument argument;
    const char *text = argv[i];
    if (!take_argument(argc, argv, &i, &argument)) {
      if (want_settings) {
        halut_config_problem(problems, "\"%.64s\": not an option; options start with --", text);
      }
      continue;
    }
    char source[NAME_MAX_BYTES + 8];
    snprintf(source, sizeof source, "--%s", argument.key);
    const struct command *command = find_command(argument.key);
    const struct setting *setting = find_setting(argument.key);
    if (command != NULL && !want_settings)
      do_command(config, command, &argument, problems);
    if (command != NULL || !want_settings)
      continue;
    if (setting == NULL) {
      unknown_key(problems, source, argument.key, true);
    } else if (argument.value == NULL) {
      halut_config_problem(problems, "%s: a value must follow", source);
    } else {
      set_value(config, setting, argument.value, "command line", problems);
    }
  }
}

/* With a certificate, what listens on TCP and does not say http:// speaks TLS. */
static void check_secure(struct halut_config *config, struct halut_config_problems *problems) {
  bool has_certificate = strcmp(config->tls_cert, "off") != 0;
  bool has_key = strcmp(config->tls_key, "off") != 0;
  if (has_certificate != has_key)
    halut_config_problem(problems, "%s: must be given with %s", has_key ? "tls-key" : "tls-cert",
                         has_key ? "tls-cert" : "tls-key");
  for (uint32_t i = 0; i < config->listen_count; i++) {
    struct halut_listen *listen = &config->listens[i];
    if (listen->kind != HALUT_LISTEN_UNIX && !listen->is_explicit)
      listen->is_secure = has_certificate;
    if (listen->is_secure && !has_certificate)
      halut_config_problem(problems, "listen: https://%s needs tls-cert and tls-key", listen->host);
  }
}

static void check_together(struct halut_config *config, struct halut_config_problems *problems) {
  check_secure(config, problems);
  if (config->body_total_max < config->body_max) {
    halut_config_problem(problems, "body-total-max: %llu is less than body-max %llu",
                         (unsigned long long)config->body_total_max,
                         (unsigned long long)config->body_max);
  }
  if (!halut_name_ok(config->model_default))
    halut_config_problem(problems,
                         "model-default: \"%.80s\" is no name of a model, which is 1 to %d of "
                         "[A-Za-z0-9_.-], the first no dot",
                         config->model_default, HALUT_NAME_MAX - 1);
  if (config->shadow_every > 0 && config->backend != HALUT_BACKEND_BOTH)
    halut_config_problem(problems, "shadow: needs both backends (--backend both)");
}

int halut_config_read(int argc, char *const *argv, char *const *environment,
                      struct halut_config *config, struct halut_config_problems *problems) {
  *config = (struct halut_config){0};
  *problems = (struct halut_config_problems){0};
  set_defaults(config, problems);
  read_arguments(config, argc, argv, false, problems);
  if (config->mode == HALUT_MODE_HELP || config->mode == HALUT_MODE_MAN ||
      config->mode == HALUT_MODE_VERSION) {
    return problems->count == 0 ? 0 : HALUT_EINVALID;
  }
  for (char *const *e = environment; *e != NULL && config->config_path[0] == '\0'; e++) {
    if (strncmp(*e, "HALUTD_CONFIG=", 14) != 0)
      continue;
    snprintf(config->config_path, sizeof config->config_path, "%s", *e + 14);
  }
  if (config->config_path[0] != '\0')
    read_file(config, config->config_path, problems);
  read_environment(config, environment, problems);
  read_arguments(config, argc, argv, true, problems);
  check_together(config, problems);
  return problems->count == 0 ? 0 : HALUT_EINVALID;
}

/* ---- Output ---- */

/* Words up to column 80, each line indented. */
static void print_wrapped(FILE *stream, const char *text, unsigned indent) {
  enum { COLUMNS = 80 };
  unsigned column = 0;
  while (*text != '\0') {
    size_t word = strcspn(text, " ");
    if (column != 0 && column + 1 + word > COLUMNS) {
      fputc('\n', stream);
      column = 0;
    }
    if (column == 0) {
      fprintf(stream, "%*s", (int)indent, "");
      column = indent;
    } else {
      fputc(' ', stream);
      column++;
    }
    fwrite(text, 1, word, stream);
    column += (unsigned)word;
    text += word;
    while (*text == ' ')
      text++;
  }
  fputc('\n', stream);
}

/* 16777216 as "16M". */
static void name_bytes(uint64_t value, char out[24]) {
  static const char units[] = {'\0', 'K', 'M', 'G'};
  unsigned unit = 0;
  while (unit < 3 && value != 0 && value % 1024 == 0) {
    value /= 1024;
    unit++;
  }
  snprintf(out, 24, "%llu%c", (unsigned long long)value, units[unit]);
}

static void name_default(const struct setting *setting, char out[HALUT_CONFIG_TEXT_MAX]) {
  if (setting->text != NULL) {
    snprintf(out, HALUT_CONFIG_TEXT_MAX, "%s", setting->text);
  } else if (setting->kind == KIND_BYTES) {
    name_bytes(setting->value, out);
  } else {
    snprintf(out, HALUT_CONFIG_TEXT_MAX, "%llu", (unsigned long long)setting->value);
  }
}

/* The help of a setting with its default and range. */
static void describe_setting(const struct setting *setting, char *out, size_t bytes) {
  char value[HALUT_CONFIG_TEXT_MAX], low[24], high[24];
  name_default(setting, value);
  if (setting->kind == KIND_TEXT || setting->kind == KIND_WORD) {
    snprintf(out, bytes, "%s (default %s)", setting->help, value);
    return;
  }
  snprintf(low, sizeof low, "%llu", (unsigned long long)setting->min);
  snprintf(high, sizeof high, "%llu", (unsigned long long)setting->max);
  if (setting->kind == KIND_BYTES) {
    name_bytes(setting->min, low);
    name_bytes(setting->max, high);
  }
  snprintf(out, bytes, "%s (%s..%s, default %s)", setting->help, low, high, value);
}

void halut_config_help(FILE *stream) {
  fputs("halutd: serves learned Halut models over HTTP.\n\nUsage: halutd [OPTION...]\n", stream);
  for (unsigned i = 0; i < SETTINGS; i++) {
    if (settings[i].kind == KIND_GROUP) {
      fprintf(stream, "\n%s\n", settings[i].help);
      continue;
    }
    char text[1024], argument[128];
    name_argument(&settings[i], argument, sizeof argument);
    fprintf(stream, "  --%s %s\n", settings[i].key, argument);
    describe_setting(&settings[i], text, sizeof text);
    print_wrapped(stream, text, 8);
  }
  fputs("\nOther\n", stream);
  for (unsigned i = 0; i < COMMANDS; i++) {
    fprintf(stream, "  --%s%s%s\n", commands[i].key, commands[i].argument != NULL ? " " : "",
            commands[i].argument != NULL ? commands[i].argument : "");
    print_wrapped(stream, commands[i].help, 8);
  }
  fputs("\nEach setting is also an environment variable (--body-max is HALUTD_BODY_MAX) and a key "
        "of\n"
        "the configuration file (body-max = 16M). The command line wins over the environment,\n"
        "that over the file.\n",
        stream);
}

/* mdoc takes a leading dot or quote for a request, and a backslash for an escape. */
static void print_mdoc(FILE *stream, const char *text) {
  for (const char *p = text; *p != '\0'; p++) {
    if (p == text && (*p == '.' || *p == '\''))
      fputs("\\&", stream);
    fputs(*p == '\\' ? "\\e" : (char[]){*p, '\0'}, stream);
  }
  fputc('\n', stream);
}

void halut_config_man(FILE *stream) {
  for (unsigned i = 0; i < SETTINGS; i++) {
    if (settings[i].kind == KIND_GROUP) {
      fprintf(stream, "%s.Ss %s\n.Bl -tag -width Ds\n", i > 0 ? ".El\n" : "", settings[i].help);
      continue;
    }
    char text[1024], argument[128];
    name_argument(&settings[i], argument, sizeof argument);
    fprintf(stream, ".It Fl -%s Ar %s\n", settings[i].key, argument);
    describe_setting(&settings[i], text, sizeof text);
    print_mdoc(stream, text);
  }
  fputs(".El\n.Ss Other\n.Bl -tag -width Ds\n", stream);
  for (unsigned i = 0; i < COMMANDS; i++) {
    fprintf(stream, ".It Fl -%s%s%s\n", commands[i].key, commands[i].argument != NULL ? " Ar " : "",
            commands[i].argument != NULL ? commands[i].argument : "");
    print_mdoc(stream, commands[i].help);
  }
  fputs(".El\n", stream);
}

void halut_config_print(const struct halut_config *config, FILE *stream) {
  for (unsigned i = 0; i < SETTINGS; i++) {
    const struct setting *setting = &settings[i];
    const char *field = (const char *)config + setting->offset;
    uint64_t number = 0;
    uint32_t index = 0;
    char text[24];
    switch (setting->kind) {
    case KIND_GROUP:
      fprintf(stream, "%s# %s\n", i > 0 ? "\n" : "", setting->help);
      break;
    case KIND_TEXT:
      fprintf(stream, "%s = \"%s\"\n", setting->key, field);
      break;
    case KIND_WORD:
      memcpy(&index, field, sizeof index);
      fprintf(stream, "%s = %s\n", setting->key, setting->words[index]);
      break;
    case KIND_COUNT:
    case KIND_BYTES:
      memcpy(&number, field, sizeof number);
      snprintf(text, sizeof text, "%llu", (unsigned long long)number);
      if (setting->kind == KIND_BYTES)
        name_bytes(number, text);
      fprintf(stream, "%s = %s\n", setting->key, text);
      break;
    }
  }
}
