// halut_rows: a memory of rows, one write port, several read ports; the one place where bits are
// stored for long.
//
// Write: `we_i` and `waddr_i` announce a write; the data is `wdata_i` one cycle later, and may be
// read two cycles after the announcement. Read: combinational. Two bodies stand behind this
// boundary: an array, for simulation and for flip-flop or macro mapping, and rows of latches with a
// clock gate each, for small units in standard cells. A latch row is open during the high half of
// the data cycle, so `wdata_i` must come straight from a register.
module halut_rows #(
  parameter int unsigned Rows = 16,
  parameter int unsigned Width = 64,
  parameter int unsigned Ports = 1,
  parameter bit          Latch = 1'b0,
  localparam int unsigned AddrW = (Rows > 1) ? $clog2(Rows) : 1
) (
  input  logic                   clk_i,
  input  logic                   we_i,
  input  logic [AddrW-1:0]       waddr_i,
  input  logic [Width-1:0]       wdata_i,
  input  logic [Ports*AddrW-1:0] raddr_i,
  output logic [Ports*Width-1:0] rdata_o
);
  if (Latch) begin : gen_latch
    logic [Rows*Width-1:0] q;
    for (genvar r = 0; r < Rows; r++) begin : gen_row
      logic             clk_row;
      logic [Width-1:0] row;
      halut_gate i_gate (
        .clk_i(clk_i),
        .en_i (we_i && waddr_i == AddrW'(r)),
        .clk_o(clk_row)
      );
      always_latch if (clk_row) row = wdata_i;
      assign q[r*Width +: Width] = row;
    end
    // One-hot select, AND, OR: the tools make AOI trees of it.
    for (genvar k = 0; k < Ports; k++) begin : gen_port
      logic [Rows-1:0]  select;
      logic [Width-1:0] data;
      for (genvar r = 0; r < Rows; r++) begin : gen_select
        assign select[r] = Rows == 1 || raddr_i[k*AddrW +: AddrW] == AddrW'(r);
      end
      always_comb begin
        data = '0;
        for (int unsigned r = 0; r < Rows; r++) begin
          data = data | ({Width{select[r]}} & q[r*Width +: Width]);
        end
      end
      assign rdata_o[k*Width +: Width] = data;
    end
  end else begin : gen_array
    logic             we_q;
    logic [AddrW-1:0] waddr_q;
    logic [Width-1:0] mem [Rows];
    always_ff @(posedge clk_i) begin
      we_q <= we_i;
      waddr_q <= waddr_i;
      if (we_q) mem[waddr_q] <= wdata_i;
    end
    for (genvar k = 0; k < Ports; k++) begin : gen_port
      assign rdata_o[k*Width +: Width] = mem[raddr_i[k*AddrW +: AddrW]];
    end
  end
endmodule
