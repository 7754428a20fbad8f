// sim.cpp: the only C++ in the tree. Compiled once a model, with HALUT_SIM the name of the model.
//
// A cycle is two evaluations: inputs are set while the clock is low and evaluated, outputs are
// sampled, then the clock rises. So a handshake is seen exactly as a register at the other end
// would see it. Ports wider than 64 bits are arrays of words and are copied as bytes (the host is
// little-endian, like the ports).
#include "sim.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>

#include "regs.h"
#include "verilated.h"
#include "verilated_fst_c.h"

#define HALUT_JOIN2(a, b) a##b
#define HALUT_JOIN(a, b) HALUT_JOIN2(a, b)
#define HALUT_TEXT2(a) #a
#define HALUT_TEXT(a) HALUT_TEXT2(a)
#include HALUT_SIM_HEADER
using Model = HALUT_JOIN(V, HALUT_SIM);

// A context notes itself as the newest in a global of Verilator's, which nothing here reads; two
// threads may not write it at once. One for all models: every object has this same variable.
inline std::mutex halut_sim_opening;

namespace {

enum Stream { kLoad, kIn, kAcc, kOut, kStreams };

// The model runs on its caller's thread: a pool of its own would idle, and ends the program when it
// cannot be made.
struct Context : VerilatedContext {
  Context() { threads(1); }
};

struct Sim {
  Context context;
  Model top{&context};
  std::unique_ptr<VerilatedFstC> fst;
  uint64_t cycles = 0;
  uint64_t random = 0;
  uint8_t pause[kStreams] = {0, 0, 0, 0};
  bool offered[kStreams] = {false, false, false, false}; // valid was raised and not yet taken
  bool taken_before[kStreams] = {false, false, false, false};
  halut_sim_seen seen{};

  void settle() { top.eval(); }
  void edge() {
    if (fst)
      fst->dump(2 * cycles);
    top.clk_i = 1;
    top.eval();
    if (fst)
      fst->dump(2 * cycles + 1);
    top.clk_i = 0;
    ++cycles;
  }
  // Whether a stream may act in this cycle. Once valid it must stay so.
  bool willing(int stream) {
    if (pause[stream] == 0 || offered[stream])
      return true;
    random ^= random << 13;
    random ^= random >> 7;
    random ^= random << 17;
    return (random >> 20 & 0xff) >= pause[stream];
  }
  void note(int stream, bool valid, bool ready) {
    auto &s = seen.stream[stream];
    const bool taken = valid && ready;
    s.taken += taken;
    s.back_to_back += taken && taken_before[stream];
    s.starved += ready && !valid;
    s.held += valid && !ready;
    taken_before[stream] = taken;
    offered[stream] = stream != kOut && valid && !ready;
  }
};

Sim *self_of(void *self) {
  return static_cast<Sim *>(self);
}

int access(Sim *s, bool write, uint32_t offset, uint32_t value, uint32_t *value_out) {
  s->top.reg_valid_i = 1;
  s->top.reg_write_i = write;
  s->top.reg_addr_i = static_cast<uint8_t>(offset);
  s->top.reg_wdata_i = value;
  s->settle();
  s->edge();
  s->top.reg_valid_i = 0;
  s->settle();
  const bool bad = !s->top.reg_rvalid_o || s->top.reg_error_o || offset > 0xff;
  if (!bad && value_out)
    *value_out = s->top.reg_rdata_o;
  s->edge();
  return bad ? HALUT_EDEVICE : 0;
}

int bus_read32(void *self, uint32_t offset, uint32_t *value_out) {
  return access(self_of(self), false, offset, 0, value_out);
}

int bus_write32(void *self, uint32_t offset, uint32_t value) {
  Sim *s = self_of(self);
  const int err = access(s, true, offset, value, nullptr);
  if (offset == HALUT_REG_CONTROL && (value & HALUT_CONTROL_RESET)) {
    s->top.load_valid_i = s->top.in_valid_i = s->top.acc_valid_i = 0;
    for (bool &offered : s->offered)
      offered = false;
  }
  return err;
}

int bus_configure(void *self, size_t load_bytes, size_t in_bytes, size_t acc_bytes,
                  size_t out_bytes) {
  const Model &top = self_of(self)->top;
  return load_bytes == sizeof top.load_data_i && in_bytes == sizeof top.in_data_i &&
                 acc_bytes == sizeof top.acc_data_i && out_bytes == sizeof top.out_data_o
             ? 0
             : HALUT_EDEVICE;
}

template <class Port>
void offer(Sim *s, int stream, const halut_beats &beats, CData &valid, Port &port) {
  const bool was = s->offered[stream];
  valid = beats.done < beats.count && s->willing(stream);
  if (valid && !was) {
    std::memcpy(&port, static_cast<const uint8_t *>(beats.data) + beats.done * sizeof port,
                sizeof port);
  }
}

int bus_transfer(void *self, struct halut_transfer *t, uint64_t cycles) {
  Sim *s = self_of(self);
  Model &top = s->top;
  t->load.done = t->in.done = t->acc.done = t->out.done = 0;
  for (uint64_t n = 0; n < cycles; ++n) {
    const bool more = t->load.done < t->load.count || t->in.done < t->in.count ||
                      t->acc.done < t->acc.count || t->out.done < t->out.count;
    if (!more)
      break;
    offer(s, kLoad, t->load, top.load_valid_i, top.load_data_i);
    offer(s, kIn, t->in, top.in_valid_i, top.in_data_i);
    offer(s, kAcc, t->acc, top.acc_valid_i, top.acc_data_i);
    top.out_ready_i = t->out.done < t->out.count && s->willing(kOut);
    s->settle();
    s->note(kLoad, top.load_valid_i, top.load_ready_o);
    s->note(kIn, top.in_valid_i, top.in_ready_o);
    s->note(kAcc, top.acc_valid_i, top.acc_ready_o);
    s->note(kOut, top.out_valid_o, top.out_ready_i);
    t->load.done += top.load_valid_i && top.load_ready_o;
    t->in.done += top.in_valid_i && top.in_ready_o;
    t->acc.done += top.acc_valid_i && top.acc_ready_o;
    if (top.out_valid_o && top.out_ready_i) {
      std::memcpy(static_cast<uint8_t *>(t->out.data) + t->out.done * sizeof top.out_data_o,
                  &top.out_data_o, sizeof top.out_data_o);
      ++t->out.done;
    }
    s->edge();
  }
  // A beat that was offered and not taken stays on its port, as the rule of streams asks, until a
  // reset.
  if (!s->offered[kLoad])
    top.load_valid_i = 0;
  if (!s->offered[kIn])
    top.in_valid_i = 0;
  if (!s->offered[kAcc])
    top.acc_valid_i = 0;
  top.out_ready_i = 0;
  for (bool &before : s->taken_before)
    before = false;
  return 0;
}

void sim_close(struct halut_sim *sim) {
  Sim *s = reinterpret_cast<Sim *>(sim);
  if (!s)
    return;
  if (s->fst)
    s->fst->close();
  s->top.final();
  delete s;
}

int sim_open(struct halut_sim **out, struct halut_bus *bus_out, struct halut_diag *diag) {
  try {
    std::unique_ptr<Sim> s;
    {
      const std::lock_guard<std::mutex> one_at_a_time(halut_sim_opening);
      s.reset(new Sim);
    }
    s->context.traceEverOn(true);
    s->top.clk_i = 0;
    s->top.rst_ni = 0;
    for (int n = 0; n < 2; ++n)
      s->settle(), s->edge();
    s->top.rst_ni = 1;
    s->settle();
    s->edge();
    *bus_out = halut_bus{s.get(), bus_read32, bus_write32, bus_transfer, bus_configure};
    *out = reinterpret_cast<halut_sim *>(s.release());
  } catch (const std::bad_alloc &) {
    return halut_fail(diag, HALUT_ENOMEM, 0, "no memory for the simulated accelerator");
  }
  return 0;
}

uint64_t sim_cycles(const struct halut_sim *sim) {
  return reinterpret_cast<const Sim *>(sim)->cycles;
}

void sim_pause(struct halut_sim *sim, uint64_t seed, uint8_t load, uint8_t in, uint8_t acc,
               uint8_t out) {
  Sim *s = reinterpret_cast<Sim *>(sim);
  s->random = seed * 2 + 1;
  s->pause[kLoad] = load;
  s->pause[kIn] = in;
  s->pause[kAcc] = acc;
  s->pause[kOut] = out;
}

int sim_trace(struct halut_sim *sim, const char *path, struct halut_diag *diag) {
  Sim *s = reinterpret_cast<Sim *>(sim);
  if (s->fst)
    s->fst->close();
  s->fst.reset();
  if (!path)
    return 0;
  // The FST writer says nothing about a path it cannot write, so ask first.
  FILE *probe = std::fopen(path, "wb");
  if (!probe)
    return halut_fail(diag, HALUT_EIO, 0, "cannot write the waveform %s: %s", path,
                      std::strerror(errno));
  std::fclose(probe);
  try {
    s->fst.reset(new VerilatedFstC);
    s->top.trace(s->fst.get(), 99);
    s->fst->open(path);
  } catch (const std::bad_alloc &) {
    s->fst.reset();
    return halut_fail(diag, HALUT_ENOMEM, 0, "no memory for the waveform %s", path);
  }
  return 0;
}

void sim_seen(const struct halut_sim *sim, struct halut_sim_seen *out) {
  *out = reinterpret_cast<const Sim *>(sim)->seen;
}

} // namespace

extern "C" const struct halut_sim_ops HALUT_JOIN(halut_sim_, HALUT_SIM) = {
    HALUT_TEXT(HALUT_SIM), sim_open, sim_close, sim_cycles, sim_pause, sim_trace, sim_seen};
