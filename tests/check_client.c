/* test: the C client against servers that are busy, hang up, stall and lie, and against the daemon
 */
#include <check.h>
#include <locale.h>
#include <math.h>
#include <signal.h>
#include <sys/wait.h>

#include "../clients/c/halut_client.c"

/* ---- A server of scripted answers, in a child process ---- */

enum { HANG_UP = -1, STALL = -2 };

struct step {
  int status; /* or HANG_UP, STALL */
  const char *headers, *body;
  int body_bytes; /* 0: strlen */
  int cut;        /* bytes of the answer that are kept back */
};

static pid_t server_pid;
static char server_url[64];

/* One request off the connection; false at its end. */
static bool take_request(int connection) {
  static char data[1 << 16];
  size_t bytes = 0;
  for (;;) {
    ssize_t got = recv(connection, data + bytes, sizeof data - 1 - bytes, 0);
    if (got <= 0)
      return false;
    bytes += (size_t)got;
    data[bytes] = '\0';
    const char *head = strstr(data, "\r\n\r\n");
    const char *length = strstr(data, "Content-Length: ");
    size_t body = length != NULL ? strtoul(length + 16, NULL, 10) : 0;
    if (head != NULL && bytes >= (size_t)(head - data) + 4 + body)
      return true;
  }
}

static void send_answer(int connection, const struct step *step) {
  static char answer[1 << 16];
  int body_bytes = step->body_bytes != 0 ? step->body_bytes : (int)strlen(step->body);
  int bytes = snprintf(answer, sizeof answer, "HTTP/1.1 %d X\r\nContent-Length: %d\r\n%s\r\n",
                       step->status, body_bytes, step->headers != NULL ? step->headers : "");
  memcpy(answer + bytes, step->body, (size_t)body_bytes);
  send(connection, answer, (size_t)(bytes + body_bytes - step->cut), MSG_NOSIGNAL);
}

static void serve(int listener, const struct step *steps, int count) {
  for (int i = 0; i < count;) {
    int connection = accept(listener, NULL, NULL);
    if (connection < 0)
      _exit(1);
    while (i < count && take_request(connection)) {
      const struct step *step = &steps[i++];
      if (step->status == STALL) {
        sleep(5);
      } else if (step->status != HANG_UP) {
        send_answer(connection, step);
      }
      if (step->status < 0 || step->cut > 0)
        break;
    }
    close(connection);
  }
  _exit(0);
}

static void start_script(const struct step *steps, int count) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t size = sizeof address;
  int listener = socket(AF_INET, SOCK_STREAM, 0);
  ck_assert_int_eq(bind(listener, (struct sockaddr *)&address, size), 0);
  ck_assert_int_eq(listen(listener, 8), 0);
  getsockname(listener, (struct sockaddr *)&address, &size);
  snprintf(server_url, sizeof server_url, "http://127.0.0.1:%d", ntohs(address.sin_port));
  server_pid = fork();
  if (server_pid == 0)
    serve(listener, steps, count);
  close(listener);
}

#define SCRIPT(...)                                                                                \
  start_script((const struct step[]){__VA_ARGS__},                                                 \
               (int)(sizeof((const struct step[]){__VA_ARGS__}) / sizeof(struct step)))

static void stop_server(void) {
  if (server_pid > 0) {
    kill(server_pid, SIGKILL); /* Check's handler of SIGTERM, inherited, would end the test too */
    waitpid(server_pid, NULL, 0);
  }
  server_pid = 0;
}

static struct halut_client *open_client(uint32_t timeout_ms) {
  struct halut_client_options options = {
      .timeout_ms = timeout_ms, .attempts = 3, .header = "X-Api-Key: k"};
  struct halut_client *client = NULL;
  ck_assert_int_eq(halut_client_open(server_url, &options, &client), 0);
  return client;
}

/* Whether the last request, which no NUL ends, has that text in it. */
static bool has_asked(const struct halut_client *client, const char *text) {
  return memmem(client->request.data, client->request.bytes, text, strlen(text)) != NULL;
}

static const char cat[] =
    "{\"model\":\"m\",\"top\":[{\"label\":\"a \\\"cat\\\"\",\"index\":3,"
    "\"probability\":0.75},{\"probability\":0.25,\"index\":5,\"label\":\"dog\"}]}";

static int classify(struct halut_client *client, struct halut_client_label *labels, size_t *count) {
  *count = 5;
  return halut_client_classify(client, "m/n", "pixels", 6, labels, count);
}

START_TEST(reads_labels) {
  SCRIPT({200, NULL, cat, 0, 0}, {200, NULL, cat, 0, 0});
  struct halut_client *client = open_client(5000);
  for (int i = 0; i < 2; i++) { /* the second over the kept connection */
    struct halut_client_label labels[5];
    size_t count;
    int error = classify(client, labels, &count);
    ck_assert_msg(error == 0, "%s", halut_client_error(client));
    ck_assert_uint_eq(count, 2);
    ck_assert_str_eq(labels[0].label, "a \"cat\"");
    ck_assert_uint_eq(labels[1].index, 5);
    ck_assert_double_eq(labels[0].probability, 0.75);
  }
  halut_client_close(client);
}
END_TEST

START_TEST(tries_again) {
  static const char busy[] = "{\"error\":\"queue full\"}";
  SCRIPT({503, "Retry-After: 0\r\n", busy, 0, 0}, {HANG_UP, NULL, "", 0, 0},
         {200, NULL, cat, 0, 0});
  struct halut_client *client = open_client(5000);
  struct halut_client_label labels[5];
  size_t count;
  ck_assert_msg(classify(client, labels, &count) == 0, "%s", halut_client_error(client));
  halut_client_close(client);
  stop_server();
  SCRIPT({503, NULL, busy, 0, 0}, {503, NULL, busy, 0, 0}, {503, NULL, busy, 0, 0});
  client = open_client(5000);
  ck_assert_int_eq(classify(client, labels, &count), HALUT_CLIENT_EBUSY);
  ck_assert_str_eq(halut_client_error(client), "queue full (HTTP 503)");
  halut_client_close(client);
}
END_TEST

START_TEST(does_not_repeat_mistakes) {
  SCRIPT({400, NULL, "{\"error\":\"bad picture\"}", 0, 0}, {200, NULL, cat, 0, 0});
  struct halut_client *client = open_client(5000);
  struct halut_client_label labels[5];
  size_t count;
  ck_assert_int_eq(classify(client, labels, &count), HALUT_CLIENT_EREFUSED);
  ck_assert_str_eq(halut_client_error(client), "bad picture (HTTP 400)");
  ck_assert_int_eq(halut_client_http_status(client), 400);
  halut_client_close(client);
}
END_TEST

START_TEST(survives_cut_answers) {
  SCRIPT({200, NULL, cat, 0, 20}, {200, NULL, cat, 0, 0});
  struct halut_client *client = open_client(5000);
  struct halut_client_label labels[5];
  size_t count;
  ck_assert_msg(classify(client, labels, &count) == 0, "%s", halut_client_error(client));
  halut_client_close(client);
}
END_TEST

START_TEST(times_out) {
  SCRIPT({STALL, NULL, "", 0, 0});
  struct halut_client *client = open_client(200);
  struct halut_client_label labels[5];
  size_t count;
  uint64_t begun = now_ms();
  ck_assert_int_eq(classify(client, labels, &count), HALUT_CLIENT_ETIMEOUT);
  ck_assert_uint_lt(now_ms() - begun, 3000);
  halut_client_close(client);
}
END_TEST

/* Answers that are not what was asked for, each refused and none followed out of its buffer. */
START_TEST(refuses_lies) {
  static const char *const bodies[] = {"",
                                       "[]",
                                       "{\"top\":[]}",
                                       "{\"top\":[{\"label\":\"x\"}]}",
                                       "{\"top\":[{\"label\":\"x",
                                       "{\"top\":5}",
                                       "{\"top\"",
                                       "{\"a\":\"\\",
                                       "{\"a\":[[[",
                                       "]]]]"};
  for (unsigned i = 0; i < sizeof bodies / sizeof bodies[0]; i++) {
    SCRIPT({200, NULL, bodies[i], 0, 0});
    struct halut_client *client = open_client(5000);
    struct halut_client_label labels[5];
    size_t count;
    ck_assert_msg(classify(client, labels, &count) == HALUT_CLIENT_EANSWER, "%s", bodies[i]);
    float a[2] = {1, 2}, *c = NULL;
    size_t outputs;
    halut_client_close(client);
    stop_server();
    SCRIPT({200, NULL, bodies[i], 0, 0});
    client = open_client(5000);
    ck_assert_int_eq(halut_client_matmul(client, "m", a, 1, 2, &c, &outputs), HALUT_CLIENT_EANSWER);
    ck_assert_ptr_null(c);
    halut_client_close(client);
    stop_server();
  }
}
END_TEST

START_TEST(reads_binary_and_json_tensors) {
  static const char body[] =
      "{\"model_name\":\"m\",\"outputs\":[{\"name\":\"y\",\"datatype\":\"INT16\",\"shape\":[2,1],"
      "\"parameters\":{\"binary_data_size\":4}},{\"name\":\"z\",\"datatype\":\"FP32\","
      "\"shape\":[2],\"data\":[[0.5],[-1e-3]]},{\"name\":\"w\",\"datatype\":\"UINT8\",\"shape\":[1]"
      ","
      "\"parameters\":{\"binary_data_size\":1}}]}\x01\x00\xff\xff\x09";
  char header[64];
  snprintf(header, sizeof header, "inference-header-content-length: %zu\r\n", sizeof body - 6);
  SCRIPT({200, header, body, sizeof body - 1, 0});
  struct halut_client *client = open_client(5000);
  float values[2] = {1, 2};
  struct halut_client_tensor input = {
      .name = "x", .datatype = "FP32", .rank = 1, .dim = {2}, .data = values, .bytes = 8};
  struct halut_client_tensor outputs[3];
  size_t count = 3;
  int error = halut_client_infer(client, "m", &input, 1, 1, outputs, &count);
  ck_assert_msg(error == 0, "%s", halut_client_error(client));
  ck_assert_uint_eq(count, 3);
  ck_assert_int_eq(((int16_t *)outputs[0].data)[1], -1);
  ck_assert_float_eq(((float *)outputs[1].data)[1], -1e-3f);
  ck_assert_uint_eq(((uint8_t *)outputs[2].data)[0], 9);
  halut_client_free_outputs(outputs, count);
  ck_assert(has_asked(client, "\"binary_data_size\":8"));
  ck_assert(has_asked(client, "\r\nX-Api-Key: k\r\n"));
  char host[sizeof server_url + 10];
  snprintf(host, sizeof host, "\r\nHost: %s\r\n", server_url + strlen("http://"));
  ck_assert(has_asked(client, host));
  halut_client_close(client);
}
END_TEST

/* A locale with a decimal comma, made here so that none need be installed; false after a reason. */
static bool use_comma(void) {
  static const char source[] = "LC_NUMERIC\ndecimal_point \",\"\nthousands_sep \"\"\ngrouping -1\n"
                               "END LC_NUMERIC\n";
  char folder[] = "/tmp/check_client.XXXXXX", command[256];
  ck_assert_ptr_nonnull(mkdtemp(folder));
  snprintf(command, sizeof command,
           "cd %s && cat >source && localedef -ci source ./comma 2>/dev/null", folder);
  FILE *to = popen(command, "w");
  ck_assert_ptr_nonnull(to);
  fputs(source, to);
  pclose(to); /* localedef says 1, as there are no other categories */
  setenv("LOCPATH", folder, 1);
  const bool is_used = setlocale(LC_NUMERIC, "comma") != NULL;
  snprintf(command, sizeof command, "rm -r %s", folder);
  ck_assert_int_eq(system(command), 0);
  if (!is_used)
    puts("skip: localedef makes no locale with a comma");
  return is_used;
}

START_TEST(numbers_have_a_point_in_any_locale) {
  if (!use_comma())
    return;
  char text[8];
  snprintf(text, sizeof text, "%.1f", 0.5);
  ck_assert_str_eq(text, "0,5");
  SCRIPT({200, NULL, cat, 0, 0},
         {200, NULL,
          "{\"outputs\":[{\"name\":\"y\",\"datatype\":\"FP32\",\"shape\":[2],"
          "\"data\":[0.5,2.25]}]}",
          0, 0},
         {200, NULL,
          "{\"id\":\"j1\",\"name\":\"n\",\"state\":\"done\",\"progress\":0.5,\"seconds\":1.5,"
          "\"result\":{\"version\":1,\"nmse\":0.25}}",
          0, 0});
  struct halut_client *client = open_client(5000);
  struct halut_client_label labels[5];
  size_t count;
  ck_assert_int_eq(classify(client, labels, &count), 0);
  ck_assert_double_eq(labels[0].probability, 0.75);
  float values[1] = {1.5f};
  struct halut_client_tensor input = {
      .name = "x", .datatype = "FP32", .rank = 1, .dim = {1}, .data = values, .bytes = 4};
  struct halut_client_tensor output;
  count = 1;
  int error = halut_client_infer(client, "m", &input, 1, 0, &output, &count);
  ck_assert_msg(error == 0, "%s", halut_client_error(client));
  ck_assert(has_asked(client, "\"data\":[1.5]"));
  ck_assert_float_eq(((float *)output.data)[1], 2.25f);
  halut_client_free_outputs(&output, count);
  struct halut_client_job job;
  ck_assert_int_eq(halut_client_job(client, "j1", &job), 0);
  ck_assert_double_eq(job.progress, 0.5);
  ck_assert_double_eq(job.seconds, 1.5);
  ck_assert_double_eq(job.nmse, 0.25);
  snprintf(text, sizeof text, "%.1f", 0.5);
  ck_assert_str_eq(text, "0,5"); /* the program's own locale is as it was */
  halut_client_close(client);
}
END_TEST

START_TEST(takes_answers_of_any_length_if_told_so) {
  SCRIPT({200, NULL, cat, 0, 0});
  struct halut_client *client = open_client(5000);
  bool end;
  ck_assert(buffer_reserve(&client->answer, HEAD_MAX + 9));
  client->answer.bytes = HEAD_MAX + 9;
  client->options.answer_max = 8;
  ck_assert_int_eq(receive(client, &end), HALUT_CLIENT_EANSWER);
  client->options.answer_max = UINT64_MAX;
  ck_assert_int_eq(receive(client, &end), HALUT_CLIENT_ETIMEOUT); /* of no call */
  halut_client_close(client);
}
END_TEST

START_TEST(refuses_bad_tensors) {
  static const char *const bodies[] = {
      "{\"outputs\":[{\"name\":\"y\",\"datatype\":\"FP32\",\"shape\":[2],\"data\":[1]}]}",
      "{\"outputs\":[{\"name\":\"y\",\"datatype\":\"FP32\",\"shape\":[1],\"data\":[1,2]}]}",
      "{\"outputs\":[{\"name\":\"y\",\"datatype\":\"FP99\",\"shape\":[1],\"data\":[1]}]}",
      "{\"outputs\":[{\"name\":\"y\",\"datatype\":\"FP32\",\"shape\":[99999999999],\"data\":[1]}]}",
      "{\"outputs\":[{\"name\":\"y\",\"datatype\":\"FP32\",\"shape\":[1],\"data\":[\"x\"]}]}",
      "{\"outputs\":[{\"name\":\"y\",\"datatype\":\"FP32\",\"shape\":[1],"
      "\"parameters\":{\"binary_data_size\":4}}]}"};
  for (unsigned i = 0; i < sizeof bodies / sizeof bodies[0]; i++) {
    SCRIPT({200, NULL, bodies[i], 0, 0});
    struct halut_client *client = open_client(5000);
    struct halut_client_tensor outputs[2];
    size_t count = 2;
    int error = halut_client_infer(client, "m", NULL, 0, 0, outputs, &count);
    ck_assert_msg(error == HALUT_CLIENT_EANSWER, "%s", bodies[i]);
    ck_assert_uint_eq(count, 0);
    halut_client_close(client);
    stop_server();
  }
}
END_TEST

START_TEST(a_call_that_fails_leaves_no_outputs) {
  SCRIPT({404, NULL, "{\"error\":\"no m\"}", 0, 0});
  struct halut_client *client = open_client(5000);
  float value = 1;
  struct halut_client_tensor input = {
      .name = "x", .datatype = "FP32", .rank = 1, .dim = {2}, .data = &value, .bytes = 4};
  struct halut_client_tensor outputs[2];
  size_t count = 2;
  ck_assert_int_eq(halut_client_infer(client, "m", &input, 1, 1, outputs, &count),
                   HALUT_CLIENT_EINVALID);
  ck_assert_uint_eq(count, 0);
  count = 2;
  ck_assert_int_eq(halut_client_infer(client, "m", NULL, 0, 0, outputs, &count),
                   HALUT_CLIENT_EREFUSED);
  ck_assert_uint_eq(count, 0);
  stop_server();
  count = 2;
  ck_assert_int_ne(halut_client_infer(client, "m", NULL, 0, 0, outputs, &count), 0);
  ck_assert_uint_eq(count, 0);
  halut_client_close(client);
}
END_TEST

/* ---- Learning ---- */

#define JOB(state, more)                                                                           \
  "{\"id\":\"j1\",\"name\":\"n\",\"state\":\"" state "\",\"stage\":\"trees\",\"progress\":0.5,"    \
  "\"seconds\":1.5" more "}"

static const float sample_a[2] = {1, 2}, sample_b[2] = {3, 4};

static struct halut_client_lesson sample_lesson(void) {
  return (struct halut_client_lesson){
      .name = "n", .a = sample_a, .b = sample_b, .rows = 1, .columns = 2, .outputs = 1};
}

struct seen {
  char states[64][16];
  int count, stop_at; /* the call that says stop, or 0 */
  double progress;
};

static int see(void *self, const struct halut_client_job *job) {
  struct seen *seen = self;
  ck_assert_double_ge(job->progress, seen->progress); /* never back */
  seen->progress = job->progress;
  if (seen->count < 64)
    memcpy(seen->states[seen->count++], job->state, sizeof job->state);
  return seen->count == seen->stop_at;
}

START_TEST(learns_with_progress) {
  SCRIPT({503, "Retry-After: 0\r\n", "{\"error\":\"full\"}", 0, 0},
         {202, NULL, "{\"id\":\"j1\"}", 0, 0}, {200, NULL, JOB("queued", ""), 0, 0},
         {HANG_UP, NULL, "", 0, 0}, {200, NULL, JOB("running", ""), 0, 0},
         {200, NULL, JOB("done", ",\"result\":{\"version\":7,\"nmse\":0.25}"), 0, 0});
  struct halut_client *client = open_client(5000);
  struct halut_client_lesson lesson = sample_lesson();
  struct halut_client_job job;
  struct seen seen = {0};
  int error = halut_client_learn(client, &lesson, 0, see, &seen, &job);
  ck_assert_msg(error == 0, "%s", halut_client_error(client));
  ck_assert_int_eq(seen.count, 3);
  ck_assert_str_eq(seen.states[0], "queued");
  ck_assert_str_eq(seen.states[1], "running");
  ck_assert_str_eq(job.state, "done");
  ck_assert_str_eq(job.stage, "trees");
  ck_assert_uint_eq(job.version, 7);
  ck_assert_double_eq(job.nmse, 0.25);
  halut_client_close(client);
}
END_TEST

START_TEST(does_not_start_learning_twice) {
  SCRIPT({200, NULL, cat, 0, 0}, {HANG_UP, NULL, "", 0, 0}, {202, NULL, "{\"id\":\"j1\"}", 0, 0},
         {200, NULL, JOB("done", ""), 0, 0});
  struct halut_client *client = open_client(5000);
  struct halut_client_label labels[5];
  size_t count;
  ck_assert_int_eq(classify(client, labels, &count), 0); /* the connection is kept */
  struct halut_client_lesson lesson = sample_lesson();
  struct halut_client_job job;
  ck_assert_int_eq(halut_client_learn(client, &lesson, 0, NULL, NULL, &job), HALUT_CLIENT_ECONNECT);
  halut_client_close(client);
}
END_TEST

START_TEST(says_why_learning_failed) {
  SCRIPT({202, NULL, "{\"id\":\"j1\"}", 0, 0},
         {200, NULL, JOB("failed", ",\"error\":\"no luck\""), 0, 0});
  struct halut_client *client = open_client(5000);
  struct halut_client_lesson lesson = sample_lesson();
  struct halut_client_job job;
  ck_assert_int_eq(halut_client_learn(client, &lesson, 0, NULL, NULL, &job), HALUT_CLIENT_ELEARN);
  ck_assert_str_eq(halut_client_error(client), "job j1 (n): no luck");
  ck_assert(isnan(job.nmse));
  halut_client_close(client);
}
END_TEST

START_TEST(cancels_and_takes_too_late_for_an_answer) {
  SCRIPT({202, NULL, "{\"id\":\"j1\"}", 0, 0}, {200, NULL, JOB("running", ""), 0, 0},
         {200, NULL, JOB("cancelled", ""), 0, 0}, {202, NULL, "{\"id\":\"j1\"}", 0, 0},
         {200, NULL, JOB("running", ""), 0, 0}, {409, NULL, "{\"error\":\"too late\"}", 0, 0},
         {200, NULL, JOB("done", ",\"result\":{\"version\":1,\"nmse\":null}"), 0, 0});
  struct halut_client *client = open_client(5000);
  struct halut_client_lesson lesson = sample_lesson();
  struct halut_client_job job;
  struct seen seen = {.stop_at = 1};
  int error = halut_client_learn(client, &lesson, 0, see, &seen, &job);
  ck_assert_int_eq(error, HALUT_CLIENT_ELEARN);
  ck_assert_int_eq(strncmp(client->request.data, "DELETE /v1/jobs/j1 ", 19), 0);
  ck_assert_str_eq(seen.states[seen.count - 1], "cancelled");
  seen = (struct seen){.stop_at = 1};
  error = halut_client_learn(client, &lesson, 0, see, &seen, &job);
  ck_assert_msg(error == 0, "%s", halut_client_error(client));
  ck_assert(isnan(job.nmse));
  halut_client_close(client);
}
END_TEST

START_TEST(stops_waiting_for_a_job) {
  SCRIPT({202, NULL, "{\"id\":\"j1\"}", 0, 0}, {200, NULL, JOB("running", ""), 0, 0},
         {200, NULL, JOB("running", ""), 0, 0}, {200, NULL, JOB("done", ""), 0, 0});
  struct halut_client *client = open_client(5000);
  struct halut_client_lesson lesson = sample_lesson();
  struct halut_client_job job;
  ck_assert_int_eq(halut_client_learn(client, &lesson, 20, NULL, NULL, &job),
                   HALUT_CLIENT_ETIMEOUT);
  ck_assert_str_eq(job.id, "j1");
  halut_client_close(client);
}
END_TEST

START_TEST(refuses_bad_jobs) {
  static const char *const bodies[] = {"{}", "[]", "{\"id\":5}", "{\"id\":\"j",
                                       "{\"id\":\"j\",\"name\":\"n\",\"state\":\"done\"}"};
  struct halut_client_job job;
  for (unsigned i = 0; i < sizeof bodies / sizeof bodies[0]; i++) {
    SCRIPT({202, NULL, bodies[i], 0, 0}, {200, NULL, bodies[i], 0, 0});
    struct halut_client *client = open_client(5000);
    struct halut_client_lesson lesson = sample_lesson();
    ck_assert_msg(halut_client_learn(client, &lesson, 0, NULL, NULL, &job) == HALUT_CLIENT_EANSWER,
                  "%s", bodies[i]);
    halut_client_close(client);
    stop_server();
  }
  struct halut_client *client = open_client(500);
  struct halut_client_lesson lesson = sample_lesson();
  lesson.rows = SIZE_MAX / 4;
  ck_assert_int_eq(halut_client_start_learning(client, &lesson, &job), HALUT_CLIENT_EINVALID);
  lesson.rows = 0;
  ck_assert_int_eq(halut_client_start_learning(client, &lesson, &job), HALUT_CLIENT_EINVALID);
  lesson = sample_lesson();
  lesson.fields = &(struct halut_client_field){"by\"\r\nX: y", "1"};
  lesson.field_count = 1;
  ck_assert_int_eq(halut_client_start_learning(client, &lesson, &job), HALUT_CLIENT_EINVALID);
  ck_assert_int_eq(halut_client_job(client, "", &job), HALUT_CLIENT_EINVALID);
  halut_client_close(client);
}
END_TEST

START_TEST(checks_its_arguments) {
  static const char *const urls[] = {
      "", "ftp://h", "http://", "unix:", "http://h:port", "http://h/path", "h:80"};
  struct halut_client *client = NULL;
  for (unsigned i = 0; i < sizeof urls / sizeof urls[0]; i++) {
    ck_assert_msg(halut_client_open(urls[i], NULL, &client) == HALUT_CLIENT_EINVALID, "%s",
                  urls[i]);
    halut_client_close(client);
  }
  struct halut_client_options options = {.header = "X: a\r\nY: b"};
  ck_assert_int_eq(halut_client_open("http://h", &options, &client), HALUT_CLIENT_EINVALID);
  halut_client_close(client);
  ck_assert_int_eq(halut_client_open("http://[::1]:9", NULL, &client), 0);
  ck_assert_str_eq(client->host, "::1");
  ck_assert_str_eq(client->port, "9");
  ck_assert(begin(client, "GET", "/", 0, ""));
  ck_assert(has_asked(client, "\r\nHost: [::1]:9\r\n"));
  float a = 0, *c;
  size_t outputs;
  ck_assert_int_eq(halut_client_matmul(client, "m", &a, 0, 1, &c, &outputs), HALUT_CLIENT_EINVALID);
  ck_assert_int_eq(halut_client_matmul(client, "m", &a, SIZE_MAX, 8, &c, &outputs),
                   HALUT_CLIENT_EINVALID);
  halut_client_close(client);
  snprintf(server_url, sizeof server_url, "unix:/nonexistent/halutd.sock");
  client = open_client(500);
  ck_assert_int_eq(halut_client_health(client), HALUT_CLIENT_ECONNECT);
  halut_client_close(client);
}
END_TEST

/* ---- The daemon ---- */

static void start_daemon(const char *models) {
  const char *build = getenv("HALUT_BUILD");
  char program[512], line[512];
  snprintf(program, sizeof program, "%s/halutd", build != NULL ? build : "build");
  int ends[2];
  ck_assert_int_eq(pipe(ends), 0);
  server_pid = fork();
  if (server_pid == 0) {
    dup2(ends[1], 1);
    dup2(ends[1], 2);
    close(ends[0]);
    execl(program, "halutd", "--listen", "127.0.0.1:0", "--models", models, (char *)NULL);
    _exit(127);
  }
  close(ends[1]);
  FILE *output = fdopen(ends[0], "r");
  const char *url = NULL;
  while (url == NULL && fgets(line, sizeof line, output) != NULL)
    url = strstr(line, "http://127");
  ck_assert_msg(url != NULL, "%s did not start", program);
  snprintf(server_url, sizeof server_url, "%.*s", (int)strcspn(url, " \n,"), url);
}

static struct halut_client *open_healthy(void) {
  struct halut_client *client = open_client(10000);
  int error = halut_client_health(client);
  for (int i = 0; error != 0 && i < 100; i++) {
    poll(NULL, 0, 50);
    error = halut_client_health(client);
  }
  ck_assert_msg(error == 0, "%s", halut_client_error(client));
  return client;
}

static void end_daemon(void) {
  kill(server_pid, SIGTERM);
  int status = 0;
  waitpid(server_pid, &status, 0);
  server_pid = 0;
  ck_assert(WIFEXITED(status));
  ck_assert_int_eq(WEXITSTATUS(status), 0);
}

START_TEST(works_with_the_daemon) {
  start_daemon("models");
  struct halut_client *client = open_healthy();
  float a[2] = {0}, *c = NULL;
  size_t outputs = 0;
  int error = halut_client_matmul(client, "signal", a, 1, 2, &c, &outputs);
  ck_assert_int_eq(error, HALUT_CLIENT_EREFUSED); /* not its columns */
  ck_assert_int_eq(halut_client_http_status(client), 400);
  begin(client, "GET", "/v1/models", 0, "");
  ck_assert_int_eq(call(client, 1), 0);
  const char *model = json_first(json_member(client->answer.data + client->body_at, "models"));
  char name[64] = "";
  while (model != NULL && json_text(json_member(model, "name"), name, sizeof name) &&
         strcmp(name, "signal") != 0) {
    model = json_next(model);
  }
  ck_assert_str_eq(name, "signal");
  size_t columns = strtoul(json_member(model, "columns"), NULL, 10);
  float *rows = calloc(2 * columns, sizeof *rows);
  for (size_t i = 0; i < 2 * columns; i++)
    rows[i] = (float)(i % 7) / 4;
  error = halut_client_matmul(client, "signal", rows, 2, columns, &c, &outputs);
  ck_assert_msg(error == 0, "%s", halut_client_error(client));
  ck_assert_uint_gt(outputs, 0);
  for (size_t i = 0; i < 2 * outputs; i++)
    ck_assert(isfinite(c[i]));
  free(c);
  free(rows);
  halut_client_close(client);
  end_daemon();
}
END_TEST

/* A folder of models that may be written to, with one in it. */
static void make_models(char *folder, size_t bytes) {
  char command[512];
  snprintf(folder, bytes, "/tmp/check_client.XXXXXX");
  ck_assert_ptr_nonnull(mkdtemp(folder));
  snprintf(command, sizeof command, "cp models/signal.safetensors %s", folder);
  ck_assert_int_eq(system(command), 0);
}

static void remove_models(const char *folder) {
  char command[512];
  snprintf(command, sizeof command, "rm -r %s", folder);
  ck_assert_int_eq(system(command), 0);
}

static int cancel_when_running(void *self, const struct halut_client_job *job) {
  (void)self;
  return strcmp(job->state, "running") == 0;
}

/* Rows of four directions times b[8][3]: learned almost exactly. */
static void make_samples(float *a, size_t rows, float *b) {
  for (size_t i = 0; i < rows; i++) {
    for (size_t j = 0; j < 8; j++)
      a[i * 8 + j] = (float)((i * 7 + j / 2) % 5) - 2;
  }
  for (size_t i = 0; i < 24; i++)
    b[i] = (float)((i * 5) % 7) / 4 - 0.5f;
}

START_TEST(learns_on_the_daemon) {
  char folder[64];
  make_models(folder, sizeof folder);
  start_daemon(folder);
  struct halut_client *client = open_healthy();
  float a[400 * 8], b[24], *c = NULL;
  make_samples(a, 400, b);
  const struct halut_client_field fields[] = {{"codebooks", "4"}, {"seed", "7"}};
  struct halut_client_lesson lesson = {.name = "mine",
                                       .a = a,
                                       .b = b,
                                       .rows = 400,
                                       .columns = 8,
                                       .outputs = 3,
                                       .fields = fields,
                                       .field_count = 2};
  struct halut_client_job job;
  struct seen seen = {0};
  int error = halut_client_learn(client, &lesson, 30000, see, &seen, &job);
  ck_assert_msg(error == 0, "%s", halut_client_error(client));
  ck_assert_str_eq(job.name, "mine");
  ck_assert_str_eq(seen.states[seen.count - 1], "done");
  ck_assert_uint_eq(job.version, 1);
  ck_assert_double_lt(job.nmse, 0.05);
  size_t outputs = 0;
  error = halut_client_matmul(client, "mine", a, 5, 8, &c, &outputs);
  ck_assert_msg(error == 0, "%s", halut_client_error(client));
  ck_assert_uint_eq(outputs, 3);
  for (size_t i = 0; i < 5; i++) {
    for (size_t m = 0; m < 3; m++) {
      float exact = 0;
      for (size_t d = 0; d < 8; d++)
        exact += a[i * 8 + d] * b[d * 3 + m];
      ck_assert_float_eq_tol(c[i * 3 + m], exact, 1.0f);
    }
  }
  free(c);
  lesson.fields = &(struct halut_client_field){"codebooks", "many"};
  lesson.field_count = 1;
  ck_assert_int_eq(halut_client_learn(client, &lesson, 0, NULL, NULL, &job), HALUT_CLIENT_EREFUSED);
  ck_assert_msg(strstr(halut_client_error(client), "codebooks") != NULL, "%s",
                halut_client_error(client));
  halut_client_close(client);
  end_daemon();
  remove_models(folder);
}
END_TEST

START_TEST(cancels_on_the_daemon) {
  enum { ROWS = 20000, WIDTH = 64 };
  char folder[64];
  make_models(folder, sizeof folder);
  start_daemon(folder);
  struct halut_client *client = open_healthy();
  float *a = malloc(sizeof(float) * ROWS * WIDTH);
  uint32_t random = 1;
  for (size_t i = 0; i < (size_t)ROWS * WIDTH; i++) {
    random = random * 1664525u + 1013904223u;
    a[i] = (float)(random >> 8) * 0x1p-24f;
  }
  const struct halut_client_field field = {"codebooks", "1"};
  const struct halut_client_lesson lesson = {.name = "wide",
                                             .a = a,
                                             .b = a,
                                             .rows = ROWS,
                                             .columns = WIDTH,
                                             .outputs = WIDTH,
                                             .fields = &field,
                                             .field_count = 1};
  struct halut_client_job job;
  int error = halut_client_learn(client, &lesson, 30000, cancel_when_running, NULL, &job);
  ck_assert_int_eq(error, HALUT_CLIENT_ELEARN);
  ck_assert_str_eq(job.state, "cancelled");
  ck_assert_int_eq(halut_client_job(client, job.id, &job), 0);
  ck_assert_str_eq(job.state, "cancelled");
  ck_assert_int_eq(halut_client_job(client, "none/such", &job), HALUT_CLIENT_EREFUSED);
  ck_assert_int_eq(halut_client_http_status(client), 404);
  free(a);
  halut_client_close(client);
  end_daemon();
  remove_models(folder);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("client");
  TCase *all = tcase_create("all");
  tcase_set_timeout(all, 60);
  tcase_add_checked_fixture(all, NULL, stop_server);
  tcase_add_test(all, reads_labels);
  tcase_add_test(all, tries_again);
  tcase_add_test(all, does_not_repeat_mistakes);
  tcase_add_test(all, survives_cut_answers);
  tcase_add_test(all, times_out);
  tcase_add_test(all, refuses_lies);
  tcase_add_test(all, reads_binary_and_json_tensors);
  tcase_add_test(all, numbers_have_a_point_in_any_locale);
  tcase_add_test(all, takes_answers_of_any_length_if_told_so);
  tcase_add_test(all, refuses_bad_tensors);
  tcase_add_test(all, a_call_that_fails_leaves_no_outputs);
  tcase_add_test(all, checks_its_arguments);
  tcase_add_test(all, works_with_the_daemon);
  tcase_add_test(all, learns_with_progress);
  tcase_add_test(all, does_not_start_learning_twice);
  tcase_add_test(all, says_why_learning_failed);
  tcase_add_test(all, cancels_and_takes_too_late_for_an_answer);
  tcase_add_test(all, stops_waiting_for_a_job);
  tcase_add_test(all, refuses_bad_jobs);
  tcase_add_test(all, learns_on_the_daemon);
  tcase_add_test(all, cancels_on_the_daemon);
  suite_add_tcase(suite, all);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? 0 : 1;
}
