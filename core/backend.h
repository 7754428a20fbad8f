/* backend.h: the seam behind which every way of computing a learned product stands.
 *
 * A backend is used by one thread at a time: open one per worker. All backends return the same
 * integers.
 */
#ifndef HALUT_BACKEND_H
#define HALUT_BACKEND_H

#include <stdbool.h>

#include "halut.h"
#include "helper.h"

struct halut_backend; /* each backend defines its own */

/* Counters add up until the caller clears them. Device fields stay 0 on the CPU. */
struct halut_stats {
  uint64_t lookups;            /* table entries added: rows * codebooks * outputs */
  uint64_t helped_lookups;     /* of these, by who served a helper */
  uint64_t device_cycles;      /* clock cycles the accelerator ran */
  uint64_t device_stalls;      /* of these, cycles in which it waited for input, output or tables */
  uint64_t device_table_bytes; /* table bytes loaded into it */
  uint64_t device_encodes;     /* codes it made */
  /* Wall clock of the calling thread. The rest of a run is neither: quantising, gathering, pooling,
   * single rows of a product, which are too short for a clock, and waiting for who helps. The
   * accelerator does both at once: 0. */
  uint64_t encode_ns, accumulate_ns;
};

/* A 2-D convolution whose product is a lut: which map value each tree level of each codebook reads.
 * Maps are planar u8 [channels][height][width] of one image; a padded value reads as 0. */
struct halut_conv {
  uint32_t channels, height, width; /* of the input map */
  uint32_t kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w;
  uint32_t out_h, out_w;
  /* [codebooks][HALUT_LEVELS] column (channel * kernel_h + ky) * kernel_w + kx */
  const uint16_t *split;
};

/* What a fused convolution does after its sums, in this order. */
struct halut_epilogue {
  struct halut_requant requant;
  uint32_t pool;        /* max-pool window and stride, 1 for none; divides out_h and out_w */
  const uint8_t *other; /* map of the (pooled) output shape to add with saturation, or NULL */
  uint8_t zero;         /* subtracted by that addition: y = clamp(y + other - zero, 0, 255) */
};

struct halut_affine; /* affine.h */

/* The ends of a product of floats: what becomes of x before and of the sums after (kernels.h:
 * quantise, dequantise). */
struct halut_floats {
  const struct halut_affine *affine;
  const float *scale, *bias; /* [outputs] */
};

struct halut_backend_ops {
  const char *name; /* "cpu", "rtl" */
  /* `options` is "key=value,key=value" or NULL; an unknown key is HALUT_EINVALID. */
  int (*open)(const char *options, struct halut_backend **out, struct halut_diag *diag);
  void (*close)(struct halut_backend *backend); /* NULL and half-open are fine */
  /* Makes tables ready (packs or uploads them). `lut`, and `conv` (NULL for a plain product), and
   * all they point at must outlive the backend. HALUT_ENOMEM, HALUT_ELIMIT. */
  int (*load)(struct halut_backend *backend, const struct halut_lut *lut,
              const struct halut_conv *conv, uint32_t *handle_out, struct halut_diag *diag);
  /* value: u8 [codebooks][HALUT_LEVELS][padded], the values the trees read, gathered by the caller;
   * acc: i32 [outputs][padded], where padded = halut_pad_rows(rows). Padded rows of `value` must be
   * readable, those of `acc` are undefined after. Both HALUT_ALIGN-aligned.
   * HALUT_ETIMEOUT, HALUT_EDEVICE: acc undefined. Allocates nothing once the largest `rows` was
   * seen. */
  int (*product)(struct halut_backend *backend, uint32_t handle, const uint8_t *value, size_t rows,
                 int32_t *acc, struct halut_stats *stats);
  /* Optional (NULL): `count` images of a convolution at once, from maps to requantised maps.
   * in: u8 [count][channels][height][width]; out: u8 [count][outputs][out_h / pool][out_w / pool];
   * epilogue->other likewise, image by image. in, out and other may not overlap. Same integers as
   * product followed by the plain operations. */
  int (*conv)(struct halut_backend *backend, uint32_t handle, const uint8_t *in, uint32_t count,
              const struct halut_epilogue *epilogue, uint8_t *out, struct halut_stats *stats);
  /* Optional (NULL): a product from floats to floats, `rows` rows of x to y [rows][outputs]. Same
   * floats as quantise, product and dequantise one after another. */
  int (*matmul)(struct halut_backend *backend, uint32_t handle, const struct halut_floats *floats,
                struct halut_matrix x, size_t rows, float *y, struct halut_stats *stats);
  /* Optional (NULL): from now on who serves `helper` takes half of each convolution and of each
   * product of floats; NULL: nobody does. It is the caller's. The same numbers either way. */
  void (*help)(struct halut_backend *backend, struct halut_helper *helper);
};

/* options: cpu=ref|ssse3|avx2|… (a ceiling). */
extern const struct halut_backend_ops halut_backend_cpu;

#endif
