#include "catalog.h"

#include <dirent.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static void report_line(char *report, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static void report_line(char *report, const char *format, ...) {
  size_t used = strlen(report);
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(report + used, HALUT_REPORT_MAX - used, format, arguments);
  va_end(arguments);
}

/* ---- entries ---- */

static void entry_close(struct halut_entry *entry) {
  if (entry == NULL)
    return;
  for (uint32_t w = 0; entry->seats != NULL && w < entry->workers; w++) {
    for (size_t b = 0; b < HALUT_BACKENDS_OPEN_MAX; b++)
      halut_session_close(entry->seats[w].session[b]);
    free(entry->seats[w].in);
    free(entry->seats[w].out);
  }
  free(entry->seats);
  halut_model_close(entry->model);
  free(entry);
}

static void *aligned(size_t bytes) {
  return aligned_alloc(HALUT_ALIGN, (bytes + HALUT_ALIGN - 1) / HALUT_ALIGN * HALUT_ALIGN);
}

static int seat_open(const struct halut_catalog_options *options, struct halut_entry *entry,
                     struct halut_seat *seat, struct halut_diag *diag) {
  char cpu[64];
  seat->in = aligned(entry->in_bytes * options->batch_max);
  seat->out = aligned(entry->out_bytes * options->batch_max);
  if (seat->in == NULL || seat->out == NULL)
    return halut_fail(diag, HALUT_ENOMEM, 0, "no memory for batches of %u", options->batch_max);
  snprintf(cpu, sizeof cpu, "cpu=%s", options->cpu != NULL ? options->cpu : "");
  for (uint32_t b = 0; b < options->backend_count; b++) {
    bool has_ceiling = options->cpu != NULL && strcmp(options->backends[b]->name, "cpu") == 0;
    int error = halut_session_open(entry->model, options->backends[b], has_ceiling ? cpu : NULL,
                                   options->batch_max, &seat->session[b], diag);
    if (error != HALUT_OK)
      return error;
  }
  return HALUT_OK;
}

/* A file whose golden example does not come out is damaged in a way that its checksum cannot show,
 * or meets a backend that is: neither may serve. */
static int entry_replay(const struct halut_entry *entry, struct halut_diag *diag) {
  struct halut_tensor in, want;
  if (halut_model_golden(entry->model, &in, &want) != HALUT_OK)
    return HALUT_OK;
  for (uint32_t n = 0; n < in.dim[0]; n++)
    for (size_t b = 0; b < HALUT_BACKENDS_OPEN_MAX && entry->seats[0].session[b] != NULL; b++) {
      struct halut_tensor one = in, got = want;
      one.dim[0] = got.dim[0] = 1;
      one.data = (char *)in.data + n * entry->in_bytes;
      got.data = entry->seats[0].out;
      memcpy(entry->seats[0].in, one.data, entry->in_bytes);
      one.data = entry->seats[0].in;
      int error = halut_session_run(entry->seats[0].session[b], &one, &got, NULL);
      if (error != HALUT_OK)
        return halut_fail(diag, error, 0, "golden example %u: %s", n, halut_error_text(error));
      if (memcmp(got.data, (char *)want.data + n * entry->out_bytes, entry->out_bytes) != 0)
        return halut_fail(diag, HALUT_ECHECKSUM, 0, "golden example %u gives another result", n);
    }
  return HALUT_OK;
}

static int entry_open(const struct halut_catalog_options *options, const char *file,
                      const struct stat *status, struct halut_entry **out,
                      struct halut_diag *diag) {
  char path[1024];
  int error = HALUT_ENOMEM;
  struct halut_entry *entry = calloc(1, sizeof *entry);
  if (entry == NULL)
    return halut_fail(diag, HALUT_ENOMEM, 0, "no memory for a model");
  snprintf(path, sizeof path, "%s/%s", options->directory, file);
  snprintf(entry->file, sizeof entry->file, "%s", file);
  entry->stamp[0] = (uint64_t)status->st_size;
  entry->stamp[1] =
      (uint64_t)status->st_mtim.tv_sec * 1000000000u + (uint64_t)status->st_mtim.tv_nsec;
  entry->stamp[2] = (uint64_t)status->st_ino;
  error = halut_model_open(path, &entry->model, diag);
  if (error != HALUT_OK)
    goto fail;
  const struct halut_model_info *info = entry->info = halut_model_info(entry->model);
  bool is_network = info->kind == HALUT_NETWORK;
  entry->in_bytes = is_network ? (size_t)info->channels * info->height * info->width
                               : info->columns * sizeof(float);
  entry->out_bytes = is_network ? info->classes * sizeof(int32_t) : info->outputs * sizeof(float);
  entry->seats = calloc(options->workers, sizeof *entry->seats);
  if (entry->seats == NULL) {
    error = halut_fail(diag, HALUT_ENOMEM, 0, "no memory for %u workers", options->workers);
    goto fail;
  }
  entry->workers = options->workers;
  for (uint32_t w = 0; w < options->workers && error == HALUT_OK; w++)
    error = seat_open(options, entry, &entry->seats[w], diag);
  if (error == HALUT_OK)
    error = entry_replay(entry, diag);
  if (error != HALUT_OK)
    goto fail;
  *out = entry;
  return HALUT_OK;
fail:
  entry_close(entry);
  return error;
}

/* ---- catalogues ---- */

static struct halut_entry *entry_of_file(struct halut_catalog *catalog, const char *file) {
  for (uint32_t i = 0; catalog != NULL && i < catalog->count; i++)
    if (strcmp(catalog->entries[i]->file, file) == 0)
      return catalog->entries[i];
  return NULL;
}

static bool is_unchanged(const struct halut_entry *entry, const struct stat *status) {
  return entry->stamp[0] == (uint64_t)status->st_size &&
         entry->stamp[1] == (uint64_t)status->st_mtim.tv_sec * 1000000000u +
                                (uint64_t)status->st_mtim.tv_nsec &&
         entry->stamp[2] == (uint64_t)status->st_ino;
}

static const struct halut_entry *twin(const struct halut_catalog *catalog,
                                      const struct halut_entry *entry) {
  for (uint32_t i = 0; i < catalog->count; i++)
    if (strcmp(catalog->entries[i]->info->name, entry->info->name) == 0 &&
        catalog->entries[i]->info->version == entry->info->version)
      return catalog->entries[i];
  return NULL;
}

static void add_file(struct halut_catalog *made, struct halut_catalog *old, const char *file,
                     uint32_t *problems, char *report) {
  char path[1024];
  struct stat status;
  struct halut_diag diag = {0};
  struct halut_entry *entry = entry_of_file(old, file);
  bool is_new = false;
  snprintf(path, sizeof path, "%s/%s", made->options.directory, file);
  if (stat(path, &status) != 0) {
    ++*problems;
    report_line(report, "%s: %s\n", path, strerror(errno));
    return;
  }
  if (entry == NULL || !is_unchanged(entry, &status)) {
    struct halut_entry *fresh = NULL;
    int error = entry_open(&made->options, file, &status, &fresh, &diag);
    if (error != HALUT_OK) {
      ++*problems;
      report_line(report, "%s: %s (%s)%s\n", path, diag.text, halut_error_name(error),
                  entry != NULL ? "; the one being served stays" : "");
    } else {
      entry = fresh;
      is_new = true;
    }
  }
  if (entry == NULL)
    return;
  const struct halut_entry *other = twin(made, entry);
  if (other == NULL && made->count < HALUT_CATALOG_MAX) {
    entry->references++;
    made->entries[made->count++] = entry;
    return;
  }
  ++*problems;
  if (other != NULL)
    report_line(report, "%s: model %s version %u is in %s already\n", path, entry->info->name,
                entry->info->version, other->file);
  else
    report_line(report, "%s: more than %d models\n", path, HALUT_CATALOG_MAX);
  if (is_new)
    entry_close(entry);
}

static int is_model_file(const struct dirent *item) {
  size_t bytes = strlen(item->d_name);
  static const char ending[] = ".safetensors";
  return item->d_name[0] != '.' && bytes >= sizeof ending && bytes < 256 &&
         strcmp(item->d_name + bytes - (sizeof ending - 1), ending) == 0;
}

int halut_catalog_open(const struct halut_catalog_options *options, struct halut_catalog *old,
                       struct halut_catalog **out, uint32_t *problems_out, char *report,
                       struct halut_diag *diag) {
  struct dirent **items = NULL;
  report[0] = '\0';
  *problems_out = 0;
  int count = scandir(options->directory, &items, is_model_file, alphasort);
  if (count < 0)
    return halut_fail(diag, HALUT_EIO, 0, "model directory %s: %s", options->directory,
                      strerror(errno));
  struct halut_catalog *made = calloc(1, sizeof *made);
  if (made != NULL) {
    made->references = 1;
    made->options = *options;
  }
  for (int i = 0; i < count; i++) {
    if (made != NULL)
      add_file(made, old, items[i]->d_name, problems_out, report);
    free(items[i]);
  }
  free(items);
  if (made == NULL)
    return halut_fail(diag, HALUT_ENOMEM, 0, "no memory for the catalogue");
  if (made->count == 0) {
    free(made);
    return halut_fail(diag, HALUT_ENOTFOUND, 0, "no model to serve in %s (*.safetensors)",
                      options->directory);
  }
  *out = made;
  return HALUT_OK;
}

struct halut_catalog *halut_catalog_hold(struct halut_catalog *catalog) {
  catalog->references++;
  return catalog;
}

void halut_catalog_drop(struct halut_catalog *catalog) {
  if (catalog == NULL || --catalog->references > 0)
    return;
  for (uint32_t i = 0; i < catalog->count; i++)
    if (--catalog->entries[i]->references == 0)
      entry_close(catalog->entries[i]);
  free(catalog);
}

static const char *kind_name(enum halut_kind kind) {
  return kind == HALUT_NETWORK ? "network" : "product";
}

/* Adds the names of one kind, for a message. */
static void list_names(const struct halut_catalog *catalog, enum halut_kind kind, char *text,
                       size_t bytes) {
  size_t used = 0;
  text[0] = '\0';
  for (uint32_t i = 0; i < catalog->count; i++)
    if (catalog->entries[i]->info->kind == kind && used < bytes)
      used += (size_t)snprintf(text + used, bytes - used, "%s%s", used > 0 ? ", " : "",
                               catalog->entries[i]->info->name);
}

struct halut_entry *halut_catalog_find(const struct halut_catalog *catalog, enum halut_kind kind,
                                       const char *name, uint32_t version,
                                       struct halut_diag *diag) {
  struct halut_entry *best = NULL;
  bool is_ambiguous = false;
  char names[128];
  for (uint32_t i = 0; i < catalog->count; i++) {
    struct halut_entry *entry = catalog->entries[i];
    const struct halut_model_info *info = entry->info;
    if (info->kind != kind || (name != NULL && strcmp(info->name, name) != 0) ||
        (version != 0 && info->version != version))
      continue;
    if (best != NULL && strcmp(best->info->name, info->name) != 0)
      is_ambiguous = true;
    if (best == NULL || info->version > best->info->version)
      best = entry;
  }
  list_names(catalog, kind, names, sizeof names);
  if (best == NULL) {
    if (version != 0)
      halut_fail(diag, HALUT_ENOTFOUND, 0, "no version %u of a %s model named \"%.63s\"", version,
                 kind_name(kind), name != NULL ? name : "");
    else if (name != NULL)
      halut_fail(diag, HALUT_ENOTFOUND, 0, "no %s model named \"%.63s\"; there is: %s",
                 kind_name(kind), name, names[0] != '\0' ? names : "none");
    else
      halut_fail(diag, HALUT_ENOTFOUND, 0, "no %s model is being served", kind_name(kind));
    return NULL;
  }
  if (is_ambiguous) {
    halut_fail(diag, HALUT_EINVALID, 0, "\"model\" must say which one: %s", names);
    return NULL;
  }
  return best;
}

struct halut_entry *halut_catalog_named(const struct halut_catalog *catalog, const char *name,
                                        uint32_t version) {
  struct halut_entry *best = NULL;
  for (uint32_t i = 0; i < catalog->count; i++) {
    const struct halut_model_info *info = catalog->entries[i]->info;
    if (strcmp(info->name, name) == 0 && (version == 0 || info->version == version) &&
        (best == NULL || info->version > best->info->version))
      best = catalog->entries[i];
  }
  return best;
}

int halut_catalog_backend(const struct halut_catalog *catalog, const char *name) {
  if (name == NULL)
    return 0;
  for (uint32_t b = 0; b < catalog->options.backend_count; b++)
    if (strcmp(catalog->options.backends[b]->name, name) == 0)
      return (int)b;
  return -1;
}
