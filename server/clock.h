/* clock.h: the one clock of the server: monotonic nanoseconds. Any thread. */
#ifndef HALUT_CLOCK_H
#define HALUT_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline uint64_t halut_clock_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static inline uint64_t halut_clock_us(uint64_t from_ns, uint64_t to_ns) {
  return to_ns > from_ns ? (to_ns - from_ns) / 1000u : 0;
}

#endif
