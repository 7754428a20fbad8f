/* handlers.h: what answers each row of the routing table, and what handlers share.
 *
 * Loop thread alone. A handler answers at once from what the loop knows, or makes a job and submits
 * it (admission.c), which parks the request.
 */
#ifndef HALUT_HANDLERS_H
#define HALUT_HANDLERS_H

#include "app.h"

/* ---- monitor.c: the page, health and metrics ---- */
halut_handler_fn halut_handle_page, halut_handle_health, halut_handle_metrics;

/* ---- listing.c: the models ---- */
halut_handler_fn halut_handle_models, halut_handle_model, halut_handle_metadata;

/* ---- inference.c: pictures and matrices ---- */
halut_handler_fn halut_handle_classify, halut_handle_matmul, halut_handle_explain;

/* ---- repository.c: which models are served ---- */
halut_handler_fn halut_handle_reload, halut_handle_v2_index, halut_handle_v2_load,
    halut_handle_v2_unload;

/* ---- v2.c, v2_stats.c, v2_logging.c: the Open Inference Protocol ---- */
halut_handler_fn halut_handle_v2_server, halut_handle_v2_live, halut_handle_v2_ready,
    halut_handle_v2_models, halut_handle_v2_model, halut_handle_v2_model_ready,
    halut_handle_v2_config, halut_handle_v2_infer, halut_handle_v2_stats,
    halut_handle_v2_model_stats, halut_handle_v2_logging, halut_handle_v2_logging_set;
/* The model and version that the path names; NULL after an answer. */
struct halut_entry *halut_v2_entry(struct halut_app *app, struct halut_request *request);
/* ---- dialects.c: the paths of other servers ---- */
halut_handler_fn halut_handle_predictions, halut_handle_predict, halut_handle_examples,
    halut_handle_labels, halut_handle_ping, halut_handle_invocations;

/* ---- learning.c: jobs that make a model ---- */
halut_handler_fn halut_handle_learn, halut_handle_jobs, halut_handle_job;
halut_handler_fn halut_handle_job_cancel, halut_handle_job_events;

/* ---- shared ---- */

/* Answers with what was written to `out`. */
void halut_answer(struct halut_request *request, unsigned status, const char *type,
                  struct halut_json_out *out);
/* False after an answer: the query has a parameter that is not in the NULL-terminated `names`. */
bool halut_query_only(struct halut_request *request, const char *const *names);

/* The body, with its content coding undone, as a JSON object that is the caller's; NULL in *out if
 * there is no body. False after an answer. */
bool halut_settings_open(struct halut_app *app, struct halut_request *request,
                         struct halut_json **out);

/* A version of a path: "3", "3.0" as TorchServe writes it, or 0, the newest, for "latest" and none.
 * False if it cannot be one. */
bool halut_version_is(const char *text, size_t bytes, uint32_t *version);
/* That of capture `index`. False after an answer. */
bool halut_version_read(struct halut_request *request, size_t index, uint32_t *version);

/* admission.c. A job of the current catalogue, owned by the request; NULL after an answer (503
 * without memory). `form` reads and writes it. */
struct halut_job *halut_job_new(struct halut_app *app, struct halut_request *request,
                                enum halut_kind kind, const struct halut_job_form *form);
/* Takes "backend", or that and "model", from the query. False after an answer. */
bool halut_job_query_backend(struct halut_job *job, struct halut_request *request);
bool halut_job_query(struct halut_job *job, struct halut_request *request);
/* Takes "top" and "fit" from the query. False after an answer. */
bool halut_job_query_top(struct halut_job *job, struct halut_request *request);
/* Queues the job and parks its request, or answers 503. */
void halut_job_submit(struct halut_app *app, struct halut_job *job);

#endif
