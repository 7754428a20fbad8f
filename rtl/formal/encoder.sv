// Proof: halut_encoder is the walk of core/halut.h, for all values and thresholds.
module proof (
  input logic [31:0]  value_i,
  input logic [127:0] threshold_i
);
  logic [3:0] code;
  logic [4:0] node0, node1, node2, node3, node4;
  halut_encoder i_dut (.value_i(value_i), .threshold_i(threshold_i), .code_o(code));
  assign node0 = 5'd1;
  assign node1 = {node0[3:0], value_i[7:0] > threshold_i[node0*8 +: 8]};
  assign node2 = {node1[3:0], value_i[15:8] > threshold_i[node1*8 +: 8]};
  assign node3 = {node2[3:0], value_i[23:16] > threshold_i[node2*8 +: 8]};
  assign node4 = {node3[3:0], value_i[31:24] > threshold_i[node3*8 +: 8]};
  always_comb assert (code == node4 - 5'd16);
endmodule
