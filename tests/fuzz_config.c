/* fuzz_config.c: any bytes as a configuration file. Whatever is accepted prints as a file that is
 * accepted too. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../server/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct halut_config fuzz_settings;
static struct halut_config_problems fuzz_problems;

static int read_settings(const void *data, size_t size) {
  int descriptor = memfd_create("config", 0);
  if (descriptor < 0 || write(descriptor, data, size) != (ssize_t)size)
    abort();
  char path[64];
  snprintf(path, sizeof path, "/proc/self/fd/%d", descriptor);
  char program[] = "halutd", flag[] = "--config";
  char *const argv[] = {program, flag, path, NULL};
  char *const environment[] = {NULL};
  int error = halut_config_read(3, argv, environment, &fuzz_settings, &fuzz_problems);
  close(descriptor);
  return error;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  int error = read_settings(data, size);
  if ((error != 0) != (fuzz_problems.count != 0))
    abort();
  if (error != 0)
    return 0;
  char *text = NULL;
  size_t bytes = 0;
  FILE *stream = open_memstream(&text, &bytes);
  if (stream == NULL)
    return 0;
  halut_config_print(&fuzz_settings, stream);
  fclose(stream);
  if (read_settings(text, bytes) != 0)
    abort();
  free(text);
  return 0;
}
