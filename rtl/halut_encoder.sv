// halut_encoder: one codebook of one row: four values and fifteen thresholds in, the number of a
// leaf out.
//
// Combinational. Thresholds lie in heap order, node n in byte n; byte 0 is unused. From node 1,
// level l goes right iff its value is greater than the node's threshold (equal goes left), and node
// = 2 node + right. The code is the path, level 0 in its top bit. Only one threshold a level is
// compared: the bits so far select it.
module halut_encoder (
  input  logic [31:0]  value_i,      // byte l: what level l reads
  input  logic [127:0] threshold_i,  // byte n: threshold of node n
  output logic [3:0]   code_o
);
  logic        bit0, bit1, bit2, bit3;
  logic [15:0] level1;
  logic [31:0] level2;
  logic [63:0] level3;

  assign level1 = threshold_i[31:16];
  assign level2 = threshold_i[63:32];
  assign level3 = threshold_i[127:64];

  assign bit0 = value_i[7:0] > threshold_i[15:8];
  assign bit1 = value_i[15:8] > level1[{bit0, 3'd0} +: 8];
  assign bit2 = value_i[23:16] > level2[{bit0, bit1, 3'd0} +: 8];
  assign bit3 = value_i[31:24] > level3[{bit0, bit1, bit2, 3'd0} +: 8];
  assign code_o = {bit0, bit1, bit2, bit3};

  logic unused;
  assign unused = ^threshold_i[7:0];  // keeps the bus a power of two
endmodule
