/* DESIGN: with stride 1 and an output as large as the input, the value that a tree level reads at
 * position p is at p plus a constant in the channel's plane, so encode reads the map itself: no
 * im2col. Where the tap falls off the map, a mask makes the value 0; what lies there is the
 * neighbouring plane. Only at the two ends of the whole batch is there nothing to read: those few
 * levels are gathered, like all levels of any other geometry.
 *
 * Codes are made for a block of HALUT_CODE_BLOCK rows and summed at once. A map of fewer positions
 * shares its block with the maps of the next images, so that each table that is fetched serves as
 * many rows as can be; what a level reads of them is first copied side by side, because encoding
 * them one by one would leave most of each vector empty. */
#include "conv_cpu.h"

#include <stdlib.h>
#include <string.h>

enum {
  /* Of a level in scratch->value: images side by side write in vectors of HALUT_SUM_ROWS. */
  VALUE_ROWS = HALUT_CODE_BLOCK + HALUT_ROW_BLOCK,
  COPIED_POSITIONS = 64 /* maps of so many fill the widest vector by themselves */
};

static bool is_same(const struct halut_conv *conv) {
  return conv->stride_h == 1 && conv->stride_w == 1 && conv->out_h == conv->height &&
         conv->out_w == conv->width;
}

static void mask_fill(const struct halut_conv *conv, struct halut_conv_cpu *made) {
  for (uint32_t ky = 0; ky < conv->kernel_h; ky++)
    for (uint32_t kx = 0; kx < conv->kernel_w; kx++) {
      const size_t tap = (size_t)ky * conv->kernel_w + kx;
      const ptrdiff_t dy = (ptrdiff_t)ky - (ptrdiff_t)conv->pad_h;
      const ptrdiff_t dx = (ptrdiff_t)kx - (ptrdiff_t)conv->pad_w;
      uint8_t *mask = made->mask + tap * made->masked;
      for (ptrdiff_t y = 0; y < (ptrdiff_t)conv->height; y++)
        for (ptrdiff_t x = 0; x < (ptrdiff_t)conv->width; x++) {
          bool is_inside = y + dy >= 0 && y + dy < (ptrdiff_t)conv->height && x + dx >= 0 &&
                           x + dx < (ptrdiff_t)conv->width;
          *mask++ = is_inside ? UINT8_MAX : 0;
        }
    }
}

/* Once here instead of a division for every level of every block. */
static void read_fill(const struct halut_conv *conv, uint32_t codebooks,
                      struct halut_conv_cpu *made) {
  const size_t taps = (size_t)conv->kernel_h * conv->kernel_w;
  for (size_t i = 0; i < (size_t)codebooks * HALUT_LEVELS; i++) {
    const size_t channel = conv->split[i] / taps, tap = conv->split[i] % taps;
    const ptrdiff_t dy = (ptrdiff_t)(tap / conv->kernel_w) - (ptrdiff_t)conv->pad_h;
    const ptrdiff_t dx = (ptrdiff_t)(tap % conv->kernel_w) - (ptrdiff_t)conv->pad_w;
    made->read[i].at =
        (ptrdiff_t)(channel * made->positions) + dy * (ptrdiff_t)conv->width + dx;
    made->read[i].mask = made->mask + tap * made->masked;
  }
}

int halut_conv_cpu_open(const struct halut_conv *conv, uint32_t codebooks,
                        struct halut_conv_cpu *out, struct halut_diag *diag) {
  const size_t taps = (size_t)conv->kernel_h * conv->kernel_w;
  struct halut_conv_cpu made = {.conv = conv, .positions = (size_t)conv->out_h * conv->out_w};
  made.masked = halut_pad_rows(made.positions);
  if (is_same(conv)) {
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
  int error = grow(&scratch->codes, &scratch->codes_bytes,
                   halut_codes_bytes(lut->codebooks) + HALUT_CODE_BLOCK, diag);
  if (!error) error = grow(&scratch->tile, &scratch->tile_bytes, lut->outputs * wide, diag);
  if (error || scratch->value) return error;
  error = grow(&scratch->value, &value_bytes, (HALUT_LEVELS + 1) * VALUE_ROWS, diag);
  if (!error) memset(scratch->value + HALUT_LEVELS * VALUE_ROWS, UINT8_MAX, VALUE_ROWS);
  return error;
}

void halut_conv_scratch_close(struct halut_conv_scratch *scratch) {
  free(scratch->codes);
  free(scratch->tile);
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

/* Codes of codebook c for `wide` positions of one image from `first` on. */
static void encode_part(const struct halut_conv_cpu *cpu, const struct halut_lut *lut,
                        const struct halut_kernels *kernels, struct halut_conv_scratch *scratch,
                        const struct batch *batch, const uint8_t *image, uint32_t c, size_t first,
                        size_t wide, uint8_t *codes) {
  const uint8_t *source[HALUT_LEVELS], *mask[HALUT_LEVELS];
  for (size_t level = 0; level < HALUT_LEVELS; level++) {
    uint8_t *value = scratch->value + level * VALUE_ROWS;
    if (cpu->read) {
      const struct halut_conv_read *read = &cpu->read[(size_t)c * HALUT_LEVELS + level];
      const ptrdiff_t at = (ptrdiff_t)first + read->at;
      if (at >= batch->begin - image && at + (ptrdiff_t)wide <= batch->end - image) {
        source[level] = image + at;
        mask[level] = read->mask + first;
        continue;
      }
    }
    gather(cpu, image, cpu->conv->split[(size_t)c * HALUT_LEVELS + level], first, wide, value);
    source[level] = value;
    mask[level] = scratch->value + HALUT_LEVELS * VALUE_ROWS;
  }
  kernels->encode(source, mask, lut->threshold + (size_t)c * HALUT_PROTOTYPES, wide, codes, 0);
}

static void copy_masked(uint8_t *to, const uint8_t *from, const uint8_t *mask, size_t bytes) {
  for (size_t i = 0; i < bytes; i += HALUT_SUM_ROWS) {
    uint64_t value[2], keep[2];
    static_assert(sizeof value == HALUT_SUM_ROWS, "a vector of rows in two words");
    memcpy(value, from + i, sizeof value);
    memcpy(keep, mask + i, sizeof keep);
    value[0] &= keep[0];
    value[1] &= keep[1];
    memcpy(to + i, value, sizeof value);
  }
}

/* What one level reads of `count` images, side by side. */
static void level_copy(const struct halut_conv_cpu *cpu, const struct batch *batch,
                       const uint8_t *images, uint32_t count, size_t level, uint8_t *value) {
  const struct halut_conv *conv = cpu->conv;
  const size_t image_bytes = (size_t)conv->channels * conv->height * conv->width;
  const size_t wide = (cpu->positions + HALUT_SUM_ROWS - 1) / HALUT_SUM_ROWS * HALUT_SUM_ROWS;
  const struct halut_conv_read *read = cpu->read ? &cpu->read[level] : NULL;
  for (uint32_t i = 0; i < count; i++, images += image_bytes, value += cpu->positions) {
    if (read && read->at >= batch->begin - images &&
        read->at + (ptrdiff_t)wide <= batch->end - images)
      copy_masked(value, images + read->at, read->mask, wide);
    else
      gather(cpu, images, conv->split[level], 0, wide, value);
  }
}

/* Codes of all codebooks at all positions of `count` images, which fit a block. */
static void encode_images(const struct halut_conv_cpu *cpu, const struct halut_lut *lut,
                          const struct halut_kernels *kernels, struct halut_conv_scratch *scratch,
                          const struct batch *batch, const uint8_t *images, uint32_t count) {
  const struct halut_conv *conv = cpu->conv;
  const size_t image_bytes = (size_t)conv->channels * conv->height * conv->width;
  const bool is_copied = count > 1 && cpu->positions < COPIED_POSITIONS;
  const uint8_t *source[HALUT_LEVELS];
  for (size_t level = 0; level < HALUT_LEVELS; level++)
    source[level] = scratch->value + level * VALUE_ROWS;
  for (uint32_t c = 0; c < lut->codebooks; c++) {
    uint8_t *codes = scratch->codes + (size_t)c * HALUT_CODE_BLOCK;
    for (size_t level = 0; level < HALUT_LEVELS && is_copied; level++)
      level_copy(cpu, batch, images, count, (size_t)c * HALUT_LEVELS + level,
                 scratch->value + level * VALUE_ROWS);
    if (is_copied)
      kernels->encode(source, NULL, lut->threshold + (size_t)c * HALUT_PROTOTYPES,
                      halut_pad_rows(count * cpu->positions), codes, 0);
    for (uint32_t i = 0; i < count && !is_copied; i++)
      encode_part(cpu, lut, kernels, scratch, batch, images + i * image_bytes, c, 0, cpu->masked,
                  codes + i * cpu->positions);
  }
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
    for (uint32_t c = 0; c < lut->codebooks; c++)
      encode_part(cpu, lut, kernels, scratch, batch, image, c, first, wide,
                  scratch->codes + (size_t)c * HALUT_CODE_BLOCK);
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

/* Small maps: as many images as fit a block side by side. Each writes a padded number of codes, and
 * the next overwrites what was too much. */
static void run_images(const struct halut_conv_cpu *cpu, const struct halut_packed *packed,
                       const struct halut_kernels *kernels, struct halut_conv_scratch *scratch,
                       const struct batch *batch, const uint8_t *images, uint32_t count,
                       const struct halut_epilogue *epilogue, uint8_t *out) {
  const struct halut_lut *lut = packed->lut;
  const struct halut_conv *conv = cpu->conv;
  const size_t pooled =
      (size_t)(conv->out_h / epilogue->pool) * (conv->out_w / epilogue->pool) * lut->outputs;
  const size_t rows =
      (count * cpu->positions + HALUT_SUM_ROWS - 1) / HALUT_SUM_ROWS * HALUT_SUM_ROWS;
  uint64_t since = halut_clock_ns();
  encode_images(cpu, lut, kernels, scratch, batch, images, count);
  halut_clock_lap(&scratch->stages.encode_ns, &since);
  if (kernels->accumulate->arrange) kernels->accumulate->arrange(packed, scratch->codes);
  kernels->accumulate->map(packed, scratch->codes, (uint32_t)rows, &epilogue->requant,
                           scratch->tile, HALUT_CODE_BLOCK);
  halut_clock_lap(&scratch->stages.accumulate_ns, &since);
  for (uint32_t i = 0; i < count; i++)
    pool_planes(cpu, kernels, lut->outputs, scratch->tile + i * cpu->positions, HALUT_CODE_BLOCK,
                0, conv->out_h, epilogue->pool, out + i * pooled);
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

void halut_conv_cpu_run(const struct halut_conv_cpu *cpu, const struct halut_packed *packed,
                        const struct halut_kernels *kernels, struct halut_conv_scratch *scratch,
                        const struct halut_conv_part *part) {
  const struct halut_conv *conv = cpu->conv;
  const struct halut_epilogue *epilogue = &part->epilogue;
  const uint32_t count = part->count, outputs = packed->lut->outputs;
  const size_t image_bytes = (size_t)conv->channels * conv->height * conv->width;
  const size_t out_bytes =
      (size_t)(conv->out_h / epilogue->pool) * (conv->out_w / epilogue->pool) * outputs;
  const struct batch batch = {part->in, part->in + image_bytes * count};
  /* A block must hold what the last image of it writes: its positions, padded. */
  uint32_t together = 1;
  if (cpu->positions <= HALUT_CODE_BLOCK / 2)
    together = (uint32_t)(HALUT_CODE_BLOCK / cpu->positions);
  for (uint32_t i = 0; i < count; i += together) {
    uint32_t here = count - i < together ? count - i : together;
    const uint8_t *image = part->in + i * image_bytes;
    if (together == 1)
      run_image(cpu, packed, kernels, scratch, &batch, part, image, part->out + i * out_bytes);
    else
      run_images(cpu, packed, kernels, scratch, &batch, image, here, epilogue,
                 part->out + i * out_bytes);
  }
  if (epilogue->other) add_rows(cpu, kernels, outputs, part);
}
