/* page.c: DESIGN. The assembler includes the files as they are, so there is no generated source and
 * no quoting. Paths are from the top folder, where the compiler runs; the Makefile names the files
 * as prerequisites, which the compiler's dependency output cannot. The client that the page uses is
 * the published one. */
#include "page.h"

#include <string.h>

/* file_NAME is the first byte, file_NAME_end is past the last. */
#define FILE_DATA(name, path)                                                                      \
  __asm__(".section .rodata\n"                                                                     \
          ".balign 16\n"                                                                           \
          "file_" #name ":\n"                                                                      \
          ".incbin \"" path "\"\n"                                                                 \
          "file_" #name "_end:\n"                                                                  \
          ".previous\n");                                                                          \
  extern const char file_##name[] __attribute__((visibility("hidden")));                           \
  extern const char file_##name##_end[] __attribute__((visibility("hidden")))

#define SCRIPT "text/javascript; charset=utf-8"

/* name, path of the request, path of the file, type */
#define PAGE_MAP(XX)                                                                               \
  XX(index, "/", "server/page/index.html", "text/html; charset=utf-8")                             \
  XX(style, "/page/style.css", "server/page/style.css", "text/css; charset=utf-8")                 \
  XX(page_js, "/page/page.js", "server/page/page.js", SCRIPT)                                      \
  XX(dom_js, "/page/dom.js", "server/page/dom.js", SCRIPT)                                         \
  XX(server_js, "/page/server.js", "server/page/server.js", SCRIPT)                                \
  XX(picture_js, "/page/picture.js", "server/page/picture.js", SCRIPT)                             \
  XX(classify_js, "/page/classify.js", "server/page/classify.js", SCRIPT)                          \
  XX(explain_js, "/page/explain.js", "server/page/explain.js", SCRIPT)                             \
  XX(matrix_js, "/page/matrix.js", "server/page/matrix.js", SCRIPT)                                \
  XX(multiply_js, "/page/multiply.js", "server/page/multiply.js", SCRIPT)                          \
  XX(live_js, "/page/live.js", "server/page/live.js", SCRIPT)                                      \
  XX(client_js, "/page/halutd.js", "clients/js/halutd.js", SCRIPT)                                 \
  XX(icon, "/page/icon.svg", "server/page/icon.svg", "image/svg+xml")                              \
  XX(openapi, "/openapi.json", "server/openapi.json", "application/json")

#define XX(name, request, file, type) FILE_DATA(name, file);
PAGE_MAP(XX)
#undef XX

const char halut_page_policy[] =
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

bool halut_page_find(const char *path, struct halut_page *out) {
  static const struct {
    const char *path, *type, *data, *end;
  } files[] = {
#define XX(name, request, file, type_)                                                             \
  {.path = request, .type = type_, .data = file_##name, .end = file_##name##_end},
      PAGE_MAP(XX)
#undef XX
  };
  for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
    if (strcmp(files[i].path, path) != 0)
      continue;
    *out = (struct halut_page){.type = files[i].type,
                               .data = files[i].data,
                               .bytes = (size_t)(files[i].end - files[i].data)};
    return true;
  }
  return false;
}
