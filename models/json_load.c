/* DESIGN: every allocation of jansson is a block with links before it. While a thread reads, its
 * blocks are on a ring, so that leaving the reader by longjmp, over frames that hold nothing else,
 * can free them. */
#include "json_load.h"

#include <assert.h>
#include <setjmp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>

struct block {
  struct block *next, *prev; /* itself when it is on no ring */
};

static_assert(sizeof(struct block) % _Alignof(max_align_t) == 0, "what follows is aligned");

static _Thread_local struct reader {
  bool is_reading;
  jmp_buf leave;
  struct block ring;
} reader;

static void *block_alloc(size_t bytes) {
  struct block *block = NULL;
  if (!__builtin_add_overflow(bytes, sizeof *block, &bytes))
    block = malloc(bytes);
  if (block == NULL) {
    if (reader.is_reading)
      longjmp(reader.leave, 1);
    return NULL;
  }
  block->next = block->prev = block;
  if (reader.is_reading) {
    block->next = reader.ring.next;
    block->prev = &reader.ring;
    block->next->prev = block;
    reader.ring.next = block;
  }
  return block + 1;
}

static void block_free(void *data) {
  if (data == NULL)
    return;
  struct block *block = (struct block *)data - 1;
  block->prev->next = block->next;
  block->next->prev = block->prev;
  free(block);
}

__attribute__((constructor)) static void allocator_set(void) {
  json_set_alloc_funcs(block_alloc, block_free);
}

int halut_json_load(const char *text, size_t bytes, json_t **out, json_error_t *error) {
  assert(!reader.is_reading);
  reader.ring.next = reader.ring.prev = &reader.ring;
  reader.is_reading = true;
  if (setjmp(reader.leave) != 0) {
    reader.is_reading = false;
    while (reader.ring.next != &reader.ring)
      block_free(reader.ring.next + 1);
    return HALUT_ENOMEM;
  }
  json_t *root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, error);
  reader.is_reading = false;
  while (reader.ring.next != &reader.ring) { /* the value's from now on */
    struct block *block = reader.ring.next;
    reader.ring.next = block->next;
    block->next = block->prev = block;
  }
  if (root == NULL)
    return HALUT_EINVALID;
  *out = root;
  return HALUT_OK;
}
