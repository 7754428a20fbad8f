/* catalog.h: the models of a directory, each open on every backend for every worker.
 *
 * A catalogue is immutable once made. The loop thread swaps in a new one to reload and counts the
 * references; a job holds the catalogue that it was admitted with, so it ends on the model it began
 * with. Worker w alone uses seat w of an entry.
 */
#ifndef HALUT_CATALOG_H
#define HALUT_CATALOG_H

#include <stdbool.h>

#include "../models/session.h"

enum { HALUT_BACKENDS_OPEN_MAX = 2, HALUT_CATALOG_MAX = 64, HALUT_REPORT_MAX = 8192 };

struct halut_catalog_options {
  const char *directory; /* *.safetensors in it are served */
  const char *favourite; /* answers where no model is named and there are several; or NULL */
  const char *cpu;       /* ceiling for the CPU backend, or NULL */
  const struct halut_backend_ops *backends[HALUT_BACKENDS_OPEN_MAX]; /* the first is the default */
  uint32_t backend_count, workers, batch_max;
};

/* What one worker needs to run a model: sessions, and memory for a whole batch. */
struct halut_seat {
  struct halut_session *session[HALUT_BACKENDS_OPEN_MAX];
  void *in, *out; /* [batch_max] inputs and outputs of the model */
};

struct halut_entry {
  struct halut_model *model;
  const struct halut_model_info *info;
  _Atomic uint32_t references; /* catalogues that list it */
  _Atomic uint32_t pending;    /* jobs that wait for it or are in it */
  uint32_t workers;
  struct halut_seat *seats;   /* [workers] */
  size_t in_bytes, out_bytes; /* of one image or row */
  char file[256];             /* name in the directory */
  uint64_t stamp[3]; /* size, time and inode of the file: a reload keeps what did not change */
};

/* What the last look at a file left to say: why it is not served, or an older state of it. */
struct halut_note {
  char name[HALUT_NAME_MAX]; /* of the model, or if that is not known of the file without ending */
  uint32_t version;          /* 0: not known */
  bool is_network;           /* false also where that is not known */
  bool is_unloaded;          /* by halut_catalog_unload: stays out until it is loaded by name */
  char file[256], reason[256];
};

struct halut_catalog {
  uint32_t references;                  /* loop thread */
  struct halut_catalog_options options; /* its strings are borrowed */
  uint32_t count;
  struct halut_entry *entries[HALUT_CATALOG_MAX];
  uint32_t note_count;
  struct halut_note notes[HALUT_CATALOG_MAX]; /* more files than this get none */
};

/* Opens every model file but those that were unloaded. `old` (or NULL): entries whose file has not
 * changed are shared, and one whose file no longer opens is kept as it was. *problems_out says how
 * many files were refused; `report` (HALUT_REPORT_MAX bytes) has a line for each. HALUT_ENOMEM,
 * HALUT_EIO (no directory), HALUT_ENOTFOUND (nothing to serve). Any thread, while nobody changes
 * `old`. */
int halut_catalog_open(const struct halut_catalog_options *options, struct halut_catalog *old,
                       struct halut_catalog **out, uint32_t *problems_out, char *report,
                       struct halut_diag *diag) __attribute__((warn_unused_result));

/* The same for the files of one model: it is opened if it was not served, and anew if its file has
 * changed; the others stay as they are. HALUT_ENOTFOUND if no file holds it; problems with its
 * files as above. */
int halut_catalog_load(struct halut_catalog *old, const char *name, struct halut_catalog **out,
                       uint32_t *problems_out, char *report, struct halut_diag *diag)
    __attribute__((warn_unused_result));
/* `old` without any version of that model. HALUT_ENOTFOUND, HALUT_ENOMEM. */
int halut_catalog_unload(struct halut_catalog *old, const char *name, struct halut_catalog **out,
                         struct halut_diag *diag) __attribute__((warn_unused_result));
/* The note on that file, or NULL. */
const struct halut_note *halut_catalog_note(const struct halut_catalog *catalog, const char *file);

/* Loop thread. Released at 0. */
struct halut_catalog *halut_catalog_hold(struct halut_catalog *catalog);
void halut_catalog_drop(struct halut_catalog *catalog); /* NULL is fine */

/* The newest of that name, or with `version` that one; without a name, the only model of the kind,
 * or of several the favourite. NULL with a reason in *diag. */
struct halut_entry *halut_catalog_find(const struct halut_catalog *catalog, enum halut_kind kind,
                                       const char *name, uint32_t version, struct halut_diag *diag);
/* The same without a favourite: what no name can mean another model than. */
struct halut_entry *halut_catalog_only(const struct halut_catalog *catalog, enum halut_kind kind,
                                       const char *name, uint32_t version, struct halut_diag *diag);
/* The newest of that name and any kind, or with `version` that one; NULL if there is none. */
struct halut_entry *halut_catalog_named(const struct halut_catalog *catalog, const char *name,
                                        uint32_t version);
/* Index in options.backends; NULL asks for the default. -1 if it is not open. */
int halut_catalog_backend(const struct halut_catalog *catalog, const char *name);

#endif
