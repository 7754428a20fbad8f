/* DESIGN: one table says which path takes which method and what answers it. A handler either
 * answers at once from what the loop knows, or makes a job and parks the request. */
#include <assert.h>

#include "handlers.h"

const struct halut_route halut_routes[] = {
    {HALUT_GET, "/", halut_handle_page, false, HALUT_OPEN},
    {HALUT_GET, "/page/{}", halut_handle_page, false, HALUT_OPEN},
    {HALUT_GET, "/healthz", halut_handle_health, false, HALUT_OPEN},
    {HALUT_GET, "/metrics", halut_handle_metrics, false, HALUT_METRICS},
    {HALUT_GET, "/v1/models", halut_handle_models, false, HALUT_INFER},
    {HALUT_GET, "/v1/models/{}", halut_handle_model, false, HALUT_INFER},
    {HALUT_POST | HALUT_PUT, "/v1/classify", halut_handle_classify, true, HALUT_INFER},
    {HALUT_POST, "/v1/matmul", halut_handle_matmul, true, HALUT_INFER},
};
const size_t halut_route_count = sizeof halut_routes / sizeof halut_routes[0];
static_assert(sizeof halut_routes / sizeof halut_routes[0] <= HALUT_ROUTES_MAX,
              "a row of counters each");
