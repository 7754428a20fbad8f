/* dialects.h: the forms in which clients of other servers ask and are answered.
 *
 * TorchServe, TensorFlow Serving and KServe's protocol 1, Hugging Face and SageMaker. Their paths
 * are rows of the routing table (dialects.c); their bodies and replies are forms (dialect_forms.c).
 */
#ifndef HALUT_DIALECTS_H
#define HALUT_DIALECTS_H

#include "job.h"

extern const struct halut_job_form halut_torchserve_form; /* {label: probability, ...} */
extern const struct halut_job_form halut_predict_form;    /* {"predictions": [[...], ...]} */
extern const struct halut_job_form halut_examples_form;   /* {"result": [[[label, score], ...]]} */
extern const struct halut_job_form halut_labels_form;     /* [{"label": ..., "score": ...}, ...] */

/* {"code", "type", "message"}, for struct halut_request. */
char *halut_torchserve_error(unsigned status, const char *text, size_t *bytes_out);

/* How the errors of a route are worded; NULL: like all others. */
halut_error_fn *halut_dialect_wording(const struct halut_route *route);

#endif
