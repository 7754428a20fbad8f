#include "options.h"

#include <stdio.h>
#include <string.h>

#include "../core/cpu.h"

static int threads_read(const char *item, int bytes, uint32_t *threads, struct halut_diag *diag) {
  if (bytes != 9 || (item[8] != '1' && item[8] != '2'))
    return halut_fail(diag, HALUT_EINVALID, 0, "\"%.*s\": 1 or 2 threads", bytes, item);
  *threads = (uint32_t)(item[8] - '0');
  return HALUT_OK;
}

static int ceiling_read(const char *item, int bytes, uint32_t *flags, struct halut_diag *diag) {
  char name[HALUT_OPTIONS_MAX];
  uint32_t mask = 0;
  snprintf(name, sizeof name, "%.*s", bytes - 4, item + 4);
  int error = halut_cpu_ceiling(name, &mask, diag);
  *flags &= mask;
  return error;
}

int halut_options_read(const char *text, struct halut_options *options, struct halut_diag *diag) {
  *options = (struct halut_options){.cpu_flags = halut_cpu_flags(), .threads = 1};
  if (text && strlen(text) >= HALUT_OPTIONS_MAX)
    return halut_fail(diag, HALUT_EINVALID, 0, "options of %zu bytes, at most %d", strlen(text),
                      HALUT_OPTIONS_MAX - 1);
  size_t used = 0;
  while (text && *text) {
    const int bytes = (int)strcspn(text, ",");
    int error = HALUT_OK;
    if (strncmp(text, "threads=", 8) == 0) {
      error = threads_read(text, bytes, &options->threads, diag);
    } else {
      used += (size_t)snprintf(options->backend + used, sizeof options->backend - used, "%s%.*s",
                               used > 0 ? "," : "", bytes, text);
      if (strncmp(text, "cpu=", 4) == 0)
        error = ceiling_read(text, bytes, &options->cpu_flags, diag);
    }
    if (error)
      return error;
    text += bytes + (text[bytes] == ',');
  }
  return HALUT_OK;
}
