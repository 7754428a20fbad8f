/* metrics.h: what the server counts, and its exposition for Prometheus.
 *
 * Everything is counted on the loop thread, where each job ends: plain integers, no locks, no
 * atomics. Counters of a model belong to its name, version and backend, and outlive reloads, so
 * they only grow.
 */
#ifndef HALUT_METRICS_H
#define HALUT_METRICS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../core/backend.h"
#include "json.h"
#include "learner.h"

enum {
  HALUT_TIME_BUCKETS = 16,  /* and one past the last */
  HALUT_BATCH_BUCKETS = 9,  /* 1, 2, 4 ... 256, and one past the last */
  HALUT_RUN_SIZES_MAX = 64, /* of a model, each counted by itself; the others are not */
  HALUT_STATUS_SLOTS = 27,
  HALUT_TALLIES_MAX = 512, /* and one a backend for all that come after */
  HALUT_ROUTES_MAX = 96
};

struct halut_histogram {
  uint64_t bucket[HALUT_TIME_BUCKETS + 1]; /* not cumulative */
  uint64_t count, sum_ns;
};

/* The phases of a job. One list: field, label. */
#define HALUT_PHASE_MAP(XX)                                                                        \
  XX(QUEUE, "queue")       /* waiting for a worker */                                              \
  XX(DECODE, "decode")     /* body to tensor */                                                    \
  XX(COMPUTE, "compute")   /* the batch it was part of */                                          \
  XX(REPLY, "reply")       /* result to body */                                                    \
  XX(OVERHEAD, "overhead") /* of the whole time in the server, what is none of the above */

enum halut_job_phase {
#define XX(name, label) HALUT_JOB_##name,
  HALUT_PHASE_MAP(XX)
#undef XX
      HALUT_JOB_PHASES
};

/* What COMPUTE consists of. One list: field, label. */
#define HALUT_PART_MAP(XX)                                                                         \
  XX(ENCODE, "encode")                                                                             \
  XX(ACCUMULATE, "accumulate")                                                                     \
  XX(REST, "rest") /* backend.h: halut_stats says what */

enum halut_job_part {
#define XX(name, label) HALUT_JOB_##name,
  HALUT_PART_MAP(XX)
#undef XX
      HALUT_JOB_PARTS
};

/* Runs of one size. */
struct halut_run_size {
  uint32_t rows;
  uint64_t runs;
  uint64_t phase_ns[HALUT_JOB_PHASES]; /* COMPUTE once a run; the others of all its jobs */
};

struct halut_tally {
  struct halut_tally *next;
  char model[64], backend[16];
  uint32_t version;
  uint64_t success, failure; /* requests */
  uint64_t rows, executions; /* computed: images or rows; calls of the backend */
  uint64_t last_ms;          /* since 1970, of the last success */
  uint64_t failed_ns;        /* spent in the server by failures */
  struct halut_histogram phase[HALUT_JOB_PHASES];
  struct halut_histogram part[HALUT_JOB_PARTS]; /* of COMPUTE */
  struct halut_histogram total;
  uint64_t batch[HALUT_BATCH_BUCKETS + 1], batch_rows;
  struct halut_run_size run[HALUT_RUN_SIZES_MAX];
  uint32_t run_count;
  struct halut_stats stats;
};

struct halut_metrics {
#define COUNTER(field, name, help) uint64_t field;
#include "metrics.inc"
#undef COUNTER
  uint64_t requests[HALUT_ROUTES_MAX + 1][HALUT_STATUS_SLOTS]; /* last row: no route */
  struct halut_histogram answer; /* headers complete to reply sent, all routes */
  struct halut_tally *tallies;   /* newest first */
  uint32_t tally_count;
};

/* What is true at this moment. */
struct halut_gauges {
  uint32_t connections, parked, workers;
  uint32_t queue[2];                    /* waiting: networks, products */
  uint64_t learning[HALUT_TASK_STATES]; /* now: queued, running; since the start: the rest */
  uint32_t event_streams;
  uint64_t body_bytes, tensor_bytes, uptime_ns, resident_bytes, models;
  uint64_t certificate_expires_s; /* since 1970; 0: no TLS */
  bool ready;
  bool triton; /* print the tallies under Triton's names as well */
};

void halut_histogram_add(struct halut_histogram *histogram, uint64_t ns);

/* The tally of that name, version and backend, made if need be; NULL without memory. It lives as
 * long as the metrics. */
struct halut_tally *halut_metrics_tally(struct halut_metrics *metrics, const char *model,
                                        uint32_t version, const char *backend);
void halut_tally_batch(struct halut_tally *tally, uint32_t rows);
/* What a run of `compute_ns` was spent on. */
void halut_tally_parts(struct halut_tally *tally, uint64_t compute_ns,
                       const struct halut_stats *stats);
/* A job of a run of `rows`; one of its jobs is the first. */
void halut_tally_run(struct halut_tally *tally, uint32_t rows, bool is_first,
                     const uint64_t phase_ns[HALUT_JOB_PHASES]);

/* `route` is an index of the routing table, or anything past it for none. */
void halut_metrics_request(struct halut_metrics *metrics, size_t route, unsigned status,
                           uint64_t ns);

/* The text format 0.0.4. `patterns` are the paths of the routing table. */
void halut_metrics_print(const struct halut_metrics *metrics, const struct halut_gauges *gauges,
                         const char *const *patterns, size_t pattern_count,
                         struct halut_json_out *out);

void halut_metrics_close(struct halut_metrics *metrics); /* frees the tallies */

#endif
