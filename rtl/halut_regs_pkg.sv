// Generated from regs.inc by `make regs`: change that file, not this one.
package halut_regs_pkg;
  localparam logic [7:0] ID = 8'h00;  // 0x48414C55, the letters HALU
  localparam logic [7:0] VERSION = 8'h04;  // major in bits 31:16, minor in bits 15:0
  localparam logic [7:0] SHAPE = 8'h08;  // 7:0 codebooks a cycle (P), 15:8 rows a cycle (R), 31:16 lanes (M)
  localparam logic [7:0] MEMORY = 8'h0C;  // 15:0 resident codebooks (C), 23:16 lanes in an output beat, 31:24 sum width
  localparam logic [7:0] CONTROL = 8'h10;  // bit 0 start a run, 1 start a load, 2 stop and forget, 3 clear the counters
  localparam logic [7:0] STATUS = 8'h14;  // bit 0 running, 1 loading, 8 bad size, 9 started while busy, 10 tables in use
  localparam logic [7:0] RUN_BASE = 8'h18;  // first group of P codebooks that the run reads
  localparam logic [7:0] RUN_GROUPS = 8'h1C;  // groups that make one sum; at most 256 codebooks
  localparam logic [7:0] RUN_ROWS = 8'h20;  // row groups of R rows each, from 1
  localparam logic [7:0] RUN_FLAGS = 8'h24;  // bit 0 add the beats of the accumulate stream to the sums
  localparam logic [7:0] LOAD_BASE = 8'h28;  // first group that the load writes
  localparam logic [7:0] LOAD_GROUPS = 8'h2C;  // groups to load: 17 P beats each, thresholds then 16 table rows a codebook
  localparam logic [7:0] CYCLES = 8'h40;  // cycles with a run or a load in progress
  localparam logic [7:0] STALL_IN = 8'h48;  // cycles in which a run waited for an input beat
  localparam logic [7:0] STALL_OUT = 8'h50;  // cycles in which input had to wait for output to leave
  localparam logic [7:0] LOAD_WAIT = 8'h58;  // cycles with a load and no run in progress
  localparam logic [7:0] BEATS = 8'h60;  // input beats taken
  localparam logic [7:0] LOAD_BEATS = 8'h68;  // load beats taken
  localparam logic [7:0] LOOKUPS = 8'h70;  // table entries added: BEATS times P R M
  localparam logic [7:0] ENCODES = 8'h78;  // codes made: BEATS times P R
endpackage
