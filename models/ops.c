#include "ops.h"

#include <string.h>

#include "../core/kernels.h"

/* One run of output positions of one line: value[i] = line[(x + i) * stride + kx - pad], 0 outside.
 */
static void line_gather(const uint8_t *line, int64_t width, int64_t first, uint32_t stride,
                        size_t count, uint8_t *value) {
  if (stride == 1) {
    size_t left = first < 0 ? (size_t)-first : 0;
    left = left < count ? left : count;
    int64_t inside = width - (first < 0 ? 0 : first);
    size_t middle = inside < 0 ? 0 : (size_t)inside;
    middle = middle < count - left ? middle : count - left;
    memset(value, 0, left);
    if (middle > 0)
      memcpy(value + left, line + first + (int64_t)left, middle);
    memset(value + left + middle, 0, count - left - middle);
    return;
  }
  for (size_t i = 0; i < count; i++) {
    int64_t x = first + (int64_t)(i * stride);
    value[i] = x >= 0 && x < width ? line[x] : 0;
  }
}

/* The values of one column of the patch at all rows of the tile. */
static void column_gather(const struct halut_conv *conv, uint32_t column, const uint8_t *in,
                          size_t first_row, size_t rows, uint8_t *value) {
  uint32_t taps = conv->kernel_h * conv->kernel_w;
  uint32_t channel = column / taps, ky = column % taps / conv->kernel_w,
           kx = column % conv->kernel_w;
  size_t plane = (size_t)conv->height * conv->width;
  size_t line = first_row / conv->out_w, x = first_row % conv->out_w;
  for (size_t done = 0; done < rows; line++, x = 0) {
    size_t count = conv->out_w - x < rows - done ? conv->out_w - x : rows - done;
    size_t image = line / conv->out_h;
    int64_t y = (int64_t)(line % conv->out_h * conv->stride_h + ky) - conv->pad_h;
    if (y < 0 || y >= conv->height) {
      memset(value + done, 0, count);
    } else {
      const uint8_t *from =
          in + (image * conv->channels + channel) * plane + (size_t)y * conv->width;
      line_gather(from, conv->width, (int64_t)(x * conv->stride_w + kx) - conv->pad_w,
                  conv->stride_w, count, value + done);
    }
    done += count;
  }
}

void halut_ops_gather(const struct halut_conv *conv, uint32_t codebooks, const uint8_t *in,
                      size_t first_row, size_t rows, uint8_t *value) {
  size_t padded = halut_pad_rows(rows);
  for (size_t i = 0; i < (size_t)codebooks * HALUT_LEVELS; i++) {
    uint8_t *to = value + i * padded;
    column_gather(conv, conv->split[i], in, first_row, rows, to);
    memset(to + rows, 0, padded - rows);
  }
}

void halut_ops_requantise(const struct halut_requant *requant, uint32_t outputs, const int32_t *acc,
                          size_t first_row, size_t rows, size_t positions, uint8_t *out) {
  size_t padded = halut_pad_rows(rows);
  for (size_t done = 0; done < rows;) {
    size_t image = (first_row + done) / positions, position = (first_row + done) % positions;
    size_t count = positions - position < rows - done ? positions - position : rows - done;
    for (uint32_t m = 0; m < outputs; m++) {
      const int32_t *from = acc + m * padded + done;
      uint8_t *to = out + (image * outputs + m) * positions + position;
      for (size_t i = 0; i < count; i++)
        to[i] = halut_requantise(from[i], requant->bias[m], requant->scale[m]);
    }
    done += count;
  }
}

void halut_ops_maxpool(const struct halut_conv *window, const uint8_t *in, uint32_t count,
                       uint8_t *out) {
  for (size_t map = 0; map < (size_t)count * window->channels; map++) {
    const uint8_t *from = in + map * window->height * window->width;
    for (uint32_t y = 0; y < window->out_h; y++) {
      for (uint32_t x = 0; x < window->out_w; x++) {
        uint8_t most = 0;
        for (uint32_t ky = 0; ky < window->kernel_h; ky++) {
          const uint8_t *line = from + (size_t)(y * window->stride_h + ky) * window->width;
          for (uint32_t kx = 0; kx < window->kernel_w; kx++) {
            uint8_t value = line[x * window->stride_w + kx];
            most = value > most ? value : most;
          }
        }
        *out++ = most;
      }
    }
  }
}

void halut_ops_avgpool(const struct halut_conv *window, const uint8_t *in, uint32_t count,
                       uint8_t *out) {
  uint32_t size = window->kernel_h * window->kernel_w;
  for (size_t map = 0; map < (size_t)count * window->channels; map++) {
    const uint8_t *from = in + map * window->height * window->width;
    for (uint32_t y = 0; y < window->out_h; y++) {
      for (uint32_t x = 0; x < window->out_w; x++) {
        uint32_t sum = 0;
        for (uint32_t ky = 0; ky < window->kernel_h; ky++) {
          const uint8_t *line = from + (size_t)(y * window->stride_h + ky) * window->width;
          for (uint32_t kx = 0; kx < window->kernel_w; kx++)
            sum += line[x * window->stride_w + kx];
        }
        *out++ = (uint8_t)((2 * sum + size) / (2 * size));
      }
    }
  }
}
