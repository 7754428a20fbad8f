/* cifar.h: CIFAR-10 in its official binary layout: records of a label byte and 3 x 32 x 32 pixels.
 *
 * Files are mapped and checked at open; after that any thread may read.
 */
#ifndef HALUT_CIFAR_H
#define HALUT_CIFAR_H

#include "../core/halut.h"

enum {
  HALUT_CIFAR_CLASSES = 10,
  HALUT_CIFAR_SIDE = 32,
  HALUT_CIFAR_IMAGE_BYTES = 3 * HALUT_CIFAR_SIDE * HALUT_CIFAR_SIDE,
  HALUT_CIFAR_VALIDATION = 5000 /* images at the end of the training batches, kept from training */
};

struct halut_cifar;

/* `split`: "test" reads FOLDER/test_batch.bin; "train" and "validation" read data_batch_1.bin to
 * _5.bin, whose last HALUT_CIFAR_VALIDATION images are the validation split. Errors: HALUT_EINVALID
 * (no such split), HALUT_EIO, HALUT_EFORMAT (not whole records, a label above 9, too few images),
 * HALUT_ENOMEM. */
int halut_cifar_open(const char *folder, const char *split, struct halut_cifar **out,
                     struct halut_diag *diag) __attribute__((warn_unused_result));
uint32_t halut_cifar_count(const struct halut_cifar *data);
/* images: u8 [count][3][32][32]; labels: u8 [count]; either may be NULL. first + count <=
 * halut_cifar_count. */
void halut_cifar_read(const struct halut_cifar *data, uint32_t first, uint32_t count,
                      uint8_t *images, uint8_t *labels);
void halut_cifar_close(struct halut_cifar *data); /* NULL is fine */

#endif
