// halut_lanes: the tables and the sums of M lanes for R rows at a time; the boundary between
// control and arithmetic.
//
// Write: `we_i` and `waddr_i` (codebook * 16 + leaf) announce a row, `wdata_i` one cycle later is
// its M signed bytes. Sum: with `sum_en_i`, each lane adds for each row the P entries that `code_i`
// selects in group `group_i`, to 0 if `sum_first_i`. Result: `res_en_i` copies all sums; `sum_o` is
// then, combinationally, those of output beat `beat_i`, lanes beat * BeatLanes and on, [lane][row]
// signed and exact for 2^(AccW-8) codebooks. Holds still when not enabled.
//
// Both bodies keep entries with 128 added, so that they and their sums are unsigned; 128 a codebook
// (`offset_i`) comes off. Latch = 0: halut_lanes_packed. Latch = 1: halut_lanes_latch.
module halut_lanes #(
  parameter int unsigned P = 4,
  parameter int unsigned M = 8,
  parameter int unsigned R = 1,
  parameter int unsigned C = 16,
  parameter int unsigned AccW = 16,
  parameter int unsigned BeatLanes = 8,
  parameter bit          Latch = 1'b0,
  localparam int unsigned Groups = C / P,
  localparam int unsigned GroupW = (Groups > 1) ? $clog2(Groups) : 1,
  localparam int unsigned AddrW = $clog2(C * halut_pkg::Leaves),
  localparam int unsigned BeatW = (M > BeatLanes) ? $clog2(M / BeatLanes) : 1
) (
  input  logic                        clk_i,
  input  logic                        we_i,
  input  logic [AddrW-1:0]            waddr_i,
  input  logic [M*8-1:0]              wdata_i,
  input  logic                        sum_en_i,
  input  logic                        sum_first_i,
  input  logic [GroupW-1:0]           group_i,
  input  logic [P*R*4-1:0]            code_i,   // [p][r]
  input  logic [AccW-1:0]             offset_i,
  input  logic                        res_en_i,
  input  logic                        res_full_i,
  input  logic [BeatW-1:0]            beat_i,
  output logic [BeatLanes*R*AccW-1:0] sum_o
);
  if (Latch) begin : gen_latch
    halut_lanes_latch #(
      .P(P), .M(M), .R(R), .C(C), .AccW(AccW), .BeatLanes(BeatLanes)
    ) i_lanes (
      .clk_i      (clk_i),
      .we_i       (we_i),
      .waddr_i    (waddr_i),
      .wdata_i    (wdata_i),
      .sum_en_i   (sum_en_i),
      .sum_first_i(sum_first_i),
      .group_i    (group_i),
      .code_i     (code_i),
      .offset_i   (offset_i),
      .res_en_i   (res_en_i),
      .beat_i     (beat_i),
      .sum_o      (sum_o)
    );
    logic unused;
    assign unused = res_full_i;  // only saves the simulator work
  end else begin : gen_packed
    halut_lanes_packed #(
      .P(P), .M(M), .R(R), .C(C), .AccW(AccW), .BeatLanes(BeatLanes)
    ) i_lanes (
      .clk_i      (clk_i),
      .we_i       (we_i),
      .waddr_i    (waddr_i),
      .wdata_i    (wdata_i),
      .sum_en_i   (sum_en_i),
      .sum_first_i(sum_first_i),
      .group_i    (group_i),
      .code_i     (code_i),
      .offset_i   (offset_i),
      .res_en_i   (res_en_i),
      .res_full_i (res_full_i),
      .beat_i     (beat_i),
      .sum_o      (sum_o)
    );
  end
endmodule
