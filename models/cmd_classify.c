#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../server/image.h"
#include "cli.h"
#include "cli_shipped.h"
#include "cli_thumbnail.h"

enum {
  FILE_BYTES_MAX = 64 << 20,
  FILE_STEP = 1 << 16,
  TOP_DEFAULT = 5,       /* of one image */
  TOP_DEFAULT_TABLE = 3, /* of each of several */
  BAR_WIDTH = 24,
  LABEL_WIDTH = 16
};

struct classify_args {
  const char *model, *backend, *cpu, *fit, *thumbnail;
  uint64_t top;
  bool json;
};

static const struct halut_option options[] = {
    {"model", 'm', "FILE",
     "network (default: the first operand if it ends in .safetensors, else HALUT_MODEL of the "
     "environment, else the shipped one)",
     HALUT_OPTION_TEXT, offsetof(struct classify_args, model), 0, 0},
    {"top", 'k', "N", "classes shown of each image (default 5, in a table 3)", HALUT_OPTION_COUNT,
     offsetof(struct classify_args, top), 1, HALUT_LABELS_MAX},
    {"fit", 'f', "NAME", "crop (default) or squash a picture of another shape", HALUT_OPTION_TEXT,
     offsetof(struct classify_args, fit), 0, 0},
    {"backend", 'b', "NAME[:KEY=VALUE,...]", "which backend computes (default cpu)",
     HALUT_OPTION_TEXT, offsetof(struct classify_args, backend), 0, 0},
    {"cpu", 0, "NAME", "best instruction set to use: ref, ssse3, avx2, avx512, neon",
     HALUT_OPTION_TEXT, offsetof(struct classify_args, cpu), 0, 0},
    {"thumbnail", 0, "WHEN", "show what the model sees: auto (default), always, never",
     HALUT_OPTION_TEXT, offsetof(struct classify_args, thumbnail), 0, 0},
    {"json", 'j', NULL, "print a JSON array, one object an image", HALUT_OPTION_FLAG,
     offsetof(struct classify_args, json), 0, 0},
    {0}};

struct classify {
  const struct halut_command *command;
  struct classify_args args;
  const struct halut_model_info *info;
  struct halut_session *session;
  struct halut_image_options image;
  uint8_t *planar;     /* [3][height][width] */
  int32_t *logits;     /* [classes] */
  double *probability; /* [classes] */
  uint32_t *order;     /* [classes], most likely first, up to `top` */
  bool with_thumbnails;
  int path_width;  /* of the table's first column; 0 for a block of lines an image */
  json_t *results; /* with --json */
};

/* Reads a whole file ("-" is the standard input); NULL after an error was printed. */
static uint8_t *file_read(const struct halut_command *command, const char *path,
                          size_t *bytes_out) {
  bool standard = strcmp(path, "-") == 0;
  FILE *file = standard ? stdin : fopen(path, "rb");
  uint8_t *content = NULL;
  size_t used = 0;
  if (!file) {
    halut_cli_error(command, HALUT_EXIT_FAILURE, "%s: cannot open: %s", path, strerror(errno));
    return NULL;
  }
  for (size_t size = 0, got = 1; got > 0 && used <= FILE_BYTES_MAX; used += got) {
    if (used == size) {
      uint8_t *larger = realloc(content, size = size ? 2 * size : FILE_STEP);
      if (!larger) {
        halut_cli_error(command, HALUT_EXIT_FAILURE, "%s: no memory to read it", path);
        goto fail;
      }
      content = larger;
    }
    got = fread(content + used, 1, size - used, file);
  }
  if (ferror(file)) {
    halut_cli_error(command, HALUT_EXIT_FAILURE, "%s: cannot read: %s", path, strerror(errno));
    goto fail;
  }
  if (used > FILE_BYTES_MAX) {
    halut_cli_error(command, HALUT_EXIT_FAILURE, "%s: larger than %d bytes", path, FILE_BYTES_MAX);
    goto fail;
  }
  if (!standard)
    fclose(file);
  *bytes_out = used;
  return content;
fail:
  if (!standard)
    fclose(file);
  free(content);
  return NULL;
}

/* Softmax of the logits, and the `top` likeliest classes: of equals, the first. */
static void logits_rank(struct classify *classify) {
  uint32_t classes = classify->info->classes;
  double sum = 0, most = classify->logits[0];
  for (uint32_t c = 1; c < classes; c++)
    most = classify->logits[c] > most ? classify->logits[c] : most;
  for (uint32_t c = 0; c < classes; c++) {
    classify->probability[c] =
        exp((double)classify->info->logit_scale * ((double)classify->logits[c] - most));
    sum += classify->probability[c];
    classify->order[c] = c;
  }
  for (uint32_t c = 0; c < classes; c++)
    classify->probability[c] /= sum;
  for (uint32_t i = 0; i < classify->args.top; i++) {
    uint32_t best = i;
    for (uint32_t c = i + 1; c < classes; c++) {
      int32_t is = classify->logits[classify->order[c]],
              top = classify->logits[classify->order[best]];
      if (is > top || (is == top && classify->order[c] < classify->order[best]))
        best = c;
    }
    uint32_t swap = classify->order[i];
    classify->order[i] = classify->order[best];
    classify->order[best] = swap;
  }
}

static void bar_print(double share) {
  char bar[BAR_WIDTH + 1];
  size_t filled = (size_t)(share * BAR_WIDTH + 0.5);
  memset(bar, '#', filled);
  bar[filled] = '\0';
  printf("%s\n", bar);
}

/* A line a class with a bar, beside the thumbnail if there is one. */
static void result_block(const struct classify *classify, const char *path) {
  const struct halut_model_info *info = classify->info;
  const uint32_t lines = classify->with_thumbnails ? HALUT_THUMBNAIL_LINES : 0;
  printf("%s\n", path);
  for (uint32_t i = 0; i < classify->args.top || i < lines; i++) {
    if (i < lines)
      halut_cli_thumbnail(classify->planar, info->height, info->width, i, stdout);
    else if (lines > 0)
      printf("%*s", HALUT_THUMBNAIL_SIDE, "");
    if (i >= classify->args.top) {
      putchar('\n');
      continue;
    }
    uint32_t c = classify->order[i];
    printf("  %6.2f%%  ", 100 * classify->probability[c]);
    halut_cli_print(stdout, info->labels[c], -LABEL_WIDTH, -1);
    putchar(' ');
    bar_print(classify->probability[c]);
  }
}

static void result_row(const struct classify *classify, const char *path) {
  printf("%-*s", classify->path_width, path);
  for (uint32_t i = 0; i < classify->args.top; i++) {
    uint32_t c = classify->order[i];
    bool is_last = i + 1 == classify->args.top;
    printf("  %6.2f%%  ", 100 * classify->probability[c]);
    halut_cli_print(stdout, classify->info->labels[c], is_last ? 0 : -LABEL_WIDTH, -1);
  }
  putchar('\n');
}

static int result_json(const struct classify *classify, const char *path,
                       enum halut_image_kind kind) {
  json_t *top = json_array();
  for (uint32_t i = 0; i < classify->args.top; i++) {
    uint32_t c = classify->order[i];
    json_array_append_new(top,
                          json_pack("{s:s, s:I, s:f, s:I}", "label", classify->info->labels[c],
                                    "index", (json_int_t)c, "probability", classify->probability[c],
                                    "logit", (json_int_t)classify->logits[c]));
  }
  json_t *result = json_pack("{s:o, s:s, s:o}", "file", halut_cli_text(path), "format",
                             halut_image_kind_name(kind), "top", top);
  return json_array_append_new(classify->results, result)
             ? halut_cli_error(classify->command, HALUT_EXIT_FAILURE,
                               "%s: no memory for its result", path)
             : HALUT_EXIT_OK;
}

static int image_classify(struct classify *classify, const char *path) {
  struct halut_diag diag = {0};
  struct halut_image_info info = {0};
  size_t bytes;
  uint8_t *content = file_read(classify->command, path, &bytes);
  if (!content)
    return HALUT_EXIT_FAILURE;
  int rc = halut_image_decode(content, bytes, &classify->image, classify->planar, &info, &diag);
  free(content);
  if (rc)
    return halut_cli_fail(classify->command, path, rc, &diag);
  struct halut_tensor in = {.data = classify->planar,
                            .dtype = HALUT_U8,
                            .rank = 4,
                            .dim = {1, 3, classify->info->height, classify->info->width}};
  struct halut_tensor out = {.data = classify->logits,
                             .dtype = HALUT_I32,
                             .rank = 2,
                             .dim = {1, classify->info->classes, 1, 1}};
  rc = halut_session_run(classify->session, &in, &out, NULL);
  if (rc)
    return halut_cli_fail(classify->command, path, rc, NULL);
  logits_rank(classify);
  if (classify->args.json)
    return result_json(classify, path, info.kind);
  if (classify->path_width > 0)
    result_row(classify, path);
  else
    result_block(classify, path);
  return HALUT_EXIT_OK;
}

/* Checks what the command line says against the model, and allocates. */
static int classify_prepare(struct classify *classify, const char *path,
                            const struct halut_model *model) {
  const struct halut_model_info *info = classify->info;
  int exit_code = HALUT_EXIT_FAILURE;
  if (info->kind != HALUT_NETWORK || info->channels != 3)
    return halut_cli_error(classify->command, exit_code, "%s: not a network that takes RGB images",
                           path);
  if (info->height > HALUT_IMAGE_TARGET_MAX || info->width > HALUT_IMAGE_TARGET_MAX)
    return halut_cli_error(classify->command, exit_code,
                           "%s: takes images larger than %d pixels a side", path,
                           HALUT_IMAGE_TARGET_MAX);
  bool squash = strcmp(classify->args.fit, "squash") == 0;
  if (!squash && strcmp(classify->args.fit, "crop") != 0)
    return halut_cli_error(classify->command, HALUT_EXIT_USAGE,
                           "--fit takes crop or squash, not \"%s\"", classify->args.fit);
  classify->image =
      (struct halut_image_options){.width = info->width,
                                   .height = info->height,
                                   .fit = squash ? HALUT_IMAGE_SQUASH : HALUT_IMAGE_CROP,
                                   .pixels_max = HALUT_IMAGE_PIXELS_DEFAULT};
  if (classify->args.top > info->classes)
    classify->args.top = info->classes;
  classify->planar = malloc((size_t)3 * info->height * info->width);
  classify->logits = calloc(info->classes, sizeof(*classify->logits));
  classify->probability = calloc(info->classes, sizeof(*classify->probability));
  classify->order = calloc(info->classes, sizeof(*classify->order));
  classify->results = json_array();
  if (!classify->planar || !classify->logits || !classify->probability || !classify->order ||
      !classify->results)
    return halut_cli_error(classify->command, exit_code, "no memory for an image");
  if (!halut_cli_session(classify->command, path, model, classify->args.backend,
                         classify->args.cpu, 1, &classify->session, &exit_code))
    return exit_code;
  return HALUT_EXIT_OK;
}

/* How results are shown: blocks with thumbnails where they can be, else a table of several images.
 */
static int classify_layout(struct classify *classify, int count, char *const *paths) {
  const char *when = classify->args.thumbnail;
  const bool is_auto = strcmp(when, "auto") == 0, is_always = strcmp(when, "always") == 0;
  if (!is_auto && !is_always && strcmp(when, "never") != 0)
    return halut_cli_error(classify->command, HALUT_EXIT_USAGE,
                           "--thumbnail takes auto, always or never, not \"%s\"", when);
  classify->with_thumbnails = is_always || (is_auto && halut_cli_pictures(stdout));
  const bool is_table = count > 1 && !classify->with_thumbnails && !classify->args.json;
  for (int i = 0; i < count && is_table; i++)
    if (classify->path_width < (int)strlen(paths[i]))
      classify->path_width = (int)strlen(paths[i]);
  if (classify->args.top == 0)
    classify->args.top = classify->path_width > 0 ? TOP_DEFAULT_TABLE : TOP_DEFAULT;
  return HALUT_EXIT_OK;
}

static bool is_model_name(const char *path) {
  static const char ending[] = ".safetensors";
  size_t length = strlen(path);
  return length >= sizeof ending && strcmp(path + length - (sizeof ending - 1), ending) == 0;
}

/* Opens the model that options or operands name; moves *images to the first image. */
static int model_choose(struct classify *classify, int count, char **operands, int *images,
                        const char **path_out, struct halut_model **out) {
  static char shipped[1200];
  const char *path = classify->args.model;
  *images = !path && is_model_name(operands[0]);
  if (!path)
    path = *images ? operands[0] : halut_cli_shipped(shipped, sizeof shipped);
  if (!path)
    return halut_cli_error(classify->command, HALUT_EXIT_USAGE,
                           "no model: name one (--model) or set HALUT_MODEL");
  if (*images == count)
    return halut_cli_error(classify->command, HALUT_EXIT_USAGE,
                           "no image; usage: halut classify %s", classify->command->operands);
  *path_out = path;
  return halut_cli_model(classify->command, path, out) ? HALUT_EXIT_OK : HALUT_EXIT_FAILURE;
}

static int classify_run(const struct halut_command *command, int argc, char **argv) {
  struct classify classify = {.command = command,
                              .args = {.backend = "cpu", .fit = "crop", .thumbnail = "auto"}};
  struct halut_model *model = NULL;
  const char *path = NULL;
  int count, first, exit_code;
  if (!halut_cli_parse(command, argc, argv, &classify.args, &count, &exit_code))
    return exit_code;
  exit_code = model_choose(&classify, count, argv, &first, &path, &model);
  if (exit_code)
    return exit_code;
  classify.info = halut_model_info(model);
  exit_code = classify_layout(&classify, count - first, argv + first);
  if (!exit_code)
    exit_code = classify_prepare(&classify, path, model);
  if (!exit_code) {
    for (int i = first; i < count; i++) { /* one bad image does not keep the others back */
      int one = image_classify(&classify, argv[i]);
      exit_code = one ? one : exit_code;
    }
    int finish = classify.args.json ? halut_cli_json(command, json_incref(classify.results))
                                    : halut_cli_finish(command);
    exit_code = exit_code ? exit_code : finish;
  }
  halut_session_close(classify.session);
  json_decref(classify.results);
  free(classify.planar);
  free(classify.logits);
  free(classify.probability);
  free(classify.order);
  halut_model_close(model);
  return exit_code;
}

const struct halut_command halut_command_classify = {
    .name = "classify",
    .operands = "[MODEL] IMAGE...",
    .summary = "Classify PNG, JPEG or raw images",
    .details =
        "An image is a PNG, a JPEG or, by its size, the raw red, green and blue plane (3,072 bytes "
        "for\n"
        "CIFAR-10); \"-\" is the standard input. Other sizes are scaled to what the model takes.\n"
        "Several images make a table, a line each. A terminal of 24-bit colours and UTF-8 shows "
        "what\n"
        "the model sees instead, an image after the other.",
    .options = options,
    .operands_min = 1,
    .operands_max = -1,
    .run = classify_run};
