/* bus.h: how the driver reaches an accelerator: registers and four streams.
 *
 * Three things stand behind it and the driver cannot tell them apart: the Verilated model (sim.h),
 * a device with a DMA engine, and the test doubles that lie. A bus belongs to one thread at a time
 * and is owned by who made it.
 */
#ifndef HALUT_BUS_H
#define HALUT_BUS_H

#include <stddef.h>
#include <stdint.h>

/* A stream's share of a transfer: `count` beats of a fixed size, back to back in memory. */
struct halut_beats {
  void *data; /* read for load, in and acc; written for out */
  size_t count;
  size_t done; /* set by the bus: beats that were taken by, or came from, the device */
};

struct halut_transfer {
  struct halut_beats load, in, acc, out;
};

struct halut_bus {
  void *self;
  /* Both return 0, or HALUT_EDEVICE if the device answers with an error or not at all. */
  int (*read32)(void *self, uint32_t offset, uint32_t *value_out);
  int (*write32)(void *self, uint32_t offset, uint32_t value);
  /* Moves beats on all four streams at once, each at the pace of its ready and valid, until every
   * beat is done or `cycles` clock cycles have passed; sets every `done`. An output beat is written
   * after the input and accumulate beats that it came from were read, so acc and out may be the
   * same memory. After a transfer that ran out of cycles the device must be reset before the next.
   * 0, or HALUT_EDEVICE. */
  int (*transfer)(void *self, struct halut_transfer *transfer, uint64_t cycles);
  /* Tells the bus the beat sizes in bytes, from the capability registers; HALUT_EDEVICE if it
   * cannot serve them. */
  int (*configure)(void *self, size_t load_bytes, size_t in_bytes, size_t acc_bytes,
                   size_t out_bytes);
};

#endif
