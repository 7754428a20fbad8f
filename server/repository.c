/* DESIGN: loading looks at files, so a thread of the loop's pool does it while the request is
 * parked; unloading changes a list. Either makes a new catalogue: jobs end on the one that they
 * began with. */
#include <stdlib.h>
#include <string.h>

#include "handlers.h"

/* ---- the index ---- */

static void model_print(struct halut_json_out *out, const char *name, uint32_t version,
                        const char *state, const char *reason) {
  halut_json_out_format(out, "%s{\"name\":", out->bytes > 1 ? "," : "");
  halut_json_out_string(out, name);
  if (version > 0)
    halut_json_out_format(out, ",\"version\":\"%u\"", version);
  halut_json_out_format(out, ",\"state\":\"%s\",\"reason\":", state);
  halut_json_out_string(out, reason);
  halut_json_out_format(out, "}");
}

static bool is_served(const struct halut_catalog *catalog, const char *file) {
  for (uint32_t i = 0; i < catalog->count; i++)
    if (strcmp(catalog->entries[i]->file, file) == 0)
      return true;
  return false;
}

void halut_handle_v2_index(void *self, struct halut_request *request) {
  struct halut_app *app = self;
  struct halut_json *json = NULL;
  struct halut_json_out out = {0};
  bool is_ready_only = false;
  if (!halut_settings_open(app, request, &json))
    return;
  int error = json == NULL ? HALUT_OK
                           : halut_json_get_bool(json->root, "ready", false, &is_ready_only, NULL);
  halut_json_close(json);
  if (error != HALUT_OK) {
    halut_request_error(request, 400, "Invalid value for 'ready': expected a boolean");
    return;
  }
  const struct halut_catalog *catalog = app->catalog;
  halut_json_out_format(&out, "[");
  for (uint32_t i = 0; i < catalog->count; i++) {
    const struct halut_entry *entry = catalog->entries[i];
    const struct halut_note *note = halut_catalog_note(catalog, entry->file);
    model_print(&out, entry->info->name, entry->info->version, "READY",
                note != NULL ? note->reason : "");
  }
  for (uint32_t i = 0; i < catalog->note_count && !is_ready_only; i++)
    if (!is_served(catalog, catalog->notes[i].file))
      model_print(&out, catalog->notes[i].name, catalog->notes[i].version, "UNAVAILABLE",
                  catalog->notes[i].reason);
  halut_json_out_format(&out, "]");
  halut_answer(request, 200, "application/json", &out);
}

/* ---- loading ---- */

/* {"parameters": {...}}, of which nothing changes what is done to the model; false after an answer.
 */
static bool parameters_check(struct halut_app *app, struct halut_request *request, const char *verb,
                             const char *name) {
  struct halut_json *json = NULL;
  const char *bad = NULL, *key;
  json_t *value;
  if (!halut_settings_open(app, request, &json))
    return false;
  json_t *parameters = json != NULL ? json_object_get(json->root, "parameters") : NULL;
  if (parameters != NULL && !json_is_null(parameters) && !json_is_object(parameters))
    bad = "'parameters' must be an object";
  json_object_foreach(parameters, key, value) {
    if (strcmp(key, "config") == 0 || strncmp(key, "file:", 5) == 0)
      bad = "'config' and 'file:' are not taken: a model is what its file in the model directory "
            "says";
    if (strcmp(key, "unload_dependents") == 0 && !json_is_boolean(value))
      bad = "'unload_dependents' must be a boolean";
  }
  halut_json_close(json);
  if (bad != NULL)
    halut_request_error(request, 400, "failed to %s '%s', %s", verb, name, bad);
  return bad == NULL;
}

/* The name in the path; false after an answer. */
static bool name_read(struct halut_request *request, const char *verb, char name[HALUT_NAME_MAX]) {
  if (request->capture[0].bytes >= HALUT_NAME_MAX) {
    halut_request_error(request, 404, "failed to %s '%.*s', no model has so long a name", verb,
                        (int)request->capture[0].bytes, request->capture[0].text);
    return false;
  }
  snprintf(name, HALUT_NAME_MAX, "%.*s", (int)request->capture[0].bytes, request->capture[0].text);
  return true;
}

static void reply_take(struct halut_reply *reply, struct halut_json_out *out) {
  *reply = (struct halut_reply){.status = 200, .type = "application/json", .owned = true};
  reply->body = halut_json_out_take(out, &reply->bytes);
  if (reply->body == NULL)
    halut_reply_error(reply, 503, "no memory for the reply; try again");
}

static void load_answer(const struct halut_app *app, struct halut_reply *reply) {
  const struct halut_reload *reload = &app->reload;
  struct halut_json_out out = {0};
  if (reload->error != HALUT_OK) {
    halut_reply_error(reply, halut_job_status(reload->error), "failed to load '%s', %s",
                      reload->only, reload->diag.text);
    return;
  }
  if (reload->problems > 0) {
    halut_reply_error(reply, 400, "failed to load '%s', %.*s", reload->only,
                      (int)strcspn(reload->report, "\n"), reload->report);
    return;
  }
  halut_json_out_format(&out, "{\"name\":\"%s\",\"load\":true}", reload->only);
  reply_take(reply, &out);
}

void halut_handle_v2_load(void *self, struct halut_request *request) {
  char name[HALUT_NAME_MAX];
  if (name_read(request, "load", name) && parameters_check(self, request, "load", name))
    halut_app_reload_for(self, request, name, load_answer);
}

void halut_handle_v2_unload(void *self, struct halut_request *request) {
  struct halut_app *app = self;
  char name[HALUT_NAME_MAX];
  struct halut_catalog *made = NULL;
  struct halut_diag diag = {0};
  struct halut_json_out out = {0};
  if (!name_read(request, "unload", name) || !parameters_check(app, request, "unload", name))
    return;
  if (app->is_reloading) {
    halut_request_error(request, 503, "a reload is under way; try again");
    return;
  }
  int error = halut_catalog_unload(app->catalog, name, &made, &diag);
  if (error != HALUT_OK) {
    halut_request_error(request, halut_job_status(error), "failed to unload '%s', %s", name,
                        diag.text);
    return;
  }
  halut_catalog_drop(app->catalog);
  app->catalog = made;
  halut_app_log(app, HALUT_LOG_INFO, "unloaded %s", name);
  halut_json_out_format(&out, "{\"name\":\"%s\",\"unload\":true}", name);
  halut_answer(request, 200, "application/json", &out);
}

/* ---- the whole directory ---- */

static void reload_answer(const struct halut_app *app, struct halut_reply *reply) {
  const struct halut_reload *reload = &app->reload;
  struct halut_json_out out = {0};
  if (reload->error != HALUT_OK)
    halut_reply_error(reply, 422, "reload failed, serving what was loaded: %s", reload->diag.text);
  else if (reload->report[0] != '\0')
    halut_reply_error(reply, 422, "reload: %s", reload->report);
  else {
    halut_json_out_format(&out, "{\"models\":%u}\n", app->catalog->count);
    reply_take(reply, &out);
  }
}

void halut_handle_reload(void *self, struct halut_request *request) {
  halut_app_reload_for(self, request, "", reload_answer);
}
