#include "catalog.h"

#include <dirent.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "../models/rows.h"
#include "job.h"

static const char ending[] = ".safetensors";

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
        return halut_fail(diag, error, 0, "golden example %u: %s", n, halut_job_reason(error));
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
  entry->info = halut_model_info(entry->model);
  entry->in_bytes = halut_rows_in_bytes(entry->info);
  entry->out_bytes = halut_rows_out_bytes(entry->info);
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
         entry->stamp[1] ==
             (uint64_t)status->st_mtim.tv_sec * 1000000000u + (uint64_t)status->st_mtim.tv_nsec &&
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

/* A directory being looked at. */
struct scan {
  struct halut_catalog *made, *old;
  const char *only; /* name of the one model that is looked at, or NULL for all */
  uint32_t problems;
  char *report;
};

const struct halut_note *halut_catalog_note(const struct halut_catalog *catalog, const char *file) {
  for (uint32_t i = 0; catalog != NULL && i < catalog->note_count; i++)
    if (strcmp(catalog->notes[i].file, file) == 0)
      return &catalog->notes[i];
  return NULL;
}

static void note_copy(struct halut_catalog *made, const struct halut_note *note) {
  if (note != NULL && made->note_count < HALUT_CATALOG_MAX)
    made->notes[made->note_count++] = *note;
}

/* `info` is NULL where the file did not say what it holds. */
static struct halut_note *note_add(struct halut_catalog *made, const char *file,
                                   const struct halut_model_info *info) {
  if (made->note_count == HALUT_CATALOG_MAX)
    return NULL;
  struct halut_note *note = &made->notes[made->note_count++];
  snprintf(note->file, sizeof note->file, "%s", file);
  if (info == NULL)
    snprintf(note->name, sizeof note->name, "%.*s", (int)(strlen(file) - (sizeof ending - 1)),
             file);
  else
    snprintf(note->name, sizeof note->name, "%s", info->name);
  note->version = info == NULL ? 0 : info->version;
  note->is_network = info != NULL && info->kind == HALUT_NETWORK;
  return note;
}

static void problem_add(struct scan *scan, const char *file, const struct halut_model_info *info,
                        const char *format, ...) __attribute__((format(printf, 4, 5)));

static void problem_add(struct scan *scan, const char *file, const struct halut_model_info *info,
                        const char *format, ...) {
  char reason[256];
  size_t used = strlen(scan->report);
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(reason, sizeof reason, format, arguments);
  va_end(arguments);
  struct halut_note *note = note_add(scan->made, file, info);
  if (note != NULL)
    snprintf(note->reason, sizeof note->reason, "%s", reason);
  snprintf(scan->report + used, HALUT_REPORT_MAX - used, "%s/%s: %s\n",
           scan->made->options.directory, file, reason);
  scan->problems++;
}

static bool entry_share(struct scan *scan, struct halut_entry *entry) {
  const struct halut_entry *other = twin(scan->made, entry);
  if (other == NULL && scan->made->count < HALUT_CATALOG_MAX) {
    entry->references++;
    scan->made->entries[scan->made->count++] = entry;
    return true;
  }
  if (other != NULL)
    problem_add(scan, entry->file, entry->info, "model %s version %u is in %s already",
                entry->info->name, entry->info->version, other->file);
  else
    problem_add(scan, entry->file, entry->info, "more than %d models", HALUT_CATALOG_MAX);
  return false;
}

static bool is_unloaded(const struct halut_catalog *catalog, const char *name) {
  for (uint32_t i = 0; catalog != NULL && i < catalog->note_count; i++)
    if (catalog->notes[i].is_unloaded && strcmp(catalog->notes[i].name, name) == 0)
      return true;
  return false;
}

static void unloaded_note(struct halut_catalog *made, const struct halut_entry *entry) {
  struct halut_note *note = note_add(made, entry->file, entry->info);
  if (note == NULL)
    return;
  note->is_unloaded = true;
  snprintf(note->reason, sizeof note->reason, "unloaded");
}

static void file_add(struct scan *scan, const char *file) {
  static const char stays[] = "; the one being served stays";
  char path[1024];
  struct stat status;
  struct halut_diag diag = {0};
  struct halut_entry *entry = entry_of_file(scan->old, file), *fresh = NULL;
  snprintf(path, sizeof path, "%s/%s", scan->made->options.directory, file);
  if (lstat(path, &status) != 0 && errno == ENOENT)
    return; /* it went while the directory was being read */
  if (stat(path, &status) != 0) {
    problem_add(scan, file, entry != NULL ? entry->info : NULL, "%s%s", strerror(errno),
                entry != NULL ? stays : "");
  } else if (entry == NULL || !is_unchanged(entry, &status)) {
    int error = entry_open(&scan->made->options, file, &status, &fresh, &diag);
    if (error != HALUT_OK)
      problem_add(scan, file, entry != NULL ? entry->info : NULL, "%s (%s)%s", diag.text,
                  halut_error_name(error), entry != NULL ? stays : "");
    else
      entry = fresh;
  }
  if (entry == NULL)
    return;
  if (fresh != NULL && scan->only == NULL && is_unloaded(scan->old, entry->info->name))
    unloaded_note(scan->made, entry);
  else if (entry_share(scan, entry))
    return;
  entry_close(fresh);
}

/* The name in a file that is not served, or if it has none, that of the file. */
static bool is_of_model(const struct scan *scan, const char *file) {
  char path[1024];
  struct halut_model *model = NULL;
  size_t bytes = strlen(file) - (sizeof ending - 1);
  snprintf(path, sizeof path, "%s/%s", scan->made->options.directory, file);
  bool is_same = halut_model_open(path, &model, NULL) == HALUT_OK
                     ? strcmp(halut_model_info(model)->name, scan->only) == 0
                     : strlen(scan->only) == bytes && memcmp(scan->only, file, bytes) == 0;
  halut_model_close(model);
  return is_same;
}

/* One file of a directory where a single model is looked at. */
static void file_add_only(struct scan *scan, const char *file) {
  struct halut_entry *entry = entry_of_file(scan->old, file);
  bool is_wanted =
      entry != NULL ? strcmp(entry->info->name, scan->only) == 0 : is_of_model(scan, file);
  if (is_wanted) {
    file_add(scan, file);
    return;
  }
  if (entry != NULL)
    entry_share(scan, entry);
  note_copy(scan->made, halut_catalog_note(scan->old, file));
}

static void file_consider(struct scan *scan, const char *file) {
  const struct halut_note *note = halut_catalog_note(scan->old, file);
  if (scan->only != NULL)
    file_add_only(scan, file);
  else if (note != NULL && note->is_unloaded)
    note_copy(scan->made, note);
  else
    file_add(scan, file);
}

static int is_model_file(const struct dirent *item) {
  size_t bytes = strlen(item->d_name);
  return item->d_name[0] != '.' && bytes >= sizeof ending && bytes < 256 &&
         strcmp(item->d_name + bytes - (sizeof ending - 1), ending) == 0;
}

static struct halut_catalog *catalog_new(const struct halut_catalog_options *options,
                                         struct halut_diag *diag) {
  struct halut_catalog *made = calloc(1, sizeof *made);
  if (made == NULL) {
    halut_fail(diag, HALUT_ENOMEM, 0, "no memory for the catalogue");
    return NULL;
  }
  made->references = 1;
  made->options = *options;
  return made;
}

static int scan_run(struct scan *scan, const struct halut_catalog_options *options,
                    struct halut_diag *diag) {
  struct dirent **items = NULL;
  scan->report[0] = '\0';
  int count = scandir(options->directory, &items, is_model_file, alphasort);
  if (count < 0)
    return halut_fail(diag, HALUT_EIO, 0, "model directory %s: %s", options->directory,
                      strerror(errno));
  scan->made = catalog_new(options, diag);
  for (int i = 0; i < count; i++) {
    if (scan->made != NULL)
      file_consider(scan, items[i]->d_name);
    free(items[i]);
  }
  free(items);
  return scan->made != NULL ? HALUT_OK : HALUT_ENOMEM;
}

static bool is_any_unloaded(const struct halut_catalog *catalog) {
  for (uint32_t i = 0; i < catalog->note_count; i++)
    if (catalog->notes[i].is_unloaded)
      return true;
  return false;
}

int halut_catalog_open(const struct halut_catalog_options *options, struct halut_catalog *old,
                       struct halut_catalog **out, uint32_t *problems_out, char *report,
                       struct halut_diag *diag) {
  struct scan scan = {.old = old, .report = report};
  int error = scan_run(&scan, options, diag);
  *problems_out = scan.problems;
  if (error != HALUT_OK)
    return error;
  if (scan.made->count == 0 && !is_any_unloaded(scan.made)) {
    halut_catalog_drop(scan.made);
    return halut_fail(diag, HALUT_ENOTFOUND, 0, "no model to serve in %s (*.safetensors)",
                      options->directory);
  }
  *out = scan.made;
  return HALUT_OK;
}

int halut_catalog_load(struct halut_catalog *old, const char *name, struct halut_catalog **out,
                       uint32_t *problems_out, char *report, struct halut_diag *diag) {
  struct scan scan = {.old = old, .only = name, .report = report};
  int error = scan_run(&scan, &old->options, diag);
  *problems_out = scan.problems;
  if (error != HALUT_OK)
    return error;
  if (halut_catalog_named(scan.made, name, 0) == NULL && scan.problems == 0) {
    halut_catalog_drop(scan.made);
    return halut_fail(diag, HALUT_ENOTFOUND, 0, "no file of the model directory holds it");
  }
  *out = scan.made;
  return HALUT_OK;
}

int halut_catalog_unload(struct halut_catalog *old, const char *name, struct halut_catalog **out,
                         struct halut_diag *diag) {
  if (halut_catalog_named(old, name, 0) == NULL)
    return halut_fail(diag, HALUT_ENOTFOUND, 0, "it is not loaded");
  struct halut_catalog *made = catalog_new(&old->options, diag);
  if (made == NULL)
    return HALUT_ENOMEM;
  for (uint32_t i = 0; i < old->count; i++) {
    struct halut_entry *entry = old->entries[i];
    if (strcmp(entry->info->name, name) != 0) {
      entry->references++;
      made->entries[made->count++] = entry;
      continue;
    }
    unloaded_note(made, entry);
  }
  for (uint32_t i = 0; i < old->note_count; i++)
    if (halut_catalog_note(made, old->notes[i].file) == NULL)
      note_copy(made, &old->notes[i]);
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

static bool fits(const struct halut_model_info *info, enum halut_kind kind, const char *name,
                 uint32_t version) {
  return info->kind == kind && (name == NULL || strcmp(info->name, name) == 0) &&
         (version == 0 || info->version == version);
}

/* The favourite, if it is such a model; else NULL, which is any. */
static const char *favourite(const struct halut_catalog *catalog, enum halut_kind kind) {
  const char *name = catalog->options.favourite;
  for (uint32_t i = 0; name != NULL && i < catalog->count; i++)
    if (fits(catalog->entries[i]->info, kind, name, 0))
      return name;
  return NULL;
}

struct halut_entry *halut_catalog_find(const struct halut_catalog *catalog, enum halut_kind kind,
                                       const char *name, uint32_t version,
                                       struct halut_diag *diag) {
  return halut_catalog_only(catalog, kind,
                            name != NULL ? name : favourite(catalog, kind), version, diag);
}

struct halut_entry *halut_catalog_only(const struct halut_catalog *catalog, enum halut_kind kind,
                                       const char *name, uint32_t version,
                                       struct halut_diag *diag) {
  struct halut_entry *best = NULL;
  bool is_ambiguous = false;
  char names[128];
  for (uint32_t i = 0; i < catalog->count; i++) {
    struct halut_entry *entry = catalog->entries[i];
    const struct halut_model_info *info = entry->info;
    if (!fits(info, kind, name, version))
      continue;
    if (best != NULL && strcmp(best->info->name, info->name) != 0)
      is_ambiguous = true;
    if (best == NULL || info->version > best->info->version)
      best = entry;
  }
  if (best != NULL && !is_ambiguous)
    return best;
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
  halut_fail(diag, HALUT_EINVALID, 0, "\"model\" must say which one: %s", names);
  return NULL;
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
