/* json_load.h: jansson's reader, safe when memory runs out.
 *
 * jansson 2.14 takes no notice of a failed allocation in its lexer: it drops the character, and
 * when that was a closing quote it writes past the end of a string (found by tests/check_oom.c).
 * So while halut_json_load reads, a failed allocation does not come back to jansson: the reader is
 * left at once and all that it had allocated is freed.
 *
 * Any thread. Linking this file gives jansson its allocator for the whole program, before main.
 */
#ifndef HALUT_JSON_LOAD_H
#define HALUT_JSON_LOAD_H

#include <jansson.h>

#include "../core/halut.h"

/* One JSON value, as json_loadb with JSON_REJECT_DUPLICATES reads it. HALUT_ENOMEM, HALUT_EINVALID
 * (*error says what and where). */
int halut_json_load(const char *text, size_t bytes, json_t **out, json_error_t *error)
    __attribute__((warn_unused_result));

#endif
