#include "v2.h"

#include <stdlib.h>
#include <string.h>

#include "inspect.h"

static const char *const json_keys[] = {"data", NULL};

/* What the request's parameters give to all of its outputs. */
struct defaults {
  bool binary;
  uint32_t classes;
};

static bool fail_with(struct halut_job *job, const struct halut_diag *diag, const char *where) {
  halut_job_fail(job, HALUT_EINVALID, "%s%s", where, diag->text);
  return false;
}

/* ---- parameters ---- */

/* An object of scalars, or absent; *out is then NULL. */
static bool parameters_of(struct halut_job *job, const json_t *object, const char *where,
                          const json_t **out) {
  const struct halut_v2_ask *ask = job->detail;
  const json_t *parameters = json_object_get(object, "parameters");
  const char *key;
  json_t *value;
  *out = NULL;
  if (parameters == NULL || json_is_null(parameters))
    return true;
  if (!json_is_object(parameters)) {
    halut_job_fail(job, HALUT_EINVALID, "%sparameters: must be an object", where);
    return false;
  }
  json_object_foreach((json_t *)(uintptr_t)parameters, key, value) {
    if (halut_json_is_text(ask->json, value) || json_is_number(value) || json_is_boolean(value))
      continue;
    halut_job_fail(job, HALUT_EINVALID,
                   "%sparameters: \"%.40s\" must be a string, a number or a boolean", where, key);
    return false;
  }
  *out = parameters;
  return true;
}

/* What the protocol reserves, and this server has no use for: no model keeps a state between
 * requests, and all wait in one queue. Clients send them to every server, so they are let pass if
 * they are what they must be. */
static bool reserved_check(struct halut_job *job, const json_t *parameters) {
  struct halut_diag diag = {0};
  int64_t number = 0;
  bool flag = false;
  const char *key;
  json_t *value;
  json_object_foreach((json_t *)(uintptr_t)parameters, key, value) {
    if (strncmp(key, "triton_", 7) != 0)
      continue;
    halut_job_fail(job, HALUT_EINVALID, "parameters: \"%.40s\": triton_ is reserved", key);
    return false;
  }
  value = json_object_get(parameters, "sequence_id");
  if (value != NULL && !json_is_string(value) &&
      halut_json_get_int(parameters, "sequence_id", false, 0, INT64_MAX, &number, &diag))
    return fail_with(job, &diag, "parameters: ");
  if (halut_json_get_int(parameters, "priority", false, 0, INT64_MAX, &number, &diag) ||
      halut_json_get_bool(parameters, "sequence_start", false, &flag, &diag) ||
      halut_json_get_bool(parameters, "sequence_end", false, &flag, &diag))
    return fail_with(job, &diag, "parameters: ");
  return true;
}

/* A client that names such a region reads, or has written, nothing else. */
static bool shared_memory_check(struct halut_job *job, const json_t *parameters) {
  const char *region = NULL;
  struct halut_diag diag = {0};
  if (parameters == NULL || (json_object_get(parameters, "shared_memory_region") == NULL &&
                             json_object_get(parameters, "shared_memory_byte_size") == NULL &&
                             json_object_get(parameters, "shared_memory_offset") == NULL))
    return true;
  if (halut_json_get_text(parameters, "shared_memory_region", true, &region, &diag))
    return fail_with(job, &diag, "parameters: ");
  halut_job_fail(job, HALUT_EINVALID,
                 "Unable to find shared memory region: '%.64s'; this server has none", region);
  return false;
}

static bool request_parameters(struct halut_job *job, const json_t *root,
                               struct defaults *defaults) {
  struct halut_diag diag = {0};
  const json_t *parameters = NULL;
  const char *backend = NULL, *fit = NULL;
  int64_t classes = 0, wait_us = 0;
  if (!parameters_of(job, root, "", &parameters))
    return false;
  if (parameters == NULL)
    return true;
  if (!reserved_check(job, parameters))
    return false;
  if (halut_json_get_bool(parameters, "binary_data_output", false, &defaults->binary, &diag) ||
      halut_json_get_text(parameters, "backend", false, &backend, &diag) ||
      halut_json_get_int(parameters, "top", false, 0, HALUT_TOP_MAX, &classes, &diag) ||
      halut_json_get_int(parameters, "timeout", false, 0, INT64_MAX, &wait_us, &diag) ||
      halut_json_get_text(parameters, "fit", false, &fit, &diag) ||
      halut_image_fit_read(fit, &job->fit, &diag))
    return fail_with(job, &diag, "parameters: ");
  defaults->classes = (uint32_t)classes;
  if (__builtin_mul_overflow((uint64_t)wait_us, 1000, &job->wait_max_ns))
    job->wait_max_ns = UINT64_MAX;
  return halut_job_backend(job, backend) && halut_inspect_options(job, parameters);
}

/* ---- outputs ---- */

static bool wish_add(struct halut_job *job, struct halut_v2_wish wish) {
  struct halut_v2_ask *ask = job->detail;
  struct halut_v2_tensor output;
  halut_v2_output(job->entry->info, wish.index, &output);
  for (uint32_t i = 0; i < ask->wish_count; i++)
    if (ask->wish[i].index == wish.index) {
      halut_job_fail(job, HALUT_EINVALID, "output '%s' already exists in request", output.name);
      return false;
    }
  if (wish.classes > output.dim[1])
    wish.classes = output.dim[1];
  ask->wish[ask->wish_count++] = wish;
  return true;
}

static bool output_read(struct halut_job *job, const json_t *object,
                        const struct defaults *defaults) {
  struct halut_diag diag = {0};
  const json_t *parameters = NULL;
  const char *name = NULL;
  struct halut_v2_wish wish = {.binary = defaults->binary, .classes = defaults->classes};
  struct halut_v2_tensor output;
  int64_t classes = wish.classes;
  if (!json_is_object(object)) {
    halut_job_fail(job, HALUT_EINVALID, "outputs: must be an array of objects");
    return false;
  }
  if (halut_json_get_text(object, "name", true, &name, &diag))
    return fail_with(job, &diag, "outputs: ");
  while (halut_v2_output(job->entry->info, wish.index, &output) && strcmp(output.name, name) != 0)
    wish.index++;
  if (!halut_v2_output(job->entry->info, wish.index, &output)) {
    halut_job_fail(job, HALUT_EINVALID, "unexpected inference output '%.64s' for model '%s'", name,
                   job->entry->info->name);
    return false;
  }
  if (!parameters_of(job, object, "outputs: ", &parameters) ||
      !shared_memory_check(job, parameters))
    return false;
  if (parameters != NULL &&
      (halut_json_get_bool(parameters, "binary_data", false, &wish.binary, &diag) ||
       halut_json_get_int(parameters, "classification", false, 0, UINT32_MAX, &classes, &diag)))
    return fail_with(job, &diag, "outputs: ");
  wish.classes = (uint32_t)classes;
  return wish_add(job, wish);
}

static bool all_outputs(struct halut_job *job, const struct defaults *defaults) {
  struct halut_v2_tensor output;
  for (uint32_t i = 0; halut_v2_output(job->entry->info, i, &output); i++)
    if (!wish_add(job, (struct halut_v2_wish){
                           .index = i, .binary = defaults->binary, .classes = defaults->classes}))
      return false;
  return true;
}

static bool outputs_read(struct halut_job *job, const json_t *root,
                         const struct defaults *defaults) {
  const json_t *outputs = json_object_get(root, "outputs");
  if (outputs != NULL && !json_is_null(outputs) && !json_is_array(outputs)) {
    halut_job_fail(job, HALUT_EINVALID, "outputs: must be an array");
    return false;
  }
  size_t count = json_array_size(outputs); /* 0 for none */
  for (size_t i = 0; i < count; i++)
    if (!output_read(job, json_array_get(outputs, i), defaults))
      return false;
  return count > 0 || all_outputs(job, defaults);
}

/* One string takes far more than its bytes. */
static bool classes_check(struct halut_job *job) {
  const struct halut_v2_ask *ask = job->detail;
  for (uint32_t i = 0; i < ask->wish_count; i++)
    if ((uint64_t)ask->wish[i].classes * job->rows > HALUT_V2_CLASSES_MAX) {
      halut_job_fail(job, HALUT_EINVALID,
                     "classification: %u classes of %u rows are more than the %d strings that an "
                     "output may have",
                     ask->wish[i].classes, job->rows, HALUT_V2_CLASSES_MAX);
      return false;
    }
  return true;
}

/* ---- inputs ---- */

static bool shape_read(struct halut_job *job, const json_t *object, const char *name,
                       struct halut_v2_data *data) {
  const json_t *shape = json_object_get(object, "shape");
  uint64_t product = 1;
  size_t rank = json_array_size(shape);
  if (!json_is_array(shape) || rank > HALUT_NUMBER_RANK_MAX) {
    halut_job_fail(job, HALUT_EINVALID,
                   "input '%.64s': 'shape' must be an array of at most %d "
                   "dimensions",
                   name, HALUT_NUMBER_RANK_MAX);
    return false;
  }
  for (size_t i = 0; i < rank; i++) {
    const json_t *dim = json_array_get(shape, i);
    if (!json_is_integer(dim) || json_integer_value(dim) < 0) {
      halut_job_fail(job, HALUT_EINVALID, "input '%.64s': 'shape' must hold integers of 0 or more",
                     name);
      return false;
    }
    data->dim[i] = (uint64_t)json_integer_value(dim);
    if (__builtin_mul_overflow(product, data->dim[i], &product) || product > INT64_MAX) {
      halut_job_fail(job, HALUT_EINVALID,
                     "input '%.64s': 'shape' causes total element count to exceed maximum size of "
                     "%lld",
                     name, (long long)INT64_MAX);
      return false;
    }
  }
  data->rank = (uint32_t)rank;
  return true;
}

/* Where the values are: in "data", or `binary_data_size` bytes after the JSON. A BYTES input alone
 * may leave the size out. */
static bool place_read(struct halut_job *job, const json_t *object, const char *name,
                       struct halut_v2_data *data) {
  const struct halut_v2_ask *ask = job->detail;
  const json_t *parameters = NULL;
  struct halut_diag diag = {0};
  int64_t size = -1;
  size_t left = ask->has_head ? job->request->body_bytes - ask->head_bytes : 0;
  if (!parameters_of(job, object, "inputs: ", &parameters) || !shared_memory_check(job, parameters))
    return false;
  if (parameters != NULL &&
      halut_json_get_int(parameters, "binary_data_size", false, 0, INT64_MAX, &size, &diag))
    return fail_with(job, &diag, "inputs: ");
  data->values = json_object_get(object, "data");
  if (data->values != NULL && size >= 0) {
    halut_job_fail(job, HALUT_EINVALID,
                   "input '%s' has both 'data' and 'binary_data_size'; it must have one", name);
    return false;
  }
  if (data->values == NULL && size < 0 && ask->has_head && strcmp(data->datatype, "BYTES") == 0)
    size = (int64_t)left;
  if (data->values == NULL && size < 0) {
    halut_job_fail(job, HALUT_EINVALID, "input '%s' has neither 'data' nor 'binary_data_size'",
                   name);
    return false;
  }
  if (data->values == NULL && (uint64_t)size > left) {
    halut_job_fail(job, HALUT_EINVALID,
                   "unexpected size for input '%s', expecting %llu additional bytes for model '%s'",
                   name, (unsigned long long)size - left, job->entry->info->name);
    return false;
  }
  if (left > (data->values == NULL ? (size_t)size : 0)) {
    halut_job_fail(job, HALUT_EINVALID,
                   "unexpected additional input data for model '%s': %zu bytes after the inputs",
                   job->entry->info->name, left - (data->values == NULL ? (size_t)size : 0));
    return false;
  }
  data->bytes = job->request->body + ask->head_bytes;
  data->byte_count = data->values == NULL ? (size_t)size : 0;
  return true;
}

/* The one input of the model, or NULL after a failure. */
static const json_t *input_find(struct halut_job *job, const json_t *root, const char *wanted) {
  const char *model = job->entry->info->name, *name = NULL;
  const json_t *inputs = json_object_get(root, "inputs");
  struct halut_diag diag = {0};
  size_t count = json_array_size(inputs);
  if (!json_is_array(inputs)) {
    halut_job_fail(job, HALUT_EINVALID, "inputs: must be an array");
    return NULL;
  }
  if (count == 0) {
    halut_job_fail(job, HALUT_EINVALID,
                   "expected 1 inputs but got 0 inputs for model '%s'. Got input(s) [], but "
                   "missing required input(s) ['%s']. Please provide all required input(s).",
                   model, wanted);
    return NULL;
  }
  for (size_t i = 0; i < count; i++) {
    const json_t *input = json_array_get(inputs, i);
    if (!json_is_object(input)) {
      halut_job_fail(job, HALUT_EINVALID, "inputs: must be an array of objects");
      return NULL;
    }
    if (halut_json_get_text(input, "name", true, &name, &diag)) {
      fail_with(job, &diag, "inputs: ");
      return NULL;
    }
    if (strcmp(name, wanted) != 0) {
      halut_job_fail(job, HALUT_EINVALID,
                     "unexpected inference input '%.64s' for model '%s'; it takes '%s'", name,
                     model, wanted);
      return NULL;
    }
  }
  if (count > 1) {
    halut_job_fail(job, HALUT_EINVALID, "input '%s' already exists in request", wanted);
    return NULL;
  }
  return json_array_get(inputs, 0);
}

static bool input_read(struct halut_job *job, const struct halut_json *json) {
  struct halut_diag diag = {0};
  struct halut_v2_tensor input;
  struct halut_v2_data data = {.json = json};
  halut_v2_input(job->entry->info, &input);
  const json_t *object = input_find(job, json->root, input.name);
  if (object == NULL)
    return false;
  if (halut_json_get_text(object, "datatype", true, &data.datatype, &diag))
    return fail_with(job, &diag, "inputs: ");
  return shape_read(job, object, input.name, &data) && place_read(job, object, input.name, &data) &&
         halut_v2_tensor_read(job, &data);
}

/* ---- the request ---- */

/* The JSON ends where binary data may begin: a NUL stands there while it is split. */
static bool json_open(struct halut_job *job, size_t bytes) {
  struct halut_v2_ask *ask = job->detail;
  struct halut_diag diag = {0};
  char *body = (char *)job->request->body;
  if (bytes == 0) {
    halut_job_fail(job, HALUT_EINVALID, "the body is empty: an inference request is a JSON object");
    return false;
  }
  char next = body[bytes];
  body[bytes] = '\0';
  int error = halut_json_open(body, bytes, json_keys, job->limits->depth_max, &ask->json, &diag);
  body[bytes] = next;
  if (error == HALUT_OK)
    return true;
  halut_job_fail(job, error == HALUT_ELIMIT ? HALUT_EINVALID : error,
                 "failed to parse the request JSON buffer: %s", diag.text);
  return false;
}

static bool id_read(struct halut_job *job, const json_t *root) {
  struct halut_v2_ask *ask = job->detail;
  struct halut_diag diag = {0};
  if (json_is_null(json_object_get(root, "id")))
    return true;
  if (halut_json_get_text(root, "id", false, &ask->id, &diag))
    return fail_with(job, &diag, "");
  if (ask->id != NULL && ask->id[0] == '\0')
    ask->id = NULL; /* how the C++ client says that there is none */
  return true;
}

static void infer_read(struct halut_job *job) {
  struct halut_v2_ask *ask = job->detail;
  struct defaults defaults = {0};
  if (ask->head_bytes > job->request->body_bytes) { /* the body is inflated by now */
    halut_job_fail(job, HALUT_EINVALID,
                   HALUT_V2_HEAD_BYTES ": %zu is past the %zu bytes of the body", ask->head_bytes,
                   job->request->body_bytes);
    return;
  }
  if (ask->has_head && ask->head_bytes == 0) {
    defaults.binary = true;
    if (all_outputs(job, &defaults))
      halut_v2_raw_read(job);
    return;
  }
  if (!json_open(job, ask->has_head ? ask->head_bytes : job->request->body_bytes))
    return;
  const json_t *root = ask->json->root;
  if (id_read(job, root) && request_parameters(job, root, &defaults) &&
      outputs_read(job, root, &defaults) && input_read(job, ask->json) && classes_check(job))
    halut_job_json_rest(job, ask->json, "failed to parse the request JSON buffer: ");
}

const struct halut_job_form halut_v2_form = {infer_read, halut_v2_write};
