#include <stdlib.h>
#include <string.h>

#include "handlers.h"
#include "inspect.h"
#include "multipart.h"

bool halut_job_query_top(struct halut_job *job, struct halut_request *request) {
  const char *text = halut_request_query(request, "top");
  struct halut_diag diag = {0};
  char *end = NULL;
  job->top = HALUT_TOP_DEFAULT;
  if (text != NULL) {
    long top = strtol(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end != '\0' || top < 1 || top > HALUT_TOP_MAX) {
      halut_request_error(request, 400, "top: must be a whole number in 1..%d, not \"%.32s\"",
                          HALUT_TOP_MAX, text);
      return false;
    }
    job->top = (uint32_t)top;
  }
  if (halut_image_fit_read(halut_request_query(request, "fit"), &job->fit, &diag) == HALUT_OK)
    return true;
  halut_request_error(request, 400, "%s", diag.text);
  return false;
}

/* The boundary of a form is known to its header alone. */
static void picture_submit(struct halut_app *app, struct halut_job *job,
                           struct halut_request *request) {
  if (halut_multipart_boundary(halut_request_header(request, "Content-Type"), job->boundary) ==
      HALUT_EINVALID)
    halut_request_error(request, 400,
                        "Content-Type: multipart/form-data without a usable boundary");
  else
    halut_job_submit(app, job);
}

void halut_handle_classify(void *self, struct halut_request *request) {
  static const char *const names[] = {"model",   "backend", "top",  "fit",
                                      "compare", "timing",  "codes", NULL};
  if (!halut_query_only(request, names))
    return;
  struct halut_job *job = halut_job_new(self, request, HALUT_NETWORK, &halut_classify_form);
  if (job != NULL && halut_job_query(job, request) && halut_job_query_top(job, request) &&
      halut_inspect_query(job, request))
    picture_submit(self, job, request);
}

void halut_handle_explain(void *self, struct halut_request *request) {
  static const char *const names[] = {"model", "backend",  "fit",     "layer",  "x", "y",
                                      "output", "codebook", "compare", "timing", NULL};
  if (!halut_query_only(request, names))
    return;
  struct halut_job *job = halut_job_new(self, request, HALUT_NETWORK, &halut_explain_form);
  if (job != NULL && halut_job_query(job, request) && halut_job_query_top(job, request) &&
      halut_inspect_explain(job, request) && halut_inspect_query(job, request))
    picture_submit(self, job, request);
}

void halut_handle_matmul(void *self, struct halut_request *request) {
  static const char *const names[] = {"model", "backend", "compare", "timing", "codes", NULL};
  if (!halut_query_only(request, names))
    return;
  struct halut_job *job = halut_job_new(self, request, HALUT_PRODUCT, &halut_matmul_form);
  if (job != NULL && halut_job_query(job, request) && halut_inspect_query(job, request))
    halut_job_submit(self, job);
}
