/* halut.c: the command line tool: a table of commands, and what belongs to none of them.
 *
 * A new command is one file models/cmd_<name>.c and one line in COMMAND_MAP. */
#include <string.h>

#include "../core/version.h"
#include "cli.h"

#define COMMAND_MAP(XX)                                                                            \
  XX(learn) XX(matmul) XX(classify) XX(eval) XX(bench) XX(show) XX(check) XX(serve)

#define XX(name) extern const struct halut_command halut_command_##name;
COMMAND_MAP(XX)
#undef XX

static const struct halut_command *const commands[] = {
#define XX(name) &halut_command_##name,
    COMMAND_MAP(XX)
#undef XX
        NULL};

static void help_print(FILE *to) {
  fputs("Usage: halut COMMAND [OPTION]... [OPERAND]...\n"
        "Learn and run lookup-table models: products that are not multiplied.\n\nCommands:\n",
        to);
  for (size_t i = 0; commands[i]; i++)
    fprintf(to, "  %-10s %s\n", commands[i]->name, commands[i]->summary);
  fputs("\n\"halut COMMAND --help\" explains one. Exit status: 0 done, 1 failed, 2 wrong usage.\n",
        to);
}

static int command_unknown(const char *word) {
  const char *names[sizeof(commands) / sizeof(commands[0])];
  size_t count = 0;
  for (; commands[count]; count++)
    names[count] = commands[count]->name;
  names[count] = NULL;
  const char *nearest = halut_cli_nearest(word, names);
  fprintf(stderr, "halut: unknown command \"%s\"", word);
  if (nearest)
    fprintf(stderr, "; did you mean \"%s\"?\n", nearest);
  else
    fputs("; see halut --help\n", stderr);
  return HALUT_EXIT_USAGE;
}

int main(int argc, char **argv) {
  if (argc < 2) {
    help_print(stderr);
    return HALUT_EXIT_USAGE;
  }
  const char *word = argv[1];
  if (strcmp(word, "--version") == 0 || strcmp(word, "-V") == 0) {
    printf("halut %s\n", HALUT_VERSION);
    return halut_cli_finish(NULL);
  }
  bool help = strcmp(word, "help") == 0;
  if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0 || (help && argc < 3)) {
    help_print(stdout);
    return halut_cli_finish(NULL);
  }
  if (help)
    word = argv[2];
  for (size_t i = 0; commands[i]; i++) {
    if (strcmp(word, commands[i]->name) != 0)
      continue;
    if (help) {
      halut_cli_help(commands[i], stdout);
      return halut_cli_finish(NULL);
    }
    return commands[i]->run(commands[i], argc - 1, argv + 1);
  }
  return command_unknown(word);
}
