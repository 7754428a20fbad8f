/* The seven learned layers of ResNet-9 with random tables through the simulated accelerator.
 *
 * usage: network [BATCH [OPTIONS [REPEATS]]]: prints one JSON object: images a second of CPU time
 * (best of REPEATS), and the counters of one run with the tables already where they stay. Every
 * 37th row is checked against a plain loop. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "../../rtl/backend_rtl.h"

enum { LAYERS = 7 };
static const uint32_t layer[LAYERS][3] = {/* rows of an image, codebooks, outputs */
                                          {1024, 64, 128}, {256, 128, 128}, {256, 128, 128},
                                          {256, 128, 256}, {64, 256, 256},  {16, 256, 256},
                                          {16, 256, 256}};

static uint64_t state = 1;

static uint8_t random_byte(void) { /* splitmix64 */
  uint64_t z = state += 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return (uint8_t)(z >> 40);
}

static double cpu_seconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void *random_bytes(size_t bytes) {
  uint8_t *memory = aligned_alloc(HALUT_ALIGN, (bytes + HALUT_ALIGN) / HALUT_ALIGN * HALUT_ALIGN);
  if (!memory)
    exit(2);
  for (size_t k = 0; k < bytes; k++)
    memory[k] = random_byte();
  return memory;
}

static long wrong(const struct halut_lut *lut, const uint8_t *value, size_t rows,
                  const int32_t *acc) {
  const size_t padded = halut_pad_rows(rows);
  long count = 0;
  for (size_t row = 0; row < rows; row += 37) {
    for (uint32_t m = 0; m < lut->outputs; m += 5) {
      int32_t sum = 0;
      for (uint32_t c = 0; c < lut->codebooks; c++) {
        uint32_t node = 1;
        for (uint32_t level = 0; level < HALUT_LEVELS; level++) {
          const uint8_t x = value[((size_t)c * HALUT_LEVELS + level) * padded + row];
          node = 2 * node + (x > lut->threshold[(size_t)c * HALUT_PROTOTYPES + node]);
        }
        sum += lut->table[((size_t)m * lut->codebooks + c) * HALUT_PROTOTYPES + node -
                          HALUT_PROTOTYPES];
      }
      count += sum != acc[m * padded + row];
    }
  }
  return count;
}

int main(int argc, char **argv) {
  const uint32_t batch = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 1;
  const char *options = argc > 2 && argv[2][0] ? argv[2] : NULL;
  const int repeats = argc > 3 ? (int)strtol(argv[3], NULL, 10) : 5;
  struct halut_backend *backend = NULL;
  struct halut_diag diag = {0};
  int err = batch ? halut_backend_rtl.open(options, &backend, &diag) : HALUT_EINVALID;
  struct halut_lut lut[LAYERS];
  uint32_t handle[LAYERS];
  uint8_t *value[LAYERS];
  int32_t *acc[LAYERS];
  for (int k = 0; k < LAYERS && err == 0; k++) {
    const uint32_t codebooks = layer[k][1], outputs = layer[k][2];
    const size_t padded = halut_pad_rows((size_t)layer[k][0] * batch);
    lut[k] =
        (struct halut_lut){codebooks, outputs, random_bytes((size_t)codebooks * HALUT_PROTOTYPES),
                           random_bytes((size_t)codebooks * outputs * HALUT_PROTOTYPES), NULL};
    value[k] = random_bytes((size_t)codebooks * HALUT_LEVELS * padded);
    acc[k] = random_bytes(outputs * padded * sizeof *acc[k]);
    err = halut_backend_rtl.load(backend, &lut[k], NULL, &handle[k], &diag);
  }
  double best = 1e9;
  struct halut_stats stats = {0};
  for (int n = -1; n < repeats && err == 0; n++) { /* the first one loads what stays */
    stats = (struct halut_stats){0};
    const double begin = cpu_seconds();
    for (int k = 0; k < LAYERS && err == 0; k++) {
      err = halut_backend_rtl.product(backend, handle[k], value[k], (size_t)layer[k][0] * batch,
                                      acc[k], &stats);
    }
    const double took = cpu_seconds() - begin;
    if (n >= 0 && took < best)
      best = took;
  }
  long bad = 0;
  for (int k = 0; k < LAYERS && err == 0; k++) {
    bad += wrong(&lut[k], value[k], (size_t)layer[k][0] * batch, acc[k]);
  }
  halut_backend_rtl.close(backend);
  if (err) {
    fprintf(stderr, "network: %s: %s\n", halut_error_name(err), diag.text);
    return 1;
  }
  printf("{\"batch\":%u,\"wrong\":%ld,\"images_per_cpu_s\":%.1f,\"cycles\":%llu,\"stalls\":%llu,"
         "\"table_bytes\":%llu,\"encodes\":%llu,\"lookups\":%llu}\n",
         batch, bad, batch / best, (unsigned long long)stats.device_cycles,
         (unsigned long long)stats.device_stalls, (unsigned long long)stats.device_table_bytes,
         (unsigned long long)stats.device_encodes, (unsigned long long)stats.lookups);
  return bad != 0;
}
