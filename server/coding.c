/* DESIGN: the length that a compressed body claims is not believed: memory grows with what comes
 * out, by doubling, and each step is charged before it is taken. One byte past the limit is room to
 * see that there is more. */
#include "coding.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <zlib.h>

enum {
  FIRST_BYTES = 16384,   /* allocated first for what comes out */
  WINDOW_GZIP = 15 + 16, /* zlib's way to say gzip */
  WINDOW_ZLIB = 15,
  SMALL_BYTES = 8192 /* below it a small window: zlib clears less memory than it compresses */
};

const char *halut_coding_name(enum halut_coding coding) {
  static const char *const names[] = {"identity", "gzip", "deflate"};
  return names[coding];
}

static bool is_word(const char *text, size_t bytes, const char *word) {
  return bytes == strlen(word) && strncasecmp(text, word, bytes) == 0;
}

static bool coding_find(const char *text, size_t bytes, enum halut_coding *out) {
  if (is_word(text, bytes, "gzip") || is_word(text, bytes, "x-gzip"))
    *out = HALUT_GZIP;
  else if (is_word(text, bytes, "deflate"))
    *out = HALUT_DEFLATE;
  else if (is_word(text, bytes, "identity"))
    *out = HALUT_IDENTITY;
  else
    return false;
  return true;
}

bool halut_coding_parse(const char *text, enum halut_coding *out) {
  *out = HALUT_IDENTITY;
  return text == NULL || coding_find(text, strlen(text), out);
}

/* Thousandths of the "q" of ";q=0.5", 1000 without one. */
static unsigned weight_read(const char *text, size_t bytes) {
  const char *q = memchr(text, '=', bytes);
  unsigned weight = 0, digit = 100;
  if (q == NULL || q + 1 == text + bytes)
    return 1000;
  if (*++q == '1')
    return 1000;
  for (q++; q < text + bytes && digit > 0; q++)
    if (*q >= '0' && *q <= '9') {
      weight += digit * (unsigned)(*q - '0');
      digit /= 10;
    }
  return weight;
}

enum halut_coding halut_coding_choose(const char *accept) {
  int weight[] = {[HALUT_IDENTITY] = 0, [HALUT_GZIP] = -1, [HALUT_DEFLATE] = -1};
  int any = 0; /* of "*" */
  while (accept != NULL && *accept != '\0') {
    accept += strspn(accept, " \t,");
    size_t all = strcspn(accept, ","), name = strcspn(accept, ",; \t");
    enum halut_coding coding = HALUT_IDENTITY;
    int given = (int)weight_read(accept + name, all - name);
    if (is_word(accept, name, "*"))
      any = given;
    else if (coding_find(accept, name, &coding) && coding != HALUT_IDENTITY)
      weight[coding] = given;
    accept += all;
  }
  int gzip = weight[HALUT_GZIP] >= 0 ? weight[HALUT_GZIP] : any;
  int deflate = weight[HALUT_DEFLATE] >= 0 ? weight[HALUT_DEFLATE] : any;
  if (gzip > 0 && gzip >= deflate)
    return HALUT_GZIP;
  return deflate > 0 ? HALUT_DEFLATE : HALUT_IDENTITY;
}

/* ---- inflate ---- */

struct sink {
  uint8_t *data;
  size_t capacity, bytes_max, charged;
  halut_coding_charge_fn *charge;
  void *self;
};

/* Twice the room, at most one byte past the limit. */
static bool sink_grow(struct sink *sink) {
  size_t grown = sink->capacity == 0 ? FIRST_BYTES : sink->capacity * 2;
  if (grown > sink->bytes_max + 1)
    grown = sink->bytes_max + 1;
  if (!sink->charge(sink->self, grown - sink->capacity))
    return false;
  sink->charged += grown - sink->capacity;
  uint8_t *data = realloc(sink->data, grown + 1);
  if (data == NULL)
    return false;
  sink->data = data;
  sink->capacity = grown;
  return true;
}

/* Runs the stream to its end; *total_out bytes have come out. */
static int stream_run(z_stream *stream, struct sink *sink, size_t *total_out,
                      struct halut_diag *diag) {
  size_t total = 0;
  for (;;) {
    if (total == sink->capacity && !sink_grow(sink))
      return halut_fail(diag, HALUT_ENOMEM, 0,
                        "no memory for the decompressed body (body-total-max); try again");
    stream->next_out = sink->data + total;
    stream->avail_out = (uInt)(sink->capacity - total);
    int code = inflate(stream, Z_NO_FLUSH);
    total = sink->capacity - stream->avail_out;
    if (total > sink->bytes_max)
      return halut_fail(diag, HALUT_ELIMIT, 0,
                        "the body exceeds %zu bytes when decompressed (body-inflated-max)",
                        sink->bytes_max);
    if (code == Z_STREAM_END && stream->avail_in == 0)
      break;
    if (code == Z_STREAM_END && inflateReset(stream) == Z_OK)
      continue; /* gzip may come in pieces, one after the other */
    if (code == Z_MEM_ERROR)
      return halut_fail(diag, HALUT_ENOMEM, 0, "no memory to decompress the body; try again");
    if (code == Z_BUF_ERROR && stream->avail_out > 0)
      return halut_fail(diag, HALUT_EFORMAT, stream->total_in, "the compressed body is cut off");
    if (code != Z_OK && code != Z_BUF_ERROR)
      return halut_fail(diag, HALUT_EFORMAT, stream->total_in, "the compressed body is damaged: %s",
                        stream->msg != NULL ? stream->msg : "no stream of that kind");
  }
  *total_out = total;
  return HALUT_OK;
}

int halut_coding_inflate(enum halut_coding coding, const uint8_t *data, size_t bytes,
                         size_t bytes_max, halut_coding_charge_fn *charge, void *self,
                         uint8_t **out_data, size_t *out_bytes, size_t *charged_out,
                         struct halut_diag *diag) {
  struct sink sink = {.bytes_max = bytes_max, .charge = charge, .self = self};
  z_stream stream = {.next_in = (Bytef *)(uintptr_t)data, .avail_in = (uInt)bytes};
  size_t total = 0;
  *charged_out = 0;
  if (bytes > UINT32_MAX || bytes_max >= UINT32_MAX)
    return halut_fail(diag, HALUT_ELIMIT, 0, "the compressed body is too long");
  if (inflateInit2(&stream, coding == HALUT_GZIP ? WINDOW_GZIP : WINDOW_ZLIB) != Z_OK)
    return halut_fail(diag, HALUT_ENOMEM, 0, "no memory to decompress the body; try again");
  int error = stream_run(&stream, &sink, &total, diag);
  inflateEnd(&stream);
  *charged_out = sink.charged;
  if (error != HALUT_OK) {
    free(sink.data);
    return error;
  }
  sink.data[total] = 0;
  *out_data = sink.data;
  *out_bytes = total;
  return HALUT_OK;
}

/* ---- deflate ---- */

int halut_coding_deflate(enum halut_coding coding, const uint8_t *data, size_t bytes,
                         uint8_t **out_data, size_t *out_bytes) {
  bool is_small = bytes < SMALL_BYTES;
  int window = (is_small ? 13 : 15) + (coding == HALUT_GZIP ? 16 : 0);
  z_stream stream = {.next_in = (Bytef *)(uintptr_t)data, .avail_in = (uInt)bytes};
  if (bytes < HALUT_CODING_WORTH || bytes > UINT32_MAX)
    return HALUT_ELIMIT;
  uint8_t *packed = malloc(bytes);
  if (packed == NULL)
    return HALUT_ENOMEM;
  if (deflateInit2(&stream, Z_BEST_SPEED, Z_DEFLATED, window, is_small ? 5 : 8,
                   Z_DEFAULT_STRATEGY) != Z_OK) {
    free(packed);
    return HALUT_ENOMEM;
  }
  stream.next_out = packed;
  stream.avail_out = (uInt)bytes;
  int code = deflate(&stream, Z_FINISH);
  deflateEnd(&stream);
  if (code != Z_STREAM_END) {
    free(packed);
    return HALUT_ELIMIT;
  }
  *out_data = packed;
  *out_bytes = bytes - stream.avail_out;
  return HALUT_OK;
}
