/* fuzz_number.c: any bytes as an array of numbers. The first byte chooses the type. What was read
 * as floats and written again must read back as the same floats. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "../server/number.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_back(const float *values, size_t count) {
  for (size_t i = 0; i < count; i++) {
    char text[HALUT_NUMBER_TEXT_MAX + 4] = "[";
    size_t bytes = 1 + halut_number_write_f32(values[i], text + 1);
    text[bytes++] = ']';
    struct halut_number_options options = {
        .type = HALUT_NUMBER_FP32, .name = "back", .rank_max = 1};
    struct halut_number_shape shape;
    float back;
    if (halut_number_read(text, bytes, &options, &back, 1, &shape, NULL) != 0)
      abort();
    if (memcmp(&back, &values[i], sizeof back) != 0)
      abort();
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size == 0)
    return 0;
  char *text = malloc(size);
  if (text == NULL)
    return 0;
  memcpy(text, data + 1, size - 1);
  text[size - 1] = '\0';
  struct halut_number_options options = {.type = (enum halut_number_type)(1 + data[0] % 11),
                                         .name = "fuzz",
                                         .rank_max = 1 + data[0] % HALUT_NUMBER_RANK_MAX,
                                         .rows_max = data[0] / 2};
  size_t capacity = halut_number_count_max(text, size - 1);
  void *values = malloc(capacity * halut_number_bytes(options.type));
  struct halut_number_shape shape;
  struct halut_diag diag = {0};
  if (values != NULL) {
    int error = halut_number_read(text, size - 1, &options, values, capacity, &shape, &diag);
    if (error == HALUT_OK && shape.count > capacity)
      abort();
    if (error != HALUT_OK && (diag.text[0] == '\0' || diag.offset > size))
      abort();
    if (error == HALUT_OK && options.type == HALUT_NUMBER_FP32)
      read_back(values, shape.count);
  }
  free(values);
  free(text);
  return 0;
}
