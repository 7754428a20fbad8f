/* image.h: the bytes of a PNG, a JPEG or a raw CIFAR image to the planar u8 tensor a network takes.
 *
 * One call from memory to tensor: no I/O, no global state, any thread. Decoders run under limits
 * and are fed row by row, so that a large picture never exists whole in memory (interlaced PNG and
 * progressive JPEG apart, which are bounded by pixels_max). All arithmetic after the decoders is on
 * integers: the same bytes give the same tensor on every machine.
 */
#ifndef HALUT_IMAGE_H
#define HALUT_IMAGE_H

#include <stddef.h>
#include <stdint.h>

#include "../core/halut.h"

enum halut_image_kind {
  HALUT_IMAGE_UNKNOWN = 0,
  HALUT_IMAGE_PNG,
  HALUT_IMAGE_JPEG,
  HALUT_IMAGE_RAW
};

/* How a picture of another shape becomes one of the wanted size. */
enum halut_image_fit {
  HALUT_IMAGE_CROP =
      0, /* the largest centred part of the wanted shape is scaled; the rest is cut off */
  HALUT_IMAGE_SQUASH /* the whole picture is scaled, each axis by itself */
};

enum {
  HALUT_IMAGE_SIDE_MAX = 65535,         /* pixels */
  HALUT_IMAGE_TARGET_MAX = 1024,        /* pixels: largest wanted width or height */
  HALUT_IMAGE_PIXELS_DEFAULT = 16777216 /* pixels_max where no configuration says otherwise */
};

struct halut_image_options {
  uint32_t width, height; /* wanted, 1..HALUT_IMAGE_TARGET_MAX */
  enum halut_image_fit fit;
  uint64_t pixels_max; /* of the stored picture; at most 65535 a side in any case */
};

struct halut_image_info {
  enum halut_image_kind kind;
  uint32_t width, height; /* as stored, before the orientation is applied */
  uint32_t orientation;   /* EXIF: 1 (upright) to 8 */
};

const char *halut_image_kind_name(enum halut_image_kind kind); /* "PNG", "JPEG", "raw", "unknown" */

/* What the bytes are, by the bytes alone. RAW is exactly 3 * width * height bytes that are not the
 * start of a PNG or of a well-formed JPEG: the R, G and B plane, each row by row (the CIFAR layout,
 * without label). */
enum halut_image_kind halut_image_sniff(const uint8_t *bytes, size_t size, uint32_t width,
                                        uint32_t height);

/* Fills planar[3][height][width] with R, G, B. Accepts every PNG colour type and depth (16 bits
 * keep their high byte; palette, transparency, interlacing) and baseline and progressive JPEG
 * (grey, YCbCr, RGB, CMYK, YCCK). Transparent pixels lie over white; the EXIF orientation is
 * applied; colour profiles are ignored. Pictures of another size go through a triangle filter as
 * wide as the reduction (antialiased), or linear interpolation when enlarged; a picture of the
 * wanted size is copied exactly. info_out may be NULL and is also filled, as far as known, on
 * errors.
 *
 * Errors, diag->text naming the format and what is wrong with it: HALUT_EINVALID (empty, not an
 * image, broken, truncated), HALUT_ELIMIT (pixels, sides, memory, scans, chunk sizes),
 * HALUT_ENOMEM. */
int halut_image_decode(const uint8_t *bytes, size_t size, const struct halut_image_options *options,
                       uint8_t *planar, struct halut_image_info *info_out, struct halut_diag *diag)
    __attribute__((warn_unused_result));

/* "crop" or "squash" to *out; NULL leaves it. HALUT_EINVALID for any other word. */
int halut_image_fit_read(const char *word, enum halut_image_fit *out, struct halut_diag *diag);

#endif
