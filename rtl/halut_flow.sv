// halut_flow: the path of a run through the pipeline: which beat is where, and who may move.
//
// Stages: input register, code register, sums, result registers, output beats. A beat taken in
// cycle t is in the sums at the end of cycle t + 2; the last one of a row group is in the result
// registers at the end of t + 3 and its first output beat is valid in t + 4. One input beat a cycle
// if the output keeps up: a row group is `Beats` output beats. Back-pressure: when finished sums
// find the result registers occupied, all stages above hold still and `in_ready_o` falls. Nothing
// is lost or repeated; input is taken only for the run that was started.
module halut_flow #(
  parameter int unsigned GroupW = 1,  // bits of a group number
  parameter int unsigned Beats = 1,   // output beats of a row group
  parameter int unsigned RowW = halut_pkg::RowW,
  localparam int unsigned BeatW = (Beats > 1) ? $clog2(Beats) : 1
) (
  input  logic              clk_i,
  input  logic              rst_ni,
  input  logic              clear_i,        // forget everything, synchronously
  // The run; all but `start_i` stay as they are while `busy_o`.
  input  logic              start_i,
  input  logic [GroupW-1:0] base_i,
  input  logic [GroupW-1:0] last_group_i,   // groups less one
  input  logic [RowW-1:0]   last_row_i,     // row groups less one
  input  logic              accumulate_i,
  // Streams
  input  logic              in_valid_i,
  output logic              in_ready_o,
  input  logic              acc_full_i,     // the accumulate register holds a beat
  output logic              out_valid_o,
  input  logic              out_ready_i,
  output logic              out_last_o,     // last beat of the run
  // Datapath
  output logic              value_en_o,     // input register
  output logic              code_en_o,      // code register; group_o selects the thresholds
  output logic [GroupW-1:0] group_o,
  output logic              sum_en_o,       // sums; sum_group_o selects the table rows
  output logic              sum_first_o,
  output logic [GroupW-1:0] sum_group_o,
  output logic              res_en_o,       // result registers
  output logic              res_full_o,
  output logic [BeatW-1:0]  beat_o,
  output logic              out_fire_o,
  // For the counters
  output logic              busy_o,
  output logic              stall_in_o,
  output logic              stall_out_o
);
  logic              busy_q, want_q, want_d;
  logic [GroupW-1:0] count_q, count_d;      // group of the next beat, from 0
  logic [RowW-1:0]   row_q, row_d;
  logic              valid1_q, first1_q, last1_q, final1_q;
  logic              valid2_q, first2_q, last2_q, final2_q;
  logic              done_q, final3_q;      // the sums are those of a whole row group
  logic [GroupW-1:0] group1_q, group2_q;
  logic              res_full_q, res_final_q, res_full_d;
  logic [BeatW-1:0]  beat_q, beat_d;
  logic              in_fire, move, res_free, beat_last, group_last, row_last, finish;

  assign beat_last = beat_q == BeatW'(Beats - 1);
  assign out_valid_o = res_full_q && (!accumulate_i || acc_full_i);
  assign out_last_o = res_final_q && beat_last;
  assign out_fire_o = out_valid_o && out_ready_i;
  assign finish = out_fire_o && out_last_o;
  assign res_free = !res_full_q || (out_fire_o && beat_last);
  assign move = !done_q || res_free;
  assign in_ready_o = move && want_q;
  assign in_fire = in_valid_i && in_ready_o;
  assign group_last = count_q == last_group_i;
  assign row_last = row_q == last_row_i;

  assign value_en_o = in_fire;
  assign code_en_o = move && valid1_q;
  assign group_o = group1_q;
  assign sum_en_o = move && valid2_q;
  assign sum_first_o = first2_q;
  assign sum_group_o = group2_q;
  assign res_en_o = done_q && res_free;
  assign res_full_o = res_full_q;
  assign beat_o = beat_q;
  assign busy_o = busy_q;
  assign stall_in_o = in_ready_o && !in_valid_i;
  assign stall_out_o = want_q && !move;

  always_comb begin
    count_d = count_q;
    row_d = row_q;
    want_d = want_q;
    if (start_i) begin
      count_d = '0;
      row_d = '0;
      want_d = 1'b1;
    end else if (in_fire) begin
      count_d = group_last ? '0 : count_q + 1'b1;
      if (group_last) row_d = row_q + 1'b1;
      if (group_last && row_last) want_d = 1'b0;
    end
  end

  always_comb begin
    res_full_d = res_full_q;
    beat_d = beat_q;
    if (out_fire_o) begin
      beat_d = beat_last ? '0 : beat_q + 1'b1;
      if (beat_last) res_full_d = 1'b0;
    end
    if (res_en_o) res_full_d = 1'b1;
  end

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      busy_q <= 1'b0;
      want_q <= 1'b0;
      valid1_q <= 1'b0;
      valid2_q <= 1'b0;
      done_q <= 1'b0;
      res_full_q <= 1'b0;
      beat_q <= '0;
    end else if (clear_i) begin
      busy_q <= 1'b0;
      want_q <= 1'b0;
      valid1_q <= 1'b0;
      valid2_q <= 1'b0;
      done_q <= 1'b0;
      res_full_q <= 1'b0;
      beat_q <= '0;
    end else begin
      busy_q <= start_i || (busy_q && !finish);
      want_q <= want_d;
      if (move) begin
        valid1_q <= in_fire;
        valid2_q <= valid1_q;
        done_q <= valid2_q && last2_q;
      end
      res_full_q <= res_full_d;
      beat_q <= beat_d;
    end
  end

  // Guarded by the bits above, so without a reset.
  always_ff @(posedge clk_i) begin
    count_q <= count_d;
    row_q <= row_d;
    if (in_fire) begin
      group1_q <= base_i + count_q;
      first1_q <= count_q == '0;
      last1_q <= group_last;
      final1_q <= group_last && row_last;
    end
    if (code_en_o) begin
      group2_q <= group1_q;
      first2_q <= first1_q;
      last2_q <= last1_q;
      final2_q <= final1_q;
    end
    if (sum_en_o) final3_q <= final2_q;
    if (res_en_o) res_final_q <= final3_q;
  end
endmodule
