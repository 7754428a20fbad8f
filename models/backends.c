#include "backends.h"

#include <string.h>

#include "../rtl/backend_rtl.h"

const struct halut_backend_ops *const halut_backends[] = {&halut_backend_cpu, &halut_backend_rtl,
                                                          NULL};

const struct halut_backend_ops *halut_backends_find(const char *name) {
  for (size_t i = 0; halut_backends[i]; i++)
    if (strcmp(halut_backends[i]->name, name) == 0)
      return halut_backends[i];
  return NULL;
}
