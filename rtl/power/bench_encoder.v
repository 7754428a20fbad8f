// A tree of halut_encoder: a row a cycle, codebook after codebook.
`timescale 1ns/1ps
module bench;
  parameter VECTORS = 2048;
  reg [163:0] vector [0:VECTORS-1];
  reg [163:0] now;
  wire [3:0] code;
  integer n, wrong;
  halut_block i_dut (.value_i(now[163:132]), .threshold_i(now[131:4]), .code_o(code));
  initial begin
    $readmemh("tree.hex", vector);
    $dumpfile("encoder.vcd");
    wrong = 0;
    now = vector[0];
    #(`PERIOD) $dumpvars(1, i_dut);
    for (n = 1; n < VECTORS; n = n + 1) begin
      now = vector[n];
      #(`PERIOD) if (code !== now[3:0]) wrong = wrong + 1;
    end
    $display("wrong %0d of %0d", wrong, n - 1);
    $finish;
  end
endmodule
