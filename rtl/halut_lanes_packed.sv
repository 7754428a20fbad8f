// halut_lanes_packed: halut_lanes for a fast simulation: an array of 64-bit words, four 16-bit sums
// in each word.
//
// A row is M / 8 consecutive words of eight bytes, so the compiled model adds rows with vector
// instructions. Even and odd bytes go to separate words of 16-bit sums, and no carry crosses from
// one sum to the next, because 256 bytes sum to at most 65,280 (formal/packed.sv is the proof).
// Everything happens inside enabled clocked blocks: an idle cycle costs nothing here.
module halut_lanes_packed #(
  parameter int unsigned P = 4,
  parameter int unsigned M = 8,
  parameter int unsigned R = 1,
  parameter int unsigned C = 16,
  parameter int unsigned AccW = 16,
  parameter int unsigned BeatLanes = 8,
  localparam int unsigned Groups = C / P,
  localparam int unsigned GroupW = (Groups > 1) ? $clog2(Groups) : 1,
  localparam int unsigned AddrW = $clog2(C * halut_pkg::Leaves),
  localparam int unsigned BeatW = (M > BeatLanes) ? $clog2(M / BeatLanes) : 1,
  localparam int unsigned Words = M / 8
) (
  input  logic                        clk_i,
  input  logic                        we_i,
  input  logic [AddrW-1:0]            waddr_i,
  input  logic [M*8-1:0]              wdata_i,
  input  logic                        sum_en_i,
  input  logic                        sum_first_i,
  input  logic [GroupW-1:0]           group_i,
  input  logic [P*R*4-1:0]            code_i,
  input  logic [AccW-1:0]             offset_i,
  input  logic                        res_en_i,
  input  logic                        res_full_i,
  input  logic [BeatW-1:0]            beat_i,
  output logic [BeatLanes*R*AccW-1:0] sum_o
);
  localparam logic [63:0] Excess = 64'h8080_8080_8080_8080;

  logic             we_q;
  logic [AddrW-1:0] waddr_q;
  logic [63:0]      mem [C*halut_pkg::Leaves][Words];
  logic [63:0]      even [R][Words];
  logic [63:0]      odd [R][Words];
  logic [63:0]      res_even [R][Words];
  logic [63:0]      res_odd [R][Words];
  logic [AddrW-1:0] row [P*R];

  for (genvar p = 0; p < P; p++) begin : gen_row
    for (genvar r = 0; r < R; r++) begin : gen_port
      assign row[p*R+r] = AddrW'((32'(group_i) * P + p) * halut_pkg::Leaves)
                        | AddrW'(code_i[(p*R+r)*4 +: 4]);
    end
  end

  // A loop over words that stays a loop in the compiled model (see RTL_VERILATE in the Makefile):
  // the C++ compiler makes vector instructions of it, which it does not of the same statements
  // written out.
  task automatic sum_row(input int unsigned r);
    logic [63:0] sum_even, sum_odd;
    for (int unsigned w = 0; w < Words; w++) begin
      sum_even = sum_first_i ? 64'd0 : even[r][w];
      sum_odd = sum_first_i ? 64'd0 : odd[r][w];
      for (int unsigned p = 0; p < P; p++) begin
        sum_even = halut_pkg::add_even(sum_even, mem[row[p*R+r]][w]);
        sum_odd = halut_pkg::add_odd(sum_odd, mem[row[p*R+r]][w]);
      end
      even[r][w] = sum_even;
      odd[r][w] = sum_odd;
    end
  endtask

  // One process owns tables, sums and results and assigns them in place. Reads come before the
  // writes of the same edge: results copy sums, sums read the tables, then a row is written.
  always_ff @(posedge clk_i) begin
    if (res_en_i) begin
      for (int unsigned r = 0; r < R; r++) begin
        for (int unsigned w = 0; w < Words; w++) begin
          res_even[r][w] = even[r][w];
          res_odd[r][w] = odd[r][w];
        end
      end
    end
    if (sum_en_i) begin
      for (int unsigned r = 0; r < R; r++) sum_row(r);
    end
    if (we_q) begin
      for (int unsigned w = 0; w < Words; w++) mem[waddr_q][w] = wdata_i[64*w +: 64] ^ Excess;
    end
    we_q <= we_i;
    waddr_q <= waddr_i;
  end

  always_comb begin
    sum_o = '0;
    if (res_full_i) begin
      for (int unsigned l = 0; l < BeatLanes; l++) begin
        for (int unsigned r = 0; r < R; r++) begin
          sum_o[(l*R+r)*AccW +: AccW] =
              16'((l % 2 == 0 ? res_even[r][32'(beat_i) * (BeatLanes / 8) + l / 8]
                              : res_odd[r][32'(beat_i) * (BeatLanes / 8) + l / 8])
                  >> (l % 8 / 2 * 16)) - offset_i;
        end
      end
    end
  end
endmodule
