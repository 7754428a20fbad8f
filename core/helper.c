/* DESIGN: one word says where the two are. It changes only under the mutex, so that a change cannot
 * fall between a last look and the sleep; before sleeping, both watch it spinning for about as long
 * as the gap between two layers. One of them at most sleeps: the owner while a part is being done,
 * who serves while there is nothing to do. */
#include "helper.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

enum { SPINS = 2000 }; /* 20 to 80 microseconds */

enum state {
  NOBODY,  /* serves */
  READY,   /* for a part */
  LEAVING, /* was dismissed */
  OFFERED, /* a part, which nobody has begun */
  BEGUN    /* a part */
};

struct halut_helper {
  pthread_t thread;
  bool is_staffed;
  pthread_mutex_t mutex; /* guards the rest; the state is read without it */
  pthread_cond_t changed;
  _Atomic int state;
  bool is_dismissed; /* since meet() */
  void (*run)(void *self);
  void *other;
};

static void pause_briefly(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

static int state_of(const struct halut_helper *helper) {
  return atomic_load_explicit(&helper->state, memory_order_acquire);
}

/* This and the next ones want the mutex. */
static void state_set(struct halut_helper *helper, int state) {
  atomic_store_explicit(&helper->state, state, memory_order_release);
  pthread_cond_signal(&helper->changed);
}

/* A part has ended, or was taken back. */
static void state_rest(struct halut_helper *helper) {
  state_set(helper, helper->is_dismissed ? LEAVING : READY);
}

/* Waits, without the mutex, while the state is the one given. */
static void state_outwait(struct halut_helper *helper, int state) {
  pthread_mutex_unlock(&helper->mutex);
  for (int i = 0; i < SPINS && state_of(helper) == state; i++) pause_briefly();
  pthread_mutex_lock(&helper->mutex);
  while (state_of(helper) == state) pthread_cond_wait(&helper->changed, &helper->mutex);
}

int halut_helper_open(struct halut_helper **out, struct halut_diag *diag) {
  struct halut_helper *helper = calloc(1, sizeof *helper);
  if (!helper) return halut_fail(diag, HALUT_ENOMEM, 0, "no memory for a helper");
  pthread_mutex_init(&helper->mutex, NULL);
  pthread_cond_init(&helper->changed, NULL);
  *out = helper;
  return HALUT_OK;
}

static void *thread_main(void *self) {
  halut_helper_serve(self);
  return NULL;
}

int halut_helper_staff(struct halut_helper *helper, struct halut_diag *diag) {
  halut_helper_meet(helper);
  if (pthread_create(&helper->thread, NULL, thread_main, helper) != 0) {
    state_set(helper, NOBODY);
    return halut_fail(diag, HALUT_ENOMEM, 0, "a helper thread cannot be started");
  }
  helper->is_staffed = true;
  return HALUT_OK;
}

bool halut_helper_is_served(const struct halut_helper *helper) {
  return helper && state_of(helper) == READY;
}

/* Who serves has begun, and is waited for; or has not, and will not. */
static bool part_end(struct halut_helper *helper) {
  bool is_begun = false;
  pthread_mutex_lock(&helper->mutex);
  if (state_of(helper) == OFFERED) {
    state_rest(helper);
  } else {
    is_begun = true;
    state_outwait(helper, BEGUN);
  }
  pthread_mutex_unlock(&helper->mutex);
  return is_begun;
}

bool halut_helper_share(struct halut_helper *helper, void (*run)(void *self), void *own,
                        void *other) {
  pthread_mutex_lock(&helper->mutex);
  const bool is_offered = state_of(helper) == READY;
  if (is_offered) {
    helper->run = run;
    helper->other = other;
    state_set(helper, OFFERED);
  }
  pthread_mutex_unlock(&helper->mutex);
  run(own);
  if (is_offered && part_end(helper)) return true;
  run(other);
  return false;
}

void halut_helper_meet(struct halut_helper *helper) {
  pthread_mutex_lock(&helper->mutex);
  helper->is_dismissed = false;
  state_set(helper, READY);
  pthread_mutex_unlock(&helper->mutex);
}

void halut_helper_serve(struct halut_helper *helper) {
  pthread_mutex_lock(&helper->mutex);
  for (;;) {
    state_outwait(helper, READY);
    if (state_of(helper) == LEAVING) break;
    state_set(helper, BEGUN); /* it was OFFERED */
    pthread_mutex_unlock(&helper->mutex);
    helper->run(helper->other);
    pthread_mutex_lock(&helper->mutex);
    state_rest(helper);
  }
  state_set(helper, NOBODY);
  pthread_mutex_unlock(&helper->mutex);
}

void halut_helper_dismiss(struct halut_helper *helper) {
  pthread_mutex_lock(&helper->mutex);
  helper->is_dismissed = true;
  if (state_of(helper) == READY) state_set(helper, LEAVING);
  pthread_mutex_unlock(&helper->mutex);
}

void halut_helper_close(struct halut_helper *helper) {
  if (!helper) return;
  if (helper->is_staffed) {
    halut_helper_dismiss(helper);
    pthread_join(helper->thread, NULL);
  }
  pthread_cond_destroy(&helper->changed);
  pthread_mutex_destroy(&helper->mutex);
  free(helper);
}
