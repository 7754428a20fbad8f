// Proof: no beat is lost, repeated or reordered by halut_flow, and its streams keep their rule.
//
// A datapath of one bit a beat follows the enables of halut_flow. For an arbitrary row group, the
// sum of the beats that went in is kept aside; when that row group comes out, it must be this sum.
// Beside it: a row group that is in comes out once (counts), output stays until taken, `busy` ends
// with the last beat and not before.
module proof (
  input logic clk_i,
  input logic rst_ni,
  input logic start_i,
  input logic clear_i,
  input logic in_valid_i,
  input logic out_ready_i,
  input logic acc_full_i,
  input logic x_i
);
  (* anyconst *) logic       last_group;
  (* anyconst *) logic [1:0] last_row;
  (* anyconst *) logic [1:0] chosen;
  (* anyconst *) logic       accumulate;
  logic       in_ready, out_valid, out_last, value_en, code_en, sum_en, sum_first, res_en, res_full;
  logic       out_fire, busy, stall_in, stall_out;
  logic       group, sum_group;
  logic       beat;

  halut_flow #(.GroupW(1), .Beats(2), .RowW(2)) i_dut (
    .clk_i(clk_i), .rst_ni(rst_ni), .clear_i(clear_i), .start_i(start_i && !busy), .base_i(1'b0),
    .last_group_i(last_group), .last_row_i(last_row), .accumulate_i(accumulate),
    .in_valid_i(in_valid_i), .in_ready_o(in_ready), .acc_full_i(acc_full_i),
    .out_valid_o(out_valid), .out_ready_i(out_ready_i), .out_last_o(out_last),
    .value_en_o(value_en), .code_en_o(code_en), .group_o(group), .sum_en_o(sum_en),
    .sum_first_o(sum_first), .sum_group_o(sum_group), .res_en_o(res_en), .res_full_o(res_full),
    .beat_o(beat), .out_fire_o(out_fire), .busy_o(busy), .stall_in_o(stall_in),
    .stall_out_o(stall_out)
  );

  // The datapath.
  logic       value_q, code_q;
  logic [1:0] sum_q, res_q;
  always_ff @(posedge clk_i) begin
    if (value_en) value_q <= x_i;
    if (code_en) code_q <= value_q;
    if (sum_en) sum_q <= (sum_first ? 2'd0 : sum_q) + {1'b0, code_q};
    if (res_en) res_q <= sum_q;
  end

  // What should come out, from the pins alone.
  logic       past_q = 1'b0;
  logic       in_group_q;
  logic [1:0] in_row_q, out_row_q;
  logic       out_beat_q, want_q;
  logic [1:0] kept_q;
  logic       acc_waits_q, out_waits_q, out_last_q;
  always_ff @(posedge clk_i) begin
    past_q <= 1'b1;
    out_waits_q <= rst_ni && !clear_i && out_valid && !out_ready_i;
    out_last_q <= out_last;
    acc_waits_q <= rst_ni && !clear_i && acc_full_i && !out_fire;
    if (!rst_ni || clear_i || (start_i && !busy)) begin
      in_group_q <= 1'b0;
      in_row_q <= 2'd0;
      out_row_q <= 2'd0;
      out_beat_q <= 1'b0;
      kept_q <= 2'd0;
      want_q <= rst_ni && !clear_i;
    end else begin
      if (in_valid_i && in_ready) begin
        in_group_q <= in_group_q == last_group ? 1'b0 : 1'b1;
        if (in_group_q == last_group) begin
          in_row_q <= in_row_q + 2'd1;
          if (in_row_q == last_row) want_q <= 1'b0;
        end
        if (in_row_q == chosen) kept_q <= kept_q + {1'b0, x_i};
      end
      if (out_valid && out_ready_i) begin
        out_beat_q <= !out_beat_q;
        if (out_beat_q) out_row_q <= out_row_q + 2'd1;
      end
    end
  end

  always_comb if (!past_q) assume (!rst_ni);
  // The accumulate register keeps its beat until the output takes it.
  always_ff @(posedge clk_i) if (acc_waits_q && rst_ni) assume (acc_full_i);

  always_ff @(posedge clk_i) if (past_q && rst_ni) begin
    if (in_ready) assert (busy && want_q);
    if (out_waits_q) assert (out_valid && out_last == out_last_q);
    if (out_valid) begin
      assert (busy);
      assert (beat == out_beat_q);
      assert (out_last == (out_row_q == last_row && out_beat_q));
      if (out_row_q == chosen && chosen <= last_row) assert (res_q == kept_q);
    end
    if (code_en) assert (group <= last_group);
    if (sum_en) assert (sum_first == (sum_group == 1'b0));
    assert (!(stall_in && stall_out) && !((in_valid_i && in_ready) && (stall_in || stall_out)));
  end
`ifdef COVER
  always_ff @(posedge clk_i) if (past_q && rst_ni) begin
    cover (out_valid && out_ready_i && out_last && last_row == 2'd2 && last_group == 2'd1);
    cover (stall_out);
  end
`endif
endmodule
