// halut_lanes_latch, one group: tables are written, then R rows a cycle.
`timescale 1ns/1ps
module bench;
  parameter P = 16, R = 1, ACCW = 12, BEATS = 128;
  reg clk = 0, we = 0, sum_en = 0;
  reg [$clog2(P*16)-1:0] waddr = 0;
  reg [63:0] wdata = 0;
  reg [P*R*4-1:0] code = 0;
  wire [8*R*ACCW-1:0] sum;
  reg [127:0] load [0:P*17-1];
  reg [P*R*4-1:0] codes [0:BEATS-1];
  reg [8*R*32-1:0] want [0:BEATS-1];
  reg [ACCW-1:0] offset = P * 128;
  integer n, k, wrong = 0;
  halut_block i_dut (
    .clk_i(clk), .we_i(we), .waddr_i(waddr), .wdata_i(wdata), .sum_en_i(sum_en), .sum_first_i(1'b1),
    .group_i(1'b0), .code_i(code), .offset_i(offset), .res_en_i(1'b1), .beat_i(1'b0), .sum_o(sum)
  );
  always #(`PERIOD / 2.0) clk = !clk;
  initial begin
    $readmemh("load.hex", load);
    $readmemh("code.hex", codes);
    $readmemh("want.hex", want);
    $dumpfile("lanes.vcd");
    for (n = 0; n <= P * 16; n = n + 1) begin
      @(posedge clk) #0.5;
      we = n < P * 16;
      waddr = n;
      if (n > 0) wdata = load[(n-1) / 16 * 17 + (n-1) % 16 + 1][63:0];
    end
    for (n = 0; n < BEATS + 2; n = n + 1) begin
      @(posedge clk) #0.5;
      if (n == 2) $dumpvars(1, i_dut);
      if (n >= 2) for (k = 0; k < 8 * R; k = k + 1)
        if ($signed(sum[k*ACCW +: ACCW]) !== $signed(want[n-2][k*32 +: 32])) wrong = wrong + 1;
      sum_en = n < BEATS;
      if (n < BEATS) code = codes[n];
      if (n == BEATS) $dumpoff;
    end
    $display("wrong %0d of %0d", wrong, BEATS * 8 * R);
    $finish;
  end
endmodule
