/* products.c: the raw product against sgemm of OpenBLAS and of oneDNN, interleaved on one thread.
 *
 * usage: products [--rounds N] [--cpu NAME] [--json FILE]
 *
 * Ours is learned from other rows of the same kind: eight directions in noise, since on rows in
 * which nothing repeats no table can stand for a product. All three take floats to floats; a single
 * row goes to OpenBLAS's sgemv, which is faster there. Every round runs the three one after another
 * and takes the ratios of processor time within the round; what is printed is their median and
 * quartiles. Adding up the absolute values of A shows how long its floats take to come from memory,
 * the bound of a product with few outputs. The error is the squared error on the rows that are
 * timed, over the variance. */
#include <cblas.h>
#include <math.h>
#include <oneapi/dnnl/dnnl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../../core/affine.h"
#include "../../core/backend.h"
#include "../../core/cpu.h"
#include "../../models/learn.h"

enum {
  LEARNING_ROWS = 4096,
  DIRECTIONS = 8,
  ROUNDS_MAX = 1001,
  ROUNDS = 101,
  ROUND_NS = 500000, /* each product is repeated for at least so long */
  CASES = 6
};

/* name, rows, columns, outputs, codebooks, whether A lies by columns; those of one model lie
 * together. */
#define SHAPE_MAP(XX)                                                                              \
  XX("tall", 10016, 512, 64, 32, 0)                                                                \
  XX("tall, by columns", 10016, 512, 64, 32, 1)                                                    \
  XX("row", 1, 512, 64, 32, 0)                                                                     \
  XX("square", 1024, 1024, 1024, 64, 0)                                                            \
  XX("square, by columns", 1024, 1024, 1024, 64, 1)                                                \
  XX("row of it", 1, 1024, 1024, 64, 0)

static const struct shape {
  const char *name;
  size_t rows;
  uint32_t columns, outputs, codebooks;
  int by_column;
} shape_list[CASES] = {
#define XX(name, rows, columns, outputs, codebooks, by_column)                                     \
  {name, rows, columns, outputs, codebooks, by_column},
    SHAPE_MAP(XX)
#undef XX
};

enum engine { HALUT, OPENBLAS, ONEDNN, READING, ENGINES };
static const char *const engine_name[ENGINES] = {"halut", "OpenBLAS", "oneDNN", "reading A"};

struct matmul {
  const struct shape *shape;
  float *a, *b, *c[ENGINES];
  struct halut_learned learned;
  struct halut_lut lut;
  struct halut_affine affine;
  struct halut_backend *backend;
  uint32_t handle;
};

static void require(int holds, const char *what) {
  if (holds)
    return;
  fprintf(stderr, "products: %s\n", what);
  exit(1);
}

static void *make(size_t count, size_t bytes) {
  void *made = aligned_alloc(HALUT_ALIGN, (count * bytes + HALUT_ALIGN - 1) & ~(size_t)63);
  require(made != NULL, "no memory");
  return made;
}

static uint64_t state = 1;

/* About normal: the sum of twelve uniform numbers. */
static float random_float(void) {
  float sum = -6;
  for (int i = 0; i < 12; i++) {
    state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    sum += (float)(state >> 40) * 0x1p-24f;
  }
  return sum;
}

static void rows_fill(float *a, size_t rows, uint32_t columns, const float *mix) {
  for (size_t row = 0; row < rows; row++, a += columns) {
    for (uint32_t k = 0; k < columns; k++)
      a[k] = 0.1f * random_float();
    for (uint32_t d = 0; d < DIRECTIONS; d++)
      cblas_saxpy((int)columns, random_float(), mix + (size_t)d * columns, 1, a, 1);
  }
}

/* Rearranges [rows][columns] so that columns lie one after another. */
static void by_column(float *a, size_t rows, size_t columns) {
  float *old = make(rows * columns, sizeof *old);
  memcpy(old, a, rows * columns * sizeof *a);
  for (size_t row = 0; row < rows; row++)
    for (size_t column = 0; column < columns; column++)
      a[column * rows + row] = old[row * columns + column];
  free(old);
}

static void data_make(struct matmul *m, float **learning_out) {
  const struct shape *s = m->shape;
  float *mix = make((size_t)DIRECTIONS * s->columns, sizeof *mix);
  float *learning = make((size_t)LEARNING_ROWS * s->columns, sizeof *learning);
  m->a = make(s->rows * s->columns, sizeof *m->a);
  m->b = make((size_t)s->columns * s->outputs, sizeof *m->b);
  for (uint32_t i = 0; i < DIRECTIONS * s->columns; i++)
    mix[i] = random_float();
  for (uint32_t i = 0; i < s->columns * s->outputs; i++)
    m->b[i] = random_float();
  rows_fill(learning, LEARNING_ROWS, s->columns, mix);
  rows_fill(m->a, s->rows, s->columns, mix);
  if (s->by_column)
    by_column(m->a, s->rows, s->columns);
  for (int e = 0; e < ENGINES; e++)
    m->c[e] = make(s->rows * s->outputs, sizeof *m->c[e]);
  free(mix);
  *learning_out = learning;
}

static void matmul_open(struct matmul *m, const struct shape *shape, const char *options) {
  struct halut_diag diag = {0};
  struct halut_learned *learned = &m->learned;
  float *learning;
  *m = (struct matmul){.shape = shape};
  data_make(m, &learning);
  const struct halut_learn_options how = {
      .codebooks = shape->codebooks, .ridge = 1, .threads = 1, .candidates = 4, .tree_rows = 2048};
  int error = halut_learn(learning, NULL, LEARNING_ROWS, shape->columns, m->b, shape->outputs, NULL,
                          &how, learned, &diag);
  free(learning);
  m->lut = (struct halut_lut){learned->codebooks, learned->outputs, learned->threshold,
                              learned->table, NULL};
  if (!error)
    error = halut_affine_open(shape->columns, shape->codebooks * HALUT_LEVELS, learned->split,
                              learned->low, learned->inverse, &m->affine, &diag);
  if (!error)
    error = halut_backend_cpu.open(options, &m->backend, &diag);
  if (!error)
    error = halut_backend_cpu.load(m->backend, &m->lut, NULL, &m->handle, &diag);
  require(error == 0, diag.text);
}

static void matmul_close(struct matmul *m) {
  halut_backend_cpu.close(m->backend);
  halut_affine_close(&m->affine);
  halut_learned_free(&m->learned);
  for (int e = 0; e < ENGINES; e++)
    free(m->c[e]);
  free(m->a);
  free(m->b);
}

static void halut_multiply(struct matmul *m) {
  const struct halut_floats floats = {&m->affine, m->learned.scale, m->learned.bias};
  const size_t rows = m->shape->rows, columns = m->shape->columns;
  const struct halut_matrix a = m->shape->by_column ? (struct halut_matrix){m->a, 1, rows}
                                                    : (struct halut_matrix){m->a, columns, 1};
  int error = halut_backend_cpu.matmul(m->backend, m->handle, &floats, a, rows, m->c[HALUT], NULL);
  require(error == 0, "the cpu backend failed");
}

static void openblas_multiply(struct matmul *m) {
  const int rows = (int)m->shape->rows, columns = (int)m->shape->columns;
  const int outputs = (int)m->shape->outputs;
  if (rows == 1)
    cblas_sgemv(CblasRowMajor, CblasTrans, columns, outputs, 1, m->b, outputs, m->a, 1, 0,
                m->c[OPENBLAS], 1);
  else
    cblas_sgemm(CblasRowMajor, m->shape->by_column ? CblasTrans : CblasNoTrans, CblasNoTrans, rows,
                outputs, columns, 1, m->a, m->shape->by_column ? rows : columns, m->b, outputs, 0,
                m->c[OPENBLAS], outputs);
}

static void onednn_multiply(struct matmul *m) {
  const struct shape *s = m->shape;
  const dnnl_dim_t rows = (dnnl_dim_t)s->rows, columns = s->columns;
  dnnl_status_t status = dnnl_sgemm(s->by_column ? 'T' : 'N', 'N', rows, s->outputs, columns, 1,
                                    m->a, s->by_column ? rows : columns, m->b, s->outputs, 0,
                                    m->c[ONEDNN], s->outputs);
  require(status == dnnl_success, "dnnl_sgemm failed");
}

static void a_read(struct matmul *m) {
  m->c[READING][0] = cblas_sasum((int)(m->shape->rows * m->shape->columns), m->a, 1);
}

static void (*const multiply[ENGINES])(struct matmul *m) = {halut_multiply, openblas_multiply,
                                                            onednn_multiply, a_read};

static double now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

/* Nanoseconds of a product, the mean of `repeats`. */
static double multiply_time(struct matmul *m, enum engine engine, int repeats) {
  double began = now_ns();
  for (int i = 0; i < repeats; i++)
    multiply[engine](m);
  return (now_ns() - began) / repeats;
}

/* Against OpenBLAS's product. */
static double error_of(const struct matmul *m, enum engine engine) {
  const size_t count = m->shape->rows * m->shape->outputs;
  double squares = 0, sum = 0, variance = 0;
  for (size_t i = 0; i < count; i++) {
    double exact = m->c[OPENBLAS][i], off = m->c[engine][i] - exact;
    squares += off * off;
    sum += exact;
    variance += exact * exact;
  }
  return squares / (variance - sum * sum / (double)count);
}

static int compare(const void *left, const void *right) {
  const double *a = left, *b = right;
  return (*a > *b) - (*a < *b);
}

struct quartiles {
  double low, median, high;
};

static struct quartiles quartiles_of(double *value, int count) {
  qsort(value, (size_t)count, sizeof *value, compare);
  return (struct quartiles){value[count / 4], value[count / 2], value[count - 1 - count / 4]};
}

struct result {
  struct quartiles time[ENGINES], ratio[ENGINES]; /* ns; how many times ours */
  double error[ENGINES];
};

static struct result matmul_measure(struct matmul *m, int rounds) {
  static double time[ENGINES][ROUNDS_MAX], ratio[ENGINES][ROUNDS_MAX];
  struct result result;
  int repeats[ENGINES];
  for (int e = 0; e < ENGINES; e++) {
    multiply[e](m);
    repeats[e] = 1 + (int)(ROUND_NS / multiply_time(m, (enum engine)e, 1));
  }
  for (int round = 0; round < rounds; round++) {
    for (int e = 0; e < ENGINES; e++)
      time[e][round] = multiply_time(m, (enum engine)e, repeats[e]);
    for (int e = 0; e < ENGINES; e++)
      ratio[e][round] = time[e][round] / time[HALUT][round];
  }
  for (int e = 0; e < ENGINES; e++) {
    result.time[e] = quartiles_of(time[e], rounds);
    result.ratio[e] = quartiles_of(ratio[e], rounds);
    result.error[e] = error_of(m, (enum engine)e);
  }
  return result;
}

static void result_print(const struct shape *s, const struct result *result, FILE *json) {
  printf("| %s | %zu x %u x %u, %u |", s->name, s->rows, s->columns, s->outputs, s->codebooks);
  for (int e = 0; e < ENGINES; e++)
    printf(" %.1f |", result->time[e].median / 1e3);
  for (int e = OPENBLAS; e < READING; e++)
    printf(" %.2f (%.2f-%.2f) |", result->ratio[e].median, result->ratio[e].low,
           result->ratio[e].high);
  printf(" %.4f |\n", result->error[HALUT]);
  require(result->error[ONEDNN] < 1e-6, "the two exact products differ");
  if (!json)
    return;
  fprintf(json,
          "%s {\"name\": \"%s\", \"rows\": %zu, \"columns\": %u, \"outputs\": %u, "
          "\"codebooks\": %u, \"nmse\": %.6g",
          s == shape_list ? "[\n" : ",\n", s->name, s->rows, s->columns, s->outputs, s->codebooks,
          result->error[HALUT]);
  for (int e = 0; e < ENGINES; e++)
    fprintf(json, ",\n  \"%s\": {\"us\": %.3f, \"ratio\": [%.3f, %.3f, %.3f]}", engine_name[e],
            result->time[e].median / 1e3, result->ratio[e].low, result->ratio[e].median,
            result->ratio[e].high);
  fprintf(json, "}");
}

/* What oneDNN found here, in the words of its DNNL_MAX_CPU_ISA. */
static const char *onednn_isa(void) {
  switch (dnnl_get_effective_cpu_isa()) {
  case dnnl_cpu_isa_sse41:
    return "SSE41";
  case dnnl_cpu_isa_avx:
    return "AVX";
  case dnnl_cpu_isa_avx2:
    return "AVX2";
  case dnnl_cpu_isa_avx2_vnni:
    return "AVX2_VNNI";
  default:
    return "AVX512 or better";
  }
}

static void heading_print(const char *cpu, int rounds) {
  printf("one thread, halut %s, OpenBLAS %s, oneDNN %s, %d interleaved rounds: us, ratios "
         "(quartiles)\n\n",
         cpu, openblas_get_corename(), onednn_isa(), rounds);
  printf("| shape | rows x columns x outputs, codebooks |");
  for (int e = 0; e < ENGINES; e++)
    printf(" %s |", engine_name[e]);
  printf(" OpenBLAS / halut | oneDNN / halut | NMSE |\n"
         "| --- | --- | ---: | ---: | ---: | ---: | :---: | :---: | ---: |\n");
}

int main(int argc, char **argv) {
  int rounds = ROUNDS;
  const char *cpu = NULL, *path = NULL;
  char options[48];
  uint32_t mask = UINT32_MAX;
  for (int i = 1; i < argc; i += 2) {
    require(i + 1 < argc, "usage: products [--rounds N] [--cpu NAME] [--json FILE]");
    if (strcmp(argv[i], "--rounds") == 0)
      rounds = (int)strtol(argv[i + 1], NULL, 10);
    else if (strcmp(argv[i], "--cpu") == 0)
      cpu = argv[i + 1];
    else if (strcmp(argv[i], "--json") == 0)
      path = argv[i + 1];
    else
      require(0, "usage: products [--rounds N] [--cpu NAME] [--json FILE]");
  }
  require(rounds >= 1 && rounds <= ROUNDS_MAX, "--rounds takes 1 to 1001");
  require(!cpu || halut_cpu_ceiling(cpu, &mask, NULL) == 0, "there is no such --cpu");
  snprintf(options, sizeof options, "%s%.31s", cpu ? "cpu=" : "", cpu ? cpu : "");
  FILE *json = path ? fopen(path, "w") : NULL;
  require(!path || json, "the JSON file cannot be written");
  openblas_set_num_threads(1);
  heading_print(halut_cpu_name(halut_cpu_flags() & mask), rounds);
  for (const struct shape *shape = shape_list; shape < shape_list + CASES; shape++) {
    struct matmul m;
    matmul_open(&m, shape, options);
    struct result result = matmul_measure(&m, rounds);
    result_print(shape, &result, json);
    fflush(stdout);
    matmul_close(&m);
  }
  if (json)
    fprintf(json, "\n]\n");
  return json && fclose(json) ? 1 : 0;
}
