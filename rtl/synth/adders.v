// Carry-save adders of maccmap, bit by bit. One that has a constant input is gates; the others stay
// for the library's full adder.
(* techmap_celltype = "$fa" *)
module map_fa_bits (A, B, C, X, Y);
  parameter WIDTH = 1;
  input [WIDTH-1:0] A, B, C;
  output [WIDTH-1:0] X, Y;
  parameter [WIDTH-1:0] _TECHMAP_CONSTMSK_A_ = 0;
  parameter [WIDTH-1:0] _TECHMAP_CONSTMSK_B_ = 0;
  parameter [WIDTH-1:0] _TECHMAP_CONSTMSK_C_ = 0;
  localparam [WIDTH-1:0] Fixed = _TECHMAP_CONSTMSK_A_ | _TECHMAP_CONSTMSK_B_ | _TECHMAP_CONSTMSK_C_;
  localparam Done = WIDTH == 1 && Fixed == 0;
  wire _TECHMAP_FAIL_ = Done;
  genvar i;
  generate
    for (i = 0; i < WIDTH; i = i + 1) begin : bit_i
      if (Fixed[i]) begin
        assign X[i] = A[i] & B[i] | C[i] & (A[i] | B[i]);
        assign Y[i] = A[i] ^ B[i] ^ C[i];
      end else begin
        \$fa #(.WIDTH(1)) one (.A(A[i]), .B(B[i]), .C(C[i]), .X(X[i]), .Y(Y[i]));
      end
    end
  endgenerate
endmodule
