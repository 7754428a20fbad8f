// Proof: the counters say what happened on the pins, whenever they are read; a load takes 17 beats
// a codebook and no more; a start that is refused starts nothing. Registers and flow of a unit with
// P = 1, C = 2 and 4-bit counters.
module proof (
  input logic        clk_i,
  input logic        rst_ni,
  input logic        reg_valid_i,
  input logic        reg_write_i,
  input logic [7:0]  reg_addr_i,
  input logic [31:0] reg_wdata_i,
  input logic        in_valid_i,
  input logic        load_valid_i,
  input logic        out_ready_i
);
  localparam int unsigned RowW = halut_pkg::RowW;
  logic            rvalid, rerror, clear, start, accumulate, busy, beat, stall_in, stall_out;
  logic            load_ready, load_fire, threshold_we, table_we, in_ready, out_valid, out_last;
  logic [31:0]     rdata;
  logic            base, last_group;
  logic [RowW-1:0] last_row;
  logic [15:0]     offset;
  logic [4:0]      load_addr;

  halut_ctrl #(.P(1), .M(8), .R(1), .C(2), .BeatLanes(8), .CountW(4)) i_ctrl (
    .clk_i(clk_i), .rst_ni(rst_ni), .reg_valid_i(reg_valid_i), .reg_write_i(reg_write_i),
    .reg_addr_i(reg_addr_i), .reg_wdata_i(reg_wdata_i), .reg_rvalid_o(rvalid), .reg_error_o(rerror),
    .reg_rdata_o(rdata), .clear_o(clear), .start_o(start), .base_o(base), .last_group_o(last_group),
    .last_row_o(last_row), .accumulate_o(accumulate), .offset_o(offset), .run_busy_i(busy),
    .beat_i(beat), .stall_in_i(stall_in), .stall_out_i(stall_out), .load_valid_i(load_valid_i),
    .load_ready_o(load_ready), .load_fire_o(load_fire), .threshold_we_o(threshold_we),
    .table_we_o(table_we), .load_addr_o(load_addr)
  );
  halut_flow #(.GroupW(1), .Beats(1)) i_flow (
    .clk_i(clk_i), .rst_ni(rst_ni), .clear_i(clear), .start_i(start), .base_i(base),
    .last_group_i(last_group), .last_row_i(last_row), .accumulate_i(1'b0),
    .in_valid_i(in_valid_i), .in_ready_o(in_ready), .acc_full_i(1'b0), .out_valid_o(out_valid),
    .out_ready_i(out_ready_i), .out_last_o(out_last), .value_en_o(beat), .busy_o(busy),
    .stall_in_o(stall_in), .stall_out_o(stall_out)
  );

  // Counts of our own, from the pins.
  logic       past_q = 1'b0;
  logic       req_q, write_q;
  logic [7:0] addr_q;
  logic [3:0] wdata_q;
  logic [3:0] cycles_q, starved_q, beats_q, loads_q, waits_q;
  logic [5:0] load_left_q;
  logic       count_clear;
  assign count_clear = req_q && write_q && addr_q == halut_regs_pkg::CONTROL && wdata_q[3];
  always_ff @(posedge clk_i) begin
    past_q <= 1'b1;
    req_q <= rst_ni && reg_valid_i;
    if (reg_valid_i) begin
      write_q <= reg_write_i;
      addr_q <= {reg_addr_i[7:2], 2'b00};
      wdata_q <= reg_wdata_i[3:0];
    end
    if (!rst_ni || count_clear) begin
      cycles_q <= 4'd0;
      starved_q <= 4'd0;
      beats_q <= 4'd0;
      loads_q <= 4'd0;
      waits_q <= 4'd0;
    end else begin
      if (busy || load_ready) cycles_q <= cycles_q + 4'd1;
      if (in_ready && !in_valid_i) starved_q <= starved_q + 4'd1;
      if (in_ready && in_valid_i) beats_q <= beats_q + 4'd1;
      if (load_ready && load_valid_i) loads_q <= loads_q + 4'd1;
      if (load_ready && !busy) waits_q <= waits_q + 4'd1;
    end
  end
  always_comb if (!past_q) assume (!rst_ni);

  always_ff @(posedge clk_i) if (past_q && rst_ni) begin
    assert (rvalid == req_q);
    if (req_q && !write_q) begin
      if (addr_q == halut_regs_pkg::CYCLES) assert (rdata == {28'd0, cycles_q} && !rerror);
      if (addr_q == halut_regs_pkg::STALL_IN) assert (rdata == {28'd0, starved_q} && !rerror);
      if (addr_q == halut_regs_pkg::BEATS) assert (rdata == {28'd0, beats_q} && !rerror);
      if (addr_q == halut_regs_pkg::ENCODES) assert (rdata == {28'd0, beats_q} && !rerror);
      if (addr_q == halut_regs_pkg::LOAD_BEATS) assert (rdata == {28'd0, loads_q} && !rerror);
      if (addr_q == halut_regs_pkg::LOAD_WAIT) assert (rdata == {28'd0, waits_q} && !rerror);
      if (addr_q == halut_regs_pkg::ID) assert (rdata == halut_pkg::Id && !rerror);
      if (addr_q == halut_regs_pkg::CONTROL) assert (rerror);
    end
    if (start) assert (!busy && !clear && wdata_q[0]);
    assert (!(threshold_we && table_we));
    assert (load_fire == (load_ready && load_valid_i));
  end
endmodule
