/* A device that can fall silent, for tests of the daemon: halutd_silent has it as its accelerator.
 *
 * It is the simulated `tiled`; while the file that HALUT_SILENT names exists, its output is never
 * seen valid: beats go in until it holds still, none comes out. The driver cannot tell this from
 * hardware that hangs. */
#include <stdlib.h>
#include <unistd.h>

#include "../../rtl/sim.h"

extern const struct halut_sim_ops halut_sim_tiled;

struct halut_sim {
  struct halut_sim *tiled;
  struct halut_bus bus;
};

static int silent_read32(void *self, uint32_t offset, uint32_t *value_out) {
  const struct halut_bus *bus = &((struct halut_sim *)self)->bus;
  return bus->read32(bus->self, offset, value_out);
}

static int silent_write32(void *self, uint32_t offset, uint32_t value) {
  const struct halut_bus *bus = &((struct halut_sim *)self)->bus;
  return bus->write32(bus->self, offset, value);
}

static int silent_transfer(void *self, struct halut_transfer *transfer, uint64_t cycles) {
  const struct halut_bus *bus = &((struct halut_sim *)self)->bus;
  const char *path = getenv("HALUT_SILENT");
  if (path == NULL || access(path, F_OK) != 0)
    return bus->transfer(bus->self, transfer, cycles);
  const size_t wanted = transfer->out.count;
  transfer->out.count = 0;
  const int error = bus->transfer(bus->self, transfer, cycles);
  transfer->out.count = wanted;
  return error;
}

static int silent_configure(void *self, size_t load, size_t in, size_t acc, size_t out) {
  const struct halut_bus *bus = &((struct halut_sim *)self)->bus;
  return bus->configure(bus->self, load, in, acc, out);
}

static int silent_open(struct halut_sim **out, struct halut_bus *bus_out, struct halut_diag *diag) {
  struct halut_sim *sim = calloc(1, sizeof *sim);
  if (sim == NULL)
    return halut_fail(diag, HALUT_ENOMEM, 0, "no memory for a device");
  const int error = halut_sim_tiled.open(&sim->tiled, &sim->bus, diag);
  if (error) {
    free(sim);
    return error;
  }
  *bus_out = (struct halut_bus){sim, silent_read32, silent_write32, silent_transfer,
                                silent_configure};
  *out = sim;
  return 0;
}

static void silent_close(struct halut_sim *sim) {
  if (sim == NULL)
    return;
  halut_sim_tiled.close(sim->tiled);
  free(sim);
}

static uint64_t silent_cycles(const struct halut_sim *sim) {
  return halut_sim_tiled.cycles(sim->tiled);
}

static int silent_trace(struct halut_sim *sim, const char *path, struct halut_diag *diag) {
  return halut_sim_tiled.trace(sim->tiled, path, diag);
}

/* The backend neither pauses streams nor asks what they saw. */
const struct halut_sim_ops halut_sim_unit = {.name = "silent",
                                             .open = silent_open,
                                             .close = silent_close,
                                             .cycles = silent_cycles,
                                             .trace = silent_trace};
