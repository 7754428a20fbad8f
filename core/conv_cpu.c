/* DESIGN: with stride 1 and an output as large as the input, the value that a tree level reads at
 * position p is at p plus a constant in the channel's plane, so encode reads the map itself: no
 * im2col. Where the tap falls off the map, a mask makes the value 0; what lies there is the
 * neighbouring plane. Only at the two ends of the whole batch is there nothing to read: those few
 * codebooks read a copy. Maps of any other geometry are gathered, value by value, and so are those
 * whose masks would be large: a short model file can ask for a large kernel on a large map.
 *
 * Codes are made for a block of HALUT_CODE_BLOCK rows and summed at once. Small maps share a block
 * with those of the next images, so that each table that is fetched serves as many rows as can be.
 * Where nothing is gathered they are copied side by side, by channel, and read like one map. */
#include "conv_cpu.h"

#include <stdlib.h>
#include <string.h>

enum {
  VALUE_ROWS = HALUT_CODE_BLOCK + HALUT_ROW_BLOCK, /* of a level in scratch->value */
  MASKS_MAX = 1 << 24 /* bytes; 7 x 7 at 512 x 512 has 12.8 million */
};

/* Where a codebook whose values were copied reads them. */
static const struct halut_read value_read[HALUT_LEVELS] = {
    {0, 0}, {VALUE_ROWS, 0}, {2 * VALUE_ROWS, 0}, {3 * VALUE_ROWS, 0}};

static bool is_same(const struct halut_conv *conv) {
  return conv->stride_h == 1 && conv->stride_w == 1 && conv->out_h == conv->height &&
         conv->out_w == conv->width;
}

/* How far around small maps side by side the taps of their ends reach. */
static size_t slack_bytes(const struct halut_conv *conv) {
  const size_t reach = (size_t)conv->pad_h * conv->width + conv->pad_w;
  return (reach + HALUT_ALIGN - 1) / HALUT_ALIGN * HALUT_ALIGN;
}

static bool is_small(size_t positions) { return positions <= HALUT_CODE_BLOCK / 2; }

static void mask_fill(const struct halut_conv *conv, struct halut_conv_cpu *made) {
  for (uint32_t ky = 0; ky < conv->kernel_h; ky++)
    for (uint32_t kx = 0; kx < conv->kernel_w; kx++) {
      const size_t tap = (size_t)ky * conv->kernel_w + kx;
      const ptrdiff_t dy = (ptrdiff_t)ky - (ptrdiff_t)conv->pad_h;
      const ptrdiff_t dx = (ptrdiff_t)kx - (ptrdiff_t)conv->pad_w;
      for (size_t i = 0; i < made->together * made->positions; i++) {
        const ptrdiff_t y = (ptrdiff_t)(i % made->positions / conv->width) + dy;
        const ptrdiff_t x = (ptrdiff_t)(i % conv->width) + dx;
        const bool is_inside =
            y >= 0 && y < (ptrdiff_t)conv->height && x >= 0 && x < (ptrdiff_t)conv->width;
        made->mask[tap * made->masked + i] = is_inside ? UINT8_MAX : 0;
      }
    }
}

/* Once here instead of a division for every level of every block. */
static void read_fill(const struct halut_conv *conv, uint32_t codebooks,
                      struct halut_conv_cpu *made) {
  const size_t taps = (size_t)conv->kernel_h * conv->kernel_w;
  const size_t plane = made->together > 1 ? HALUT_CODE_BLOCK : made->positions;
  for (size_t i = 0; i < (size_t)codebooks * HALUT_LEVELS; i++) {
    const size_t channel = conv->split[i] / taps, tap = conv->split[i] % taps;
    const ptrdiff_t dy = (ptrdiff_t)(tap / conv->kernel_w) - (ptrdiff_t)conv->pad_h;
    const ptrdiff_t dx = (ptrdiff_t)(tap % conv->kernel_w) - (ptrdiff_t)conv->pad_w;
    made->read[i].at = (ptrdiff_t)(channel * plane) + dy * (ptrdiff_t)conv->width + dx;
    made->read[i].mask = tap * made->masked;
  }
}

int halut_conv_cpu_open(const struct halut_conv *conv, uint32_t codebooks,
                        struct halut_conv_cpu *out, struct halut_diag *diag) {
  const size_t taps = (size_t)conv->kernel_h * conv->kernel_w;
  struct halut_conv_cpu made = {.conv = conv, .positions = (size_t)conv->out_h * conv->out_w};
  made.masked = halut_pad_rows(made.positions);
  made.together = 1;
  if (is_small(made.positions))
    made.together = (uint32_t)(HALUT_CODE_BLOCK / made.positions);
  const size_t masked = made.together > 1 ? HALUT_CODE_BLOCK : made.masked;
  if (is_same(conv) && taps * masked <= MASKS_MAX) {
    made.masked = masked;
    made.mask = halut_alloc(taps * made.masked);
    made.read = calloc((size_t)codebooks * HALUT_LEVELS, sizeof *made.read);
    if (!made.mask || !made.read) {
      halut_conv_cpu_close(&made);
      return halut_fail(diag, HALUT_ENOMEM, 0, "no memory for the masks of a convolution");
    }
    mask_fill(conv, &made);
    read_fill(conv, codebooks, &made);
  }
  *out = made;
  return HALUT_OK;
}

void halut_conv_cpu_close(struct halut_conv_cpu *conv) {
  free(conv->mask);
  free(conv->read);
  *conv = (struct halut_conv_cpu){0};
}

static int grow(uint8_t **memory, size_t *bytes, size_t wanted, struct halut_diag *diag) {
  if (wanted <= *bytes) return HALUT_OK;
  uint8_t *grown = halut_alloc(wanted);
  if (!grown)
    return halut_fail(diag, HALUT_ENOMEM, 0, "no memory for %zu bytes of scratch", wanted);
  free(*memory);
  *memory = grown;
  *bytes = wanted;
  return HALUT_OK;
}

int halut_conv_scratch_fit(struct halut_conv_scratch *scratch, const struct halut_lut *lut,
                           const struct halut_conv *conv, struct halut_diag *diag) {
  size_t positions = (size_t)conv->out_h * conv->out_w, value_bytes = 0;
  size_t wide = positions < HALUT_CODE_BLOCK ? HALUT_CODE_BLOCK : halut_pad_rows(positions);
  const size_t side = (size_t)conv->channels * HALUT_CODE_BLOCK + 2 * slack_bytes(conv);
  int error = grow(&scratch->codes, &scratch->codes_bytes,
                   halut_codes_bytes(lut->codebooks) + HALUT_CODE_BLOCK, diag);
  if (!error) error = grow(&scratch->tile, &scratch->tile_bytes, lut->outputs * wide, diag);
  if (!error && is_small(positions) && is_same(conv))
    error = grow(&scratch->side, &scratch->side_bytes, side, diag);
  if (error || scratch->value) return error;
  return grow(&scratch->value, &value_bytes, HALUT_LEVELS * VALUE_ROWS, diag);
}

void halut_conv_scratch_close(struct halut_conv_scratch *scratch) {
  free(scratch->codes);
  free(scratch->tile);
  free(scratch->side);
  free(scratch->value);
  *scratch = (struct halut_conv_scratch){0};
}

/* What codebook c's level reads at positions first .. first + wide - 1; past the last it is 0. */
static void gather(const struct halut_conv_cpu *cpu, const uint8_t *image, uint16_t split,
                   size_t first, size_t wide, uint8_t *value) {
  const struct halut_conv *conv = cpu->conv;
  const uint32_t kx = split % conv->kernel_w, ky = split / conv->kernel_w % conv->kernel_h;
  const uint8_t *plane =
      image + (size_t)(split / (conv->kernel_w * conv->kernel_h)) * conv->height * conv->width;
  for (size_t i = 0; i < wide; i++) {
    size_t position = first + i;
    value[i] = 0;
    if (position >= cpu->positions) continue;
    size_t y = position / conv->out_w * conv->stride_h + ky;
    size_t x = position % conv->out_w * conv->stride_w + kx;
    if (y >= conv->pad_h && y - conv->pad_h < conv->height && x >= conv->pad_w &&
        x - conv->pad_w < conv->width)
      value[i] = plane[(y - conv->pad_h) * conv->width + x - conv->pad_w];
  }
}

/* The batch that is being read: nothing outside [begin, end) may be touched. */
struct batch {
  const uint8_t *begin, *end;
};

/* What a level reads, without what is not there: that is masked. */
static void copy_inside(const struct batch *batch, const uint8_t *image, ptrdiff_t at, size_t wide,
                        uint8_t *value) {
  const ptrdiff_t begin = batch->begin - image, end = batch->end - image;
  const ptrdiff_t first = at < begin ? begin : at;
  const ptrdiff_t last = at + (ptrdiff_t)wide > end ? end : at + (ptrdiff_t)wide;
  if (first < last) memcpy(value + (first - at), image + first, (size_t)(last - first));
}

/* How many codebooks from the first on read only what is there. */
static uint32_t inside_count(const struct batch *batch, const uint8_t *image, size_t first,
                             size_t wide, const struct halut_read *read, uint32_t codebooks) {
  const ptrdiff_t least = batch->begin - image - (ptrdiff_t)first;
  const ptrdiff_t most = batch->end - image - (ptrdiff_t)(first + wide);
  for (uint32_t i = 0; i < codebooks * HALUT_LEVELS; i++)
    if (read[i].at < least || read[i].at > most) return i / HALUT_LEVELS;
  return codebooks;
}

/* Codes of one codebook whose values are gathered, at `wide` positions of one image. */
static void encode_gathered(const struct halut_conv_cpu *cpu, const struct halut_lut *lut,
                            const struct halut_kernels *kernels,
                            struct halut_conv_scratch *scratch, const uint8_t *image, uint32_t c,
                            size_t first, size_t wide, uint8_t *codes) {
  for (size_t level = 0; level < HALUT_LEVELS; level++)
    gather(cpu, image, cpu->conv->split[(size_t)c * HALUT_LEVELS + level], first, wide,
           scratch->value + level * VALUE_ROWS);
  kernels->encode(scratch->value, NULL, value_read, lut->threshold + (size_t)c * HALUT_PROTOTYPES,
                  1, wide, codes, 0);
}

/* Codes of all codebooks at `wide` positions of one image from `first` on. */
static void encode_block(const struct halut_conv_cpu *cpu, const struct halut_lut *lut,
                         const struct halut_kernels *kernels, struct halut_conv_scratch *scratch,
                         const struct batch *batch, const uint8_t *image, size_t first, size_t wide,
                         size_t apart) {
  for (uint32_t c = 0, count; c < lut->codebooks; c += count) {
    const uint8_t *threshold = lut->threshold + (size_t)c * HALUT_PROTOTYPES;
    uint8_t *codes = scratch->codes + c * apart;
    count = 1;
    if (!cpu->read) {
      encode_gathered(cpu, lut, kernels, scratch, image, c, first, wide, codes);
      continue;
    }
    const struct halut_read *read = cpu->read + (size_t)c * HALUT_LEVELS;
    const uint32_t inside = inside_count(batch, image, first, wide, read, lut->codebooks - c);
    if (inside > 0) {
      count = inside;
      kernels->encode(image + first, cpu->mask + first, read, threshold, count, wide, codes, apart);
      continue;
    }
    struct halut_read copied[HALUT_LEVELS];
    for (size_t level = 0; level < HALUT_LEVELS; level++) {
      copied[level] = (struct halut_read){value_read[level].at, read[level].mask};
      copy_inside(batch, image, (ptrdiff_t)first + read[level].at, wide,
                  scratch->value + level * VALUE_ROWS);
    }
    kernels->encode(scratch->value, cpu->mask + first, copied, threshold, 1, wide, codes, apart);
  }
}

/* Codes of all codebooks at all positions of `count` small images, which fit a block. */
static void encode_images(const struct halut_conv_cpu *cpu, const struct halut_lut *lut,
                          const struct halut_kernels *kernels, struct halut_conv_scratch *scratch,
                          const uint8_t *images, uint32_t count) {
  const struct halut_conv *conv = cpu->conv;
  const size_t plane = (size_t)conv->height * conv->width, rows = count * cpu->positions;
  const size_t apart = halut_code_stride(kernels->accumulate, halut_sum_rows(rows));
  if (!cpu->read) { /* each image's codes are padded, and the next one's written over that */
    for (uint32_t c = 0; c < lut->codebooks; c++)
      for (uint32_t i = 0; i < count; i++)
        encode_gathered(cpu, lut, kernels, scratch, images + i * conv->channels * plane, c, 0,
                        cpu->masked, scratch->codes + c * apart + i * cpu->positions);
    return;
  }
  uint8_t *side = scratch->side + slack_bytes(conv);
  for (uint32_t i = 0; i < count; i++)
    for (uint32_t channel = 0; channel < conv->channels; channel++, images += plane)
      memcpy(side + (size_t)channel * HALUT_CODE_BLOCK + i * plane, images, plane);
  kernels->encode(side, cpu->mask, cpu->read, lut->threshold, lut->codebooks, halut_pad_rows(rows),
                  scratch->codes, apart);
}

static void pool_plain(const uint8_t *in, uint32_t height, uint32_t width, uint32_t window,
                       uint8_t *out) {
  for (uint32_t y = 0; y < height / window; y++)
    for (uint32_t x = 0; x < width / window; x++) {
      uint8_t most = 0;
      for (uint32_t i = 0; i < window * window; i++) {
        uint8_t value = in[(size_t)(y * window + i / window) * width + x * window + i % window];
        most = value > most ? value : most;
      }
      *out++ = most;
    }
}

/* Rows first .. last - 1 of every plane; of `out` they become rows of the same planes. */
static void pool_planes(const struct halut_conv_cpu *cpu, const struct halut_kernels *kernels,
                        uint32_t outputs, const uint8_t *in, size_t stride, uint32_t first,
                        uint32_t last, uint32_t window, uint8_t *out) {
  const uint32_t height = last - first, width = cpu->conv->out_w;
  const size_t pooled = (size_t)(cpu->conv->out_h / window) * (width / window);
  in += (size_t)first * width;
  out += (size_t)(first / window) * (width / window);
  for (uint32_t m = 0; m < outputs; m++, in += stride, out += pooled) {
    if (window == 1)
      memcpy(out, in, (size_t)height * width);
    else if (window == 2 && height % 2 == 0 && width % 2 == 0)
      kernels->pool2(in, height, width, out);
    else
      pool_plain(in, height, width, window, out);
  }
}

/* A map of at least a block: block by block, all outputs of one image. */
static void run_image(const struct halut_conv_cpu *cpu, const struct halut_packed *packed,
                      const struct halut_kernels *kernels, struct halut_conv_scratch *scratch,
                      const struct batch *batch, const struct halut_conv_part *part,
                      const uint8_t *image, uint8_t *out) {
  const struct halut_lut *lut = packed->lut;
  const struct halut_epilogue *epilogue = &part->epilogue;
  const bool is_direct = epilogue->pool == 1 && cpu->positions == cpu->masked;
  const uint32_t width = cpu->conv->out_w;
  const size_t end = part->last == cpu->conv->out_h ? cpu->masked : (size_t)part->last * width;
  uint8_t *to = is_direct ? out : scratch->tile;
  uint64_t since = halut_clock_ns();
  for (size_t first = (size_t)part->first * width; first < end; first += HALUT_CODE_BLOCK) {
    size_t left = end - first;
    size_t wide = left < HALUT_CODE_BLOCK ? left : HALUT_CODE_BLOCK;
    const size_t apart = halut_code_stride(kernels->accumulate, wide);
    encode_block(cpu, lut, kernels, scratch, batch, image, first, wide, apart);
    halut_clock_lap(&scratch->stages.encode_ns, &since);
    if (kernels->accumulate->arrange) kernels->accumulate->arrange(packed, scratch->codes);
    kernels->accumulate->map(packed, scratch->codes, (uint32_t)wide, &epilogue->requant, to + first,
                             cpu->masked);
    halut_clock_lap(&scratch->stages.accumulate_ns, &since);
  }
  if (!is_direct)
    pool_planes(cpu, kernels, lut->outputs, scratch->tile, cpu->masked, part->first, part->last,
                epilogue->pool, out);
}

/* Small maps: as many images as fit a block side by side. */
static void run_images(const struct halut_conv_cpu *cpu, const struct halut_conv_tables *tables,
                       const struct halut_kernels *kernels, struct halut_conv_scratch *scratch,
                       const uint8_t *images, uint32_t count,
                       const struct halut_epilogue *epilogue, uint8_t *out) {
  const struct halut_packed *packed = tables->packed;
  const struct halut_lut *lut = packed->lut;
  const struct halut_conv *conv = cpu->conv;
  const size_t pooled =
      (size_t)(conv->out_h / epilogue->pool) * (conv->out_w / epilogue->pool) * lut->outputs;
  const size_t rows = halut_sum_rows(count * cpu->positions);
  uint64_t since = halut_clock_ns();
  encode_images(cpu, lut, kernels, scratch, images, count);
  halut_clock_lap(&scratch->stages.encode_ns, &since);
  if (kernels->accumulate->arrange) kernels->accumulate->arrange(packed, scratch->codes);
  if (rows == HALUT_SUM_ROWS && tables->few)
    kernels->accumulate->map_few(tables->few, scratch->codes, &epilogue->requant, scratch->tile,
                                 HALUT_CODE_BLOCK);
  else
    kernels->accumulate->map(packed, scratch->codes, (uint32_t)rows, &epilogue->requant,
                             scratch->tile, HALUT_CODE_BLOCK);
  halut_clock_lap(&scratch->stages.accumulate_ns, &since);
  for (uint32_t i = 0; i < count; i++)
    pool_planes(cpu, kernels, lut->outputs, scratch->tile + i * cpu->positions, HALUT_CODE_BLOCK,
                0, conv->out_h, epilogue->pool, out + i * pooled);
}

bool halut_conv_cpu_is_few(const struct halut_conv_cpu *cpu, const struct halut_kernels *kernels) {
  return kernels->accumulate->map_few && cpu->positions <= HALUT_SUM_ROWS;
}

uint32_t halut_conv_cpu_middle(const struct halut_conv_cpu *cpu, uint32_t pool) {
  const uint32_t height = cpu->conv->out_h, width = cpu->conv->out_w;
  for (uint32_t row = height / 2; row > height / 3; row--)
    if (row % pool == 0 && (size_t)row * width % HALUT_CODE_BLOCK == 0) return row;
  return 0;
}

/* Adds what the epilogue wants to rows first .. last - 1 of all planes. */
static void add_rows(const struct halut_conv_cpu *cpu, const struct halut_kernels *kernels,
                     uint32_t outputs, const struct halut_conv_part *part) {
  const struct halut_epilogue *epilogue = &part->epilogue;
  const uint32_t pool = epilogue->pool, height = cpu->conv->out_h;
  const size_t width = cpu->conv->out_w / pool, plane = height / pool * width;
  if (part->first == 0 && part->last == height) {
    kernels->add(part->out, epilogue->other, plane * outputs * part->count, epilogue->zero);
    return;
  }
  for (size_t m = 0; m < outputs; m++) {
    const size_t at = m * plane + part->first / pool * width;
    kernels->add(part->out + at, epilogue->other + at, (part->last - part->first) / pool * width,
                 epilogue->zero);
  }
}

void halut_conv_cpu_run(const struct halut_conv_cpu *cpu, const struct halut_conv_tables *tables,
                        const struct halut_kernels *kernels, struct halut_conv_scratch *scratch,
                        const struct halut_conv_part *part) {
  const struct halut_packed *packed = tables->packed;
  const struct halut_conv *conv = cpu->conv;
  const struct halut_epilogue *epilogue = &part->epilogue;
  const uint32_t count = part->count, outputs = packed->lut->outputs;
  const size_t image_bytes = (size_t)conv->channels * conv->height * conv->width;
  const size_t out_bytes =
      (size_t)(conv->out_h / epilogue->pool) * (conv->out_w / epilogue->pool) * outputs;
  const struct batch batch = {part->in, part->in + image_bytes * count};
  const uint32_t together = cpu->together;
  for (uint32_t i = 0; i < count; i += together) {
    uint32_t here = count - i < together ? count - i : together;
    const uint8_t *image = part->in + i * image_bytes;
    if (together == 1)
      run_image(cpu, packed, kernels, scratch, &batch, part, image, part->out + i * out_bytes);
    else
      run_images(cpu, tables, kernels, scratch, image, here, epilogue, part->out + i * out_bytes);
  }
  if (epilogue->other) add_rows(cpu, kernels, outputs, part);
}
