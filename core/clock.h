/* clock.h: the one clock of the programs: monotonic nanoseconds. Any thread. */
#ifndef HALUT_CLOCK_H
#define HALUT_CLOCK_H

#include <stdint.h>
#include <time.h>

/* What a thread has taken for the two stages of the method. */
struct halut_stages {
  uint64_t encode_ns, accumulate_ns;
};

static inline uint64_t halut_clock_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static inline uint64_t halut_clock_us(uint64_t from_ns, uint64_t to_ns) {
  return to_ns > from_ns ? (to_ns - from_ns) / 1000u : 0;
}

/* Adds the time since `since` to `sum`, and begins anew. */
static inline void halut_clock_lap(uint64_t *sum, uint64_t *since) {
  const uint64_t now = halut_clock_ns();
  *sum += now - *since;
  *since = now;
}

#endif
