/* fuzz_npy.c: any bytes as a NumPy array; every value of an accepted one is read. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "../models/npy.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  uint8_t *bytes = malloc(size + (size == 0));
  if (bytes == NULL)
    return 0;
  if (size > 0)
    memcpy(bytes, data, size);
  struct halut_npy npy = {0};
  struct halut_diag diag = {0};
  int error = halut_npy_parse(bytes, size, &npy, &diag);
  if (error != 0 && diag.text[0] == '\0')
    abort();
  if (error == 0) {
    float part[64];
    for (size_t i = 0; i < npy.count; i += 64) {
      halut_npy_floats(&npy, i, npy.count - i < 64 ? npy.count - i : 64, part);
    }
  }
  halut_npy_close(&npy);
  free(bytes);
  return 0;
}
