/* test: every file of tests/corpus passes its fuzz target, without a fuzzer */
#include <check.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Each target is its own libFuzzer program (make fuzz); here they share one, under other names. */
#define LLVMFuzzerTestOneInput fuzz_base64
#include "fuzz_base64.c"
#undef LLVMFuzzerTestOneInput
#define LLVMFuzzerTestOneInput fuzz_config
#include "fuzz_config.c"
#undef LLVMFuzzerTestOneInput
#define LLVMFuzzerTestOneInput fuzz_guard
#include "fuzz_guard.c"
#undef LLVMFuzzerTestOneInput
#define LLVMFuzzerTestOneInput fuzz_image
#include "fuzz_image.c"
#undef LLVMFuzzerTestOneInput
#define LLVMFuzzerTestOneInput fuzz_json
#include "fuzz_json.c"
#undef LLVMFuzzerTestOneInput
#define LLVMFuzzerTestOneInput fuzz_multipart
#include "fuzz_multipart.c"
#undef LLVMFuzzerTestOneInput
#define LLVMFuzzerTestOneInput fuzz_npy
#include "fuzz_npy.c"
#undef LLVMFuzzerTestOneInput
#define LLVMFuzzerTestOneInput fuzz_number
#include "fuzz_number.c"
#undef LLVMFuzzerTestOneInput
#define LLVMFuzzerTestOneInput fuzz_safetensors
#include "fuzz_safetensors.c"
#undef LLVMFuzzerTestOneInput

enum { CORPUS_FILE_MAX = 1 << 20 };

static const struct {
  const char *name;
  int (*run)(const uint8_t *data, size_t size);
} targets[] = {{"base64", fuzz_base64},
               {"config", fuzz_config},
               {"guard", fuzz_guard},
               {"image", fuzz_image},
               {"json", fuzz_json},
               {"multipart", fuzz_multipart},
               {"npy", fuzz_npy},
               {"number", fuzz_number},
               {"safetensors", fuzz_safetensors}};

enum { TARGETS = sizeof targets / sizeof targets[0] };

static uint8_t corpus_bytes[CORPUS_FILE_MAX];

static unsigned replay(unsigned target) {
  char folder[64];
  snprintf(folder, sizeof folder, "tests/corpus/%s", targets[target].name);
  DIR *directory = opendir(folder);
  ck_assert_msg(directory != NULL, "%s: cannot be opened (run from the top folder)", folder);
  unsigned count = 0;
  for (struct dirent *entry; (entry = readdir(directory)) != NULL;) {
    char path[400];
    snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
    FILE *file = entry->d_name[0] == '.' ? NULL : fopen(path, "rb");
    if (file == NULL)
      continue;
    size_t size = fread(corpus_bytes, 1, sizeof corpus_bytes, file);
    fclose(file);
    targets[target].run(corpus_bytes, size); /* aborts if a property does not hold */
    /* Its prefixes are inputs too, and the ones that are most often mishandled. */
    for (size_t cut = 0; cut < size; cut += 1 + size / 16)
      targets[target].run(corpus_bytes, cut);
    count++;
  }
  closedir(directory);
  return count;
}

START_TEST(replays_corpus) {
  ck_assert_uint_gt(replay((unsigned)_i), 2);
}
END_TEST

int main(void) {
  json_object_seed(1);
  Suite *suite = suite_create("corpus");
  TCase *all = tcase_create("all");
  tcase_set_timeout(all, 60);
  tcase_add_loop_test(all, replays_corpus, 0, TARGETS);
  suite_add_tcase(suite, all);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? 0 : 1;
}
