/* classify.h: the parts of asking about pictures and of answering, for the forms of other servers
 * (dialect_forms.c).
 *
 * Worker threads. Readers return false after a failure, whose reply they have made.
 */
#ifndef HALUT_CLASSIFY_H
#define HALUT_CLASSIFY_H

#include "job.h"

/* The body is a picture, or a form with one in each part named `part` (NULL: in each part): several
 * are a list, job->many. Chooses the model. */
bool halut_classify_pictures(struct halut_job *job, const char *part);

/* A list of pictures, which the body calls `name`: numbers, planar or with the channels last,
 * nested in any regular way; or objects with the base64 of a picture file in "b64". Either may also
 * be the member of an object that is called as the model's input is ({"image": ...}), or, base64,
 * as other servers call such ("image_bytes"). The model has been chosen. `name`, "image" and "b64"
 * were keys of halut_json_open. */
bool halut_classify_instances(struct halut_job *job, const struct halut_json *json,
                              const json_t *list, const char *name);

/* True if the bytes look like a JSON object from brace to brace. */
bool halut_classify_is_json(const uint8_t *bytes, size_t size);

#endif
