#include "atomic_file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PART_TRIES = 100, LINKS_MAX = 40, PERMISSIONS = 0777 };

static int file_fail(const char *path, int error, struct halut_diag *diag) {
  return halut_fail(diag, error == ENOMEM ? HALUT_ENOMEM : HALUT_EIO, 0, "cannot write %.100s: %s",
                    path, strerror(error));
}

/* `path` with links followed, the last of which may lead to nothing; the caller frees. NULL with
 * errno. */
static char *target_find(const char *path) {
  char *at = strdup(path), link[PATH_MAX];
  for (int i = 0; at && i < LINKS_MAX; i++) {
    ssize_t bytes = readlink(at, link, sizeof link);
    if (bytes < 0)
      return at;
    const char *slash = link[0] == '/' ? NULL : strrchr(at, '/');
    char *next = NULL;
    int made = asprintf(&next, "%.*s%.*s", slash ? (int)(slash - at) + 1 : 0, at, (int)bytes, link);
    free(at);
    at = made < 0 ? NULL : next;
  }
  errno = at ? ELOOP : ENOMEM;
  free(at);
  return NULL;
}

/* Opens a new file beside `path`; the caller frees its name. -1 with errno on failure. */
static int part_open(const char *path, mode_t mode, char **name_out) {
  for (int i = 0; i < PART_TRIES; i++) {
    char *name = NULL;
    if (asprintf(&name, "%s.%ld.%d.part", path, (long)getpid(), i) < 0) {
      errno = ENOMEM;
      return -1;
    }
    int fd = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
    if (fd >= 0) {
      *name_out = name;
      return fd;
    }
    free(name);
    if (errno != EEXIST)
      return -1;
  }
  return -1;
}

int halut_atomic_file_open(const char *path, struct halut_atomic_file *out,
                           struct halut_diag *diag) {
  struct halut_atomic_file file = {.path = target_find(path), .fd = -1};
  struct stat old;
  if (!file.path)
    return file_fail(path, errno, diag);
  bool is_there = stat(file.path, &old) == 0;
  int rc = 0;
  if (is_there && !S_ISREG(old.st_mode)) {
    rc = halut_fail(diag, HALUT_EIO, 0, "cannot write %.100s: %s is there and stays", path,
                    S_ISDIR(old.st_mode) ? "a folder" : "what is no regular file");
    goto fail;
  }
  file.fd = part_open(file.path, is_there ? old.st_mode & PERMISSIONS : 0666, &file.part);
  if (file.fd < 0) {
    rc = file_fail(path, errno, diag);
    goto fail;
  }
  if (is_there && fchmod(file.fd, old.st_mode & PERMISSIONS) != 0)
    file.error = errno;
  *out = file;
  return 0;
fail:
  free(file.path);
  return rc;
}

void halut_atomic_file_put(struct halut_atomic_file *file, const void *data, size_t bytes) {
  const char *next = data;
  while (bytes > 0 && !file->error) {
    ssize_t done = write(file->fd, next, bytes);
    if (done < 0 && errno == EINTR)
      continue;
    if (done <= 0) {
      file->error = done < 0 ? errno : EIO;
      return;
    }
    next += done;
    bytes -= (size_t)done;
  }
}

/* So that the new name itself survives a crash. Not every file system can: a failure is no error.
 */
static void folder_sync(const char *path) {
  const char *slash = strrchr(path, '/');
  char *folder = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
  int fd = folder ? open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
  if (fd >= 0) {
    (void)fsync(fd);
    close(fd);
  }
  free(folder);
}

int halut_atomic_file_finish(struct halut_atomic_file *file, struct halut_diag *diag) {
  if (!file->error && fsync(file->fd) != 0)
    file->error = errno;
  if (close(file->fd) != 0 && !file->error)
    file->error = errno;
  if (!file->error && rename(file->part, file->path) != 0)
    file->error = errno;
  int rc = 0;
  if (file->error) {
    (void)unlink(file->part);
    rc = file_fail(file->path, file->error, diag);
  } else {
    folder_sync(file->path);
  }
  free(file->path);
  free(file->part);
  *file = (struct halut_atomic_file){.fd = -1};
  return rc;
}
