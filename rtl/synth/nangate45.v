// Cells that yosys does not choose by itself, for NanGate45.
module \$_DLATCH_P_ (input E, input D, output Q);
  DLH_X1 _TECHMAP_REPLACE_ (.D(D), .G(E), .Q(Q));
endmodule
module \$_DLATCH_N_ (input E, input D, output Q);
  DLL_X1 _TECHMAP_REPLACE_ (.D(D), .GN(E), .Q(Q));
endmodule
(* techmap_celltype = "$fa" *)
module map_fa (A, B, C, X, Y);
  parameter WIDTH = 1;
  input [WIDTH-1:0] A, B, C;
  output [WIDTH-1:0] X, Y;
  genvar i;
  generate
    for (i = 0; i < WIDTH; i = i + 1) begin : bit_i
      FA_X1 cell_i (.A(A[i]), .B(B[i]), .CI(C[i]), .CO(X[i]), .S(Y[i]));
    end
  endgenerate
endmodule
