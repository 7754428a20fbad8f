/* multipart.h: finds one part of a multipart/form-data body (RFC 7578), as `curl -F image=@cat.jpg`
 * sends it.
 *
 * Pure functions on the caller's memory; any thread.
 */
#ifndef HALUT_MULTIPART_H
#define HALUT_MULTIPART_H

#include <stddef.h>
#include <stdint.h>

#include "../core/halut.h"

/* The boundary of a Content-Type, without its quotes: 1..70 characters copied to `boundary` (71
 * bytes). HALUT_EINVALID if the type is multipart/form-data without a usable one; HALUT_ENOTFOUND
 * for any other type. */
int halut_multipart_boundary(const char *content_type, char *boundary);

/* Sets *part_out and *bytes_out (borrowed from body) to the first part named `name`, or with NULL
 * to the first part. HALUT_EINVALID: broken or cut short, diag says where; HALUT_ENOTFOUND: no such
 * part. */
int halut_multipart_find(const uint8_t *body, size_t bytes, const char *boundary, const char *name,
                         const uint8_t **part_out, size_t *bytes_out, struct halut_diag *diag)
    __attribute__((warn_unused_result));

#endif
