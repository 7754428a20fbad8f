#include "cifar.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FILES_MAX = 5, RECORD_BYTES = 1 + HALUT_CIFAR_IMAGE_BYTES, RECORDS_MAX = 1000000 };

struct halut_cifar {
  const uint8_t *map[FILES_MAX];
  uint32_t records[FILES_MAX];
  uint32_t files;
  uint32_t first, count; /* the split's part of all records */
};

/* Maps a file of records and checks its labels. */
static int file_open(struct halut_cifar *data, const char *folder, const char *name,
                     struct halut_diag *diag) {
  char path[PATH_MAX];
  struct stat status;
  if (snprintf(path, sizeof(path), "%s/%s", folder, name) >= (int)sizeof(path))
    return halut_fail(diag, HALUT_EINVALID, 0, "name of the folder is too long");
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0)
    return halut_fail(diag, HALUT_EIO, 0, "cannot open %s: %s", name, strerror(errno));
  int rc = 0;
  void *map = MAP_FAILED;
  if (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode))
    rc = halut_fail(diag, HALUT_EIO, 0, "%s is not a regular file", name);
  else if (status.st_size == 0 || status.st_size % RECORD_BYTES != 0 ||
           status.st_size / RECORD_BYTES > RECORDS_MAX)
    rc = halut_fail(diag, HALUT_EFORMAT, 0, "%s: %lld bytes are not records of %d bytes", name,
                    (long long)status.st_size, RECORD_BYTES);
  else
    map = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
  if (!rc && map == MAP_FAILED)
    rc = halut_fail(diag, HALUT_EIO, 0, "cannot map %s: %s", name, strerror(errno));
  close(fd);
  if (rc)
    return rc;
  data->map[data->files] = map;
  data->records[data->files] = (uint32_t)(status.st_size / RECORD_BYTES);
  const uint8_t *bytes = data->map[data->files];
  for (uint32_t i = 0; i < data->records[data->files]; i++)
    if (bytes[(size_t)i * RECORD_BYTES] >= HALUT_CIFAR_CLASSES) {
      rc = halut_fail(diag, HALUT_EFORMAT, (uint64_t)i * RECORD_BYTES,
                      "%s: label of image %u is %u", name, i, bytes[(size_t)i * RECORD_BYTES]);
      break;
    }
  data->files++;
  return rc;
}

static int split_open(struct halut_cifar *data, const char *folder, const char *split,
                      struct halut_diag *diag) {
  bool test = strcmp(split, "test") == 0, validation = strcmp(split, "validation") == 0;
  if (!test && !validation && strcmp(split, "train") != 0)
    return halut_fail(diag, HALUT_EINVALID, 0, "split \"%.32s\" is none of test, train, validation",
                      split);
  if (test) {
    int rc = file_open(data, folder, "test_batch.bin", diag);
    data->count = data->records[0];
    return rc;
  }
  uint32_t total = 0;
  for (uint32_t i = 0; i < FILES_MAX; i++) {
    char name[32];
    snprintf(name, sizeof(name), "data_batch_%u.bin", i + 1);
    int rc = file_open(data, folder, name, diag);
    if (rc)
      return rc;
    total += data->records[i];
  }
  if (total <= HALUT_CIFAR_VALIDATION)
    return halut_fail(diag, HALUT_EFORMAT, 0,
                      "%u training images leave none beside %d for validation", total,
                      HALUT_CIFAR_VALIDATION);
  data->first = validation ? total - HALUT_CIFAR_VALIDATION : 0;
  data->count = validation ? HALUT_CIFAR_VALIDATION : total - HALUT_CIFAR_VALIDATION;
  return 0;
}

int halut_cifar_open(const char *folder, const char *split, struct halut_cifar **out,
                     struct halut_diag *diag) {
  struct halut_cifar *data = calloc(1, sizeof(*data));
  if (!data)
    return halut_fail(diag, HALUT_ENOMEM, 0, "no memory for the data set");
  int rc = split_open(data, folder, split, diag);
  if (rc) {
    halut_cifar_close(data);
    return rc;
  }
  *out = data;
  return 0;
}

uint32_t halut_cifar_count(const struct halut_cifar *data) {
  return data->count;
}

void halut_cifar_read(const struct halut_cifar *data, uint32_t first, uint32_t count,
                      uint8_t *images, uint8_t *labels) {
  assert(first <= data->count);
  assert(count <= data->count - first);
  uint32_t file = 0, at = data->first + first;
  for (uint32_t i = 0; i < count; i++, at++) {
    while (at >= data->records[file])
      at -= data->records[file++];
    const uint8_t *record = data->map[file] + (size_t)at * RECORD_BYTES;
    if (labels)
      labels[i] = record[0];
    if (images)
      memcpy(images + (size_t)i * HALUT_CIFAR_IMAGE_BYTES, record + 1, HALUT_CIFAR_IMAGE_BYTES);
  }
}

void halut_cifar_close(struct halut_cifar *data) {
  if (!data)
    return;
  for (uint32_t i = 0; i < data->files; i++)
    munmap((void *)(uintptr_t)data->map[i], (size_t)data->records[i] * RECORD_BYTES);
  free(data);
}
