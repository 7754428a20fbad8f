/* page.h: the files of the page at "/", compiled into the daemon.
 *
 * Read-only data for the life of the program; any thread.
 */
#ifndef HALUT_PAGE_H
#define HALUT_PAGE_H

#include <stdbool.h>
#include <stddef.h>

struct halut_page {
  const char *type; /* Content-Type */
  const void *data;
  size_t bytes;
};

/* Fills *out with the file served at `path`; false if there is none. */
bool halut_page_find(const char *path, struct halut_page *out);

/* The Content-Security-Policy that must go with each of them: nothing from elsewhere, no inline
 * code, no frames. */
extern const char halut_page_policy[];

#endif
