/* cli_shipped.h: the model that a command takes when none is named. Only the command line tool
 * links this. */
#ifndef HALUT_CLI_SHIPPED_H
#define HALUT_CLI_SHIPPED_H

#include <stddef.h>

/* Writes the path of the shipped network to path[bytes]: HALUT_MODEL of the environment; else the
 * first file there is in models/ of the current folder, beside the folder of this program (a
 * checkout), or in ../share/halut/models of it (an installation). NULL if there is none. */
const char *halut_cli_shipped(char *path, size_t bytes);

#endif
