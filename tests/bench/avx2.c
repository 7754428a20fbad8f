/* avx2.so: held to AVX2, a program and all its libraries choose kernels as on such a processor.
 *
 * usage: LD_PRELOAD=avx2.so PROGRAM...
 *
 * DESIGN. Linux can make the instruction `cpuid` fault (arch_prctl(2), ARCH_SET_CPUID) for a thread
 * and those that it starts. The fault is answered here by what the processor says, less what came
 * after AVX2. It is linked to be initialised first, since libraries ask in their constructors.
 * Another handler that the program sets for that signal, as Node does, is kept and gets the other
 * faults. What ran before, the C library's own choice of memcpy, has seen the whole processor;
 * GLIBC_TUNABLES holds that. A program that executes an instruction without asking whether it
 * exists is not held. x86-64 only. */
#include <cpuid.h>
#include <dlfcn.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define BIT(n) (UINT32_C(1) << (n))

enum { SET_CPUID = 0x1012, EAX = 0, EBX, ECX, EDX, REGISTERS };

/* Leaf, sub-leaf, register and bits of what is hidden (Intel SDM volume 2A, CPUID). */
static const struct {
  uint32_t leaf, part, where, bits;
} hidden[] = {
    {7, 0, EBX, BIT(16) | BIT(17) | BIT(21) | BIT(26) | BIT(27) | BIT(28) | BIT(30) | BIT(31)},
    {7, 0, ECX, BIT(1) | BIT(6) | BIT(11) | BIT(12) | BIT(14)},                   /* AVX-512 ... */
    {7, 0, EDX, BIT(2) | BIT(3) | BIT(8) | BIT(22) | BIT(23) | BIT(24) | BIT(25)}, /* AMX */
    {7, 1, EAX, BIT(4) | BIT(5) | BIT(21) | BIT(23)}, /* AVX-VNNI, bfloat16, AVX-IFMA */
    {7, 1, EDX, BIT(4) | BIT(5) | BIT(10) | BIT(19)}, /* more of AVX-VNNI; AVX10 */
};

static struct sigaction theirs;

static int real_sigaction(int number, const struct sigaction *action, struct sigaction *before) {
  static int (*real)(int, const struct sigaction *, struct sigaction *);
  if (real == NULL)
    *(void **)&real = dlsym(RTLD_NEXT, "sigaction");
  return real(number, action, before);
}

static bool faulting(bool is_on) {
  return syscall(SYS_arch_prctl, SET_CPUID, is_on ? 0 : 1) == 0;
}

static void cpuid_answer(greg_t *registers) {
  const uint32_t leaf = (uint32_t)registers[REG_RAX], part = (uint32_t)registers[REG_RCX];
  uint32_t found[REGISTERS];
  faulting(false);
  __cpuid_count(leaf, part, found[EAX], found[EBX], found[ECX], found[EDX]);
  faulting(true);
  for (size_t i = 0; i < sizeof hidden / sizeof *hidden; i++)
    if (hidden[i].leaf == leaf && hidden[i].part == part)
      found[hidden[i].where] &= ~hidden[i].bits;
  registers[REG_RAX] = found[EAX];
  registers[REG_RBX] = found[EBX];
  registers[REG_RCX] = found[ECX];
  registers[REG_RDX] = found[EDX];
}

static void on_fault(int number, siginfo_t *info, void *context) {
  greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
  const uint8_t *code = (const uint8_t *)registers[REG_RIP]; /* readable: it was being executed */
  if (info->si_code == SI_KERNEL && code[0] == 0x0f && code[1] == 0xa2) {
    cpuid_answer(registers);
    registers[REG_RIP] += 2;
  } else if (theirs.sa_flags & SA_SIGINFO) {
    theirs.sa_sigaction(number, info, context);
  } else if (theirs.sa_handler != SIG_DFL && theirs.sa_handler != SIG_IGN) {
    theirs.sa_handler(number);
  } else {
    const struct sigaction standard = {.sa_handler = SIG_DFL};
    real_sigaction(number, &standard, NULL); /* and the instruction faults once more */
  }
}

/* This and signal() in place of the C library's. */
int sigaction(int number, const struct sigaction *action, struct sigaction *before) {
  if (number != SIGSEGV)
    return real_sigaction(number, action, before);
  if (before != NULL)
    *before = theirs;
  if (action != NULL)
    theirs = *action;
  return 0;
}

sighandler_t signal(int number, sighandler_t handler) {
  const struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};
  struct sigaction before;
  return sigaction(number, &action, &before) == 0 ? before.sa_handler : SIG_ERR;
}

__attribute__((constructor)) static void hold(void) {
  const struct sigaction mine = {.sa_sigaction = on_fault,
                                 .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK};
  if (real_sigaction(SIGSEGV, &mine, NULL) == 0 && faulting(true))
    return;
  fputs("avx2.so: this system cannot make cpuid fault (no cpuid_fault in /proc/cpuinfo)\n", stderr);
  exit(1);
}
