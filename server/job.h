/* job.h: one inference from admission to answer.
 *
 * The loop makes a job, parks its request and submits it. A worker reads the body into a tensor
 * (classify.c, matmul.c), computes (compute.c), and writes the reply into the parked request. The
 * loop takes it back, counts it and resumes the request.
 */
#ifndef HALUT_JOB_H
#define HALUT_JOB_H

#include <stdbool.h>

#include "batcher.h"
#include "catalog.h"
#include "http.h"
#include "image.h"
#include "json.h"
#include "metrics.h"
#include "pool.h"

enum { HALUT_LANE_NETWORK = 0, HALUT_LANE_PRODUCT = 1, HALUT_LANES = 2 };
enum { HALUT_TOP_DEFAULT = 5, HALUT_TOP_MAX = 1000 }; /* classes in an answer */

/* Limits a worker checks; from the configuration. */
struct halut_job_limits {
  uint64_t pixels_max, rows_max;
  uint32_t depth_max;
  uint32_t model_queue_max; /* 0: no limit */
  uint64_t tensor_total_max;
  _Atomic uint64_t *tensor_bytes; /* of all jobs */
};

enum halut_answer { HALUT_AS_BODY = 0, HALUT_AS_JSON, HALUT_AS_NPY }; /* of a product */
#define HALUT_JOB_CROWDED "model '%s' has %u requests already (model-queue-max); try again"

struct halut_job;
struct halut_inspection; /* inspect.h */

/* A way to ask and to be answered, on the worker: `read` takes the body to job->entry, rows and in;
 * on failure it makes the reply and sets job->failed. `write` takes job->out to the reply. */
struct halut_job_form {
  void (*read)(struct halut_job *job);
  void (*write)(struct halut_job *job);
};
extern const struct halut_job_form halut_classify_form, halut_matmul_form, halut_explain_form;

struct halut_job {
  struct halut_item item; /* first: the pool hands it back */
  struct halut_request *request;
  void *app; /* for the loop */
  struct halut_catalog *catalog;
  const struct halut_job_limits *limits;
  enum halut_kind kind;
  const struct halut_job_form *form;
  char boundary[71]; /* of a multipart body, or "" */

  /* Asked for: by the query, then by the body. */
  const char *model_name; /* in `text`, or NULL */
  char text[128];
  uint32_t version; /* 0: the newest */
  int backend;      /* index in the catalogue's options */
  uint32_t top;
  enum halut_image_fit fit;
  uint64_t wait_max_ns; /* 0: as long as compute-timeout-ms lets it */
  void *detail;         /* of the form, or NULL; detail_free is called when the job ends */
  void (*detail_free)(void *detail);
  enum halut_answer answer;
  bool is_npy;                      /* product: the body is an .npy array */
  bool is_columnar;                 /* the body named its "inputs", so the answer has "outputs" */
  struct halut_inspection *inspect; /* what else is asked for, or NULL */

  /* Made by the worker. */
  struct halut_entry *entry;   /* of the catalogue */
  struct halut_entry *counted; /* among whose pending jobs it is, or NULL */
  bool failed;                 /* the reply is an error */
  bool peer_left, crowded;     /* so it was not computed: nobody waits; model-queue-max */
  bool no_room;                /* nor this one: body-total-max or tensor-total-max */
  bool many;                   /* network: the body was a list of instances */
  uint32_t rows;
  void *in, *out;           /* [rows] inputs and outputs, malloc'ed */
  uint64_t tensor_bytes;    /* counted for them */
  struct halut_stats stats; /* its share, but the times, which are the run's */
  uint32_t run_rows;        /* of all jobs of the run that it was part of */
  uint32_t batch_rows;      /* the same in one job of each run, 0 in the others */
  uint64_t phase_ns[HALUT_JOB_PHASES];
};

/* Worker of the pool: everything for a batch of one lane. */
void halut_compute(struct halut_pool *pool, uint32_t worker, struct halut_item **items,
                   uint32_t count);

/* Makes the reply an error; status from `error` (halut_job_status). */
void halut_job_fail(struct halut_job *job, int error, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Fails unless all values are finite: JSON has no NaN and no infinity. `name` is of the matrix,
 * `other` what carries such values. */
bool halut_job_finite(struct halut_job *job, const char *name, const char *other,
                      const float *values, size_t columns);
/* Once the body is read: fails, unless it has, if something in it that nobody read is no JSON. */
void halut_job_json_rest(struct halut_job *job, const struct halut_json *json, const char *where);
/* That, and closes it; NULL is fine. */
void halut_job_json_end(struct halut_job *job, struct halut_json *json);
unsigned halut_job_status(int error);
/* Why a session could not compute, in words. */
const char *halut_job_reason(int error);
/* Any thread: counts the job among those of the entry, and of no other; false if that has
 * model-queue-max. */
bool halut_job_count(struct halut_job *job, struct halut_entry *entry);
void halut_job_uncount(struct halut_job *job);
/* Sets job->entry by name (NULL: the only one, or the default); false after a failure. */
bool halut_job_choose(struct halut_job *job, const char *name);
/* Memory for numbers of the body, `each` bytes one, to free() or to adopt; NULL after a failure.
 * Like what the next two allocate it counts for tensor-total-max, until they count instead. */
void *halut_job_values(struct halut_job *job, size_t count, size_t each);
/* Allocates `in` and `out` for `rows`, or takes `in` over from malloc and allocates `out`; false
 * after a failure. */
bool halut_job_seat(struct halut_job *job, uint32_t rows);
bool halut_job_adopt(struct halut_job *job, uint32_t rows, void *in);
/* classify.c: decodes a PNG, a JPEG or raw pixels, or those in base64, into row `row`. `where`
 * starts the message of a failure. */
bool halut_job_picture(struct halut_job *job, const char *where, const uint8_t *bytes, size_t size,
                       uint32_t row);
bool halut_job_base64(struct halut_job *job, const char *where,
                      const struct halut_json_slice *slice, uint32_t row);
/* NULL leaves it; false after a failure. */
bool halut_job_backend(struct halut_job *job, const char *backend);
/* Takes "model", "backend" and what inspect.h knows from a JSON body; false after a failure. */
bool halut_job_options(struct halut_job *job, const json_t *object);

/* The members that every JSON reply has: model, version, backend; later timing_us, what inspect.h
 * writes, and device. */
void halut_job_write_head(const struct halut_job *job, struct halut_json_out *out);
void halut_job_write_tail(const struct halut_job *job, struct halut_json_out *out);
void halut_job_reply(struct halut_job *job, struct halut_json_out *out);

void halut_job_free(struct halut_job *job); /* all but the catalogue; NULL is fine */

#endif
