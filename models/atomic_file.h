/* atomic_file.h: a file that appears whole or not at all.
 *
 * It is written beside its place, synced, and renamed into it, so that a reader sees the old file
 * or the new one and a crash leaves at worst a stray "NAME.PID.N.part". A symbolic link stays one:
 * what it points at is replaced. A file that is replaced hands on its permissions; a device, a
 * FIFO, a socket or a folder is never replaced. One thread a file at a time.
 */
#ifndef HALUT_ATOMIC_FILE_H
#define HALUT_ATOMIC_FILE_H

#include <stddef.h>

#include "../core/halut.h"

struct halut_atomic_file {
  char *path; /* what is replaced, links followed; owned */
  char *part; /* what is written; owned */
  int fd;
  int error; /* errno of the first write that failed */
};

/* Starts to write `path`; on success halut_atomic_file_finish must follow. HALUT_EIO, HALUT_ENOMEM.
 */
int halut_atomic_file_open(const char *path, struct halut_atomic_file *out, struct halut_diag *diag)
    __attribute__((warn_unused_result));

/* Adds bytes; a failure is kept for finish to return, and nothing is written after it. */
void halut_atomic_file_put(struct halut_atomic_file *file, const void *data, size_t bytes);

/* Puts the file in place, or removes what was written of it; releases all in any case. HALUT_EIO.
 */
int halut_atomic_file_finish(struct halut_atomic_file *file, struct halut_diag *diag)
    __attribute__((warn_unused_result));

#endif
