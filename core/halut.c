#include "halut.h"

#include <stdarg.h>
#include <stdio.h>

const char *halut_error_name(int error) {
  switch (error) {
    case HALUT_OK: return "HALUT_OK";
#define XX(name, value, text) \
  case HALUT_E##name: return "HALUT_E" #name;
    HALUT_ERROR_MAP(XX)
#undef XX
    default: return "HALUT_UNKNOWN";
  }
}

const char *halut_error_text(int error) {
  switch (error) {
    case HALUT_OK: return "success";
#define XX(name, value, text) \
  case HALUT_E##name: return text;
    HALUT_ERROR_MAP(XX)
#undef XX
    default: return "unknown error";
  }
}

int halut_fail(struct halut_diag *diag, int error, uint64_t offset, const char *format, ...) {
  assert(error < 0);
  if (diag) {
    va_list arguments;
    va_start(arguments, format);
    diag->offset = offset;
    vsnprintf(diag->text, sizeof diag->text, format, arguments); /* cut off where it does not fit */
    va_end(arguments);
  }
  return error;
}

size_t halut_dtype_bytes(enum halut_dtype dtype) {
  switch (dtype) {
    case HALUT_I8:
    case HALUT_U8: return 1;
    case HALUT_U16: return 2;
    case HALUT_I32:
    case HALUT_U32:
    case HALUT_F32: return 4;
  }
  return 0;
}
