/* fuzz_json.c: any bytes as a request body, split and then read the way the routes do. A body that
 * jansson alone accepts must not be called malformed, nor the other way round when nothing was cut
 * out of it. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "../server/base64.h"
#include "../server/json.h"
#include "../server/number.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_slice(const struct halut_json_slice *slice) {
  struct halut_diag diag;
  if (slice->is_string) {
    uint8_t *bytes = malloc(halut_base64_decoded_max(slice->bytes));
    size_t count;
    if (bytes != NULL &&
        halut_base64_decode(slice->text, slice->bytes, bytes, &count, &diag) == 0 &&
        count > halut_base64_decoded_max(slice->bytes)) {
      abort();
    }
    free(bytes);
    return;
  }
  size_t capacity = halut_number_count_max(slice->text, slice->bytes);
  float *values = malloc(capacity * sizeof *values);
  struct halut_number_options options = {
      .type = HALUT_NUMBER_FP32, .name = "a", .offset = slice->offset, .rank_max = 4};
  struct halut_number_shape shape;
  if (values != NULL &&
      halut_number_read(slice->text, slice->bytes, &options, values, capacity, &shape, &diag) ==
          0 &&
      shape.count > capacity) {
    abort();
  }
  free(values);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static const char *const keys[] = {"a", "data", "b64", NULL};
  char *body = malloc(size + 1);
  if (body == NULL)
    return 0;
  memcpy(body, data, size);
  body[size] = '\0';
  struct halut_json *json = NULL;
  struct halut_diag diag = {0};
  int error = halut_json_open(body, size, keys, 64, &json, &diag);
  json_t *whole = json_loadb(body, size, JSON_REJECT_DUPLICATES, NULL);
  if (json_is_object(whole) && error == HALUT_EINVALID)
    abort();
  if (error == 0 && json->slice_count == 0 && whole == NULL)
    abort();
  if (error != 0 && (json != NULL || diag.text[0] == '\0' || diag.offset > size))
    abort();
  int rest = json != NULL ? halut_json_rest(json, &diag) : HALUT_EINVALID;
  if (rest == HALUT_OK && whole == NULL)
    abort();
  if (rest != HALUT_OK && json_is_object(whole) && rest != HALUT_ELIMIT && json != NULL)
    abort();
  for (uint32_t i = 0; json != NULL && i < json->slice_count; i++)
    read_slice(&json->slices[i]);
  json_decref(whole);
  halut_json_close(json);
  free(body);
  return 0;
}
