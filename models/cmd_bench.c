/* DESIGN: two measurements. Throughput: every thread runs its own session as fast as it can until
 * the time is over. Layers: one thread then runs with an observer, which costs a little, and keeps
 * the shortest time of each layer over many runs. Cycles come from the clock that a chain of
 * dependent additions shows. What the kernels could do with some of a layer's tables, all of them
 * in the first-level cache and the codes made already, is its ceiling. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../core/clock.h"
#include "../core/kernels.h"
#include "cli.h"
#include "graph.h"

enum {
  THREADS_MAX = 256,
  WARM_RUNS = 2,
  LAYER_RUNS_MIN = 5,
  CLOCK_ROUNDS = 500, /* short ones, so that some are not interrupted */
  CLOCK_STEPS = 400,  /* of 64 dependent additions, a cycle each */
  CEILING_CODEBOOKS = 64,
  CEILING_OUTPUTS = 8,
  CEILING_ROUNDS = 300,
  CEILING_CALLS = 4 /* timed together */
};

struct bench_args {
  const char *backend, *cpu;
  uint64_t threads, batch;
  double seconds;
  bool json;
};

static const struct halut_option options[] = {
    {"backend", 'b', "NAME[:KEY=VALUE,...]", "which backend computes (default cpu)",
     HALUT_OPTION_TEXT, offsetof(struct bench_args, backend), 0, 0},
    {"cpu", 0, "NAME", "best instruction set to use: ref, ssse3, avx2, avx512, neon",
     HALUT_OPTION_TEXT, offsetof(struct bench_args, cpu), 0, 0},
    {"threads", 't', "N", "threads (default 1)", HALUT_OPTION_COUNT,
     offsetof(struct bench_args, threads), 1, THREADS_MAX},
    {"batch", 'B', "N", "images or rows given to a session at once (default 64)",
     HALUT_OPTION_COUNT, offsetof(struct bench_args, batch), 1, HALUT_BATCH_MAX},
    {"seconds", 's', "S", "how long to measure (default 3)", HALUT_OPTION_REAL,
     offsetof(struct bench_args, seconds), 0.01, 86400},
    {"json", 'j', NULL, "print one JSON object", HALUT_OPTION_FLAG,
     offsetof(struct bench_args, json), 0, 0},
    {0}};

struct bench {
  const struct halut_command *command;
  const char *path; /* of the model */
  const struct halut_model_info *info;
  struct bench_args args;
  struct halut_tensor in; /* shared by all threads */
  atomic_bool stop;
};

struct worker {
  struct bench *bench;
  struct halut_session *session;
  struct halut_tensor out;
  struct halut_stats stats;
  uint64_t runs;
  int failed;
  pthread_t thread;
  bool started;
};

/* Times of the layers, filled by the observer. */
struct layers {
  uint64_t mark_ns;                 /* when the last node was done */
  uint64_t now_ns[HALUT_NODES_MAX]; /* of this run, all parts of the batch together */
  uint64_t best_ns[HALUT_NODES_MAX];
  bool seen[HALUT_NODES_MAX];
};

struct totals {
  double seconds, cpu_seconds;
  uint64_t items;
  struct halut_stats stats;
  double clock_ghz;
  struct layers layers;
};

/* Cycles a nanosecond of this thread at full load: the best of several rounds. */
static double clock_measure(void) {
  double best = 0;
  for (int round = 0; round < CLOCK_ROUNDS; round++) {
    uint64_t sum = 1, step = (uint64_t)round | 1, began = halut_clock_ns();
    for (int i = 0; i < CLOCK_STEPS; i++) {
#define ADD                                                                                        \
  __asm__ volatile("" : "+r"(sum));                                                                \
  sum += step;
#define ADD8 ADD ADD ADD ADD ADD ADD ADD ADD
      ADD8 ADD8 ADD8 ADD8 ADD8 ADD8 ADD8 ADD8
#undef ADD8
#undef ADD
    }
    __asm__ volatile("" : "+r"(sum));
    uint64_t took = halut_clock_ns() - began;
    double ghz = took ? 64.0 * CLOCK_STEPS / (double)took : 0;
    best = ghz > best ? ghz : best;
  }
  return best;
}

/* Lookups a nanosecond of `map` on a block of the first tables of some outputs: the best of several
 * rounds, 0 without memory. */
static double ceiling_measure(const struct halut_lut *lut, uint32_t cpu_flags) {
  static const int32_t bias[CEILING_OUTPUTS];
  static const uint16_t scale[CEILING_OUTPUTS];
  const struct halut_requant requant = {bias, scale};
  struct halut_lut part = *lut;
  struct halut_kernels kernels;
  struct halut_packed packed = {0};
  double best = 0;
  part.codebooks = lut->codebooks < CEILING_CODEBOOKS ? lut->codebooks : CEILING_CODEBOOKS;
  part.outputs = lut->outputs < CEILING_OUTPUTS ? lut->outputs : CEILING_OUTPUTS;
  part.shared = NULL;
  halut_kernels_init(&kernels, cpu_flags);
  const size_t output = (size_t)lut->codebooks * HALUT_PROTOTYPES;
  const size_t tables = (size_t)part.codebooks * HALUT_PROTOTYPES;
  int8_t *table = halut_alloc(part.outputs * tables);
  uint8_t *codes = halut_alloc(halut_codes_bytes(part.codebooks));
  uint8_t *out = halut_alloc((size_t)part.outputs * HALUT_CODE_BLOCK);
  if (!table || !codes || !out)
    goto done;
  for (uint32_t m = 0; m < part.outputs; m++)
    memcpy(table + m * tables, lut->table + lut->outputs / part.outputs * m * output, tables);
  for (size_t i = 0; i < (size_t)part.codebooks * HALUT_CODE_BLOCK; i++)
    codes[i] = (uint8_t)(i * 7 % HALUT_PROTOTYPES);
  part.table = table;
  if (halut_pack(&part, kernels.accumulate->layout, &packed, NULL))
    goto done;
  if (kernels.accumulate->arrange)
    kernels.accumulate->arrange(&packed, codes);
  for (int round = 0; round < CEILING_ROUNDS; round++) {
    uint64_t began = halut_clock_ns();
    for (int call = 0; call < CEILING_CALLS; call++)
      kernels.accumulate->map(&packed, codes, HALUT_CODE_BLOCK, &requant, out, HALUT_CODE_BLOCK);
    double took = (double)(halut_clock_ns() - began);
    double made = (double)CEILING_CALLS * part.outputs * part.codebooks * HALUT_CODE_BLOCK;
    best = took > 0 && made / took > best ? made / took : best;
  }
done:
  halut_unpack(&packed);
  free(table);
  free(codes);
  free(out);
  return best;
}

static void *worker_main(void *self) {
  struct worker *worker = self;
  while (!worker->failed && !atomic_load(&worker->bench->stop)) {
    worker->failed =
        halut_session_run(worker->session, &worker->bench->in, &worker->out, &worker->stats);
    worker->runs++;
  }
  return NULL;
}

static size_t round_up(size_t bytes) {
  return (bytes + HALUT_ALIGN - 1) / HALUT_ALIGN * HALUT_ALIGN;
}

/* Inputs that use the whole range; their values do not change the time. */
static bool input_make(struct bench *bench) {
  const struct halut_model_info *info = bench->info;
  bool network = info->kind == HALUT_NETWORK;
  struct halut_tensor in = {.dtype = network ? HALUT_U8 : HALUT_F32,
                            .rank = network ? 4 : 2,
                            .dim = {(uint32_t)bench->args.batch,
                                    network ? info->channels : info->columns,
                                    network ? info->height : 1, network ? info->width : 1}};
  size_t count = (size_t)in.dim[0] * in.dim[1] * in.dim[2] * in.dim[3];
  in.data = aligned_alloc(HALUT_ALIGN, round_up(count * halut_dtype_bytes(in.dtype)));
  if (!in.data)
    return false;
  uint64_t state = 1;
  for (size_t i = 0; i < count; i++) {
    state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    if (network)
      ((uint8_t *)in.data)[i] = (uint8_t)(state >> 56);
    else
      ((float *)in.data)[i] = (float)(state >> 40) * 0x1p-24f;
  }
  bench->in = in;
  return true;
}

static int workers_open(struct bench *bench, const struct halut_model *model,
                        struct worker *workers) {
  int exit_code = HALUT_EXIT_FAILURE;
  bool network = bench->info->kind == HALUT_NETWORK;
  uint32_t outputs = network ? bench->info->classes : bench->info->outputs;
  if (!input_make(bench))
    return halut_cli_error(bench->command, exit_code, "no memory for a batch");
  for (uint32_t i = 0; i < bench->args.threads; i++) {
    struct worker *worker = &workers[i];
    worker->bench = bench;
    worker->out = (struct halut_tensor){.dtype = network ? HALUT_I32 : HALUT_F32,
                                        .rank = 2,
                                        .dim = {(uint32_t)bench->args.batch, outputs, 1, 1}};
    worker->out.data = aligned_alloc(HALUT_ALIGN, round_up(bench->args.batch * outputs * 4));
    if (!worker->out.data)
      return halut_cli_error(bench->command, exit_code, "no memory for the output");
    if (!halut_cli_session(bench->command, bench->path, model, bench->args.backend,
                           bench->args.cpu, (uint32_t)bench->args.batch, &worker->session,
                           &exit_code))
      return exit_code;
  }
  return HALUT_EXIT_OK;
}

/* Waits until the time is over, showing progress. */
static void time_pass(struct bench *bench) {
  struct halut_progress progress;
  uint64_t began = halut_clock_ns(), wanted = (uint64_t)(bench->args.seconds * 1e9);
  halut_progress_begin(&progress, "bench", "ms", wanted / 1000000);
  for (uint64_t passed = 0; passed < wanted; passed = halut_clock_ns() - began) {
    uint64_t left = wanted - passed;
    struct timespec wait = {0, (long)(left < 50000000 ? left : 50000000)};
    nanosleep(&wait, NULL);
    halut_progress_show(&progress, passed / 1000000);
  }
  halut_progress_end(&progress);
}

static int throughput_measure(struct bench *bench, struct worker *workers, struct totals *totals) {
  for (uint32_t i = 0; i < bench->args.threads; i++)
    for (int run = 0; run < WARM_RUNS && !workers[i].failed; run++)
      workers[i].failed = halut_session_run(workers[i].session, &bench->in, &workers[i].out, NULL);
  uint64_t began = halut_clock_ns();
  double cpu_began = halut_cli_cpu_seconds();
  for (uint32_t i = 0; i < bench->args.threads; i++) {
    workers[i].started = pthread_create(&workers[i].thread, NULL, worker_main, &workers[i]) == 0;
    if (!workers[i].started)
      workers[i].failed = HALUT_ENOMEM;
  }
  time_pass(bench);
  atomic_store(&bench->stop, true);
  int failed = 0;
  for (uint32_t i = 0; i < bench->args.threads; i++) {
    if (workers[i].started)
      pthread_join(workers[i].thread, NULL);
    failed = workers[i].failed ? workers[i].failed : failed;
    totals->items += workers[i].runs * bench->args.batch;
    totals->stats.lookups += workers[i].stats.lookups;
    totals->stats.device_cycles += workers[i].stats.device_cycles;
    totals->stats.device_stalls += workers[i].stats.device_stalls;
  }
  totals->seconds = (double)(halut_clock_ns() - began) * 1e-9;
  totals->cpu_seconds = halut_cli_cpu_seconds() - cpu_began;
  return failed ? halut_cli_fail(bench->command, NULL, failed, NULL) : HALUT_EXIT_OK;
}

static void layer_done(void *self, uint32_t node, const struct halut_tensor *value) {
  struct layers *layers = self;
  uint64_t now = halut_clock_ns();
  (void)value;
  layers->now_ns[node] += now - layers->mark_ns;
  layers->seen[node] = true;
  layers->mark_ns = now;
}

static int layers_measure(struct bench *bench, struct worker *worker, struct totals *totals) {
  struct layers *layers = &totals->layers;
  uint64_t began = halut_clock_ns();
  for (uint32_t n = 0; n < HALUT_NODES_MAX; n++)
    layers->best_ns[n] = UINT64_MAX;
  halut_session_observe(worker->session, layer_done, layers, 0);
  for (int run = 0; run < LAYER_RUNS_MIN ||
                    (double)(halut_clock_ns() - began) * 1e-9 < bench->args.seconds / 3;
       run++) {
    memset(layers->now_ns, 0, sizeof(layers->now_ns));
    layers->mark_ns = halut_clock_ns();
    int rc = halut_session_run(worker->session, &bench->in, &worker->out, NULL);
    if (rc)
      return halut_cli_fail(bench->command, NULL, rc, NULL);
    for (uint32_t n = 0; n < HALUT_NODES_MAX; n++)
      if (layers->seen[n] && layers->now_ns[n] < layers->best_ns[n])
        layers->best_ns[n] = layers->now_ns[n];
  }
  halut_session_observe(worker->session, NULL, NULL, 0);
  totals->clock_ghz = clock_measure();
  return HALUT_EXIT_OK;
}

/* One line of the report: a node, or a fused group under the name of its learned convolution. */
struct line {
  char name[3 * HALUT_NAME_MAX];
  const char *op;
  double microseconds; /* an image or row */
  double lookups;
  const struct halut_lut *lut; /* NULL for what looks nothing up */
  double ceiling;              /* lookups a cycle, 0 where none was measured */
};

static uint64_t lookups_of(const struct halut_node *node) {
  return (uint64_t)node->lut.codebooks * node->lut.outputs * node->height * node->width;
}

/* Lines in the order of execution; returns how many. Nodes that were not seen belong to the group
 * of the next node that was and that depends on them: their names are joined. */
static uint32_t lines_make(const struct bench *bench, const struct totals *totals,
                           struct line lines[HALUT_NODES_MAX]) {
  const struct halut_model_info *info = bench->info;
  double scale = 1e-3 / (double)bench->args.batch;
  if (info->kind == HALUT_PRODUCT) {
    lines[0] = (struct line){.name = "product",
                             .op = "product",
                             .microseconds = (double)totals->layers.best_ns[0] * scale,
                             .lookups = (double)info->lut.codebooks * info->lut.outputs,
                             .lut = &info->lut};
    return 1;
  }
  uint32_t count = 0;
  for (uint32_t n = 0; n < info->node_count; n++) {
    if (!totals->layers.seen[n])
      continue;
    struct line *line = &lines[count++];
    const struct halut_node *node = &info->nodes[n];
    *line = (struct line){.op = halut_op_name(node->op),
                          .microseconds = (double)totals->layers.best_ns[n] * scale,
                          .lookups = (double)lookups_of(node)};
    line->lut = lookups_of(node) ? &node->lut : NULL;
    snprintf(line->name, sizeof(line->name), "%s", node->name);
    for (bool again = true; again;) {
      again = false;
      for (uint32_t i = 0; i < (node->op == HALUT_OP_ADD ? 2u : 1u); i++) {
        uint32_t from = node->in[i];
        if (from == 0 || totals->layers.seen[from - 1])
          continue;
        char joined[sizeof(line->name)];
        node = &info->nodes[from - 1];
        snprintf(joined, sizeof(joined), "%.63s+%.120s", node->name, line->name);
        memcpy(line->name, joined, sizeof(joined));
        line->lookups += (double)lookups_of(node);
        line->lut = lookups_of(node) ? &node->lut : line->lut;
        line->op = halut_op_name(node->op);
        again = true;
        break;
      }
    }
  }
  return count;
}

/* Of the kernels, so there is none where the accelerator computes. */
static void ceilings_measure(const struct bench *bench, double clock_ghz, struct line *lines,
                             uint32_t count) {
  const struct bench_args *args = &bench->args;
  if (strncmp(args->backend, halut_backend_cpu.name, strlen(halut_backend_cpu.name)) != 0)
    return;
  for (uint32_t i = 0; i < count; i++)
    if (lines[i].lut)
      lines[i].ceiling =
          ceiling_measure(lines[i].lut, halut_cli_cpu_flags(args->backend, args->cpu)) / clock_ghz;
}

static int result_json(const struct bench *bench, const struct totals *totals,
                       const struct line *lines, uint32_t count) {
  json_t *layers = json_array();
  double items = (double)totals->items;
  for (uint32_t i = 0; i < count; i++) {
    double cycles = lines[i].microseconds * totals->clock_ghz * 1e3;
    json_array_append_new(layers,
                          json_pack("{s:s, s:s, s:f, s:f, s:f, s:f, s:f}", "name", lines[i].name,
                                    "op", lines[i].op, "microseconds", lines[i].microseconds,
                                    "cycles", cycles, "lookups", lines[i].lookups,
                                    "lookups_per_cycle",
                                    cycles > 0 ? lines[i].lookups / cycles : 0,
                                    "ceiling_lookups_per_cycle", lines[i].ceiling));
  }
  bool network = bench->info->kind == HALUT_NETWORK;
  json_t *object = json_pack(
      "{s:s, s:s, s:s, s:s, s:I, s:I, s:f, s:I, s:f, s:f, s:f, s:f, s:f, s:o}", "model",
      bench->info->name, "item", network ? "image" : "row", "backend", bench->args.backend, "cpu",
      halut_cli_cpu_used(bench->args.backend, bench->args.cpu), "threads",
      (json_int_t)bench->args.threads, "batch", (json_int_t)bench->args.batch, "seconds",
      totals->seconds, "images", (json_int_t)totals->items, "images_per_second",
      items / totals->seconds, "cpu_seconds_per_image", totals->cpu_seconds / items,
      "lookups_per_image", (double)totals->stats.lookups / items, "clock_ghz", totals->clock_ghz,
      "device_cycles_per_image", (double)totals->stats.device_cycles / items, "layers", layers);
  return halut_cli_json(bench->command, object);
}

static int result_text(const struct bench *bench, const struct totals *totals,
                       const struct line *lines, uint32_t count) {
  const char *item = bench->info->kind == HALUT_NETWORK ? "image" : "row";
  double items = (double)totals->items, sum = 0;
  for (uint32_t i = 0; i < count; i++)
    sum += lines[i].microseconds;
  printf("%s on %s (%s), %llu threads, batches of %llu\n", bench->info->name, bench->args.backend,
         halut_cli_cpu_used(bench->args.backend, bench->args.cpu),
         (unsigned long long)bench->args.threads, (unsigned long long)bench->args.batch);
  printf("%.1f %ss/s; %.3f us of processor time each; %.0f lookups each\n", items / totals->seconds,
         item, totals->cpu_seconds / items * 1e6, (double)totals->stats.lookups / items);
  if (totals->stats.device_cycles > 0)
    printf("accelerator: %.0f cycles each, %.1f lookups a cycle, %.1f%% stalled\n",
           (double)totals->stats.device_cycles / items,
           (double)totals->stats.lookups / (double)totals->stats.device_cycles,
           100 * (double)totals->stats.device_stalls / (double)totals->stats.device_cycles);
  printf("\none thread, shortest times, clock %.2f GHz\n%-28s %-8s %10s %6s %12s %8s %8s\n",
         totals->clock_ghz, "layer", "op", "us", "share", "lookups", "a cycle", "ceiling");
  for (uint32_t i = 0; i < count; i++) {
    double cycles = lines[i].microseconds * totals->clock_ghz * 1e3;
    printf("%-28s %-8s %10.3f %5.1f%%", lines[i].name, lines[i].op, lines[i].microseconds,
           sum > 0 ? 100 * lines[i].microseconds / sum : 0);
    if (lines[i].lookups > 0)
      printf(" %12.0f %8.1f", lines[i].lookups, cycles > 0 ? lines[i].lookups / cycles : 0);
    if (lines[i].ceiling > 0)
      printf(" %8.1f", lines[i].ceiling);
    putchar('\n');
  }
  printf("%-28s %-8s %10.3f\n", "all", "", sum);
  return halut_cli_finish(bench->command);
}

static int bench_measure(struct bench *bench, const struct halut_model *model,
                         struct worker *workers) {
  static struct line lines[HALUT_NODES_MAX]; /* large for a stack; this program measures once */
  struct totals *totals = calloc(1, sizeof(*totals));
  if (!totals)
    return halut_cli_error(bench->command, HALUT_EXIT_FAILURE, "no memory for the times");
  int exit_code = workers_open(bench, model, workers);
  if (!exit_code)
    exit_code = throughput_measure(bench, workers, totals);
  if (!exit_code)
    exit_code = layers_measure(bench, &workers[0], totals);
  if (!exit_code) {
    uint32_t count = lines_make(bench, totals, lines);
    ceilings_measure(bench, totals->clock_ghz, lines, count);
    exit_code = bench->args.json ? result_json(bench, totals, lines, count)
                                 : result_text(bench, totals, lines, count);
  }
  free(totals);
  return exit_code;
}

static int bench_run(const struct halut_command *command, int argc, char **argv) {
  struct bench bench = {.command = command,
                        .args = {.backend = "cpu", .threads = 1, .batch = 64, .seconds = 3}};
  struct halut_model *model = NULL;
  int count, exit_code;
  if (!halut_cli_parse(command, argc, argv, &bench.args, &count, &exit_code))
    return exit_code;
  if (!halut_cli_model(command, argv[0], &model))
    return HALUT_EXIT_FAILURE;
  bench.info = halut_model_info(model);
  bench.path = argv[0];
  struct worker *workers = calloc(bench.args.threads, sizeof(*workers));
  exit_code = workers ? bench_measure(&bench, model, workers)
                      : halut_cli_error(command, HALUT_EXIT_FAILURE, "no memory for the threads");
  for (uint32_t i = 0; workers && i < bench.args.threads; i++) {
    halut_session_close(workers[i].session);
    free(workers[i].out.data);
  }
  free(workers);
  free(bench.in.data);
  halut_model_close(model);
  return exit_code;
}

const struct halut_command halut_command_bench = {
    .name = "bench",
    .operands = "MODEL",
    .summary = "Measure how fast a model runs, and each of its layers",
    .details =
        "Runs the model in this process, without the daemon: all threads for throughput, then one\n"
        "thread layer by layer. A learned convolution and what is computed along with it are one\n"
        "layer. For a product an \"image\" of the JSON names is a row. The ceiling is what the\n"
        "kernels make of some of the layer's tables when these and the codes are at hand.",
    .options = options,
    .operands_min = 1,
    .operands_max = 1,
    .run = bench_run};
