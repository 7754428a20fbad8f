// halut_lanes_latch: halut_lanes for standard cells: latch rows, one adder tree a lane and row.
//
// P banks of C / P * 16 rows of M bytes. A bank is read by R ports at once, so R rows share its
// storage, which is most of the area. Sums start at minus the offset instead of having it taken off
// at the end.
module halut_lanes_latch #(
  parameter int unsigned P = 4,
  parameter int unsigned M = 8,
  parameter int unsigned R = 1,
  parameter int unsigned C = 16,
  parameter int unsigned AccW = 16,
  parameter int unsigned BeatLanes = 8,
  localparam int unsigned Groups = C / P,
  localparam int unsigned GroupW = (Groups > 1) ? $clog2(Groups) : 1,
  localparam int unsigned AddrW = $clog2(C * halut_pkg::Leaves),
  localparam int unsigned BankW = (Groups > 1) ? GroupW + 4 : 4,
  localparam int unsigned BeatW = (M > BeatLanes) ? $clog2(M / BeatLanes) : 1
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
  input  logic [BeatW-1:0]            beat_i,
  output logic [BeatLanes*R*AccW-1:0] sum_o
);
  logic [M*8-1:0]      excess;
  logic [P*R*M*8-1:0]  entry;   // [p][r][m]
  logic [R*M*AccW-1:0] sum_d, sum_q, res_q;  // [r][m]
  logic [BankW-1:0]    bank_row;
  logic [31:0]         codebook;

  assign excess = wdata_i ^ {M{8'h80}};
  assign codebook = 32'(waddr_i) / 16;
  assign bank_row = BankW'(codebook / P * 16) + BankW'(waddr_i[3:0]);

  for (genvar p = 0; p < P; p++) begin : gen_bank
    logic [R*BankW-1:0] raddr;
    for (genvar r = 0; r < R; r++) begin : gen_raddr
      if (Groups > 1) begin : gen_many
        assign raddr[r*BankW +: BankW] = {group_i, code_i[(p*R+r)*4 +: 4]};
      end else begin : gen_one
        assign raddr[r*BankW +: BankW] = code_i[(p*R+r)*4 +: 4];
      end
    end
    halut_rows #(
      .Rows (Groups * halut_pkg::Leaves),
      .Width(M * 8),
      .Ports(R),
      .Latch(1'b1)
    ) i_rows (
      .clk_i  (clk_i),
      .we_i   (we_i && codebook % P == p),
      .waddr_i(bank_row),
      .wdata_i(excess),
      .raddr_i(raddr),
      .rdata_o(entry[p*R*M*8 +: R*M*8])
    );
  end

  for (genvar k = 0; k < R * M; k++) begin : gen_lane
    logic [AccW-1:0] sum;
    always_comb begin
      sum = sum_first_i ? -offset_i : sum_q[k*AccW +: AccW];
      for (int unsigned p = 0; p < P; p++) sum = sum + AccW'(entry[(p*R*M+k)*8 +: 8]);
    end
    assign sum_d[k*AccW +: AccW] = sum;
  end

  always_ff @(posedge clk_i) begin
    if (sum_en_i) sum_q <= sum_d;
    if (res_en_i) res_q <= sum_q;
  end

  for (genvar l = 0; l < BeatLanes; l++) begin : gen_out
    for (genvar r = 0; r < R; r++) begin : gen_row
      if (M > BeatLanes) begin : gen_many
        logic [M/BeatLanes*AccW-1:0] all;
        for (genvar b = 0; b < M / BeatLanes; b++) begin : gen_beat
          assign all[b*AccW +: AccW] = res_q[(r*M+b*BeatLanes+l)*AccW +: AccW];
        end
        assign sum_o[(l*R+r)*AccW +: AccW] = all[32'(beat_i)*AccW +: AccW];
      end else begin : gen_one
        assign sum_o[(l*R+r)*AccW +: AccW] = res_q[(r*M+l)*AccW +: AccW];
      end
    end
  end

  if (Groups == 1) begin : gen_unused_group
    logic unused;
    assign unused = ^group_i;
  end
  if (M == BeatLanes) begin : gen_unused_beat
    logic unused;
    assign unused = ^beat_i;
  end
endmodule
