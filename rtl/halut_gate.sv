// halut_gate: a clock gate. The enable is taken while the clock is low, so the gated clock has no
// short pulse. Replace it by the library's cell where there is one.
module halut_gate (
  input  logic clk_i,
  input  logic en_i,
  output logic clk_o
);
  logic en_latch;
  always_latch if (!clk_i) en_latch = en_i;
  assign clk_o = clk_i & en_latch;
endmodule
