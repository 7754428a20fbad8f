#include "dialects.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "handlers.h"
#include "multipart.h"

/* A path's model, with its own forms for networks and for products; NULL: does not take them. */
struct dialect {
  const struct halut_job_form *network, *product;
};

static const struct dialect torchserve = {&halut_torchserve_form, NULL};
static const struct dialect predict = {&halut_predict_form, &halut_predict_form};
static const struct dialect examples = {&halut_examples_form, NULL};
static const struct dialect labels = {&halut_labels_form, NULL};

/* `name` may be NULL: networks first. Version 0: the newest. */
static enum halut_kind kind_of(const struct halut_app *app, const char *name, uint32_t version) {
  const struct halut_catalog *catalog = app->catalog;
  if (name != NULL) {
    const struct halut_entry *entry = halut_catalog_named(catalog, name, version);
    return entry != NULL ? entry->info->kind : HALUT_NETWORK;
  }
  for (uint32_t i = 0; i < catalog->count; i++)
    if (catalog->entries[i]->info->kind == HALUT_NETWORK)
      return HALUT_NETWORK;
  return HALUT_PRODUCT;
}

static bool boundary_read(struct halut_job *job, struct halut_request *request) {
  const char *type = halut_request_header(request, "Content-Type");
  if (halut_multipart_boundary(type, job->boundary) != HALUT_EINVALID)
    return true;
  halut_request_error(request, 400, "Content-Type: multipart/form-data without a usable boundary");
  return false;
}

/* Makes and submits the job; NULL after an answer. Query parameters of others are let pass. */
static void dialect_submit(struct halut_app *app, struct halut_request *request,
                           const struct dialect *dialect, enum halut_kind kind, const char *name,
                           uint32_t version, enum halut_answer answer) {
  const struct halut_job_form *form = kind == HALUT_NETWORK ? dialect->network : dialect->product;
  if (form == NULL) {
    halut_request_error(request, 400, "%s is a product of matrices: this path takes pictures",
                        name != NULL ? name : "the model");
    return;
  }
  struct halut_job *job = halut_job_new(app, request, kind, form);
  if (job == NULL || !halut_job_query(job, request) || !halut_job_query_top(job, request) ||
      !boundary_read(job, request))
    return;
  if (name != NULL) {
    snprintf(job->text, sizeof job->text, "%s", name);
    job->model_name = job->text;
  }
  job->version = version;
  job->answer = answer;
  halut_job_submit(app, job);
}

/* The path names the model, and perhaps its version. */
static void dialect_handle(struct halut_app *app, struct halut_request *request,
                           const struct dialect *dialect) {
  char name[HALUT_NAME_MAX];
  uint32_t version = 0;
  snprintf(name, sizeof name, "%.*s", (int)request->capture[0].bytes, request->capture[0].text);
  if (request->capture[0].bytes >= sizeof name)
    halut_request_error(request, 404, "no model has so long a name");
  else if (halut_version_read(request, 1, &version))
    dialect_submit(app, request, dialect, kind_of(app, name, version), name, version,
                   HALUT_AS_BODY);
}

void halut_handle_predictions(void *self, struct halut_request *request) {
  dialect_handle(self, request, &torchserve);
}

halut_error_fn *halut_dialect_wording(const struct halut_route *route) {
  return route->handler == halut_handle_predictions ? halut_torchserve_error : NULL;
}

void halut_handle_predict(void *self, struct halut_request *request) {
  dialect_handle(self, request, &predict);
}

void halut_handle_examples(void *self, struct halut_request *request) {
  dialect_handle(self, request, &examples);
}

void halut_handle_labels(void *self, struct halut_request *request) {
  dialect_handle(self, request, &labels);
}

void halut_handle_ping(void *self, struct halut_request *request) {
  const struct halut_app *app = self;
  struct halut_json_out out = {0};
  halut_json_out_format(&out, "{\"status\":\"%s\"}\n", app->draining ? "Unhealthy" : "Healthy");
  halut_answer(request, app->draining ? 503 : 200, "application/json", &out);
}

/* ---- SageMaker: one path, the headers say what comes and what is wanted ---- */

static bool starts_with(const char *text, const char *start) {
  return text != NULL && strncasecmp(text, start, strlen(start)) == 0;
}

/* True if the media type at the start of `text` is that one, whatever its parameters. */
static bool is_type(const char *text, const char *type) {
  return starts_with(text, type) && strchr(";, \t", text[strlen(type)]) != NULL;
}

/* The weight of one item of an Accept header, 0 to 1. */
static double weight_of(const char *item) {
  const char *end = item + strcspn(item, ",");
  for (const char *p = item; p < end; p++)
    if (*p == ';') {
      p += 1 + strspn(p + 1, " \t");
      if (end - p > 2 && (*p == 'q' || *p == 'Q') && p[1] == '=') {
        double weight = strtod(p + 2, NULL);
        return weight >= 0 && weight <= 1 ? weight : 1;
      }
      p--;
    }
  return 1;
}

/* How welcome the type is by `accept` (NULL: anything is): as the item that names it most exactly
 * says (RFC 9110, section 12.5.1). */
static double welcome(const char *accept, const char *type) {
  double weight = 0;
  int exact = 0;
  if (accept == NULL || accept[0] == '\0')
    return 1;
  for (const char *item = accept; item != NULL; item = strchr(item, ',')) {
    item += strspn(item, ", \t");
    int now = is_type(item, type)              ? 3
              : is_type(item, "application/*") ? 2
              : is_type(item, "*/*")           ? 1
                                               : 0;
    if (now > exact)
      weight = weight_of(item);
    exact = now > exact ? now : exact;
  }
  return weight;
}

/* How to answer; false after an answer: nothing that the client takes can be made. */
static bool answer_choose(struct halut_request *request, enum halut_kind kind,
                          enum halut_answer *out) {
  static const char npy[] = "application/x-npy", json[] = "application/json";
  const char *accept = halut_request_header(request, "Accept");
  double as_npy = kind == HALUT_PRODUCT ? welcome(accept, npy) : 0, as_json = welcome(accept, json);
  if (as_npy > as_json)
    *out = HALUT_AS_NPY;
  else if (as_json > as_npy)
    *out = HALUT_AS_JSON;
  else if (as_json > 0) /* what stands first, or the form of the body */
    *out = is_type(accept, npy) ? HALUT_AS_NPY : HALUT_AS_BODY;
  else
    halut_request_error(request, 406, "Accept: \"%.64s\": the answer is %s%s", accept, json,
                        kind == HALUT_PRODUCT ? " or application/x-npy" : "");
  return as_npy > 0 || as_json > 0;
}

void halut_handle_invocations(void *self, struct halut_request *request) {
  struct halut_app *app = self;
  enum halut_answer answer = HALUT_AS_BODY;
  const char *type = halut_request_header(request, "Content-Type");
  const char *name = halut_request_header(request, "X-Amzn-SageMaker-Target-Model");
  if (name == NULL)
    name = halut_request_query(request, "model");
  if (name != NULL && strlen(name) >= HALUT_NAME_MAX) {
    halut_request_error(request, 404, "no model has so long a name");
    return;
  }
  bool is_npy = is_type(type, "application/x-npy");
  enum halut_kind kind = is_npy && name == NULL ? HALUT_PRODUCT : kind_of(app, name, 0);
  bool is_json = is_type(type, "application/json") || kind == HALUT_PRODUCT;
  if (starts_with(type, "text/"))
    halut_request_error(request, 415,
                        "Content-Type: \"%.64s\" is not read here: send application/json, "
                        "application/x-npy or a picture",
                        type);
  else if (answer_choose(request, kind, &answer))
    dialect_submit(app, request, is_json ? &predict : &labels, kind, name, 0, answer);
}
