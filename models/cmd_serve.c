#include <errno.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"

/* Becomes halutd: the one beside this program if there is one, else the one on the PATH. */
static int serve_run(const struct halut_command *command, int argc, char **argv) {
  char path[PATH_MAX];
  static char name[] = "halutd";
  (void)argc;
  argv[0] = name;
  ssize_t length = readlink("/proc/self/exe", path, sizeof(path) - sizeof(name));
  if (length > 0) {
    path[length] = '\0';
    char *slash = strrchr(path, '/');
    if (slash) {
      memcpy(slash + 1, name, sizeof(name));
      execv(path, argv);
    }
  }
  execvp(name, argv);
  return halut_cli_error(command, HALUT_EXIT_FAILURE, "cannot start halutd: %s", strerror(errno));
}

static const struct halut_option options[] = {{0}};

const struct halut_command halut_command_serve = {
    .name = "serve",
    .operands = "[OPTION OF HALUTD]...",
    .summary = "Serve models over HTTP: becomes halutd, whose --help lists the options",
    .options = options,
    .operands_max = -1,
    .run = serve_run};
