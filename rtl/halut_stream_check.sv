// halut_stream_check: the rule of every stream: once valid, a beat stays valid and unchanged until
// it is taken. No hardware: simulation and proofs only. `Assume` makes it a promise of the other
// side, for proofs.
module halut_stream_check #(
  parameter int unsigned Width = 8,
  parameter bit          Assume = 1'b0
) (
  input logic             clk_i,
  input logic             rst_ni,
  input logic             clear_i,   // the rule starts anew
  input logic             valid_i,
  input logic             ready_i,
  input logic [Width-1:0] data_i
);
  logic             waiting_q;
  logic [Width-1:0] data_q;
  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) waiting_q <= 1'b0;
    else waiting_q <= valid_i && !ready_i && !clear_i;
  end
  always_ff @(posedge clk_i) data_q <= data_i;
  if (Assume) begin : gen_assume
    always_ff @(posedge clk_i) if (waiting_q) assume (valid_i && data_i == data_q);
  end else begin : gen_assert
    always_ff @(posedge clk_i) if (waiting_q) assert (valid_i && data_i == data_q);
  end
endmodule
