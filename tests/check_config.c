/* test: settings from every source, their order, and every problem reported */
#include <check.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../server/config.h"

static struct halut_config config;
static struct halut_config_problems problems;
static char path[64];

static void write_file(const char *text) {
  snprintf(path, sizeof path, "/tmp/halut-config-XXXXXX");
  int descriptor = mkstemp(path);
  ck_assert_int_ge(descriptor, 0);
  ck_assert_int_eq(write(descriptor, text, strlen(text)), (ssize_t)strlen(text));
  close(descriptor);
}

static void remove_file(void) {
  if (path[0] != '\0')
    unlink(path);
  path[0] = '\0';
}

/* Arguments and environment, each NULL-terminated. */
static int read_all(const char *const *arguments, const char *const *environment) {
  static const char *const nothing[] = {NULL};
  const char *argv[16] = {"halutd"};
  int argc = 1;
  for (; arguments != NULL && *arguments != NULL; arguments++)
    argv[argc++] = *arguments;
  return halut_config_read(argc, (char *const *)argv,
                           (char *const *)(environment != NULL ? environment : nothing), &config,
                           &problems);
}

#define ARGUMENTS(...) ((const char *const[]){__VA_ARGS__, NULL})

START_TEST(has_defaults) {
  ck_assert_int_eq(read_all(NULL, NULL), 0);
  ck_assert_int_eq(config.mode, HALUT_MODE_SERVE);
  ck_assert_uint_eq(config.body_max, 16777216);
  ck_assert_uint_eq(config.backend, HALUT_BACKEND_CPU);
  ck_assert_uint_eq(config.log_level, HALUT_LOG_INFO);
  ck_assert_str_eq(halut_config_word("cpu", config.cpu), "auto");
  ck_assert_str_eq(config.access_log, "off");
  ck_assert_uint_eq(config.listen_count, 1);
  ck_assert_int_eq(config.listens[0].kind, HALUT_LISTEN_IP4);
  ck_assert_uint_eq(config.listens[0].port, 8080);
  ck_assert_str_eq(config.listens[0].host, "127.0.0.1");
}
END_TEST

START_TEST(reads_modes_in_octal) {
  ck_assert_int_eq(read_all(ARGUMENTS("--socket-mode", "0640"), NULL), 0);
  ck_assert_uint_eq(config.socket_mode_bits, 0640);
  static const char *const bad[] = {"0800", "1777", "rw", "-1", "00660"};
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
    ck_assert_int_eq(read_all(ARGUMENTS("--socket-mode", bad[i]), NULL), HALUT_EINVALID);
    ck_assert_ptr_nonnull(strstr(problems.text, "socket-mode"));
    ck_assert_uint_eq(config.socket_mode_bits, 0660);
  }
}
END_TEST

START_TEST(takes_later_sources_over_earlier) {
  write_file("# comment\nworkers = 2   # two\n queue-max=11\nbatch-max = 3\n"
             "models = \"a # b\"\n\n");
  const char *const environment[] = {"HALUTD_QUEUE_MAX=22", "HALUTD_BATCH_MAX=4", "PATH=/bin",
                                     NULL};
  int error =
      read_all(ARGUMENTS("--config", path, "--batch-max=5", "--body-max", "1M"), environment);
  ck_assert_msg(error == 0, "%s", problems.text);
  ck_assert_uint_eq(config.workers, 2);
  ck_assert_uint_eq(config.queue_max, 22);
  ck_assert_uint_eq(config.batch_max, 5);
  ck_assert_uint_eq(config.body_max, 1048576);
  ck_assert_str_eq(config.models, "a # b");
  ck_assert_str_eq(config.config_path, path);
}
END_TEST

START_TEST(takes_the_file_from_the_environment) {
  char variable[128];
  write_file("workers = 7\n");
  snprintf(variable, sizeof variable, "HALUTD_CONFIG=%s", path);
  const char *const environment[] = {variable, NULL};
  ck_assert_int_eq(read_all(NULL, environment), 0);
  ck_assert_uint_eq(config.workers, 7);
}
END_TEST

START_TEST(ignores_what_kubernetes_sets) {
  const char *const environment[] = {"HALUTD_PORT=tcp://10.0.0.1:8080",
                                     "HALUTD_SERVICE_HOST=10.0.0.1",
                                     "HALUTD_PORT_8080_TCP_ADDR=10.0.0.1", NULL};
  ck_assert_msg(read_all(NULL, environment) == 0, "%s", problems.text);
}
END_TEST

static void expect_problems(const char *text) {
  ck_assert_str_eq(problems.text, text);
  unsigned lines = 0;
  for (const char *p = text; *p != '\0'; p++)
    lines += *p == '\n';
  ck_assert_uint_eq(problems.count, lines);
}

START_TEST(reports_every_problem) {
  write_file("workers = 2\nworkers = 3\nnonsense\nbatch = 5\nmodels = \"x\nqueue-max = 0\n");
  const char *const environment[] = {"HALUTD_BODY_MAXX=1", "HALUTD_BACKEND=gpu", NULL};
  int error = read_all(ARGUMENTS("--config", path, "--workers=many", "--log-levl", "info", "file",
                                 "--queue-max", "99999999999999999999999", "--models=", "--listen"),
                       environment);
  ck_assert_int_eq(error, HALUT_EINVALID);
  char expected[2048];
  snprintf(expected, sizeof expected,
           "%s:2: workers: set a second time\n"
           "%s:3: \"nonsense\": must be key = value\n"
           "%s:4: unknown key \"batch\"; is \"batch-max\" meant?\n"
           "%s:5: models: quotes that do not pair\n"
           "%s:6: queue-max: 0 is not in 1..65536\n"
           "HALUTD_BODY_MAXX: unknown key \"body-maxx\"; is \"body-max\" meant?\n"
           "HALUTD_BACKEND: backend: \"gpu\" is none of cpu|rtl|both\n"
           "command line: workers: \"many\" is not a whole number\n"
           "--log-levl: unknown key \"log-levl\"; is \"log-level\" meant?\n"
           "\"file\": not an option; options start with --\n"
           "command line: queue-max: 99999999999999999999999 is not in 1..65536\n"
           "command line: models: must not be empty\n"
           "--listen: a value must follow\n",
           path, path, path, path, path);
  expect_problems(expected);
}
END_TEST

START_TEST(says_when_a_file_is_missing) {
  ck_assert_int_eq(read_all(ARGUMENTS("--config=/nonexistent/x"), NULL), HALUT_EINVALID);
  expect_problems("config: /nonexistent/x: No such file or directory\n");
}
END_TEST

START_TEST(checks_settings_together) {
  ck_assert_int_eq(read_all(ARGUMENTS("--body-max=2M", "--body-total-max=1M"), NULL),
                   HALUT_EINVALID);
  expect_problems("body-total-max: 1048576 is less than body-max 2097152\n");
}
END_TEST

START_TEST(reads_sizes) {
  static const struct {
    const char *text;
    uint64_t value; /* 0: refused */
  } rows[] = {{"4096", 4096}, {"4K", 4096}, {"4KiB", 4096}, {"8m", 8388608},    {"1G", 1073741824},
              {"4095", 0},    {"2G", 0},    {"4 K", 0},     {"-1", 0},          {"1e6", 0},
              {"0x1000", 0},  {"4T", 0},    {"", 0},        {"99999999999G", 0}};
  for (unsigned i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    char flag[64];
    snprintf(flag, sizeof flag, "--body-max=%s", rows[i].text);
    int error = read_all(ARGUMENTS(flag, "--body-total-max=64G"), NULL);
    ck_assert_msg((error == 0) == (rows[i].value != 0), "%s: %s", rows[i].text, problems.text);
    ck_assert_uint_eq(config.body_max, rows[i].value != 0 ? rows[i].value : 16777216);
  }
}
END_TEST

START_TEST(reads_addresses) {
  int error =
      read_all(ARGUMENTS("--listen", "0.0.0.0:0, [::1]:9000,unix:/run/h.sock,localhost:80"), NULL);
  ck_assert_msg(error == 0, "%s", problems.text);
  ck_assert_uint_eq(config.listen_count, 4);
  ck_assert_uint_eq(config.listens[0].port, 0);
  ck_assert_int_eq(config.listens[1].kind, HALUT_LISTEN_IP6);
  ck_assert_str_eq(config.listens[1].host, "::1");
  ck_assert_uint_eq(config.listens[1].port, 9000);
  ck_assert_int_eq(config.listens[2].kind, HALUT_LISTEN_UNIX);
  ck_assert_str_eq(config.listens[2].host, "/run/h.sock");
  ck_assert_str_eq(config.listens[3].host, "127.0.0.1");
}
END_TEST

START_TEST(refuses_bad_addresses) {
  static const char *const rows[] = {"8080",         ":8080",       "1.2.3:80", "1.2.3.4:65536",
                                     "1.2.3.4:",     "::1:80",      "[::1]80",  "[::1]",
                                     "[1.2.3.4]:80", "example:80",  "unix:",    "1.2.3.4:-1",
                                     "[]:80",        "1.2.3.4:80x", ",",        "]:1"};
  for (unsigned i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    ck_assert_msg(read_all(ARGUMENTS("--listen", rows[i]), NULL) == HALUT_EINVALID, "%s", rows[i]);
    ck_assert_ptr_nonnull(strstr(problems.text, "command line: listen: "));
  }
  char many[256];
  for (int i = 0; i < 9; i++)
    snprintf(many + 10 * i, sizeof many - 10 * (size_t)i, "1.2.3.4:1,");
  ck_assert_int_eq(read_all(ARGUMENTS("--listen", many), NULL), HALUT_EINVALID);
  expect_problems("command line: listen: more than 8 addresses\n");
}
END_TEST

START_TEST(reads_the_default_model) {
  ck_assert_int_eq(read_all(ARGUMENTS("--listen", "127.0.0.1:1"), NULL), 0);
  ck_assert_str_eq(config.model_default, "resnet9-cifar10");
  ck_assert_int_eq(read_all(ARGUMENTS("--model-default", "off"), NULL), 0);
  ck_assert_str_eq(config.model_default, "off");
  ck_assert_int_eq(read_all(ARGUMENTS("--model-default", "a/b"), NULL), HALUT_EINVALID);
  expect_problems("model-default: \"a/b\" is no name of a model, which is 1 to 63 of "
                  "[A-Za-z0-9_.-], the first no dot\n");
}
END_TEST

START_TEST(reads_the_shadow) {
  ck_assert_int_eq(read_all(NULL, NULL), 0);
  ck_assert_uint_eq(config.shadow_every, 0);
  ck_assert_int_eq(read_all(ARGUMENTS("--backend", "both", "--shadow", "1/50"), NULL), 0);
  ck_assert_uint_eq(config.shadow_every, 50);
  ck_assert_int_eq(read_all(ARGUMENTS("--backend", "both", "--shadow", "1/1000000"), NULL), 0);
  static const char *const rows[] = {"on", "1", "2/3", "1/0", "1/", "1/x", "1/-2", "1/1000001"};
  for (unsigned i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    ck_assert_int_eq(read_all(ARGUMENTS("--backend=both", "--shadow", rows[i]), NULL),
                     HALUT_EINVALID);
    ck_assert_ptr_nonnull(strstr(problems.text, "is neither off nor 1/N, N in 1..1000000"));
  }
  ck_assert_int_eq(read_all(ARGUMENTS("--shadow", "1/2"), NULL), HALUT_EINVALID);
  expect_problems("shadow: needs both backends (--backend both)\n");
}
END_TEST

START_TEST(knows_its_modes) {
  static const struct {
    const char *flag;
    enum halut_config_mode mode;
  } rows[] = {{"--help", HALUT_MODE_HELP},
              {"-h", HALUT_MODE_HELP},
              {"--version", HALUT_MODE_VERSION},
              {"-V", HALUT_MODE_VERSION},
              {"--check-config", HALUT_MODE_CHECK},
              {"--print-config", HALUT_MODE_PRINT},
              {"--health=http://h", HALUT_MODE_HEALTH},
              {"--man", HALUT_MODE_MAN}};
  for (unsigned i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    ck_assert_int_eq(read_all(ARGUMENTS(rows[i].flag), NULL), 0);
    ck_assert_int_eq(config.mode, rows[i].mode);
  }
  ck_assert_int_eq(read_all(ARGUMENTS("--help", "--nonsense"), NULL), 0);
  ck_assert_int_eq(read_all(ARGUMENTS("--health"), NULL), HALUT_EINVALID);
  expect_problems("--health: a value must follow\n");
  ck_assert_int_eq(read_all(ARGUMENTS("--version=3"), NULL), HALUT_EINVALID);
  expect_problems("--version: takes no value\n");
}
END_TEST

/* What --print-config prints, read back, gives the same settings. */
START_TEST(prints_what_reads_back) {
  int error = read_all(ARGUMENTS("--listen=[::]:1,unix:/x y", "--backend=both", "--workers=3",
                                 "--body-max=12345", "--access-log=/var/log/a b"),
                       NULL);
  ck_assert_int_eq(error, HALUT_EINVALID); /* a blank parts addresses */
  ck_assert_int_eq(read_all(ARGUMENTS("--listen=[::]:1,unix:/x", "--backend=both", "--workers=3",
                                      "--body-max=12345", "--access-log=/var/log/a b"),
                            NULL),
                   0);
  struct halut_config before = config;
  char *text = NULL;
  size_t bytes = 0;
  FILE *stream = open_memstream(&text, &bytes);
  halut_config_print(&config, stream);
  fclose(stream);
  write_file(text);
  free(text);
  error = read_all(ARGUMENTS("--config", path), NULL);
  ck_assert_msg(error == 0, "%s", problems.text);
  snprintf(before.config_path, sizeof before.config_path, "%s", path);
  ck_assert_str_eq(config.listen, before.listen);
  ck_assert_str_eq(config.access_log, before.access_log);
  ck_assert_uint_eq(config.backend, HALUT_BACKEND_BOTH);
  ck_assert_uint_eq(config.workers, 3);
  ck_assert_uint_eq(config.body_max, 12345);
  ck_assert_uint_eq(config.listen_count, 2);
}
END_TEST

START_TEST(helps_with_every_key) {
  static const char *const names[] = {
#define GROUP(title)
#define TEXT(field, key, ...) "--" key " ",
#define WORD(field, key, ...) "--" key " ",
#define COUNT(field, key, ...) "--" key " ",
#define BYTES(field, key, ...) "--" key " ",
#include "../server/config.inc"
  };
  char *text = NULL;
  size_t bytes = 0;
  FILE *stream = open_memstream(&text, &bytes);
  halut_config_help(stream);
  fclose(stream);
  for (unsigned i = 0; i < sizeof names / sizeof names[0]; i++) {
    ck_assert_msg(strstr(text, names[i]) != NULL, "%s", names[i]);
  }
  for (const char *line = text; *line != '\0'; line += strcspn(line, "\n") + 1) {
    ck_assert_uint_le(strcspn(line, "\n"), 100);
  }
  free(text);
}
END_TEST

START_TEST(suggests_near_names_only) {
  static const char *const names[] = {"queue-max", "body-max", "listen", NULL};
  ck_assert_str_eq(halut_config_nearest("lisetn", names), "listen");
  ck_assert_str_eq(halut_config_nearest("queue_max", names), "queue-max");
  ck_assert_str_eq(halut_config_nearest("queue", names), "queue-max");
  ck_assert_ptr_null(halut_config_nearest("temperature", names));
  ck_assert_ptr_null(halut_config_nearest("", names));
}
END_TEST

START_TEST(bounds_the_report) {
  memset(&problems, 0, sizeof problems);
  for (int i = 0; i < 2000; i++)
    halut_config_problem(&problems, "problem number %d of many", i);
  ck_assert_uint_eq(problems.count, 2000);
  ck_assert_uint_lt(strlen(problems.text), sizeof problems.text);
  ck_assert_ptr_nonnull(strstr(problems.text, "... and more: 2000 problems in all\n"));
}
END_TEST

int main(void) {
  Suite *suite = suite_create("config");
  TCase *all = tcase_create("all");
  tcase_add_checked_fixture(all, NULL, remove_file);
  tcase_add_test(all, has_defaults);
  tcase_add_test(all, reads_modes_in_octal);
  tcase_add_test(all, takes_later_sources_over_earlier);
  tcase_add_test(all, takes_the_file_from_the_environment);
  tcase_add_test(all, ignores_what_kubernetes_sets);
  tcase_add_test(all, reports_every_problem);
  tcase_add_test(all, says_when_a_file_is_missing);
  tcase_add_test(all, checks_settings_together);
  tcase_add_test(all, reads_sizes);
  tcase_add_test(all, reads_addresses);
  tcase_add_test(all, refuses_bad_addresses);
  tcase_add_test(all, reads_the_default_model);
  tcase_add_test(all, reads_the_shadow);
  tcase_add_test(all, knows_its_modes);
  tcase_add_test(all, prints_what_reads_back);
  tcase_add_test(all, helps_with_every_key);
  tcase_add_test(all, suggests_near_names_only);
  tcase_add_test(all, bounds_the_report);
  suite_add_tcase(suite, all);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? 0 : 1;
}
