#include <stdlib.h>
#include <string.h>

#include "../core/version.h"
#include "handlers.h"
#include "v2.h"

/* ---- the server ---- */

void halut_handle_v2_server(void *self, struct halut_request *request) {
  const struct halut_app *app = self;
  struct halut_json_out out = {0};
  halut_json_out_format(&out, "{\"name\":");
  halut_json_out_string(&out, app->config.server_name);
  halut_json_out_format(&out,
                        ",\"version\":\"" HALUT_VERSION "\",\"extensions\":[\"classification\","
                        "\"model_repository\",\"model_configuration\",\"binary_tensor_data\","
                        "\"parameters\",\"statistics\",\"logging\"]}");
  halut_answer(request, 200, "application/json", &out);
}

void halut_handle_v2_live(void *self, struct halut_request *request) {
  struct halut_json_out out = {0};
  (void)self;
  halut_json_out_format(&out, "{\"live\":true}");
  halut_answer(request, 200, "application/json", &out);
}

/* Some clients look at "live" here, some at "ready", some at the status alone. */
static void not_ready(const struct halut_app *app, struct halut_request *request,
                      const char *members, const char *reason) {
  struct halut_json_out out = {0};
  struct halut_reply reply = {.status = 503, .type = "application/json", .owned = true};
  halut_json_out_format(&out, "{%s,\"ready\":false,\"error\":", members);
  halut_json_out_string(&out, reason != NULL && !app->draining ? reason : "shutting down");
  halut_json_out_format(&out, "}");
  reply.body = halut_json_out_take(&out, &reply.bytes);
  halut_reply_header(&reply, "Retry-After", "1");
  if (reply.body == NULL)
    halut_request_error(request, 503, "no memory for the reply; try again");
  else
    halut_request_reply(request, &reply);
}

void halut_handle_v2_ready(void *self, struct halut_request *request) {
  const struct halut_app *app = self;
  struct halut_json_out out = {0};
  if (app->draining) {
    not_ready(app, request, "\"live\":true", NULL);
    return;
  }
  halut_json_out_format(&out, "{\"live\":true,\"ready\":true}");
  halut_answer(request, 200, "application/json", &out);
}

/* ---- the models ---- */

/* What the path of a request names. */
struct named {
  char name[HALUT_NAME_MAX]; /* cut if too long for a model */
  uint32_t version;          /* 0: the newest */
  bool is_possible;          /* as a name and a version */
};

static struct named named_read(const struct halut_request *request) {
  struct named named;
  size_t bytes = request->capture[0].bytes;
  snprintf(named.name, sizeof named.name, "%.*s", (int)bytes, request->capture[0].text);
  named.is_possible =
      halut_version_is(request->capture[1].text, request->capture[1].bytes, &named.version) &&
      bytes < sizeof named.name;
  return named;
}

struct halut_entry *halut_v2_entry(struct halut_app *app, struct halut_request *request) {
  struct named named = named_read(request);
  struct halut_entry *entry = NULL;
  if (named.is_possible)
    entry = halut_catalog_named(app->catalog, named.name, named.version);
  if (entry == NULL && request->capture[1].bytes > 0)
    halut_request_error(request, 404, "Request for unknown model: '%s' version %.*s is not found",
                        named.name, (int)request->capture[1].bytes, request->capture[1].text);
  else if (entry == NULL)
    halut_request_error(request, 404, "Request for unknown model: '%s' is not found", named.name);
  return entry;
}

void halut_handle_v2_models(void *self, struct halut_request *request) {
  const struct halut_app *app = self;
  struct halut_json_out out = {0};
  const char *comma = "";
  halut_json_out_format(&out, "{\"models\":[");
  for (uint32_t i = 0; i < app->catalog->count; i++) {
    struct halut_entry *entry = app->catalog->entries[i];
    if (halut_catalog_named(app->catalog, entry->info->name, 0) != entry)
      continue; /* an older version */
    halut_json_out_format(&out, "%s\"%s\"", comma, entry->info->name);
    comma = ",";
  }
  halut_json_out_format(&out, "]}");
  halut_answer(request, 200, "application/json", &out);
}

/* Why a model that has a file is not served; NULL if it is served, or has none. */
static const char *absence_of(const struct halut_catalog *catalog, const struct named *named) {
  if (!named->is_possible ||
      halut_catalog_named(catalog, named->name, named->version) != NULL)
    return NULL;
  for (uint32_t i = 0; i < catalog->note_count; i++)
    if (strcmp(catalog->notes[i].name, named->name) == 0 &&
        (named->version == 0 || named->version == catalog->notes[i].version))
      return catalog->notes[i].reason;
  return NULL;
}

void halut_handle_v2_model_ready(void *self, struct halut_request *request) {
  struct halut_app *app = self;
  struct named named = named_read(request);
  const char *absence = absence_of(app->catalog, &named);
  struct halut_json_out out = {0};
  size_t bytes;
  if (absence == NULL && halut_v2_entry(app, request) == NULL)
    return;
  halut_json_out_format(&out, "\"name\":");
  halut_json_out_string(&out, named.name);
  char *members = halut_json_out_take(&out, &bytes);
  if (members == NULL)
    halut_request_error(request, 503, "no memory for the reply; try again");
  else if (absence != NULL || app->draining)
    not_ready(app, request, members, absence);
  else {
    halut_json_out_format(&out, "{%s,\"ready\":true}", members);
    halut_answer(request, 200, "application/json", &out);
  }
  free(members);
}

static void tensor_print(const struct halut_v2_tensor *tensor, struct halut_json_out *out) {
  halut_json_out_format(out, "{\"name\":\"%s\",\"datatype\":\"%s\",\"shape\":[-1", tensor->name,
                        halut_number_name(tensor->type));
  for (uint32_t i = 1; i < tensor->rank; i++)
    halut_json_out_format(out, ",%u", tensor->dim[i]);
  halut_json_out_format(out, "]}");
}

static void properties_print(const struct halut_catalog *catalog,
                             const struct halut_model_info *info, struct halut_json_out *out) {
  halut_json_out_format(out, "{\"kind\":\"%s\",\"sha256\":\"%s\",\"backends\":\"",
                        info->kind == HALUT_NETWORK ? "network" : "product", info->sha256);
  for (uint32_t b = 0; b < catalog->options.backend_count; b++)
    halut_json_out_format(out, "%s%s", b > 0 ? "," : "", catalog->options.backends[b]->name);
  halut_json_out_format(out, "\"");
  if (info->kind == HALUT_NETWORK)
    halut_json_out_format(out, ",\"logit_scale\":\"%.9g\"", (double)info->logit_scale);
  halut_json_out_format(out, "}");
}

void halut_handle_v2_model(void *self, struct halut_request *request) {
  struct halut_app *app = self;
  const struct halut_entry *entry = halut_v2_entry(app, request);
  struct halut_json_out out = {0};
  struct halut_v2_tensor tensor;
  const char *comma = "";
  if (entry == NULL)
    return;
  halut_json_out_format(&out, "{\"name\":\"%s\",\"versions\":[", entry->info->name);
  for (uint32_t i = 0; i < app->catalog->count; i++) {
    const struct halut_model_info *info = app->catalog->entries[i]->info;
    if (strcmp(info->name, entry->info->name) != 0)
      continue;
    halut_json_out_format(&out, "%s\"%u\"", comma, info->version);
    comma = ",";
  }
  halut_json_out_format(&out, "],\"platform\":\"" HALUT_V2_PLATFORM "\",\"inputs\":[");
  halut_v2_input(entry->info, &tensor);
  tensor_print(&tensor, &out);
  halut_json_out_format(&out, "],\"outputs\":[");
  for (uint32_t i = 0; halut_v2_output(entry->info, i, &tensor); i++) {
    halut_json_out_format(&out, i > 0 ? "," : "");
    tensor_print(&tensor, &out);
  }
  halut_json_out_format(&out, "],\"properties\":");
  properties_print(app->catalog, entry->info, &out);
  halut_json_out_format(&out, "}");
  halut_answer(request, 200, "application/json", &out);
}

/* In a configuration the batch is no dimension, and types have a prefix. */
static void config_tensor_print(const struct halut_v2_tensor *tensor, struct halut_json_out *out) {
  halut_json_out_format(out, "{\"name\":\"%s\",\"data_type\":\"TYPE_%s\",", tensor->name,
                        halut_number_name(tensor->type));
  halut_json_out_format(out, "\"format\":\"%s\",\"dims\":[",
                        tensor->rank == 4 ? "FORMAT_NCHW" : "FORMAT_NONE");
  for (uint32_t i = 1; i < tensor->rank; i++)
    halut_json_out_format(out, "%s%u", i > 1 ? "," : "", tensor->dim[i]);
  halut_json_out_format(out, "],\"label_filename\":\"\"}");
}

void halut_handle_v2_config(void *self, struct halut_request *request) {
  struct halut_app *app = self;
  const struct halut_entry *entry = halut_v2_entry(app, request);
  struct halut_json_out out = {0};
  struct halut_v2_tensor tensor;
  if (entry == NULL)
    return;
  halut_json_out_format(&out,
                        "{\"name\":\"%s\",\"platform\":\"" HALUT_V2_PLATFORM
                        "\",\"backend\":\"%s\",\"version_policy\":{\"all\":{}},"
                        "\"max_batch_size\":%llu,\"input\":[",
                        entry->info->name, app->catalog->options.backends[0]->name,
                        (unsigned long long)app->limits.rows_max);
  halut_v2_input(entry->info, &tensor);
  config_tensor_print(&tensor, &out);
  halut_json_out_format(&out, "],\"output\":[");
  for (uint32_t i = 0; halut_v2_output(entry->info, i, &tensor); i++) {
    halut_json_out_format(&out, i > 0 ? "," : "");
    config_tensor_print(&tensor, &out);
  }
  halut_json_out_format(&out,
                        "],\"instance_group\":[{\"kind\":\"KIND_CPU\",\"count\":%u}],"
                        "\"dynamic_batching\":{\"preferred_batch_size\":[%llu]}}",
                        app->workers, (unsigned long long)app->config.batch_max);
  halut_answer(request, 200, "application/json", &out);
}

/* ---- inference ---- */

static void ask_free(void *detail) {
  struct halut_v2_ask *ask = detail;
  halut_json_close(ask->json);
  free(ask);
}

/* False after an answer. */
static bool head_read(struct halut_request *request, struct halut_v2_ask *ask) {
  const char *text = halut_request_header(request, HALUT_V2_HEAD_BYTES);
  size_t digits = text != NULL ? strspn(text, "0123456789") : 0;
  if (text == NULL)
    return true;
  unsigned long long bytes = digits > 0 && digits < 19 ? strtoull(text, NULL, 10) : ULLONG_MAX;
  if (digits == 0 || text[digits] != '\0' || bytes > SIZE_MAX / 2) {
    halut_request_error(request, 400, HALUT_V2_HEAD_BYTES ": \"%.32s\" is not a number of bytes",
                        text);
    return false;
  }
  ask->has_head = true;
  ask->head_bytes = (size_t)bytes;
  return true;
}

void halut_handle_v2_infer(void *self, struct halut_request *request) {
  struct halut_app *app = self;
  struct halut_entry *entry = halut_v2_entry(app, request);
  if (entry == NULL)
    return;
  struct halut_job *job = halut_job_new(app, request, entry->info->kind, &halut_v2_form);
  if (job == NULL || !halut_job_query_backend(job, request))
    return;
  struct halut_v2_ask *ask = calloc(1, sizeof *ask);
  job->entry = entry;
  job->detail = ask;
  job->detail_free = ask != NULL ? ask_free : NULL;
  if (ask == NULL)
    halut_request_error(request, 503, "no memory for the request; try again");
  else if (head_read(request, ask))
    halut_job_submit(app, job);
}
