#include <inttypes.h>
#include <string.h>

#include "handlers.h"
#include "v2.h"

/* The sum over the backends of a model. */
struct sums {
  uint64_t success, success_ns, failure, failure_ns, rows, executions, last_ms;
  uint64_t phase_ns[HALUT_JOB_PHASES];
};

static bool is_of(const struct halut_tally *tally, const struct halut_model_info *info) {
  return tally->version == info->version && strcmp(tally->model, info->name) == 0;
}

static struct sums sums_of(const struct halut_metrics *metrics,
                           const struct halut_model_info *info) {
  struct sums sums = {0};
  for (const struct halut_tally *t = metrics->tallies; t != NULL; t = t->next) {
    if (!is_of(t, info))
      continue;
    sums.success += t->success;
    sums.success_ns += t->total.sum_ns;
    sums.failure += t->failure;
    sums.failure_ns += t->failed_ns;
    sums.rows += t->rows;
    sums.executions += t->executions;
    sums.last_ms = t->last_ms > sums.last_ms ? t->last_ms : sums.last_ms;
    for (size_t p = 0; p < HALUT_JOB_PHASES; p++)
      sums.phase_ns[p] += t->phase[p].sum_ns;
  }
  return sums;
}

static void pair_print(struct halut_json_out *out, const char *name, uint64_t count, uint64_t ns) {
  halut_json_out_format(out, "%s\"%s\":{\"count\":%" PRIu64 ",\"ns\":%" PRIu64 "}",
                        strcmp(name, "success") == 0 ? "" : ",", name, count, ns);
}

/* Adds the runs of that many rows of a model, on this backend and on those after it; false if one
 * before it had such runs, and so has printed them. */
static bool runs_sum(const struct halut_metrics *metrics, const struct halut_tally *from,
                     const struct halut_model_info *info, uint32_t rows,
                     struct halut_run_size *sum) {
  bool is_past = false;
  for (const struct halut_tally *t = metrics->tallies; t != NULL; t = t->next) {
    is_past |= t == from;
    for (uint32_t i = 0; is_of(t, info) && i < t->run_count; i++) {
      if (t->run[i].rows != rows)
        continue;
      if (!is_past)
        return false;
      sum->runs += t->run[i].runs;
      for (size_t p = 0; p < HALUT_JOB_PHASES; p++)
        sum->phase_ns[p] += t->run[i].phase_ns[p];
    }
  }
  return true;
}

static void runs_print(const struct halut_metrics *metrics, const struct halut_model_info *info,
                       struct halut_json_out *out) {
  static const struct {
    const char *name;
    enum halut_job_phase phase;
  } parts[] = {{"compute_input", HALUT_JOB_DECODE},
               {"compute_infer", HALUT_JOB_COMPUTE},
               {"compute_output", HALUT_JOB_REPLY}};
  const char *comma = "";
  for (const struct halut_tally *t = metrics->tallies; t != NULL; t = t->next)
    for (uint32_t i = 0; is_of(t, info) && i < t->run_count; i++) {
      struct halut_run_size sum = {0};
      if (!runs_sum(metrics, t, info, t->run[i].rows, &sum))
        continue;
      halut_json_out_format(out, "%s{\"batch_size\":%u", comma, t->run[i].rows);
      for (size_t p = 0; p < sizeof parts / sizeof parts[0]; p++)
        halut_json_out_format(out, ",\"%s\":{\"count\":%" PRIu64 ",\"ns\":%" PRIu64 "}",
                              parts[p].name, sum.runs, sum.phase_ns[parts[p].phase]);
      halut_json_out_format(out, "}");
      comma = ",";
    }
}

static void stats_print(const struct halut_app *app, const struct halut_entry *entry,
                        struct halut_json_out *out) {
  const struct halut_model_info *info = entry->info;
  struct sums sums = sums_of(&app->metrics, info);
  halut_json_out_format(out,
                        "{\"name\":\"%s\",\"version\":\"%u\",\"last_inference\":%" PRIu64
                        ",\"inference_count\":%" PRIu64 ",\"execution_count\":%" PRIu64
                        ",\"inference_stats\":{",
                        info->name, info->version, sums.last_ms, sums.rows, sums.executions);
  pair_print(out, "success", sums.success, sums.success_ns);
  pair_print(out, "fail", sums.failure, sums.failure_ns);
  pair_print(out, "queue", sums.success, sums.phase_ns[HALUT_JOB_QUEUE]);
  pair_print(out, "compute_input", sums.success, sums.phase_ns[HALUT_JOB_DECODE]);
  pair_print(out, "compute_infer", sums.success, sums.phase_ns[HALUT_JOB_COMPUTE]);
  pair_print(out, "compute_output", sums.success, sums.phase_ns[HALUT_JOB_REPLY]);
  pair_print(out, "cache_hit", 0, 0); /* there is no cache */
  pair_print(out, "cache_miss", 0, 0);
  halut_json_out_format(out, "},\"response_stats\":{},\"batch_stats\":[");
  runs_print(&app->metrics, info, out);
  halut_json_out_format(out,
                        "],\"memory_usage\":[{\"type\":\"CPU\",\"id\":0,\"byte_size\":%zu}]}",
                        info->file_bytes);
}

void halut_handle_v2_stats(void *self, struct halut_request *request) {
  const struct halut_app *app = self;
  struct halut_json_out out = {0};
  halut_json_out_format(&out, "{\"model_stats\":[");
  for (uint32_t i = 0; i < app->catalog->count; i++) {
    halut_json_out_format(&out, i > 0 ? "," : "");
    stats_print(app, app->catalog->entries[i], &out);
  }
  halut_json_out_format(&out, "]}");
  halut_answer(request, 200, "application/json", &out);
}

void halut_handle_v2_model_stats(void *self, struct halut_request *request) {
  struct halut_app *app = self;
  const struct halut_entry *entry = halut_v2_entry(app, request);
  struct halut_json_out out = {0};
  if (entry == NULL)
    return;
  const char *comma = "";
  halut_json_out_format(&out, "{\"model_stats\":[");
  for (uint32_t i = 0; i < app->catalog->count; i++) {
    const struct halut_entry *other = app->catalog->entries[i];
    bool is_asked = request->capture[1].bytes == 0 /* without a version: of all */
                        ? strcmp(other->info->name, entry->info->name) == 0
                        : other == entry;
    if (!is_asked)
      continue;
    halut_json_out_format(&out, "%s", comma);
    stats_print(app, other, &out);
    comma = ",";
  }
  halut_json_out_format(&out, "]}");
  halut_answer(request, 200, "application/json", &out);
}
