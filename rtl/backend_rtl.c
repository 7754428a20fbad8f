#include "backend_rtl.h"

#include <stdlib.h>
#include <string.h>

#include "driver.h"
#include "sim.h"

#ifdef HALUT_RTL_SIM

struct halut_backend {
  struct halut_sim *sim;
  struct halut_bus bus;
  struct halut_device *device;
  bool tracing;
};

struct rtl_options {
  struct halut_device_options device;
  char trace[256]; /* "" for none */
};

static int option_number(const char *key, const char *text, uint32_t *out,
                         struct halut_diag *diag) {
  char *end;
  const unsigned long n = strtoul(text, &end, 10);
  if (*text < '0' || *text > '9' || *end != 0 || n == 0 || n > 1000000) {
    return halut_fail(diag, HALUT_EINVALID, 0,
                      "rtl backend: %s=\"%s\" is not a whole number from 1 to 1000000", key, text);
  }
  *out = (uint32_t)n;
  return 0;
}

static int option_set(struct rtl_options *o, const char *key, const char *value,
                      struct halut_diag *diag) {
  if (strcmp(key, "resident") == 0)
    return option_number(key, value, &o->device.resident_max, diag);
  if (strcmp(key, "budget") == 0)
    return option_number(key, value, &o->device.budget_percent, diag);
  if (strcmp(key, "trace") == 0 && *value) {
    memcpy(o->trace, value, strlen(value) + 1);
    return 0;
  }
  return halut_fail(diag, HALUT_EINVALID, 0,
                    "rtl backend: unknown option \"%s=%s\"; there are resident, budget, trace", key,
                    value);
}

static int options_parse(const char *text, struct rtl_options *o, struct halut_diag *diag) {
  while (text && *text) {
    const size_t bytes = strcspn(text, ",");
    char item[sizeof o->trace];
    if (bytes >= sizeof item) {
      return halut_fail(diag, HALUT_EINVALID, 0, "rtl backend: an option is longer than %zu bytes",
                        sizeof item - 1);
    }
    memcpy(item, text, bytes);
    item[bytes] = 0;
    char *equals = strchr(item, '=');
    if (!equals) {
      return halut_fail(diag, HALUT_EINVALID, 0, "rtl backend: option \"%s\" is not key=value",
                        item);
    }
    *equals = 0;
    int err = option_set(o, item, equals + 1, diag);
    if (err)
      return err;
    text += bytes + (text[bytes] == ',');
  }
  return 0;
}

static void rtl_close(struct halut_backend *backend) {
  if (!backend)
    return;
  halut_device_close(backend->device);
  halut_sim_unit.close(backend->sim);
  free(backend);
}

/* Here, not in sim.cpp, which is compiled for such a processor itself. */
static int cpu_check(struct halut_diag *diag) {
#ifdef HALUT_RTL_V3
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") ||
      !__builtin_cpu_supports("bmi2")) {
    return halut_fail(diag, HALUT_EINVALID, 0,
                      "rtl backend: this build of the accelerator needs a processor with AVX2, FMA "
                      "and BMI2");
  }
#endif
  (void)diag;
  return 0;
}

static int rtl_open(const char *options, struct halut_backend **out, struct halut_diag *diag) {
  struct rtl_options parsed = {0};
  int err = cpu_check(diag);
  if (!err)
    err = options_parse(options, &parsed, diag);
  if (err)
    return err;
  struct halut_backend *backend = calloc(1, sizeof *backend);
  if (!backend)
    return halut_fail(diag, HALUT_ENOMEM, 0, "no memory for the rtl backend");
  err = halut_sim_unit.open(&backend->sim, &backend->bus, diag);
  if (err)
    goto fail;
  err = halut_device_open(&backend->bus, &parsed.device, &backend->device, diag);
  if (err)
    goto fail;
  if (parsed.trace[0]) {
    err = halut_sim_unit.trace(backend->sim, parsed.trace, diag);
    if (err)
      goto fail;
    backend->tracing = true;
  }
  *out = backend;
  return 0;
fail:
  rtl_close(backend);
  return err;
}

static int rtl_load(struct halut_backend *backend, const struct halut_lut *lut,
                    const struct halut_conv *conv, uint32_t *handle_out, struct halut_diag *diag) {
  (void)conv; /* the caller gathers */
  return halut_device_load(backend->device, lut, handle_out, diag);
}

static int rtl_product(struct halut_backend *backend, uint32_t handle, const uint8_t *value,
                       size_t rows, int32_t *acc, struct halut_stats *stats) {
  const int err = halut_device_product(backend->device, handle, value, rows, acc, stats, NULL);
  if (backend->tracing && halut_sim_unit.cycles(backend->sim) > HALUT_TRACE_CYCLES) {
    backend->tracing = false;
    (void)halut_sim_unit.trace(backend->sim, NULL, NULL);
  }
  return err;
}

#else

static int rtl_open(const char *options, struct halut_backend **out, struct halut_diag *diag) {
  (void)options;
  (void)out;
  return halut_fail(
      diag, HALUT_EINVALID, 0,
      "rtl backend: this program was built without Verilator; install it and build again");
}

static void rtl_close(struct halut_backend *backend) {
  assert(!backend);
}

static int rtl_load(struct halut_backend *backend, const struct halut_lut *lut,
                    const struct halut_conv *conv, uint32_t *handle_out, struct halut_diag *diag) {
  (void)backend, (void)lut, (void)conv, (void)handle_out;
  return halut_fail(diag, HALUT_EINVALID, 0, "rtl backend: cannot be open in this build");
}

static int rtl_product(struct halut_backend *backend, uint32_t handle, const uint8_t *value,
                       size_t rows, int32_t *acc, struct halut_stats *stats) {
  (void)backend, (void)handle, (void)value, (void)rows, (void)acc, (void)stats;
  return HALUT_EINVALID;
}

#endif

const struct halut_backend_ops halut_backend_rtl = {
    .name = "rtl", .open = rtl_open, .close = rtl_close, .load = rtl_load, .product = rtl_product};
