/* fuzz_safetensors.c: any bytes as a model file's container. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../models/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  int descriptor = memfd_create("model", 0);
  if (descriptor < 0 || write(descriptor, data, size) != (ssize_t)size)
    abort();
  char path[64];
  snprintf(path, sizeof path, "/proc/self/fd/%d", descriptor);
  struct halut_safetensors *file = NULL;
  struct halut_diag diag = {0};
  int error = halut_safetensors_open(path, &file, &diag);
  if (error != 0 && (file != NULL || diag.text[0] == '\0'))
    abort();
  halut_safetensors_close(file);
  close(descriptor);
  return 0;
}
