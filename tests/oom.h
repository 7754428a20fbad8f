/* oom.h: a C library allocator that fails on request, and the sweep that makes each allocation of a
 * piece of work fail in turn.
 *
 * Included by one source of a test program, which then runs on it, libraries too. Sanitizers bring
 * allocators of their own, which must not be replaced under them: there the sweep is skipped.
 */
#ifndef HALUT_TESTS_OOM_H
#define HALUT_TESTS_OOM_H

#include <check.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../core/halut.h"

static long fail_at; /* the allocation, from 1, that fails; 0: none; counts down */
static long live;    /* allocations made and not freed */

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define CAN_FAIL 0
#else
#define CAN_FAIL 1

/* The C library's own, under the names that it exports for this. */
extern void *__libc_malloc(size_t bytes);
extern void *__libc_calloc(size_t count, size_t bytes);
extern void *__libc_realloc(void *data, size_t bytes);
extern void *__libc_memalign(size_t align, size_t bytes);
extern void __libc_free(void *data);

static bool is_denied(void) {
  if (fail_at == 0 || --fail_at != 0)
    return false;
  errno = ENOMEM;
  return true;
}

void *malloc(size_t bytes) {
  void *data = is_denied() ? NULL : __libc_malloc(bytes);
  live += data != NULL;
  return data;
}

void *calloc(size_t count, size_t bytes) {
  void *data = is_denied() ? NULL : __libc_calloc(count, bytes);
  live += data != NULL;
  return data;
}

void *realloc(void *old, size_t bytes) {
  void *data = is_denied() ? NULL : __libc_realloc(old, bytes);
  live += data != NULL && old == NULL;
  return data;
}

void *aligned_alloc(size_t align, size_t bytes) {
  void *data = is_denied() ? NULL : __libc_memalign(align, bytes);
  live += data != NULL;
  return data;
}

int posix_memalign(void **out, size_t align, size_t bytes) {
  void *data = aligned_alloc(align, bytes);
  if (data == NULL)
    return ENOMEM;
  *out = data;
  return 0;
}

void free(void *data) {
  live -= data != NULL;
  __libc_free(data);
}
#endif

static struct halut_diag last; /* of the latest run */
static bool may_leak;          /* what is swept holds code that is not ours */

/* Runs `run` with its n-th allocation failing, for every n until none fails; `run` must return
 * ENOMEM whenever one did that it needed, 0 otherwise, and free what it got. */
static void sweep(const char *what, int (*run)(void *self), void *self) {
  if (!CAN_FAIL) {
    printf("skip: %s: the sanitizer's allocator cannot be replaced\n", what);
    return;
  }
  int error = run(self); /* what a library keeps from its first use is not a leak */
  ck_assert_msg(error == 0, "%s: %d %s though nothing failed", what, error, last.text);
  long denied = 0;
  for (long n = 1;; n++) {
    long before = live;
    last.text[0] = '\0';
    fail_at = n;
    error = run(self);
    bool all_succeeded = fail_at != 0;
    fail_at = 0;
    ck_assert_msg(live == before || may_leak, "%s, allocation %ld: %ld leaked", what, n,
                  live - before);
    if (all_succeeded) {
      ck_assert_msg(error == 0, "%s: %d though nothing failed", what, error);
      ck_assert_msg(denied > 0, "%s: no allocation that matters", what);
      return;
    }
    ck_assert_msg(error == HALUT_ENOMEM || error == 0, "%s, allocation %ld: %d %s", what, n, error,
                  last.text);
    denied += error != 0;
  }
}

#endif
