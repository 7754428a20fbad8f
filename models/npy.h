/* npy.h: NumPy's .npy arrays, in and out.
 *
 * Reads versions 1 to 3 of the format: little-endian float32, float64 and uint8, 1 to 4 dimensions,
 * in C order or, a matrix, in Fortran order. All else is refused by name: other types, big-endian,
 * Python objects, a file that ends early or goes on too long. Nothing is executed and no length is
 * believed. May be called from any thread.
 *
 * The format: "\x93NUMPY", two bytes of version, the header's length (2 bytes in version 1, else
 * 4), a Python dictionary of 'descr', 'fortran_order' and 'shape', then the values.
 */
#ifndef HALUT_NPY_H
#define HALUT_NPY_H

#include <stdbool.h>

#include "../core/halut.h"

enum halut_npy_type { HALUT_NPY_U8 = 1, HALUT_NPY_F32 = 2, HALUT_NPY_F64 = 3 };

enum {
  HALUT_NPY_DICT_MAX = 4096, /* bytes of the dictionary that the reader takes */
  HALUT_NPY_HEAD_MAX = 192   /* bytes that halut_npy_head may write */
};

struct halut_npy {
  enum halut_npy_type type;
  uint32_t rank;
  uint32_t dim[HALUT_RANK_MAX]; /* outermost first; unused ones are 1; one may be 0 */
  size_t count;                 /* values */
  bool by_column;               /* a matrix in Fortran order: its columns lie one after another */
  const void *data;             /* little-endian; aligned for its type only if the file was so */
  void *map;                    /* owned if read from a file, else NULL */
  size_t map_bytes;
};

/* Maps and checks a file. Errors: HALUT_EIO, HALUT_EFORMAT, HALUT_ELIMIT; diag->offset is a byte of
 * the file. */
int halut_npy_open(const char *path, struct halut_npy *out, struct halut_diag *diag)
    __attribute__((warn_unused_result));
/* The same from memory, which must outlive *out; nothing is owned. */
int halut_npy_parse(const void *bytes, size_t count, struct halut_npy *out, struct halut_diag *diag)
    __attribute__((warn_unused_result));
void halut_npy_close(struct halut_npy *npy); /* NULL and never opened (all zero) are fine */

size_t halut_npy_type_bytes(enum halut_npy_type type);
const char *halut_npy_type_name(enum halut_npy_type type); /* "float32" */

/* Values first .. first + count - 1, in C order, as floats; float64 is rounded to nearest. */
void halut_npy_floats(const struct halut_npy *npy, size_t first, size_t count, float *to);
/* Likewise of uint8, as they are. */
void halut_npy_bytes(const struct halut_npy *npy, size_t first, size_t count, uint8_t *to);
/* The values themselves if they are aligned floats in memory, in C order, else NULL: then copy with
 * halut_npy_floats. */
const float *halut_npy_in_place(const struct halut_npy *npy);
/* Likewise of a matrix in Fortran order. */
const float *halut_npy_columns(const struct halut_npy *npy);

/* Writes the bytes that come before the values, a multiple of 64; returns how many. */
size_t halut_npy_head(char head[HALUT_NPY_HEAD_MAX], enum halut_npy_type type, uint32_t rank,
                      const uint32_t *dim);
/* Writes an array to a file, whole or not at all (atomic_file.h). HALUT_EIO, HALUT_ENOMEM. */
int halut_npy_write(const char *path, enum halut_npy_type type, uint32_t rank, const uint32_t *dim,
                    const void *data, struct halut_diag *diag) __attribute__((warn_unused_result));

#endif
