#include "cpu.h"

#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const struct {
  uint32_t flag;
  const char *name;
} cpu_list[] = {
#define XX(flag, bit, name) {HALUT_CPU_##flag, name},
    HALUT_CPU_MAP(XX)
#undef XX
};

enum { LIST_COUNT = sizeof cpu_list / sizeof cpu_list[0] };

uint32_t halut_cpu_flags(void) {
  uint32_t flags = 0;
#if defined(__x86_64__)
  /* The compiler's run-time asks XGETBV too: it reports AVX only where the system saves the
   * registers. */
  __builtin_cpu_init();
  if (__builtin_cpu_supports("ssse3")) flags |= HALUT_CPU_SSSE3;
  if (__builtin_cpu_supports("avx2")) flags |= HALUT_CPU_AVX2;
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vnni")) {
    flags |= HALUT_CPU_AVX512;
  }
#elif defined(__aarch64__)
  flags |= HALUT_CPU_NEON; /* part of the base architecture */
#endif
  return flags;
}

int halut_cpu_ceiling(const char *name, uint32_t *mask_out, struct halut_diag *diag) {
  uint32_t mask = 0;
  if (strcmp(name, "ref") == 0) {
    *mask_out = mask;
    return HALUT_OK;
  }
  for (size_t i = 0; i < LIST_COUNT; i++) {
    mask |= cpu_list[i].flag;
    if (strcmp(name, cpu_list[i].name) == 0) {
      *mask_out = mask;
      return HALUT_OK;
    }
  }
  return halut_fail(diag, HALUT_EINVALID, 0,
                    "cpu: \"%.32s\" is none of ref, ssse3, avx2, avx512, neon", name);
}

const char *halut_cpu_name(uint32_t flags) {
  for (size_t i = LIST_COUNT; i-- > 0;) {
    if (flags & cpu_list[i].flag) return cpu_list[i].name;
  }
  return "ref";
}

uint32_t halut_cpu_quota(const char *path) {
  FILE *file = fopen(path, "re");
  uint64_t quota = 0, period = 0;
  if (file == NULL) return UINT32_MAX;
  const int read = fscanf(file, "%" SCNu64 " %" SCNu64, &quota, &period); /* "max" is no number */
  fclose(file);
  if (read != 2 || quota == 0 || period == 0) return UINT32_MAX;
  const uint64_t whole = quota / period + (quota % period > 0);
  return whole < UINT32_MAX ? (uint32_t)whole : UINT32_MAX;
}

/* The control group that this process is in; inside a container its own is the top one. */
static uint32_t group_quota(void) {
  char line[512], path[600];
  uint32_t quota = UINT32_MAX;
  FILE *file = fopen("/proc/self/cgroup", "re");
  if (file == NULL) return quota;
  while (fgets(line, sizeof line, file) != NULL) {
    line[strcspn(line, "\n")] = '\0';
    if (strncmp(line, "0::", 3) != 0) continue;
    snprintf(path, sizeof path, "/sys/fs/cgroup%s/cpu.max", line + 3);
    quota = halut_cpu_quota(path);
  }
  fclose(file);
  return quota;
}

uint32_t halut_cpu_count(void) {
  cpu_set_t set;
  /* It fails where there are more than the set can name. */
  const long allowed =
      sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : sysconf(_SC_NPROCESSORS_ONLN);
  const uint32_t count = allowed > 0 ? (uint32_t)allowed : 1, quota = group_quota();
  return count < quota ? count : quota;
}
