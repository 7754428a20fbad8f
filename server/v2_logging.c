#include <inttypes.h>
#include <string.h>

#include "handlers.h"

static const char *const keys[] = {"log_file",          "log_info",   "log_warning", "log_error",
                                   "log_verbose_level", "log_format", NULL};

static void settings_answer(const struct halut_app *app, struct halut_request *request) {
  const struct halut_app_logging *logging = &app->logging;
  struct halut_json_out out = {0};
  halut_json_out_format(&out,
                        "{\"log_file\":\"\",\"log_info\":%s,\"log_warning\":%s,\"log_error\":%s,"
                        "\"log_verbose_level\":%" PRId64 ",\"log_format\":\"%s\"}",
                        logging->is_on[HALUT_LOG_INFO] ? "true" : "false",
                        logging->is_on[HALUT_LOG_WARNING] ? "true" : "false",
                        logging->is_on[HALUT_LOG_ERROR] ? "true" : "false", logging->verbosity,
                        logging->is_stamped ? "ISO8601" : "default");
  halut_answer(request, 200, "application/json", &out);
}

void halut_handle_v2_logging(void *self, struct halut_request *request) {
  settings_answer(self, request);
}

/* Takes the members that are there; HALUT_EINVALID leaves *logging in parts. */
static int settings_read(const json_t *root, struct halut_app_logging *logging,
                         struct halut_diag *diag) {
  const char *file = "", *format = logging->is_stamped ? "ISO8601" : "default";
  if (halut_json_only(root, keys, diag) ||
      halut_json_get_text(root, "log_file", false, &file, diag) ||
      halut_json_get_bool(root, "log_info", false, &logging->is_on[HALUT_LOG_INFO], diag) ||
      halut_json_get_bool(root, "log_warning", false, &logging->is_on[HALUT_LOG_WARNING], diag) ||
      halut_json_get_bool(root, "log_error", false, &logging->is_on[HALUT_LOG_ERROR], diag) ||
      halut_json_get_int(root, "log_verbose_level", false, 0, INT32_MAX, &logging->verbosity,
                         diag) ||
      halut_json_get_text(root, "log_format", false, &format, diag))
    return HALUT_EINVALID;
  if (file[0] != '\0')
    return halut_fail(diag, HALUT_EINVALID, 0, "log_file: cannot be changed while running");
  if (strcmp(format, "default") != 0 && strcmp(format, "ISO8601") != 0)
    return halut_fail(diag, HALUT_EINVALID, 0,
                      "log_format: must be \"default\" or \"ISO8601\", not \"%.32s\"", format);
  logging->is_stamped = strcmp(format, "ISO8601") == 0;
  logging->is_on[HALUT_LOG_DEBUG] = logging->verbosity > 0;
  return HALUT_OK;
}

void halut_handle_v2_logging_set(void *self, struct halut_request *request) {
  struct halut_app *app = self;
  struct halut_app_logging logging = app->logging;
  struct halut_json *json = NULL;
  struct halut_diag diag = {0};
  if (!halut_settings_open(app, request, &json))
    return;
  int error = json != NULL
                  ? settings_read(json->root, &logging, &diag)
                  : halut_fail(&diag, HALUT_EINVALID, 0, "the body is empty: it is a JSON object");
  halut_json_close(json);
  if (error != HALUT_OK) {
    halut_request_error(request, 400, "%s", diag.text);
    return;
  }
  app->logging = logging;
  settings_answer(app, request);
}
