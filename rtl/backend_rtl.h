/* backend_rtl.h: the simulated accelerator as a backend.
 *
 * Options, separated by commas:
 *   resident=N    keep at most N codebooks of tables in the accelerator; the rest is loaded beside
 *                 computing
 *   budget=N      cycle budget of a transfer, in percent of its ideal cycles (at least 100)
 *   trace=PATH    waveform (FST) of the first products, until HALUT_TRACE_CYCLES cycles have passed
 * A build without Verilator has the backend too, but its open is HALUT_EINVALID and says why.
 */
#ifndef HALUT_BACKEND_RTL_H
#define HALUT_BACKEND_RTL_H

#include "../core/backend.h"

enum { HALUT_TRACE_CYCLES = 65536 };

extern const struct halut_backend_ops halut_backend_rtl;

#endif
