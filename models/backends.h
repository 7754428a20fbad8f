/* backends.h: the one list of backends that the tools and the daemon offer. A new one is one line
 * in backends.c. May be called from any thread. */
#ifndef HALUT_BACKENDS_H
#define HALUT_BACKENDS_H

#include "../core/backend.h"

/* In order of preference, ended by NULL. */
extern const struct halut_backend_ops *const halut_backends[];

/* NULL if there is none of that name. */
const struct halut_backend_ops *halut_backends_find(const char *name);

#endif
