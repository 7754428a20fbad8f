#include "rows.h"

size_t halut_rows_in_bytes(const struct halut_model_info *info) {
  return info->kind == HALUT_NETWORK ? (size_t)info->channels * info->height * info->width
                                     : info->columns * sizeof(float);
}

size_t halut_rows_out_bytes(const struct halut_model_info *info) {
  return info->kind == HALUT_NETWORK ? info->classes * sizeof(int32_t)
                                     : info->outputs * sizeof(float);
}

struct halut_tensor halut_rows_in(const struct halut_model_info *info, void *data, uint32_t rows) {
  if (info->kind == HALUT_NETWORK)
    return (struct halut_tensor){.data = data,
                                 .dtype = HALUT_U8,
                                 .rank = 4,
                                 .dim = {rows, info->channels, info->height, info->width}};
  return (struct halut_tensor){
      .data = data, .dtype = HALUT_F32, .rank = 2, .dim = {rows, info->columns, 1, 1}};
}

struct halut_tensor halut_rows_out(const struct halut_model_info *info, void *data, uint32_t rows) {
  bool is_network = info->kind == HALUT_NETWORK;
  return (struct halut_tensor){.data = data,
                               .dtype = is_network ? HALUT_I32 : HALUT_F32,
                               .rank = 2,
                               .dim = {rows, is_network ? info->classes : info->outputs, 1, 1}};
}

int halut_rows_run(const struct halut_rows *self, const void *in, uint32_t rows, void *out,
                   struct halut_stats *stats) {
  size_t in_bytes = halut_rows_in_bytes(self->info), out_bytes = halut_rows_out_bytes(self->info);
  for (uint32_t done = 0; done < rows;) {
    uint32_t count = rows - done < self->batch_max ? rows - done : self->batch_max;
    struct halut_tensor x =
        halut_rows_in(self->info, (char *)(uintptr_t)in + done * in_bytes, count);
    struct halut_tensor y = halut_rows_out(self->info, (char *)out + done * out_bytes, count);
    int error = halut_session_run(self->session, &x, &y, stats);
    if (error != HALUT_OK)
      return error;
    done += count;
  }
  return HALUT_OK;
}
