/* fuzz_image.c: any bytes as a picture. The first byte chooses the target and the fit. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "../server/image.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size == 0)
    return 0;
  struct halut_image_options options = {
      .width = 1 + data[0] % 40, .height = 1 + data[0] / 4 % 40, .pixels_max = 1 << 18};
  options.fit = data[0] & 1 ? HALUT_IMAGE_SQUASH : HALUT_IMAGE_CROP;
  size_t planar_bytes = (size_t)3 * options.width * options.height;
  uint8_t *bytes = malloc(size - 1 + (size == 1));
  uint8_t *planar = malloc(planar_bytes);
  if (bytes != NULL && planar != NULL) {
    memcpy(bytes, data + 1, size - 1);
    struct halut_diag diag = {0};
    struct halut_image_info info;
    int error = halut_image_decode(bytes, size - 1, &options, planar, &info, &diag);
    if (error != 0 && diag.text[0] == '\0')
      abort();
    if (info.orientation < 1 || info.orientation > 8)
      abort();
  }
  free(planar);
  free(bytes);
  return 0;
}
