// halut_top: one accelerator: registers, four streams, encoders, tables, sums.
//
// For each row: encode C values-of-four into codes, add the table rows that they select, give M
// exact int32 sums.
//   in    P codebooks x 4 levels x R rows of bytes a beat, [p][level][row]; groups in order
//   load  17 beats a codebook: 16 thresholds (heap order, the first unused), then 16 rows of M
//         signed bytes
//   acc   with RUN_FLAGS bit 0: a beat of int32 to add to each output beat, same order
//   out   BeatLanes lanes x R rows of int32 a beat, [lane][row]; M / BeatLanes beats a row group;
//         last: end of run
// Loading runs beside computing, into groups that the run does not read. Tables and sums live in
// halut_lanes. Latency: see halut_flow. P, R and C / P, M / BeatLanes are powers of two; M and
// BeatLanes are multiples of 8.
module halut_top #(
  parameter int unsigned P = 4,           // codebooks a cycle
  parameter int unsigned M = 8,           // lanes: outputs of a tile
  parameter int unsigned R = 1,           // rows at a time
  parameter int unsigned C = 16,          // resident codebooks
  parameter int unsigned BeatLanes = 8,   // lanes in an output beat
  parameter int unsigned AccW = 16,       // bits of a sum, 9-16: exact for 2^(AccW-8) codebooks
  parameter int unsigned CountW = 64,     // bits of a counter
  parameter bit          Latch = 1'b0,    // body of the memories: 0 arrays, 1 latch rows
  localparam int unsigned LoadW = (M * 8 > 128) ? M * 8 : 128,
  localparam int unsigned BeatW = BeatLanes * R * halut_pkg::OutW
) (
  input  logic                clk_i,
  input  logic                rst_ni,

  input  logic                reg_valid_i,
  input  logic                reg_write_i,
  input  logic [7:0]          reg_addr_i,
  input  logic [31:0]         reg_wdata_i,
  output logic                reg_rvalid_o,
  output logic                reg_error_o,
  output logic [31:0]         reg_rdata_o,

  input  logic                load_valid_i,
  output logic                load_ready_o,
  input  logic [LoadW-1:0]    load_data_i,

  input  logic                in_valid_i,
  output logic                in_ready_o,
  input  logic [P*R*32-1:0]   in_data_i,

  input  logic                acc_valid_i,
  output logic                acc_ready_o,
  input  logic [BeatW-1:0]    acc_data_i,

  output logic                out_valid_o,
  input  logic                out_ready_i,
  output logic                out_last_o,
  output logic [BeatW-1:0]    out_data_o
);
  localparam int unsigned Groups = C / P;
  localparam int unsigned GroupW = (Groups > 1) ? $clog2(Groups) : 1;
  localparam int unsigned Beats = M / BeatLanes;
  localparam int unsigned OutBeatW = (Beats > 1) ? $clog2(Beats) : 1;
  localparam int unsigned AddrW = $clog2(C * halut_pkg::Leaves);
  localparam int unsigned RowW = halut_pkg::RowW;
  localparam int unsigned OutW = halut_pkg::OutW;

  logic                clear, start, accumulate, run_busy, stall_in, stall_out;
  logic [GroupW-1:0]   base, last_group, group, sum_group;
  logic [RowW-1:0]     last_row;
  logic [AccW-1:0]     offset;
  logic                load_fire, threshold_we, table_we;
  logic [AddrW-1:0]    load_addr;
  logic                value_en, code_en, sum_en, sum_first, res_en, res_full, out_fire;
  logic [OutBeatW-1:0] beat;

  logic [LoadW-1:0]            load_q;
  logic [P*R*32-1:0]           value_q;
  logic [P*R*4-1:0]            code_d, code_q;
  logic                        acc_full_q;
  logic [BeatW-1:0]            acc_q;
  logic [BeatLanes*R*AccW-1:0] sum;

  halut_ctrl #(
    .P(P), .M(M), .R(R), .C(C), .AccW(AccW), .BeatLanes(BeatLanes), .CountW(CountW)
  ) i_ctrl (
    .clk_i         (clk_i),
    .rst_ni        (rst_ni),
    .reg_valid_i   (reg_valid_i),
    .reg_write_i   (reg_write_i),
    .reg_addr_i    (reg_addr_i),
    .reg_wdata_i   (reg_wdata_i),
    .reg_rvalid_o  (reg_rvalid_o),
    .reg_error_o   (reg_error_o),
    .reg_rdata_o   (reg_rdata_o),
    .clear_o       (clear),
    .start_o       (start),
    .base_o        (base),
    .last_group_o  (last_group),
    .last_row_o    (last_row),
    .accumulate_o  (accumulate),
    .offset_o      (offset),
    .run_busy_i    (run_busy),
    .beat_i        (value_en),
    .stall_in_i    (stall_in),
    .stall_out_i   (stall_out),
    .load_valid_i  (load_valid_i),
    .load_ready_o  (load_ready_o),
    .load_fire_o   (load_fire),
    .threshold_we_o(threshold_we),
    .table_we_o    (table_we),
    .load_addr_o   (load_addr)
  );

  halut_flow #(
    .GroupW(GroupW), .Beats(Beats)
  ) i_flow (
    .clk_i       (clk_i),
    .rst_ni      (rst_ni),
    .clear_i     (clear),
    .start_i     (start),
    .base_i      (base),
    .last_group_i(last_group),
    .last_row_i  (last_row),
    .accumulate_i(accumulate),
    .in_valid_i  (in_valid_i),
    .in_ready_o  (in_ready_o),
    .acc_full_i  (acc_full_q),
    .out_valid_o (out_valid_o),
    .out_ready_i (out_ready_i),
    .out_last_o  (out_last_o),
    .value_en_o  (value_en),
    .code_en_o   (code_en),
    .group_o     (group),
    .sum_en_o    (sum_en),
    .sum_first_o (sum_first),
    .sum_group_o (sum_group),
    .res_en_o    (res_en),
    .res_full_o  (res_full),
    .beat_o      (beat),
    .out_fire_o  (out_fire),
    .busy_o      (run_busy),
    .stall_in_o  (stall_in),
    .stall_out_o (stall_out)
  );

  // The accumulate stream waits in one register: a beat may be offered long before its sum is
  // ready.
  assign acc_ready_o = !acc_full_q || (accumulate && out_fire);
  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) acc_full_q <= 1'b0;
    else if (clear) acc_full_q <= 1'b0;
    else if (acc_ready_o) acc_full_q <= acc_valid_i;
  end
  always_ff @(posedge clk_i) begin
    if (acc_valid_i && acc_ready_o) acc_q <= acc_data_i;
    if (load_fire) load_q <= load_data_i;
    if (value_en) value_q <= in_data_i;
    if (code_en) code_q <= code_d;
  end

  for (genvar p = 0; p < P; p++) begin : gen_codebook
    logic [127:0] threshold;
    halut_rows #(
      .Rows(Groups), .Width(120), .Ports(1), .Latch(Latch)
    ) i_threshold (
      .clk_i  (clk_i),
      .we_i   (threshold_we && 32'(load_addr) / 16 % P == p),
      .waddr_i(GroupW'(32'(load_addr) / 16 / P)),
      .wdata_i(load_q[127:8]),
      .raddr_i(group),
      .rdata_o(threshold[127:8])
    );
    assign threshold[7:0] = '0;
    halut_encoders #(
      .R(R), .Latch(Latch)
    ) i_encoders (
      .value_i    (value_q[p*R*32 +: R*32]),
      .threshold_i(threshold),
      .code_o     (code_d[p*R*4 +: R*4])
    );
  end

  halut_lanes #(
    .P(P), .M(M), .R(R), .C(C), .AccW(AccW), .BeatLanes(BeatLanes), .Latch(Latch)
  ) i_lanes (
    .clk_i      (clk_i),
    .we_i       (table_we),
    .waddr_i    (load_addr),
    .wdata_i    (load_q[M*8-1:0]),
    .sum_en_i   (sum_en),
    .sum_first_i(sum_first),
    .group_i    (sum_group),
    .code_i     (code_q),
    .offset_i   (offset),
    .res_en_i   (res_en),
    .res_full_i (res_full),
    .beat_i     (beat),
    .sum_o      (sum)
  );

  // To int32, plus what came with the accumulate stream.
  always_comb begin
    out_data_o = '0;
    if (res_full) begin
      for (int unsigned l = 0; l < BeatLanes; l++) begin
        for (int unsigned r = 0; r < R; r++) begin
          out_data_o[(l*R+r)*OutW +: OutW] =
              {{(OutW-AccW){sum[(l*R+r)*AccW+AccW-1]}}, sum[(l*R+r)*AccW +: AccW]}
              + (accumulate ? acc_q[(l*R+r)*OutW +: OutW] : '0);
        end
      end
    end
  end

`ifndef SYNTHESIS
  initial begin
    assert (P == 1 << $clog2(P) && R == 1 << $clog2(R));
    assert (C % P == 0 && Groups == 1 << $clog2(Groups));
    assert (M % BeatLanes == 0 && BeatLanes % 8 == 0 && Beats == 1 << $clog2(Beats));
    assert (AccW > 8 && AccW <= 16 && (!Latch && AccW == 16 || Latch));
    assert (P <= 1 << (AccW - 8) && P < 256 && R < 256 && BeatLanes < 256);
    assert (M < 65536 && C < 65536);
  end
  halut_stream_check #(.Width(LoadW)) i_check_load (
    .clk_i(clk_i), .rst_ni(rst_ni), .clear_i(clear),
    .valid_i(load_valid_i), .ready_i(load_ready_o), .data_i(load_data_i));
  halut_stream_check #(.Width(P*R*32)) i_check_in (
    .clk_i(clk_i), .rst_ni(rst_ni), .clear_i(clear),
    .valid_i(in_valid_i), .ready_i(in_ready_o), .data_i(in_data_i));
  halut_stream_check #(.Width(BeatW)) i_check_acc (
    .clk_i(clk_i), .rst_ni(rst_ni), .clear_i(clear),
    .valid_i(acc_valid_i), .ready_i(acc_ready_o), .data_i(acc_data_i));
  halut_stream_check #(.Width(BeatW+1)) i_check_out (
    .clk_i(clk_i), .rst_ni(rst_ni), .clear_i(clear),
    .valid_i(out_valid_o), .ready_i(out_ready_i), .data_i({out_last_o, out_data_o}));
`endif
endmodule
