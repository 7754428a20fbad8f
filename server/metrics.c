#include "metrics.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../core/version.h"

/* Upper bounds. One inference takes about half a millisecond, a busy server tens. */
static const uint64_t time_bounds_us[HALUT_TIME_BUCKETS] = {
    10,   25,    50,    100,   250,    500,    1000,    2500,
    5000, 10000, 25000, 50000, 100000, 250000, 1000000, 5000000};

static const unsigned statuses[HALUT_STATUS_SLOTS] = {200, 202, 204, 206, 304, 400, 401, 403, 404,
                                                      405, 406, 408, 409, 411, 413, 414, 415, 417,
                                                      422, 429, 431, 499, 500, 503, 504, 505, 507};

static const char *const phase_labels[HALUT_JOB_PHASES] = {
#define XX(name, label) label,
    HALUT_PHASE_MAP(XX)
#undef XX
};

static const char *const part_labels[HALUT_JOB_PARTS] = {
#define XX(name, label) label,
    HALUT_PART_MAP(XX)
#undef XX
};

void halut_histogram_add(struct halut_histogram *histogram, uint64_t ns) {
  size_t i = 0;
  while (i < HALUT_TIME_BUCKETS && ns > time_bounds_us[i] * 1000u)
    i++;
  histogram->bucket[i]++;
  histogram->count++;
  histogram->sum_ns += ns;
}

static const char others[] = "(others)"; /* no model can be called so */

struct halut_tally *halut_metrics_tally(struct halut_metrics *metrics, const char *model,
                                        uint32_t version, const char *backend) {
  for (struct halut_tally *tally = metrics->tallies; tally != NULL; tally = tally->next)
    if (tally->version == version && strcmp(tally->model, model) == 0 &&
        strcmp(tally->backend, backend) == 0)
      return tally;
  if (metrics->tally_count >= HALUT_TALLIES_MAX && strcmp(model, others) != 0)
    return halut_metrics_tally(metrics, others, 0, backend);
  struct halut_tally *tally = calloc(1, sizeof *tally);
  if (tally == NULL)
    return NULL;
  snprintf(tally->model, sizeof tally->model, "%s", model);
  snprintf(tally->backend, sizeof tally->backend, "%s", backend);
  tally->version = version;
  tally->next = metrics->tallies;
  metrics->tallies = tally;
  metrics->tally_count++;
  return tally;
}

void halut_tally_batch(struct halut_tally *tally, uint32_t rows) {
  size_t i = 0;
  while (i < HALUT_BATCH_BUCKETS && rows > 1u << i)
    i++;
  tally->batch[i]++;
  tally->executions++;
  tally->batch_rows += rows;
}

void halut_tally_parts(struct halut_tally *tally, uint64_t compute_ns,
                       const struct halut_stats *stats) {
  const uint64_t known = stats->encode_ns + stats->accumulate_ns;
  halut_histogram_add(&tally->part[HALUT_JOB_ENCODE], stats->encode_ns);
  halut_histogram_add(&tally->part[HALUT_JOB_ACCUMULATE], stats->accumulate_ns);
  halut_histogram_add(&tally->part[HALUT_JOB_REST], compute_ns > known ? compute_ns - known : 0);
}

void halut_tally_run(struct halut_tally *tally, uint32_t rows, bool is_first,
                     const uint64_t phase_ns[HALUT_JOB_PHASES]) {
  uint32_t i = 0;
  while (i < tally->run_count && tally->run[i].rows != rows)
    i++;
  if (i == HALUT_RUN_SIZES_MAX)
    return;
  if (i == tally->run_count)
    tally->run[tally->run_count++].rows = rows;
  tally->run[i].runs += is_first;
  for (size_t p = 0; p < HALUT_JOB_PHASES; p++)
    if (p != HALUT_JOB_COMPUTE || is_first)
      tally->run[i].phase_ns[p] += phase_ns[p];
}

/* An answer nobody planned is a fault: 500. */
static size_t status_slot(unsigned status) {
  size_t slot = 0;
  while (slot < HALUT_STATUS_SLOTS && statuses[slot] != status)
    slot++;
  return slot < HALUT_STATUS_SLOTS ? slot : status_slot(500);
}

void halut_metrics_request(struct halut_metrics *metrics, size_t route, unsigned status,
                           uint64_t ns) {
  metrics->requests[route < HALUT_ROUTES_MAX ? route : HALUT_ROUTES_MAX][status_slot(status)]++;
  halut_histogram_add(&metrics->answer, ns);
}

static void print_head(struct halut_json_out *out, const char *name, const char *type,
                       const char *help) {
  halut_json_out_format(out, "# HELP halutd_%s %s\n# TYPE halutd_%s %s\n", name, help, name, type);
}

static void print_gauge(struct halut_json_out *out, const char *name, uint64_t value,
                        const char *help) {
  print_head(out, name, "gauge", help);
  halut_json_out_format(out, "halutd_%s %" PRIu64 "\n", name, value);
}

/* `labels` is empty or `a="b",c="d"`. */
static void print_histogram(struct halut_json_out *out, const char *name, const char *labels,
                            const struct halut_histogram *histogram) {
  const char *comma = labels[0] != '\0' ? "," : "";
  const char *open = labels[0] != '\0' ? "{" : "", *close = labels[0] != '\0' ? "}" : "";
  uint64_t sum = 0;
  for (size_t i = 0; i < HALUT_TIME_BUCKETS; i++) {
    sum += histogram->bucket[i];
    halut_json_out_format(out, "halutd_%s_bucket{%s%sle=\"%g\"} %" PRIu64 "\n", name, labels, comma,
                          (double)time_bounds_us[i] * 1e-6, sum);
  }
  halut_json_out_format(out, "halutd_%s_bucket{%s%sle=\"+Inf\"} %" PRIu64 "\n", name, labels, comma,
                        histogram->count);
  halut_json_out_format(out, "halutd_%s_sum%s%s%s %.9f\n", name, open, labels, close,
                        (double)histogram->sum_ns * 1e-9);
  halut_json_out_format(out, "halutd_%s_count%s%s%s %" PRIu64 "\n", name, open, labels, close,
                        histogram->count);
}

static void print_gauges(struct halut_json_out *out, const struct halut_gauges *gauges) {
  print_head(out, "build_info", "gauge", "The version, as a label.");
  halut_json_out_format(out, "halutd_build_info{version=\"%s\"} 1\n", HALUT_VERSION);
  print_gauge(out, "ready", gauges->ready,
              "1 when models are loaded and the server is not draining.");
  print_gauge(out, "connections", gauges->connections, "Open connections.");
  print_gauge(out, "requests_in_progress", gauges->parked,
              "Requests waiting for a worker or in one.");
  print_gauge(out, "workers", gauges->workers, "Threads that compute.");
  print_gauge(out, "models", gauges->models, "Models being served.");
  print_gauge(out, "body_bytes_held", gauges->body_bytes, "Memory held by request bodies.");
  print_gauge(out, "tensor_bytes_held", gauges->tensor_bytes,
              "Memory held by what they are decoded to and by results.");
  if (gauges->resident_bytes > 0) /* else it could not be read */
    print_gauge(out, "resident_memory_bytes", gauges->resident_bytes,
                "Resident memory of the process.");
  if (gauges->certificate_expires_s > 0)
    print_gauge(out, "tls_certificate_expiry_timestamp_seconds", gauges->certificate_expires_s,
                "When the certificate in use ends, since 1970.");
  print_head(out, "queue_length", "gauge", "Requests waiting for a worker.");
  halut_json_out_format(out, "halutd_queue_length{kind=\"network\"} %u\n", gauges->queue[0]);
  halut_json_out_format(out, "halutd_queue_length{kind=\"product\"} %u\n", gauges->queue[1]);
  print_head(out, "uptime_seconds", "gauge", "Time since the start.");
  halut_json_out_format(out, "halutd_uptime_seconds %.3f\n", (double)gauges->uptime_ns * 1e-9);
}

static void print_learning(struct halut_json_out *out, const struct halut_gauges *gauges) {
  print_head(out, "learn_jobs", "gauge", "Learning jobs that have not ended.");
  for (int state = 0; state < HALUT_TASK_DONE; state++)
    halut_json_out_format(out, "halutd_learn_jobs{state=\"%s\"} %" PRIu64 "\n",
                          halut_task_state_name((enum halut_task_state)state),
                          gauges->learning[state]);
  print_head(out, "learn_jobs_ended_total", "counter", "Learning jobs that have ended.");
  for (int state = HALUT_TASK_DONE; state < HALUT_TASK_STATES; state++)
    halut_json_out_format(out, "halutd_learn_jobs_ended_total{state=\"%s\"} %" PRIu64 "\n",
                          halut_task_state_name((enum halut_task_state)state),
                          gauges->learning[state]);
  print_gauge(out, "learn_event_streams", gauges->event_streams,
              "Clients that follow a learning job.");
}

/* The rows of the routing table that have one path are counted together. */
static void print_path(struct halut_json_out *out, const char *path,
                       const uint64_t (*rows)[HALUT_STATUS_SLOTS], size_t row_count) {
  for (size_t s = 0; s < HALUT_STATUS_SLOTS; s++) {
    uint64_t count = 0;
    for (size_t i = 0; i < row_count; i++)
      count += rows[i][s];
    if (count > 0)
      halut_json_out_format(out, "halutd_requests_total{path=\"%s\",code=\"%u\"} %" PRIu64 "\n",
                            path, statuses[s], count);
  }
}

/* Of one path the table has a row for each handler, one below the other. */
static void print_requests(struct halut_json_out *out, const struct halut_metrics *metrics,
                           const char *const *patterns, size_t pattern_count) {
  print_head(out, "requests_total", "counter", "Requests answered, by path and status.");
  for (size_t i = 0, next; i < pattern_count; i = next) {
    next = i + 1;
    while (next < pattern_count && strcmp(patterns[next], patterns[i]) == 0)
      next++;
    print_path(out, patterns[i], &metrics->requests[i], next - i);
  }
  print_path(out, "other", &metrics->requests[HALUT_ROUTES_MAX], 1);
  print_head(out, "request_seconds", "histogram", "Time from the headers to the sent reply.");
  print_histogram(out, "request_seconds", "", &metrics->answer);
}

static void tally_labels(const struct halut_tally *tally, char *text, size_t bytes) {
  snprintf(text, bytes, "model=\"%s\",version=\"%u\",backend=\"%s\"", tally->model, tally->version,
           tally->backend);
}

/* A counter that every tally has: where it is, its name, its help. */
struct tally_counter {
  size_t offset;
  const char *name, *help;
};

static const struct tally_counter tally_counters[] = {
    {offsetof(struct halut_tally, success), "inference_success_total", "Requests computed."},
    {offsetof(struct halut_tally, failure), "inference_failure_total",
     "Requests that failed after their model was known."},
    {offsetof(struct halut_tally, rows), "inference_rows_total", "Images and rows computed."},
    {offsetof(struct halut_tally, executions), "batches_total", "Batches run."},
    {offsetof(struct halut_tally, stats.lookups), "lookups_total", "Table entries added."},
    {offsetof(struct halut_tally, stats.helped_lookups), "helped_lookups_total",
     "Of these, by a worker that helped another."},
    {offsetof(struct halut_tally, stats.device_cycles), "device_cycles_total",
     "Clock cycles of the accelerator."},
    {offsetof(struct halut_tally, stats.device_stalls), "device_stall_cycles_total",
     "Of these, cycles spent waiting."},
    {offsetof(struct halut_tally, stats.device_table_bytes), "device_table_bytes_total",
     "Table bytes loaded into the accelerator."},
    {offsetof(struct halut_tally, stats.device_encodes), "device_encodes_total",
     "Codes made by the accelerator."},
};

static void print_tally_counters(struct halut_json_out *out, const struct halut_metrics *metrics) {
  char labels[160];
  for (size_t i = 0; i < sizeof tally_counters / sizeof tally_counters[0]; i++) {
    const struct tally_counter *counter = &tally_counters[i];
    print_head(out, counter->name, "counter", counter->help);
    for (const struct halut_tally *t = metrics->tallies; t != NULL; t = t->next) {
      uint64_t value;
      memcpy(&value, (const char *)t + counter->offset, sizeof value);
      tally_labels(t, labels, sizeof labels);
      halut_json_out_format(out, "halutd_%s{%s} %" PRIu64 "\n", counter->name, labels, value);
    }
  }
}

static void print_batches(struct halut_json_out *out, const struct halut_metrics *metrics) {
  char labels[160];
  print_head(out, "batch_rows", "histogram", "Images or rows computed in one go.");
  for (const struct halut_tally *t = metrics->tallies; t != NULL; t = t->next) {
    uint64_t sum = 0;
    tally_labels(t, labels, sizeof labels);
    for (size_t i = 0; i < HALUT_BATCH_BUCKETS; i++)
      halut_json_out_format(out, "halutd_batch_rows_bucket{%s,le=\"%u\"} %" PRIu64 "\n", labels,
                            1u << i, sum += t->batch[i]);
    halut_json_out_format(out, "halutd_batch_rows_bucket{%s,le=\"+Inf\"} %" PRIu64 "\n", labels,
                          t->executions);
    halut_json_out_format(out, "halutd_batch_rows_sum{%s} %" PRIu64 "\n", labels, t->batch_rows);
    halut_json_out_format(out, "halutd_batch_rows_count{%s} %" PRIu64 "\n", labels, t->executions);
  }
}

/* Histograms of every tally that differ by one more label; `offset` is where they are in it. */
static void print_divided(struct halut_json_out *out, const struct halut_metrics *metrics,
                          const char *name, const char *label, const char *const *values,
                          size_t count, size_t offset) {
  char labels[192];
  for (const struct halut_tally *t = metrics->tallies; t != NULL; t = t->next)
    for (size_t i = 0; i < count; i++) {
      const char *at = (const char *)t + offset + i * sizeof(struct halut_histogram);
      tally_labels(t, labels, sizeof labels);
      size_t used = strlen(labels);
      snprintf(labels + used, sizeof labels - used, ",%s=\"%s\"", label, values[i]);
      print_histogram(out, name, labels, (const struct halut_histogram *)(const void *)at);
    }
}

static void print_phases(struct halut_json_out *out, const struct halut_metrics *metrics) {
  print_head(out, "phase_seconds", "histogram", "Time of a request by phase.");
  print_divided(out, metrics, "phase_seconds", "phase", phase_labels, HALUT_JOB_PHASES,
                offsetof(struct halut_tally, phase));
  print_head(out, "compute_seconds", "histogram", "Of a request's phase compute, by part.");
  print_divided(out, metrics, "compute_seconds", "part", part_labels, HALUT_JOB_PARTS,
                offsetof(struct halut_tally, part));
}

/* What Triton calls it; where it is in a tally; by what it is divided. */
static const struct triton_counter {
  const char *name, *help;
  size_t offset;
  uint64_t unit;
} triton_counters[] = {
    {"request_success", "Number of successful inference requests",
     offsetof(struct halut_tally, success), 1},
    {"request_failure", "Number of failed inference requests",
     offsetof(struct halut_tally, failure), 1},
    {"count", "Number of inferences performed", offsetof(struct halut_tally, rows), 1},
    {"exec_count", "Number of model executions performed", offsetof(struct halut_tally, executions),
     1},
    {"request_duration_us", "Cumulative inference request duration",
     offsetof(struct halut_tally, total.sum_ns), 1000},
    {"queue_duration_us", "Cumulative inference queuing duration",
     offsetof(struct halut_tally, phase[HALUT_JOB_QUEUE].sum_ns), 1000},
    {"compute_input_duration_us", "Cumulative compute input duration",
     offsetof(struct halut_tally, phase[HALUT_JOB_DECODE].sum_ns), 1000},
    {"compute_infer_duration_us", "Cumulative compute inference duration",
     offsetof(struct halut_tally, phase[HALUT_JOB_COMPUTE].sum_ns), 1000},
    {"compute_output_duration_us", "Cumulative compute output duration",
     offsetof(struct halut_tally, phase[HALUT_JOB_REPLY].sum_ns), 1000},
};

static void print_triton(struct halut_json_out *out, const struct halut_metrics *metrics) {
  char labels[160];
  for (size_t i = 0; i < sizeof triton_counters / sizeof triton_counters[0]; i++) {
    const struct triton_counter *counter = &triton_counters[i];
    halut_json_out_format(out, "# HELP nv_inference_%s %s\n# TYPE nv_inference_%s counter\n",
                          counter->name, counter->help, counter->name);
    for (const struct halut_tally *t = metrics->tallies; t != NULL; t = t->next) {
      uint64_t value;
      memcpy(&value, (const char *)t + counter->offset, sizeof value);
      tally_labels(t, labels, sizeof labels);
      halut_json_out_format(out, "nv_inference_%s{%s} %" PRIu64 "\n", counter->name, labels,
                            value / counter->unit);
    }
  }
}

void halut_metrics_print(const struct halut_metrics *metrics, const struct halut_gauges *gauges,
                         const char *const *patterns, size_t pattern_count,
                         struct halut_json_out *out) {
  print_gauges(out, gauges);
  print_learning(out, gauges);
#define COUNTER(field, name, help)                                                                 \
  print_head(out, name, "counter", help);                                                          \
  halut_json_out_format(out, "halutd_%s %" PRIu64 "\n", name, metrics->field);
#include "metrics.inc"
#undef COUNTER
  print_requests(out, metrics, patterns, pattern_count);
  print_tally_counters(out, metrics);
  print_batches(out, metrics);
  print_phases(out, metrics);
  if (gauges->triton)
    print_triton(out, metrics);
}

void halut_metrics_close(struct halut_metrics *metrics) {
  while (metrics->tallies != NULL) {
    struct halut_tally *tally = metrics->tallies;
    metrics->tallies = tally->next;
    free(tally);
  }
}
