/* halut_client.h: a client of halutd in C: this header, halut_client.c, and libc.
 *
 *   struct halut_client *client = NULL;
 *   struct halut_client_label top[5];
 *   size_t count = 5;
 *   int error = halut_client_open("http://127.0.0.1:8080", NULL, &client);
 *   if (error == 0) error = halut_client_classify(client, NULL, png, png_bytes, top, &count);
 *   if (error != 0) fprintf(stderr, "%s\n", halut_client_error(client));
 *   halut_client_close(client);
 *
 * A client owns one connection, which it opens when needed and keeps. One thread at a time may use
 * it; other threads open their own. Calls block, at most for timeout_ms, within which a busy server
 * (503) and a broken connection are tried again with growing pauses; only the start of learning is
 * not after a broken connection, as it may have been queued. Needs POSIX sockets; TLS is for a
 * proxy to add.
 */
#ifndef HALUT_CLIENT_H
#define HALUT_CLIENT_H

#include <stddef.h>
#include <stdint.h>

enum halut_client_status {
  HALUT_CLIENT_OK = 0,
  HALUT_CLIENT_ENOMEM = -1,
  HALUT_CLIENT_EINVALID = -2, /* an argument is wrong */
  HALUT_CLIENT_ECONNECT = -3, /* the server cannot be reached, or hung up */
  HALUT_CLIENT_ETIMEOUT = -4, /* no complete answer within timeout_ms */
  HALUT_CLIENT_EBUSY = -5,    /* 503 to the last attempt */
  HALUT_CLIENT_EREFUSED = -6, /* another status: halut_client_http_status says which */
  HALUT_CLIENT_EANSWER = -7,  /* the answer is not what the protocol says */
  HALUT_CLIENT_ELEARN = -8    /* the job ended without a model: its state and error say how */
};

struct halut_client;

struct halut_client_options {
  uint32_t timeout_ms; /* of a call, attempts and pauses together; 0 is 30000 */
  uint32_t attempts;   /* 0 is 5 */
  uint64_t answer_max; /* bytes of the largest answer taken; 0 is 256 MiB */
  const char *header;  /* one more header line for every request, "X-Api-Key: k", or NULL; copied */
};

/* `url` is http://HOST:PORT or unix:PATH. `options` may be NULL. Does not connect yet. *out is set
 * even on EINVALID, for halut_client_error, and must be closed. Only ENOMEM leaves it NULL. */
int halut_client_open(const char *url, const struct halut_client_options *options,
                      struct halut_client **out);
void halut_client_close(struct halut_client *client); /* NULL is fine */

const char *halut_client_error(const struct halut_client *client); /* why the last call failed */
int halut_client_http_status(const struct halut_client *client);   /* of the last answer, or 0 */

/* 0 if the server is up, has its models and takes requests. Never retries. */
int halut_client_health(struct halut_client *client);

struct halut_client_label {
  char label[64];
  uint32_t index;
  double probability;
};

/* Labels of a picture (PNG, JPEG, or raw planar bytes), the likeliest first. *count is the room in
 * labels[] and becomes their number. `model` may be NULL: the server's only network, or its
 * model-default. */
int halut_client_classify(struct halut_client *client, const char *model, const void *image,
                          size_t bytes, struct halut_client_label *labels, size_t *count);

/* c[rows][*outputs_out] = a[rows][columns] times what `model` has learned; *c_out is to free(). */
int halut_client_matmul(struct halut_client *client, const char *model, const float *a, size_t rows,
                        size_t columns, float **c_out, size_t *outputs_out);

/* The Open Inference Protocol v2. Numbers of a tensor are in memory as the type says; BYTES is not
 * supported. */
enum { HALUT_CLIENT_RANK_MAX = 8, HALUT_CLIENT_NAME_MAX = 64 };

struct halut_client_tensor {
  char name[HALUT_CLIENT_NAME_MAX];
  char datatype[8]; /* "FP32", "UINT8", … */
  uint32_t rank;
  uint64_t dim[HALUT_CLIENT_RANK_MAX];
  void *data; /* inputs: borrowed, outputs: freed by halut_client_free_outputs */
  size_t bytes;
};

/* Sends `inputs`, as binary data or (binary 0) as JSON numbers, and gives all outputs of the model,
 * at most *output_count, which becomes their number. On failure there are none. */
int halut_client_infer(struct halut_client *client, const char *model,
                       const struct halut_client_tensor *inputs, size_t input_count, int binary,
                       struct halut_client_tensor *outputs, size_t *output_count);
void halut_client_free_outputs(struct halut_client_tensor *outputs, size_t count);

/* Learning: the server makes a model of samples, as a job. */
struct halut_client_field {
  const char *name, *value; /* "codebooks", "16"; prototypes, ridge, heldout, seed, candidates,
                               tree_rows, by */
};

struct halut_client_lesson {
  const char *name; /* of the model */
  const float *a;   /* [rows][columns] */
  const float *b;   /* [columns][outputs] */
  size_t rows, columns, outputs;
  const struct halut_client_field *fields; /* what else POST /v1/learn takes; NULL: its defaults */
  size_t field_count;
};

struct halut_client_job {
  char id[64], name[HALUT_CLIENT_NAME_MAX];
  char state[16]; /* queued, running, done, failed, cancelled */
  char stage[32];
  char error[256]; /* if it has failed */
  double progress; /* 0 to 1, of the whole */
  double seconds;
  uint32_t version; /* of the model, once done */
  double nmse;      /* once done: error on rows not learned from; NaN before, or if b is constant */
};

/* Queues a job. */
int halut_client_start_learning(struct halut_client *client,
                                const struct halut_client_lesson *lesson,
                                struct halut_client_job *job_out);
int halut_client_job(struct halut_client *client, const char *id, struct halut_client_job *job_out);
/* Cancels a job that waits or runs; EREFUSED (409) if its model is being saved already. */
int halut_client_cancel(struct halut_client *client, const char *id,
                        struct halut_client_job *job_out);

/* Called with each state seen; nonzero cancels the job. */
typedef int halut_client_progress(void *self, const struct halut_client_job *job);

/* Starts a job and waits for its end, at most wait_ms (0: as long as it takes; timeout_ms is for
 * each question on the way). ELEARN if it failed or was cancelled; ETIMEOUT if it goes on without
 * us. *job_out is the last state seen. `progress` may be NULL. */
int halut_client_learn(struct halut_client *client, const struct halut_client_lesson *lesson,
                       uint32_t wait_ms, halut_client_progress *progress, void *self,
                       struct halut_client_job *job_out);

#endif
