/* coding.h: the content codings of bodies: gzip and deflate, which is zlib's format.
 *
 * Pure but for memory; any thread. Costs are a worker's: the loop only reads the two headers.
 */
#ifndef HALUT_CODING_H
#define HALUT_CODING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../core/halut.h"

enum halut_coding { HALUT_IDENTITY = 0, HALUT_GZIP, HALUT_DEFLATE };

enum { HALUT_CODING_WORTH = 128 }; /* bytes: a smaller body would grow */

const char *halut_coding_name(enum halut_coding coding); /* "gzip" */

/* Content-Encoding, NULL if there is none. False if it is none of these or more than one. */
bool halut_coding_parse(const char *text, enum halut_coding *out);

/* The coding that Accept-Encoding (or NULL) likes best; the identity unless one is named or "*". */
enum halut_coding halut_coding_choose(const char *accept);

/* Asked before `more` bytes are allocated; false refuses. */
typedef bool halut_coding_charge_fn(void *self, size_t more);

/* Undoes gzip or deflate. *out_data (malloc'ed, a 0 after its end) is at most bytes_max long.
 * HALUT_ELIMIT: it would be longer; HALUT_EFORMAT: damaged, cut off or followed by something;
 * HALUT_ENOMEM: no memory, or refused by `charge`. What was charged is *charged_out, also on
 * failure, when nothing of it is held any more. */
int halut_coding_inflate(enum halut_coding coding, const uint8_t *data, size_t bytes,
                         size_t bytes_max, halut_coding_charge_fn *charge, void *self,
                         uint8_t **out_data, size_t *out_bytes, size_t *charged_out,
                         struct halut_diag *diag) __attribute__((warn_unused_result));

/* *out_data is malloc'ed. HALUT_ELIMIT: it does not get smaller; HALUT_ENOMEM. */
int halut_coding_deflate(enum halut_coding coding, const uint8_t *data, size_t bytes,
                         uint8_t **out_data, size_t *out_bytes) __attribute__((warn_unused_result));

#endif
