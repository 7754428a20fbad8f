/* DESIGN: one table says which path takes which method and what answers it. A handler either
 * answers at once from what the loop knows, or makes a job and parks the request. */
#include <assert.h>

#include "handlers.h"

const struct halut_route halut_routes[] = {
    {HALUT_GET, "/", halut_handle_page, false, HALUT_OPEN},
    {HALUT_GET, "/page/{}", halut_handle_page, false, HALUT_OPEN},
    {HALUT_GET, "/openapi.json", halut_handle_page, false, HALUT_OPEN},
    {HALUT_GET, "/healthz", halut_handle_health, false, HALUT_OPEN},
    {HALUT_GET, "/metrics", halut_handle_metrics, false, HALUT_METRICS},
    {HALUT_GET, "/v1/models", halut_handle_models, false, HALUT_INFER},
    {HALUT_GET, "/v1/models/{}", halut_handle_model, false, HALUT_INFER},
    {HALUT_GET, "/v1/models/{}/versions/{}", halut_handle_model, false, HALUT_INFER},
    {HALUT_GET, "/v1/models/{}/metadata", halut_handle_metadata, false, HALUT_INFER},
    {HALUT_GET, "/v1/models/{}/versions/{}/metadata", halut_handle_metadata, false, HALUT_INFER},
    {HALUT_POST | HALUT_PUT, "/v1/classify", halut_handle_classify, true, HALUT_INFER},
    {HALUT_POST, "/v1/matmul", halut_handle_matmul, true, HALUT_INFER},
    {HALUT_POST, "/v1/explain", halut_handle_explain, true, HALUT_INFER},
    {HALUT_POST, "/v1/learn", halut_handle_learn, HALUT_BODY_SAMPLES, HALUT_ADMIN},
    {HALUT_GET, "/v1/jobs", halut_handle_jobs, false, HALUT_ADMIN},
    {HALUT_GET, "/v1/jobs/{}", halut_handle_job, false, HALUT_ADMIN},
    {HALUT_DELETE, "/v1/jobs/{}", halut_handle_job_cancel, false, HALUT_ADMIN},
    {HALUT_GET, "/v1/jobs/{}/events", halut_handle_job_events, false, HALUT_ADMIN},
    {HALUT_POST, "/v1/reload", halut_handle_reload, false, HALUT_ADMIN},

    {HALUT_GET, "/v2", halut_handle_v2_server, false, HALUT_OPEN},
    {HALUT_GET, "/v2/", halut_handle_v2_server, false, HALUT_OPEN},
    {HALUT_GET, "/v2/health/live", halut_handle_v2_live, false, HALUT_OPEN},
    {HALUT_GET, "/v2/health/ready", halut_handle_v2_ready, false, HALUT_OPEN},
    {HALUT_GET, "/v2/models", halut_handle_v2_models, false, HALUT_INFER},
    {HALUT_GET, "/v2/models/stats", halut_handle_v2_stats, false, HALUT_INFER},
    {HALUT_GET, "/v2/models/{}", halut_handle_v2_model, false, HALUT_INFER},
    {HALUT_GET, "/v2/models/{}/versions/{}", halut_handle_v2_model, false, HALUT_INFER},
    {HALUT_GET, "/v2/models/{}/ready", halut_handle_v2_model_ready, false, HALUT_INFER},
    {HALUT_GET, "/v2/models/{}/versions/{}/ready", halut_handle_v2_model_ready, false, HALUT_INFER},
    {HALUT_GET, "/v2/models/{}/config", halut_handle_v2_config, false, HALUT_INFER},
    {HALUT_GET, "/v2/models/{}/versions/{}/config", halut_handle_v2_config, false, HALUT_INFER},
    {HALUT_GET, "/v2/models/{}/stats", halut_handle_v2_model_stats, false, HALUT_INFER},
    {HALUT_GET, "/v2/models/{}/versions/{}/stats", halut_handle_v2_model_stats, false, HALUT_INFER},
    {HALUT_POST, "/v2/models/{}/infer", halut_handle_v2_infer, true, HALUT_INFER},
    {HALUT_POST, "/v2/models/{}/versions/{}/infer", halut_handle_v2_infer, true, HALUT_INFER},
    {HALUT_POST, "/v2/repository/index", halut_handle_v2_index, HALUT_BODY_SETTINGS, HALUT_INFER},
    {HALUT_POST, "/v2/repository/models/{}/load", halut_handle_v2_load,
     HALUT_BODY_SETTINGS, HALUT_ADMIN},
    {HALUT_POST, "/v2/repository/models/{}/unload", halut_handle_v2_unload,
     HALUT_BODY_SETTINGS, HALUT_ADMIN},
    {HALUT_GET, "/v2/logging", halut_handle_v2_logging, false, HALUT_INFER},
    {HALUT_POST, "/v2/logging", halut_handle_v2_logging_set, HALUT_BODY_SETTINGS, HALUT_ADMIN},

    {HALUT_POST | HALUT_PUT, "/predictions/{}", halut_handle_predictions, true, HALUT_INFER},
    {HALUT_POST | HALUT_PUT, "/predictions/{}/{}", halut_handle_predictions, true, HALUT_INFER},
    {HALUT_POST, "/v1/models/{}:predict", halut_handle_predict, true, HALUT_INFER},
    {HALUT_POST, "/v1/models/{}/versions/{}:predict", halut_handle_predict, true, HALUT_INFER},
    {HALUT_POST, "/v1/models/{}:classify", halut_handle_examples, true, HALUT_INFER},
    {HALUT_POST, "/v1/models/{}/versions/{}:classify", halut_handle_examples, true, HALUT_INFER},
    {HALUT_POST, "/models/{}", halut_handle_labels, true, HALUT_INFER},
    {HALUT_GET, "/ping", halut_handle_ping, false, HALUT_OPEN},
    {HALUT_POST, "/invocations", halut_handle_invocations, true, HALUT_INFER},
};
const size_t halut_route_count = sizeof halut_routes / sizeof halut_routes[0];
static_assert(sizeof halut_routes / sizeof halut_routes[0] <= HALUT_ROUTES_MAX,
              "a row of counters each");
