#include "cli_thumbnail.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "cli.h"

static bool is_utf8(void) {
  static const char *const names[] = {"LC_ALL", "LC_CTYPE", "LANG"};
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
    const char *locale = getenv(names[i]);
    if (locale && *locale) {
      const char *charset = strchr(locale, '.');
      return charset && (strcasecmp(charset, ".UTF-8") == 0 || strcasecmp(charset, ".UTF8") == 0);
    }
  }
  return false;
}

bool halut_cli_pictures(FILE *to) {
  const char *colours = getenv("COLORTERM");
  return halut_cli_colour(to) && colours &&
         (strcmp(colours, "truecolor") == 0 || strcmp(colours, "24bit") == 0) && is_utf8();
}

/* The first pixel of `size` that part i of HALUT_THUMBNAIL_SIDE covers. */
static uint32_t part_start(uint32_t i, uint32_t size) {
  return i * size / HALUT_THUMBNAIL_SIDE;
}

/* Mean of the pixels that cell (x, y) covers, at least one. */
static uint32_t cell_mean(const uint8_t *plane, uint32_t height, uint32_t width, uint32_t x,
                          uint32_t y) {
  uint32_t top = part_start(y, height), left = part_start(x, width);
  uint32_t bottom = part_start(y + 1, height), right = part_start(x + 1, width);
  uint32_t sum = 0, count = 0;
  for (uint32_t row = top; row < bottom || row == top; row++)
    for (uint32_t column = left; column < right || column == left; column++, count++)
      sum += plane[(size_t)row * width + column];
  return sum / count;
}

void halut_cli_thumbnail(const uint8_t *planar, uint32_t height, uint32_t width, uint32_t line,
                         FILE *to) {
  const size_t plane = (size_t)height * width;
  for (uint32_t x = 0; x < HALUT_THUMBNAIL_SIDE; x++) {
    uint32_t colour[2][3]; /* of the upper pixel, the character's own, and of the lower one */
    for (uint32_t half = 0; half < 2; half++)
      for (uint32_t c = 0; c < 3; c++)
        colour[half][c] = cell_mean(planar + c * plane, height, width, x, 2 * line + half);
    const uint32_t *upper = colour[0], *lower = colour[1];
    fprintf(to, "\x1b[38;2;%u;%u;%um\x1b[48;2;%u;%u;%um\u2580", upper[0], upper[1], upper[2],
            lower[0], lower[1], lower[2]);
  }
  fputs("\x1b[0m", to);
}
