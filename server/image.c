/* image.c: DESIGN. A decoder hands over rows of RGBA; each row inside the wanted region is reduced
 * to the target's width at once (sampler_row), and when the last one is in, the columns are reduced
 * to the target's height (sampler_finish). Only these narrow rows are kept: 2 * 3 * 32 bytes for
 * each row of the picture.
 *
 * The filter is a triangle: its half-width is one target pixel when reducing, one source pixel when
 * enlarging. With both axes measured in units of 1 / (2 * source * target) every distance is a
 * whole number, so weights are exact, and each sum is divided by the sum of its own weights,
 * rounded. Rows in between carry 8 fractional bits. A picture of the target's size meets the
 * weights 1, and is copied.
 *
 * The EXIF orientation is applied to the small result: flipping and filtering commute. For
 * orientations that swap the axes, the region and the target are swapped first. */
#include "image.h"

#include <errno.h>
#include <setjmp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jerror.h>
#include <jpeglib.h>
#include <spng.h>

const char *halut_image_kind_name(enum halut_image_kind kind) {
  static const char *const names[] = {"unknown", "PNG", "JPEG", "raw"};
  return names[kind];
}

static bool starts_png(const uint8_t *bytes, size_t size) {
  static const uint8_t signature[8] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
  return size >= sizeof signature && memcmp(bytes, signature, sizeof signature) == 0;
}

static bool starts_jpeg(const uint8_t *bytes, size_t size) {
  return size >= 3 && bytes[0] == 0xff && bytes[1] == 0xd8 && bytes[2] == 0xff;
}

/* Raw pixels may well begin with ff d8 ff (bright ones do). A JPEG also has a marker there, and
 * another one where the first segment's length points to. */
static bool is_jpeg_chain(const uint8_t *bytes, size_t size) {
  if (!starts_jpeg(bytes, size) || size < 8 || bytes[3] < 0xc0 || bytes[3] == 0xff)
    return false;
  size_t next = 4 + ((size_t)bytes[4] << 8 | bytes[5]);
  return next + 1 < size && bytes[next] == 0xff && bytes[next + 1] >= 0xc0;
}

enum halut_image_kind halut_image_sniff(const uint8_t *bytes, size_t size, uint32_t width,
                                        uint32_t height) {
  bool raw_size = size == (size_t)3 * width * height;
  if (starts_png(bytes, size))
    return HALUT_IMAGE_PNG;
  if (raw_size ? is_jpeg_chain(bytes, size) : starts_jpeg(bytes, size))
    return HALUT_IMAGE_JPEG;
  return raw_size ? HALUT_IMAGE_RAW : HALUT_IMAGE_UNKNOWN;
}

/* ---- The resampler ---- */

/* The source pixels that make one target pixel, and their weights. */
struct span {
  uint32_t low, count;
  const uint32_t *weight; /* [count] */
  uint64_t total;         /* of the weights */
};

struct axis {
  uint32_t first, source, target; /* the region starts at `first` and is `source` long */
  struct span *spans;             /* [target] */
  uint32_t *weights;              /* what the spans point into */
};

struct sampler {
  struct axis x, y;
  uint16_t *rows;     /* [y.source][3][x.target] in 1/256 */
  uint32_t row_count; /* rows seen */
};

/* The weight of source pixel j for target pixel i, in whole units; 0 outside the triangle. */
static int64_t axis_weight(const struct axis *axis, uint32_t i, int64_t j) {
  int64_t center = (int64_t)(2 * i + 1) * axis->source;
  int64_t distance = (2 * j + 1) * (int64_t)axis->target - center;
  int64_t reach = 2 * (int64_t)(axis->source > axis->target ? axis->source : axis->target);
  if (distance < 0)
    distance = -distance;
  return distance < reach ? reach - distance : 0;
}

/* A source pixel has weight for at most the two targets around it when reducing, a target for at
 * most three sources when enlarging: so many weights there are at most in all. */
static size_t axis_weights_max(const struct axis *axis) {
  return 3 * ((size_t)axis->source + axis->target);
}

static int axis_open(struct axis *axis, struct halut_diag *diag) {
  axis->spans = malloc(axis->target * sizeof *axis->spans);
  axis->weights = malloc(axis_weights_max(axis) * sizeof *axis->weights);
  if (axis->spans == NULL || axis->weights == NULL) {
    return halut_fail(diag, HALUT_ENOMEM, 0, "image: no memory for the weights of %u pixels",
                      axis->source);
  }
  uint32_t *next = axis->weights;
  int64_t low = 0;
  for (uint32_t i = 0; i < axis->target; i++) {
    while (axis_weight(axis, i, low) == 0)
      low++; /* spans only move forward */
    struct span *span = &axis->spans[i];
    *span = (struct span){.low = (uint32_t)low, .weight = next};
    for (int64_t j = low; j < (int64_t)axis->source; j++) {
      int64_t weight = axis_weight(axis, i, j);
      if (weight == 0)
        break;
      *next++ = (uint32_t)weight;
      span->total += (uint64_t)weight;
      span->count++;
    }
  }
  assert((size_t)(next - axis->weights) <= axis_weights_max(axis));
  return 0;
}

static void axis_close(struct axis *axis) {
  free(axis->spans);
  free(axis->weights);
}

/* The largest centred part of extent x other that has the shape of axis->target x target_other. */
static void axis_crop(struct axis *axis, uint32_t extent, uint32_t other, uint32_t target_other) {
  uint64_t fitting = (uint64_t)other * axis->target / target_other;
  if (fitting == 0)
    fitting = 1;
  axis->source = fitting < extent ? (uint32_t)fitting : extent;
  axis->first = (extent - axis->source) / 2;
}

/* For a decoded picture of width x height; `swap` if its axes will be exchanged afterwards. */
static int sampler_open(struct sampler *s, const struct halut_image_options *options,
                        uint32_t width, uint32_t height, bool swap, struct halut_diag *diag) {
  s->x = (struct axis){.source = width, .target = swap ? options->height : options->width};
  s->y = (struct axis){.source = height, .target = swap ? options->width : options->height};
  if (options->fit == HALUT_IMAGE_CROP) {
    axis_crop(&s->x, width, height, s->y.target);
    axis_crop(&s->y, height, width, s->x.target);
  }
  int error = axis_open(&s->x, diag);
  if (error == 0)
    error = axis_open(&s->y, diag);
  if (error != 0)
    return error;
  s->rows = malloc((size_t)s->y.source * 3 * s->x.target * sizeof *s->rows);
  if (s->rows == NULL) {
    return halut_fail(diag, HALUT_ENOMEM, 0, "image: no memory for %u rows", s->y.source);
  }
  return 0;
}

static void sampler_close(struct sampler *s) {
  free(s->rows);
  axis_close(&s->x);
  axis_close(&s->y);
}

/* True while rows of the region are still to come. */
static bool sampler_wants(const struct sampler *s, uint32_t row) {
  return row < s->y.first + s->y.source;
}

/* Takes row `row` of the picture, RGB over white already. Rows come in order, each once. */
static void sampler_row(struct sampler *s, uint32_t row, const uint8_t *rgb) {
  if (row < s->y.first || !sampler_wants(s, row))
    return;
  rgb += (size_t)3 * s->x.first;
  uint32_t target = s->x.target;
  uint16_t *out = s->rows + (size_t)(row - s->y.first) * 3 * target;
  for (uint32_t i = 0; i < target; i++) {
    const struct span *span = &s->x.spans[i];
    const uint8_t *pixel = rgb + (size_t)3 * span->low;
    uint64_t sum[3] = {0, 0, 0};
    for (uint32_t j = 0; j < span->count; j++, pixel += 3) {
      uint32_t weight = span->weight[j];
      sum[0] += (uint64_t)weight * pixel[0];
      sum[1] += (uint64_t)weight * pixel[1];
      sum[2] += (uint64_t)weight * pixel[2];
    }
    for (uint32_t c = 0; c < 3; c++) {
      out[c * target + i] = (uint16_t)((sum[c] * 256 + span->total / 2) / span->total);
    }
  }
  s->row_count++;
}

/* Where pixel (x, y) of the decoded picture of width x height belongs in the upright one. */
static size_t orient(uint32_t orientation, uint32_t x, uint32_t y, uint32_t width,
                     uint32_t height) {
  uint32_t right = width - 1 - x;
  uint32_t down = height - 1 - y;
  switch (orientation) {
  case 2:
    return (size_t)y * width + right;
  case 3:
    return (size_t)down * width + right;
  case 4:
    return (size_t)down * width + x;
  case 5:
    return (size_t)x * height + y;
  case 6:
    return (size_t)x * height + down;
  case 7:
    return (size_t)right * height + down;
  case 8:
    return (size_t)right * height + y;
  default:
    return (size_t)y * width + x;
  }
}

static void sampler_finish(const struct sampler *s, uint32_t orientation, uint8_t *planar) {
  assert(s->row_count == s->y.source);
  uint32_t width = s->x.target, height = s->y.target;
  size_t plane = (size_t)width * height;
  for (uint32_t i = 0; i < height; i++) {
    const struct span *span = &s->y.spans[i];
    const uint16_t *rows = s->rows + (size_t)span->low * 3 * width;
    for (uint32_t x = 0; x < 3 * width; x++) {
      uint64_t sum = 0;
      for (uint32_t j = 0; j < span->count; j++) {
        sum += (uint64_t)span->weight[j] * rows[(size_t)j * 3 * width + x];
      }
      uint64_t value = (sum + span->total * 128) / (span->total * 256);
      planar[x / width * plane + orient(orientation, x % width, i, width, height)] = (uint8_t)value;
    }
  }
}

/* ---- EXIF ---- */

static uint32_t exif_read(const uint8_t *p, uint32_t bytes, bool little) {
  uint32_t value = 0;
  for (uint32_t i = 0; i < bytes; i++)
    value = value << 8 | p[little ? bytes - 1 - i : i];
  return value;
}

/* The orientation in a TIFF block, 1 if it has none or is broken: a picture is not refused for
 * that. */
static uint32_t exif_orientation(const uint8_t *tiff, size_t size) {
  enum { TAG_ORIENTATION = 0x0112, TYPE_SHORT = 3, ENTRY_BYTES = 12 };
  if (size < 8)
    return 1;
  bool little = tiff[0] == 'I' && tiff[1] == 'I';
  if (!little && (tiff[0] != 'M' || tiff[1] != 'M'))
    return 1;
  if (exif_read(tiff + 2, 2, little) != 42)
    return 1;
  size_t at = exif_read(tiff + 4, 4, little);
  if (at > size || size - at < 2)
    return 1;
  uint32_t entries = exif_read(tiff + at, 2, little);
  at += 2;
  for (uint32_t i = 0; i < entries && size - at >= ENTRY_BYTES; i++, at += ENTRY_BYTES) {
    if (exif_read(tiff + at, 2, little) != TAG_ORIENTATION)
      continue;
    uint32_t value = exif_read(tiff + at + 8, 2, little);
    bool short_value = exif_read(tiff + at + 2, 2, little) == TYPE_SHORT;
    return short_value && value >= 1 && value <= 8 ? value : 1;
  }
  return 1;
}

static int check_size(const char *format, uint32_t width, uint32_t height,
                      const struct halut_image_options *options, struct halut_diag *diag) {
  if (width == 0 || height == 0) {
    return halut_fail(diag, HALUT_EINVALID, 0, "%s: %u x %u pixels: nothing in it", format, width,
                      height);
  }
  if (width > HALUT_IMAGE_SIDE_MAX || height > HALUT_IMAGE_SIDE_MAX) {
    return halut_fail(diag, HALUT_ELIMIT, 0, "%s: %u x %u pixels: a side exceeds %d", format, width,
                      height, HALUT_IMAGE_SIDE_MAX);
  }
  if ((uint64_t)width * height > options->pixels_max) {
    return halut_fail(diag, HALUT_ELIMIT, 0, "%s: %u x %u pixels exceed image-pixels-max %llu",
                      format, width, height, (unsigned long long)options->pixels_max);
  }
  return 0;
}

/* ---- PNG ---- */

enum {
  PNG_CHUNK_MAX = 1 << 20, /* bytes of one stored ancillary chunk: profiles, text, EXIF */
  PNG_CACHE_MAX = 4 << 20  /* bytes of all of them */
};

struct png {
  spng_ctx *context;
  struct spng_ihdr header;
  uint8_t *rgba; /* one row, or the whole picture if it is interlaced */
  uint8_t *rgb;  /* one row over white */
  struct sampler sampler;
};

static void png_close(struct png *png) {
  sampler_close(&png->sampler);
  free(png->rgb);
  free(png->rgba);
  spng_ctx_free(png->context);
}

static int png_fail(int code, struct halut_diag *diag) {
  /* What zlib lacks memory for comes back as a broken stream; malloc has set errno then. */
  int error = code == SPNG_EMEM || errno == ENOMEM ? HALUT_ENOMEM
              : code == SPNG_ECHUNK_LIMITS || code == SPNG_EUSER_WIDTH || code == SPNG_EUSER_HEIGHT
                  ? HALUT_ELIMIT
                  : HALUT_EINVALID;
  if (code == SPNG_EOF || code == SPNG_IO_EOF) {
    return halut_fail(diag, error, 0, "PNG: truncated: it ends before its picture does");
  }
  return halut_fail(diag, error, 0, "PNG: %s",
                    error == HALUT_ENOMEM ? "out of memory" : spng_strerror(code));
}

static void over_white(const uint8_t *rgba, uint32_t width, uint8_t *rgb) {
  for (uint32_t x = 0; x < width; x++, rgba += 4, rgb += 3) {
    uint32_t alpha = rgba[3];
    for (uint32_t c = 0; c < 3; c++) {
      rgb[c] = (uint8_t)((rgba[c] * alpha + 255 * (255 - alpha) + 127) / 255);
    }
  }
}

static int png_open(struct png *png, const uint8_t *bytes, size_t size,
                    const struct halut_image_options *options, struct halut_image_info *info,
                    struct halut_diag *diag) {
  png->context = spng_ctx_new(0);
  if (png->context == NULL)
    return png_fail(SPNG_EMEM, diag);
  int code = spng_set_image_limits(png->context, 0x7fffffff, 0x7fffffff);
  if (code == 0)
    code = spng_set_chunk_limits(png->context, PNG_CHUNK_MAX, PNG_CACHE_MAX);
  if (code == 0)
    code = spng_set_crc_action(png->context, SPNG_CRC_ERROR, SPNG_CRC_ERROR);
  if (code == 0)
    code = spng_set_png_buffer(png->context, bytes, size);
  if (code == 0)
    code = spng_get_ihdr(png->context, &png->header);
  if (code != 0)
    return png_fail(code, diag);
  info->width = png->header.width;
  info->height = png->header.height;
  int error = check_size("PNG", info->width, info->height, options, diag);
  if (error != 0)
    return error;
  struct spng_exif exif;
  code = spng_get_exif(png->context, &exif);
  if (code != 0 && code != SPNG_ECHUNKAVAIL)
    return png_fail(code, diag);
  if (code == 0) {
    info->orientation = exif_orientation((const uint8_t *)exif.data, exif.length);
  }
  bool whole = png->header.interlace_method != 0;
  size_t row = (size_t)4 * info->width;
  png->rgba = malloc(whole ? row * info->height : row);
  png->rgb = malloc((size_t)3 * info->width);
  if (png->rgba == NULL || png->rgb == NULL)
    return png_fail(SPNG_EMEM, diag);
  return sampler_open(&png->sampler, options, info->width, info->height, info->orientation >= 5,
                      diag);
}

/* Interlaced rows come in seven passes: the whole picture is needed first. */
static int png_interlaced(struct png *png) {
  size_t row = (size_t)4 * png->header.width;
  int code = spng_decode_image(png->context, png->rgba, row * png->header.height, SPNG_FMT_RGBA8,
                               SPNG_DECODE_TRNS);
  for (uint32_t y = 0; code == 0 && y < png->header.height; y++) {
    over_white(png->rgba + row * y, png->header.width, png->rgb);
    sampler_row(&png->sampler, y, png->rgb);
  }
  return code;
}

/* All rows are decoded, those under the region too: a broken picture is refused whatever the crop.
 */
static int png_rows(struct png *png) {
  size_t row = (size_t)4 * png->header.width;
  int code = spng_decode_image(png->context, NULL, 0, SPNG_FMT_RGBA8,
                               SPNG_DECODE_TRNS | SPNG_DECODE_PROGRESSIVE);
  for (uint32_t y = 0; code == 0 && y < png->header.height; y++) {
    code = spng_decode_row(png->context, png->rgba, row);
    if (code != 0 && (code != SPNG_EOI || y + 1 != png->header.height))
      return code;
    over_white(png->rgba, png->header.width, png->rgb);
    sampler_row(&png->sampler, y, png->rgb);
  }
  return code == SPNG_EOI ? 0 : code;
}

static int png_decode(const uint8_t *bytes, size_t size, const struct halut_image_options *options,
                      uint8_t *planar, struct halut_image_info *info, struct halut_diag *diag) {
  struct png png = {0};
  errno = 0; /* for png_fail */
  int error = png_open(&png, bytes, size, options, info, diag);
  if (error == 0) {
    int code = png.header.interlace_method != 0 ? png_interlaced(&png) : png_rows(&png);
    if (code != 0)
      error = png_fail(code, diag);
  }
  if (error == 0)
    sampler_finish(&png.sampler, info->orientation, planar);
  png_close(&png);
  return error;
}

/* ---- JPEG ---- */

enum {
  JPEG_SCANS_MAX = 100, /* progressive files have about ten; each costs a pass over the picture */
  JPEG_MEMORY_EXTRA = 4 << 20, /* bytes beside the coefficients of a progressive picture */
  JPEG_COEFFICIENT_BYTES = 8   /* a pixel: four components of 16 bits (CMYK) */
};

struct jpeg {
  struct jpeg_decompress_struct decoder;
  struct jpeg_error_mgr errors;
  struct jpeg_progress_mgr progress;
  jmp_buf escape; /* set while the library runs */
  int error;
  struct halut_diag *diag;
  uint8_t *row, *rgb;
  struct sampler sampler;
};

/* The library's only way out of an error is not to return. Nothing between the setjmp and here
 * holds memory of its own: all of it hangs on the struct. */
static void jpeg_on_error(j_common_ptr common) {
  struct jpeg *jpeg = common->client_data;
  char text[JMSG_LENGTH_MAX];
  common->err->format_message(common, text);
  int code = common->err->msg_code;
  bool memory = code == JERR_OUT_OF_MEMORY;
  bool limit = code == JERR_NO_BACKING_STORE || code == JERR_IMAGE_TOO_BIG;
  jpeg->error = halut_fail(jpeg->diag,
                           memory  ? HALUT_ENOMEM
                           : limit ? HALUT_ELIMIT
                                   : HALUT_EINVALID,
                           0, "JPEG: %s", limit ? "needs more memory than its limit" : text);
  longjmp(jpeg->escape, 1);
}

/* A warning is about damaged data, which the library would fill in with grey. The exceptions are
 * files that many programs write and that decode exactly. Level 0 and up is tracing. */
static void jpeg_on_message(j_common_ptr common, int level) {
  if (level >= 0)
    return;
  switch (common->err->msg_code) {
  case JWRN_EXTRANEOUS_DATA:
  case JWRN_ADOBE_XFORM:
  case JWRN_JFIF_MAJOR:
  case JWRN_TOO_MUCH_DATA:
    return;
  case JWRN_JPEG_EOF:
  case JWRN_HIT_MARKER: {
    struct jpeg *jpeg = common->client_data;
    jpeg->error = halut_fail(jpeg->diag, HALUT_EINVALID, 0,
                             "JPEG: truncated: it ends before its picture does");
    longjmp(jpeg->escape, 1);
  }
  default:
    jpeg_on_error(common);
  }
}

static void jpeg_on_progress(j_common_ptr common) {
  struct jpeg *jpeg = common->client_data;
  if (jpeg->decoder.input_scan_number <= JPEG_SCANS_MAX)
    return;
  jpeg->error = halut_fail(jpeg->diag, HALUT_ELIMIT, 0, "JPEG: more than %d scans", JPEG_SCANS_MAX);
  longjmp(jpeg->escape, 1);
}

/* The orientation in the EXIF segments that jpeg_save_markers kept. */
static uint32_t jpeg_orientation(const struct jpeg_decompress_struct *decoder) {
  for (jpeg_saved_marker_ptr marker = decoder->marker_list; marker != NULL; marker = marker->next) {
    if (marker->data_length > 6 && memcmp(marker->data, "Exif\0", 6) == 0) {
      return exif_orientation(marker->data + 6, marker->data_length - 6);
    }
  }
  return 1;
}

/* Reads the header, sets up the conversion. The decoder may shrink by 1/2, 1/4 or 1/8 on the way,
 * at a part of the cost; it may as long as twice the target is left for the filter. */
static int jpeg_start(struct jpeg *jpeg, const uint8_t *bytes, size_t size,
                      const struct halut_image_options *options, struct halut_image_info *info) {
  struct jpeg_decompress_struct *decoder = &jpeg->decoder;
  jpeg_create_decompress(decoder);
  jpeg_save_markers(decoder, JPEG_APP0 + 1, 0xffff);
  jpeg_mem_src(decoder, bytes, (unsigned long)size);
  decoder->progress = &jpeg->progress;
  jpeg->progress.progress_monitor = jpeg_on_progress;
  jpeg_read_header(decoder, TRUE);
  info->width = decoder->image_width;
  info->height = decoder->image_height;
  info->orientation = jpeg_orientation(decoder);
  int error = check_size("JPEG", info->width, info->height, options, jpeg->diag);
  if (error != 0)
    return error;
  uint64_t memory = (uint64_t)info->width * info->height * JPEG_COEFFICIENT_BYTES;
  decoder->mem->max_memory_to_use = (long)(memory + JPEG_MEMORY_EXTRA);
  bool inks = decoder->jpeg_color_space == JCS_CMYK || decoder->jpeg_color_space == JCS_YCCK;
  decoder->out_color_space = inks ? JCS_CMYK : JCS_RGB;
  decoder->dct_method = JDCT_ISLOW; /* exact and the same on every processor */
  uint32_t target = options->width > options->height ? options->width : options->height;
  uint32_t side = info->width < info->height ? info->width : info->height;
  decoder->scale_num = 1;
  decoder->scale_denom = 1;
  while (decoder->scale_denom < 8 && side / (2 * decoder->scale_denom) >= 2 * target) {
    decoder->scale_denom *= 2;
  }
  jpeg_start_decompress(decoder);
  return 0;
}

/* Adobe writes inks inverted, and files with an Adobe marker are all that exist in practice. */
static void inks_to_rgb(const uint8_t *cmyk, uint32_t width, bool inverted, uint8_t *rgb) {
  for (uint32_t x = 0; x < width; x++, cmyk += 4, rgb += 3) {
    uint32_t black = inverted ? cmyk[3] : 255u - cmyk[3];
    for (uint32_t c = 0; c < 3; c++) {
      uint32_t ink = inverted ? cmyk[c] : 255u - cmyk[c];
      rgb[c] = (uint8_t)((ink * black + 127) / 255);
    }
  }
}

/* All rows are decoded, for the reason given at png_rows. */
static int jpeg_rows(struct jpeg *jpeg) {
  struct jpeg_decompress_struct *decoder = &jpeg->decoder;
  bool inks = decoder->out_color_space == JCS_CMYK;
  while (decoder->output_scanline < decoder->output_height) {
    uint32_t y = decoder->output_scanline;
    JSAMPROW rows[1] = {jpeg->row};
    jpeg_read_scanlines(decoder, rows, 1);
    if (inks) {
      inks_to_rgb(jpeg->row, decoder->output_width, decoder->saw_Adobe_marker != 0, jpeg->rgb);
    }
    sampler_row(&jpeg->sampler, y, inks ? jpeg->rgb : jpeg->row);
  }
  jpeg_finish_decompress(decoder);
  return 0;
}

/* Everything that may longjmp, under one setjmp. */
static int jpeg_run(struct jpeg *jpeg, const uint8_t *bytes, size_t size,
                    const struct halut_image_options *options, struct halut_image_info *info) {
  if (setjmp(jpeg->escape) != 0)
    return jpeg->error;
  int error = jpeg_start(jpeg, bytes, size, options, info);
  if (error != 0)
    return error;
  uint32_t width = jpeg->decoder.output_width;
  jpeg->row = malloc((size_t)4 * width);
  jpeg->rgb = malloc((size_t)3 * width);
  if (jpeg->row == NULL || jpeg->rgb == NULL) {
    return halut_fail(jpeg->diag, HALUT_ENOMEM, 0, "JPEG: no memory for a row");
  }
  error = sampler_open(&jpeg->sampler, options, width, jpeg->decoder.output_height,
                       info->orientation >= 5, jpeg->diag);
  return error != 0 ? error : jpeg_rows(jpeg);
}

static int jpeg_decode(const uint8_t *bytes, size_t size, const struct halut_image_options *options,
                       uint8_t *planar, struct halut_image_info *info, struct halut_diag *diag) {
  struct jpeg jpeg = {0};
  jpeg.diag = diag;
  jpeg.decoder.err = jpeg_std_error(&jpeg.errors);
  jpeg.decoder.client_data = &jpeg;
  jpeg.errors.error_exit = jpeg_on_error;
  jpeg.errors.emit_message = jpeg_on_message;
  int error = jpeg_run(&jpeg, bytes, size, options, info);
  if (error == 0)
    sampler_finish(&jpeg.sampler, info->orientation, planar);
  sampler_close(&jpeg.sampler);
  free(jpeg.rgb);
  free(jpeg.row);
  jpeg_destroy_decompress(&jpeg.decoder);
  return error;
}

/* ---- The way in ---- */

static int fail_unknown(const uint8_t *bytes, size_t size,
                        const struct halut_image_options *options, struct halut_diag *diag) {
  size_t raw = (size_t)3 * options->width * options->height;
  const char *what =
      size >= 4 && memcmp(bytes, "GIF8", 4) == 0 ? " (a GIF)"
      : size >= 12 && memcmp(bytes, "RIFF", 4) == 0 && memcmp(bytes + 8, "WEBP", 4) == 0
          ? " (a WebP)"
      : size >= 2 && memcmp(bytes, "BM", 2) == 0 ? " (perhaps a BMP)"
      : size >= 1 && (bytes[0] == '{' || bytes[0] == '[')
          ? " (JSON? it must be whole, an object from { to })"
      : size == raw + 1 ? " (a CIFAR record starts with its label: leave it out)"
                        : "";
  if (size == 0)
    return halut_fail(diag, HALUT_EINVALID, 0, "image: no bytes");
  return halut_fail(diag, HALUT_EINVALID, 0,
                    "image: %zu bytes that are neither PNG nor JPEG nor the %zu of a raw "
                    "%u x %u picture%s",
                    size, raw, options->width, options->height, what);
}

int halut_image_decode(const uint8_t *bytes, size_t size, const struct halut_image_options *options,
                       uint8_t *planar, struct halut_image_info *info_out,
                       struct halut_diag *diag) {
  assert(options->width >= 1 && options->width <= HALUT_IMAGE_TARGET_MAX);
  assert(options->height >= 1 && options->height <= HALUT_IMAGE_TARGET_MAX);
  struct halut_image_info unused;
  struct halut_image_info *info = info_out != NULL ? info_out : &unused;
  *info = (struct halut_image_info){
      .kind = halut_image_sniff(bytes, size, options->width, options->height), .orientation = 1};
  switch (info->kind) {
  case HALUT_IMAGE_PNG:
    return png_decode(bytes, size, options, planar, info, diag);
  case HALUT_IMAGE_JPEG:
    return jpeg_decode(bytes, size, options, planar, info, diag);
  case HALUT_IMAGE_RAW:
    info->width = options->width;
    info->height = options->height;
    memcpy(planar, bytes, size);
    return 0;
  case HALUT_IMAGE_UNKNOWN:
    break;
  }
  return fail_unknown(bytes, size, options, diag);
}

int halut_image_fit_read(const char *word, enum halut_image_fit *out, struct halut_diag *diag) {
  if (word != NULL && strcmp(word, "crop") != 0 && strcmp(word, "squash") != 0)
    return halut_fail(diag, HALUT_EINVALID, 0, "fit: must be \"crop\" or \"squash\", not \"%.32s\"",
                      word);
  if (word != NULL)
    *out = strcmp(word, "squash") == 0 ? HALUT_IMAGE_SQUASH : HALUT_IMAGE_CROP;
  return HALUT_OK;
}
