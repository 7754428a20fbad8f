// Cells that yosys does not choose by itself, for the OSU 0.35 um library of Debian's qflow-tech-osu035.
module \$_DLATCH_P_ (input E, input D, output Q);
  LATCH _TECHMAP_REPLACE_ (.D(D), .CLK(E), .Q(Q));
endmodule
module \$_DLATCH_N_ (input E, input D, output Q);
  wire n;
  INVX1 invert (.A(E), .Y(n));
  LATCH latch (.D(D), .CLK(n), .Q(Q));
endmodule
(* techmap_celltype = "$fa" *)
module map_fa (A, B, C, X, Y);
  parameter WIDTH = 1;
  input [WIDTH-1:0] A, B, C;
  output [WIDTH-1:0] X, Y;
  genvar i;
  generate
    for (i = 0; i < WIDTH; i = i + 1) begin : bit_i
      FAX1 cell_i (.A(A[i]), .B(B[i]), .C(C[i]), .YC(X[i]), .YS(Y[i]));
    end
  endgenerate
endmodule
