/* multipart.h: the parts of a multipart/form-data body (RFC 7578), as `curl -F image=@cat.jpg`
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

enum { HALUT_BOUNDARY_MAX = 70, HALUT_PART_NAME_MAX = 128 /* bytes with the NUL */ };

/* A body being walked, part by part. */
struct halut_multipart {
  const uint8_t *body, *at, *end; /* borrowed */
  char mark[HALUT_BOUNDARY_MAX + 5];
  size_t mark_bytes;
  char name[HALUT_PART_NAME_MAX]; /* of the part that halut_multipart_next gave; "": none */
};

/* HALUT_EINVALID: the body does not begin with its boundary. */
int halut_multipart_open(const uint8_t *body, size_t bytes, const char *boundary,
                         struct halut_multipart *out, struct halut_diag *diag)
    __attribute__((warn_unused_result));

/* Sets *part_out and *bytes_out (borrowed from the body) to the next part named `name`, or with
 * NULL to the next part. HALUT_EINVALID: broken or cut short, diag says where; HALUT_ENOTFOUND: no
 * more such part. */
int halut_multipart_next(struct halut_multipart *parts, const char *name, const uint8_t **part_out,
                         size_t *bytes_out, struct halut_diag *diag)
    __attribute__((warn_unused_result));

/* The first part of that name: the two above in one. */
int halut_multipart_find(const uint8_t *body, size_t bytes, const char *boundary, const char *name,
                         const uint8_t **part_out, size_t *bytes_out, struct halut_diag *diag)
    __attribute__((warn_unused_result));

#endif
