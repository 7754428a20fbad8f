// halut_encoders: the encoders of one codebook for R rows: R times four values and the codebook's
// thresholds in, R numbers of leaves out. Combinational.
//
// Two bodies behind one boundary, as in halut_lanes. Latch = 1: R times halut_encoder. Latch = 0,
// for a fast simulation: a word has a byte a row, and all rows go down the tree at once, which is a
// quarter of the instructions. They are equal for all inputs (formal/encoders.sv).
module halut_encoders #(
  parameter int unsigned R = 1,
  parameter bit          Latch = 1'b0,
  localparam int unsigned W = R * 8
) (
  input  logic [4*W-1:0] value_i,      // [level][row]
  input  logic [127:0]   threshold_i,  // byte n: threshold of node n
  output logic [R*4-1:0] code_o        // [row]
);
  if (Latch) begin : gen_trees
    for (genvar r = 0; r < R; r++) begin : gen_row
      halut_encoder i_encoder (
        .value_i    ({value_i[3*W+r*8 +: 8], value_i[2*W+r*8 +: 8],
                      value_i[W+r*8 +: 8], value_i[r*8 +: 8]}),
        .threshold_i(threshold_i),
        .code_o     (code_o[r*4 +: 4])
      );
    end
  end else begin : gen_words
    localparam logic [W-1:0] Ones = {R{8'h01}};
    localparam logic [W-1:0] Top = {R{8'h80}};

    // Bit 7 of each byte: a > b. The subtraction leaves it set where the low seven bits of b are
    // not less, and borrows nothing from the next byte.
    function automatic logic [W-1:0] greater(input logic [W-1:0] a, input logic [W-1:0] b);
      greater = ((a & ~b) | (~(a ^ b) & ~((b | Top) - (a & ~Top)))) & Top;
    endfunction
    // Each byte filled with its bit 7.
    function automatic logic [W-1:0] fill(input logic [W-1:0] top);
      fill = top | (top - (top >> 7));
    endfunction
    function automatic logic [W-1:0] pick(input logic [W-1:0] right, input logic [7:0] zero,
                                          input logic [7:0] one);
      pick = (W'(zero) * Ones) ^ (right & ((W'(zero) ^ W'(one)) * Ones));
    endfunction
    function automatic logic [W-1:0] choose(input logic [W-1:0] right, input logic [W-1:0] zero,
                                            input logic [W-1:0] one);
      choose = zero ^ (right & (zero ^ one));
    endfunction

    logic [W-1:0] bit0, bit1, bit2, bit3, right0, right1, right2, node2, node3, code;
    assign bit0 = greater(value_i[0 +: W], W'(threshold_i[15:8]) * Ones);
    assign right0 = fill(bit0);
    assign bit1 = greater(value_i[W +: W], pick(right0, threshold_i[23:16], threshold_i[31:24]));
    assign right1 = fill(bit1);
    assign node2 = choose(right0, pick(right1, threshold_i[39:32], threshold_i[47:40]),
                          pick(right1, threshold_i[55:48], threshold_i[63:56]));
    assign bit2 = greater(value_i[2*W +: W], node2);
    assign right2 = fill(bit2);
    assign node3 = choose(right0,
        choose(right1, pick(right2, threshold_i[71:64], threshold_i[79:72]),
               pick(right2, threshold_i[87:80], threshold_i[95:88])),
        choose(right1, pick(right2, threshold_i[103:96], threshold_i[111:104]),
               pick(right2, threshold_i[119:112], threshold_i[127:120])));
    assign bit3 = greater(value_i[3*W +: W], node3);
    assign code = (bit0 >> 4) | (bit1 >> 5) | (bit2 >> 6) | (bit3 >> 7);
    for (genvar r = 0; r < R; r++) begin : gen_code
      assign code_o[r*4 +: 4] = code[r*8 +: 4];
    end

    logic unused;
    assign unused = ^{threshold_i[7:0], code};
  end
endmodule
