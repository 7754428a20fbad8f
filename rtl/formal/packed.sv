// Proof: adding a word of eight bytes to packed sums gives the eight separate sums, while each sum
// before it is at most 255 * 256, which 255 bytes cannot pass; so 256 bytes are exact. With one
// more the proof fails, as it must: run.sh checks that too (BOUND = 65281).
module proof #(
  parameter int unsigned Bound = 255 * 256
) (
  input logic [63:0] even_i,
  input logic [63:0] odd_i,
  input logic [63:0] word_i
);
  logic [63:0] even, odd;
  logic        small, same;
  assign even = halut_pkg::add_even(even_i, word_i);
  assign odd = halut_pkg::add_odd(odd_i, word_i);
  always_comb begin
    small = 1'b1;
    same = 1'b1;
    for (int unsigned k = 0; k < 4; k++) begin
      if (32'(even_i[16*k +: 16]) > Bound || 32'(odd_i[16*k +: 16]) > Bound) small = 1'b0;
      if (even[16*k +: 16] != 16'(even_i[16*k +: 16] + word_i[16*k +: 8])) same = 1'b0;
      if (odd[16*k +: 16] != 16'(odd_i[16*k +: 16] + word_i[16*k+8 +: 8])) same = 1'b0;
    end
    if (small) assert (same);
  end
endmodule
