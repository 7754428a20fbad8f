// Proof: the two bodies of halut_encoders are equal, for all values and thresholds.
module proof #(
  parameter int unsigned R = 8
) (
  input logic [R*32-1:0] value_i,
  input logic [127:0]    threshold_i
);
  logic [R*4-1:0] words, trees;
  halut_encoders #(.R(R), .Latch(1'b0)) i_words (
    .value_i(value_i), .threshold_i(threshold_i), .code_o(words));
  halut_encoders #(.R(R), .Latch(1'b1)) i_trees (
    .value_i(value_i), .threshold_i(threshold_i), .code_o(trees));
  always_comb assert (words == trees);
endmodule
