/* DESIGN: one word says whose turn it is. Both sides first watch it spinning, for about as long as
 * the gap between two layers, then sleep on a condition. It changes only under the mutex, so that
 * a change cannot fall between a last look and the sleep. */
#include "helper.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

enum { SPINS = 2000 }; /* 20 to 40 microseconds */

enum turn { IDLE, WORK, QUIT };

struct halut_helper {
  pthread_t thread;
  pthread_mutex_t mutex;
  pthread_cond_t changed;
  _Atomic int turn;
  void (*run)(void *self); /* written by the caller while the turn is IDLE */
  void *self;
};

static void pause_briefly(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

/* Waits while it is `turn`; returns whose it is then. */
static int turn_await_end(struct halut_helper *helper, int turn) {
  for (int i = 0; i < SPINS; i++) {
    int now = atomic_load_explicit(&helper->turn, memory_order_acquire);
    if (now != turn) return now;
    pause_briefly();
  }
  pthread_mutex_lock(&helper->mutex);
  while (atomic_load_explicit(&helper->turn, memory_order_acquire) == turn)
    pthread_cond_wait(&helper->changed, &helper->mutex);
  int now = atomic_load_explicit(&helper->turn, memory_order_acquire);
  pthread_mutex_unlock(&helper->mutex);
  return now;
}

static void turn_set(struct halut_helper *helper, int turn) {
  pthread_mutex_lock(&helper->mutex);
  atomic_store_explicit(&helper->turn, turn, memory_order_release);
  pthread_mutex_unlock(&helper->mutex);
  pthread_cond_signal(&helper->changed); /* one at most sleeps: the other has just been here */
}

static void *helper_main(void *self) {
  struct halut_helper *helper = self;
  while (turn_await_end(helper, IDLE) == WORK) {
    helper->run(helper->self);
    turn_set(helper, IDLE);
  }
  return NULL;
}

int halut_helper_open(struct halut_helper **out, struct halut_diag *diag) {
  struct halut_helper *helper = calloc(1, sizeof *helper);
  if (!helper) return halut_fail(diag, HALUT_ENOMEM, 0, "no memory for a helper thread");
  pthread_mutex_init(&helper->mutex, NULL);
  pthread_cond_init(&helper->changed, NULL);
  if (pthread_create(&helper->thread, NULL, helper_main, helper) != 0) {
    pthread_cond_destroy(&helper->changed);
    pthread_mutex_destroy(&helper->mutex);
    free(helper);
    return halut_fail(diag, HALUT_ENOMEM, 0, "a helper thread cannot be started");
  }
  *out = helper;
  return HALUT_OK;
}

void halut_helper_start(struct halut_helper *helper, void (*run)(void *self), void *self) {
  helper->run = run;
  helper->self = self;
  turn_set(helper, WORK);
}

void halut_helper_wait(struct halut_helper *helper) { turn_await_end(helper, WORK); }

void halut_helper_close(struct halut_helper *helper) {
  if (!helper) return;
  turn_set(helper, QUIT);
  pthread_join(helper->thread, NULL);
  pthread_cond_destroy(&helper->changed);
  pthread_mutex_destroy(&helper->mutex);
  free(helper);
}
