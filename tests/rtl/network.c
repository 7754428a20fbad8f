/* The learned layers of the shipped network, on random values, through the simulated accelerator.
 *
 * usage: network [BATCH [OPTIONS [REPEATS]]], from the top folder: prints one JSON object: images a
 * second of CPU time (best of REPEATS), and the counters of one run with the tables already where
 * they stay. Every 37th row is checked against a plain loop. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "../../models/model.h"
#include "../../rtl/backend_rtl.h"

#define NETWORK "models/resnet9-cifar10.safetensors"

struct layer {
  const struct halut_lut *lut;
  size_t rows; /* of the batch */
  uint32_t handle;
  uint8_t *value;
  int32_t *acc;
};

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

/* Finds and loads the learned layers; returns how many there are, 0 after an error. */
static uint32_t layers_open(struct layer *layer, const struct halut_model_info *info,
                            uint32_t batch, struct halut_backend *backend,
                            struct halut_diag *diag) {
  uint32_t count = 0;
  for (uint32_t n = 0; n < info->node_count; n++) {
    const struct halut_node *node = &info->nodes[n];
    if (node->op != HALUT_OP_HALUT)
      continue;
    struct layer *l = &layer[count++];
    *l = (struct layer){.lut = &node->lut, .rows = (size_t)node->height * node->width * batch};
    const size_t padded = halut_pad_rows(l->rows);
    l->value = random_bytes(l->lut->codebooks * HALUT_LEVELS * padded);
    l->acc = random_bytes(l->lut->outputs * padded * sizeof *l->acc);
    if (halut_backend_rtl.load(backend, l->lut, NULL, &l->handle, diag) != 0)
      return 0;
  }
  return count;
}

int main(int argc, char **argv) {
  const uint32_t batch = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 1;
  const char *options = argc > 2 && argv[2][0] ? argv[2] : NULL;
  const int repeats = argc > 3 ? (int)strtol(argv[3], NULL, 10) : 5;
  static struct layer layer[HALUT_NODES_MAX];
  struct halut_backend *backend = NULL;
  struct halut_model *model = NULL;
  struct halut_diag diag = {0};
  int err = batch ? halut_model_open(NETWORK, &model, &diag) : HALUT_EINVALID;
  if (err == 0)
    err = halut_backend_rtl.open(options, &backend, &diag);
  uint32_t layers = 0;
  if (err == 0) {
    layers = layers_open(layer, halut_model_info(model), batch, backend, &diag);
    err = layers > 0 ? 0 : HALUT_ENOMEM;
  }
  double best = 1e9;
  struct halut_stats stats = {0};
  for (int n = -1; n < repeats && err == 0; n++) { /* the first one loads what stays */
    stats = (struct halut_stats){0};
    const double begin = cpu_seconds();
    for (uint32_t k = 0; k < layers && err == 0; k++) {
      err = halut_backend_rtl.product(backend, layer[k].handle, layer[k].value, layer[k].rows,
                                      layer[k].acc, &stats);
    }
    const double took = cpu_seconds() - begin;
    if (n >= 0 && took < best)
      best = took;
  }
  long bad = 0;
  for (uint32_t k = 0; k < layers && err == 0; k++)
    bad += wrong(layer[k].lut, layer[k].value, layer[k].rows, layer[k].acc);
  halut_backend_rtl.close(backend);
  halut_model_close(model);
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
