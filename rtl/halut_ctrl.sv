// halut_ctrl: the register file, the checks before a start, the load sequence and the counters.
//
// Registers: a request is taken every cycle and answered in the next (`reg_rvalid_o`); an address
// that no register has, a write to a read-only one, and a read of a write-only one answer with
// `reg_error_o`. A start that is not possible sets a bit of STATUS and does nothing else; a size
// written while it is in use is ignored and sets bit 9. Load stream: `load_ready_o` is high for
// exactly the beats of the load that was started.
module halut_ctrl #(
  parameter int unsigned P = 4,
  parameter int unsigned M = 8,
  parameter int unsigned R = 1,
  parameter int unsigned C = 16,
  parameter int unsigned AccW = 16,
  parameter int unsigned BeatLanes = 8,
  parameter int unsigned CountW = 64,   // bits of a counter
  localparam int unsigned Groups = C / P,
  localparam int unsigned GroupW = (Groups > 1) ? $clog2(Groups) : 1,
  localparam int unsigned SizeW = $clog2(Groups + 1),
  localparam int unsigned AddrW = $clog2(C * halut_pkg::Leaves),
  localparam int unsigned RowW = halut_pkg::RowW
) (
  input  logic              clk_i,
  input  logic              rst_ni,
  // Registers
  input  logic              reg_valid_i,
  input  logic              reg_write_i,
  input  logic [7:0]        reg_addr_i,
  input  logic [31:0]       reg_wdata_i,
  output logic              reg_rvalid_o,
  output logic              reg_error_o,
  output logic [31:0]       reg_rdata_o,
  // Run
  output logic              clear_o,
  output logic              start_o,
  output logic [GroupW-1:0] base_o,
  output logic [GroupW-1:0] last_group_o,
  output logic [RowW-1:0]   last_row_o,
  output logic              accumulate_o,
  output logic [AccW-1:0]   offset_o,
  input  logic              run_busy_i,
  input  logic              beat_i,         // an input beat was taken
  input  logic              stall_in_i,
  input  logic              stall_out_i,
  // Load
  input  logic              load_valid_i,
  output logic              load_ready_o,
  output logic              load_fire_o,
  output logic              threshold_we_o,
  output logic              table_we_o,
  output logic [AddrW-1:0]  load_addr_o     // codebook * 16 + leaf
);
  localparam logic [SizeW-1:0] SizeMax = SizeW'(Groups);
  localparam int unsigned SumGroups = (1 << (AccW - 8)) / P;  // groups whose sum is exact
  localparam logic [CountW-1:0] PerBeat = CountW'(P * R);

  // Requests, registered.
  logic        req_q, write_q;
  logic [7:0]  addr_q;
  logic [31:0] wdata_q;
  logic        control, run_ask, load_ask, count_clear;

  // Sizes.
  logic [SizeW-1:0] run_base_q, run_groups_q, load_base_q, load_groups_q;
  logic [RowW-1:0]  run_rows_q;
  logic             accumulate_q;
  logic             run_bad, load_bad, overlap, run_go, load_go;
  logic [2:0]       error_q, error_d;

  // Load.
  logic             load_busy_q;
  logic [4:0]       load_beat_q;
  logic [AddrW-5:0] load_codebook_q, load_first, load_end;
  logic             load_last;

  // Counters.
  logic [CountW-1:0] cycles_q, stall_in_q, stall_out_q, load_wait_q, beats_q, load_beats_q;
  logic [CountW-1:0] count;
  logic [63:0]       count64;
  logic              known, writable, readable;

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) req_q <= 1'b0;
    else req_q <= reg_valid_i;
  end
  always_ff @(posedge clk_i) begin
    if (reg_valid_i) begin
      write_q <= reg_write_i;
      addr_q <= {reg_addr_i[7:2], 2'b00};
      wdata_q <= reg_wdata_i;
    end
  end

  assign control = req_q && write_q && addr_q == halut_regs_pkg::CONTROL;
  assign clear_o = control && wdata_q[halut_pkg::ControlReset];
  assign run_ask = control && !clear_o && wdata_q[halut_pkg::ControlRun];
  assign load_ask = control && !clear_o && wdata_q[halut_pkg::ControlLoad];
  assign count_clear = control && wdata_q[halut_pkg::ControlClear];

  // A sum may not be wider than AccW bits, and tables may not be written while a run reads them.
  assign run_bad = run_groups_q == '0 || run_rows_q == '0 || run_groups_q > SizeMax
                || run_base_q >= SizeMax || run_groups_q > SizeMax - run_base_q
                || 32'(run_groups_q) > SumGroups;
  assign load_bad = load_groups_q == '0 || load_groups_q > SizeMax || load_base_q >= SizeMax
                 || load_groups_q > SizeMax - load_base_q;
  assign overlap = (32'(load_base_q) < 32'(run_base_q) + 32'(run_groups_q))
                && (32'(run_base_q) < 32'(load_base_q) + 32'(load_groups_q));
  assign run_go = run_ask && !run_busy_i && !run_bad && !(overlap && (load_busy_q || load_go));
  assign load_go = load_ask && !load_busy_q && !load_bad && !(overlap && run_busy_i);
  assign start_o = run_go;

  always_comb begin
    error_d = error_q;
    if ((run_ask && run_bad) || (load_ask && load_bad)) error_d[0] = 1'b1;
    if ((run_ask && run_busy_i) || (load_ask && load_busy_q)) error_d[1] = 1'b1;
    if (overlap && run_ask && (load_busy_q || load_go)) error_d[2] = 1'b1;
    if (overlap && load_ask && run_busy_i) error_d[2] = 1'b1;
    if (req_q && write_q && writable && !control) begin
      if (addr_q == halut_regs_pkg::LOAD_BASE || addr_q == halut_regs_pkg::LOAD_GROUPS) begin
        if (load_busy_q) error_d[1] = 1'b1;
      end else if (run_busy_i) error_d[1] = 1'b1;
    end
    if (clear_o) error_d = '0;
  end

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      error_q <= '0;
      run_base_q <= '0;
      run_groups_q <= '0;
      run_rows_q <= '0;
      accumulate_q <= 1'b0;
      load_base_q <= '0;
      load_groups_q <= '0;
    end else begin
      error_q <= error_d;
      if (req_q && write_q && !run_busy_i) begin
        if (addr_q == halut_regs_pkg::RUN_BASE) run_base_q <= wdata_q[SizeW-1:0];
        if (addr_q == halut_regs_pkg::RUN_GROUPS) run_groups_q <= wdata_q[SizeW-1:0];
        if (addr_q == halut_regs_pkg::RUN_ROWS) run_rows_q <= wdata_q[RowW-1:0];
        if (addr_q == halut_regs_pkg::RUN_FLAGS) accumulate_q <= wdata_q[0];
      end
      if (req_q && write_q && !load_busy_q) begin
        if (addr_q == halut_regs_pkg::LOAD_BASE) load_base_q <= wdata_q[SizeW-1:0];
        if (addr_q == halut_regs_pkg::LOAD_GROUPS) load_groups_q <= wdata_q[SizeW-1:0];
      end
    end
  end

  assign base_o = run_base_q[GroupW-1:0];
  assign last_group_o = GroupW'(run_groups_q - 1'b1);
  assign last_row_o = run_rows_q - 1'b1;
  assign accumulate_o = accumulate_q;
  assign offset_o = AccW'(32'(run_groups_q) * (P * 128));

  // Load: 17 beats a codebook, codebooks in order.
  assign load_first = (AddrW-4)'(32'(load_base_q) * P);
  assign load_end = (AddrW-4)'((32'(load_base_q) + 32'(load_groups_q)) * P - 1);
  assign load_ready_o = load_busy_q;
  assign load_fire_o = load_valid_i && load_busy_q;
  assign load_last = load_beat_q == 5'd16;
  assign threshold_we_o = load_fire_o && load_beat_q == 5'd0;
  assign table_we_o = load_fire_o && load_beat_q != 5'd0;
  assign load_addr_o = {load_codebook_q, 4'(load_beat_q - 5'd1)};

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      load_busy_q <= 1'b0;
      load_beat_q <= '0;
      load_codebook_q <= '0;
    end else if (clear_o) begin
      load_busy_q <= 1'b0;
      load_beat_q <= '0;
    end else if (load_go) begin
      load_busy_q <= 1'b1;
      load_beat_q <= '0;
      load_codebook_q <= load_first;
    end else if (load_fire_o) begin
      load_beat_q <= load_last ? 5'd0 : load_beat_q + 5'd1;
      if (load_last) begin
        load_codebook_q <= load_codebook_q + 1'b1;
        if (load_codebook_q == load_end) load_busy_q <= 1'b0;
      end
    end
  end

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      cycles_q <= '0;
      stall_in_q <= '0;
      stall_out_q <= '0;
      load_wait_q <= '0;
      beats_q <= '0;
      load_beats_q <= '0;
    end else if (count_clear) begin
      cycles_q <= '0;
      stall_in_q <= '0;
      stall_out_q <= '0;
      load_wait_q <= '0;
      beats_q <= '0;
      load_beats_q <= '0;
    end else begin
      if (run_busy_i || load_busy_q) cycles_q <= cycles_q + 1'b1;
      if (stall_in_i) stall_in_q <= stall_in_q + 1'b1;
      if (stall_out_i) stall_out_q <= stall_out_q + 1'b1;
      if (load_busy_q && !run_busy_i) load_wait_q <= load_wait_q + 1'b1;
      if (beat_i) beats_q <= beats_q + 1'b1;
      if (load_fire_o) load_beats_q <= load_beats_q + 1'b1;
    end
  end

  always_comb begin
    count = '0;
    unique case ({addr_q[7:3], 3'b000})
      halut_regs_pkg::CYCLES:     count = cycles_q;
      halut_regs_pkg::STALL_IN:   count = stall_in_q;
      halut_regs_pkg::STALL_OUT:  count = stall_out_q;
      halut_regs_pkg::LOAD_WAIT:  count = load_wait_q;
      halut_regs_pkg::BEATS:      count = beats_q;
      halut_regs_pkg::LOAD_BEATS: count = load_beats_q;
      halut_regs_pkg::LOOKUPS:    count = beats_q * PerBeat * CountW'(M);
      halut_regs_pkg::ENCODES:    count = beats_q * PerBeat;
      default:                 count = '0;
    endcase
  end
  assign count64 = 64'(count);

  always_comb begin
    known = 1'b1;
    writable = 1'b0;
    readable = 1'b1;
    reg_rdata_o = '0;
    unique case (addr_q)
      halut_regs_pkg::ID:      reg_rdata_o = halut_pkg::Id;
      halut_regs_pkg::VERSION: reg_rdata_o = halut_pkg::Version;
      halut_regs_pkg::SHAPE:   reg_rdata_o = {16'(M), 8'(R), 8'(P)};
      halut_regs_pkg::MEMORY:  reg_rdata_o = {8'(AccW), 8'(BeatLanes), 16'(C)};
      halut_regs_pkg::STATUS:  reg_rdata_o = {21'd0, error_q, 6'd0, load_busy_q, run_busy_i};
      halut_regs_pkg::CONTROL: begin writable = 1'b1; readable = 1'b0; end
      halut_regs_pkg::RUN_BASE:    begin writable = 1'b1; reg_rdata_o = 32'(run_base_q); end
      halut_regs_pkg::RUN_GROUPS:  begin writable = 1'b1; reg_rdata_o = 32'(run_groups_q); end
      halut_regs_pkg::RUN_ROWS:    begin writable = 1'b1; reg_rdata_o = 32'(run_rows_q); end
      halut_regs_pkg::RUN_FLAGS:   begin writable = 1'b1; reg_rdata_o = 32'(accumulate_q); end
      halut_regs_pkg::LOAD_BASE:   begin writable = 1'b1; reg_rdata_o = 32'(load_base_q); end
      halut_regs_pkg::LOAD_GROUPS: begin writable = 1'b1; reg_rdata_o = 32'(load_groups_q); end
      default: begin
        known = addr_q[7:6] == 2'b01;  // the counters
        reg_rdata_o = addr_q[2] ? count64[63:32] : count64[31:0];
      end
    endcase
    if (!readable || !known) reg_rdata_o = '0;
  end
  assign reg_rvalid_o = req_q;
  assign reg_error_o = req_q && (!known || (write_q ? !writable : !readable));

  logic unused;
  assign unused = ^{wdata_q, reg_addr_i[1:0]};
endmodule
