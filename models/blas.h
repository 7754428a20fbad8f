/* blas.h: the one thing asked of a BLAS beyond its interface: on how many threads it runs.
 *
 * OpenBLAS can be told. The reference BLAS, which the container image has because it is 30 MB
 * smaller, has one thread anyway: there the two functions do not exist.
 */
#ifndef HALUT_BLAS_H
#define HALUT_BLAS_H

#include <cblas.h>
#include <stddef.h>

#pragma weak openblas_get_num_threads
#pragma weak openblas_set_num_threads

/* Sets the number of threads and returns what it was. */
static inline int halut_blas_threads(int threads) {
  if (openblas_get_num_threads == NULL || openblas_set_num_threads == NULL)
    return 1;
  int before = openblas_get_num_threads();
  openblas_set_num_threads(threads);
  return before;
}

#endif
