/* failmalloc.c: an allocator to preload that fails on request, steered from outside through a file
 * (HALUT_FAILMALLOC) that both sides map: see struct control. tests/server/oom.py uses it on the
 * whole daemon; oom.h is its sibling for test programs. */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

extern void *__libc_malloc(size_t bytes);
extern void *__libc_calloc(size_t count, size_t bytes);
extern void *__libc_realloc(void *data, size_t bytes);
extern void *__libc_memalign(size_t align, size_t bytes);
extern void __libc_free(void *data);

struct control {
  _Atomic int64_t fail_at; /* the allocation, from 1, that fails; counts down; 0 or less: none */
  _Atomic int64_t live;    /* allocations made and not freed */
};

static struct control nobody, *control = &nobody;

__attribute__((constructor)) static void control_map(void) {
  const char *path = getenv("HALUT_FAILMALLOC");
  int fd = path != NULL ? open(path, O_RDWR | O_CLOEXEC) : -1;
  if (fd < 0)
    return;
  void *map = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  if (map == MAP_FAILED)
    return;
  struct control *shared = map;
  atomic_store(&shared->live, atomic_load(&nobody.live));
  control = shared;
}

static bool is_denied(void) {
  if (atomic_load_explicit(&control->fail_at, memory_order_relaxed) <= 0 ||
      atomic_fetch_sub(&control->fail_at, 1) != 1)
    return false;
  errno = ENOMEM;
  return true;
}

static void *counted(void *data) {
  if (data != NULL)
    atomic_fetch_add_explicit(&control->live, 1, memory_order_relaxed);
  return data;
}

void *malloc(size_t bytes) {
  return is_denied() ? NULL : counted(__libc_malloc(bytes));
}

void *calloc(size_t count, size_t bytes) {
  return is_denied() ? NULL : counted(__libc_calloc(count, bytes));
}

void *realloc(void *old, size_t bytes) {
  void *data = is_denied() ? NULL : __libc_realloc(old, bytes);
  return old == NULL ? counted(data) : data;
}

void *aligned_alloc(size_t align, size_t bytes) {
  return is_denied() ? NULL : counted(__libc_memalign(align, bytes));
}

int posix_memalign(void **out, size_t align, size_t bytes) {
  void *data = aligned_alloc(align, bytes);
  if (data == NULL)
    return ENOMEM;
  *out = data;
  return 0;
}

void free(void *data) {
  if (data != NULL)
    atomic_fetch_sub_explicit(&control->live, 1, memory_order_relaxed);
  __libc_free(data);
}
