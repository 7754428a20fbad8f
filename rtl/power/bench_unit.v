// halut_top, one group of all its codebooks: tables are loaded, then R rows a cycle, the output
// always taken. What counts is the run with its pipeline full.
`timescale 1ns/1ps
module bench;
  parameter P = 16, R = 1, BEATS = 128;
  reg clk = 0, rst_n = 0, reg_valid = 0, load_valid = 0, in_valid = 0;
  reg [7:0] reg_addr = 0;
  reg [31:0] reg_wdata = 0;
  reg [127:0] load_data = 0;
  reg [P*R*32-1:0] in_data = 0;
  wire load_ready, in_ready, out_valid, out_last;
  wire [8*R*32-1:0] out_data;
  reg [127:0] load [0:P*17-1];
  reg [P*R*32-1:0] in [0:BEATS-1];
  reg [8*R*32-1:0] want [0:BEATS-1];
  integer n, taken = 0, wrong = 0;
  halut_block i_dut (
    .clk_i(clk), .rst_ni(rst_n), .reg_valid_i(reg_valid), .reg_write_i(1'b1), .reg_addr_i(reg_addr),
    .reg_wdata_i(reg_wdata), .reg_rvalid_o(), .reg_error_o(), .reg_rdata_o(),
    .load_valid_i(load_valid), .load_ready_o(load_ready), .load_data_i(load_data),
    .in_valid_i(in_valid), .in_ready_o(in_ready), .in_data_i(in_data),
    .acc_valid_i(1'b0), .acc_ready_o(), .acc_data_i({8*R*32{1'b0}}),
    .out_valid_o(out_valid), .out_ready_i(1'b1), .out_last_o(out_last), .out_data_o(out_data)
  );
  always #(`PERIOD / 2.0) clk = !clk;
  task set(input [7:0] address, input [31:0] value);
    begin
      reg_valid = 1; reg_addr = address; reg_wdata = value;
      @(posedge clk) #0.5 reg_valid = 0;
    end
  endtask
  // Sampled late in the cycle, before the edge that takes the beat.
  always @(posedge clk) #(0.9 * `PERIOD) if (out_valid) begin
    if (out_data !== want[taken] || out_last !== (taken == BEATS - 1)) wrong = wrong + 1;
    taken = taken + 1;
  end
  initial begin
    $readmemh("load.hex", load);
    $readmemh("in.hex", in);
    $readmemh("want.hex", want);
    $dumpfile("unit.vcd");
    @(posedge clk) #0.5;
    @(posedge clk) #0.5 rst_n = 1;
    set(8'h18, 0); set(8'h1C, 1); set(8'h20, BEATS); set(8'h24, 0); set(8'h28, 0); set(8'h2C, 1);
    set(8'h10, 2);
    for (n = 0; n < P * 17; n = n + 1) begin
      load_valid = 1; load_data = load[n];
      #(0.8 * `PERIOD) while (!load_ready) #(`PERIOD);
      @(posedge clk) #0.5;
    end
    load_valid = 0;
    set(8'h10, 1);
    for (n = 0; n < BEATS; n = n + 1) begin
      in_valid = 1; in_data = in[n];
      if (n == 6) $dumpvars(1, i_dut);
      #(0.8 * `PERIOD) while (!in_ready) #(`PERIOD);
      @(posedge clk) #0.5;
    end
    $dumpoff;
    in_valid = 0;
    repeat (8) @(posedge clk);
    $display("wrong %0d of %0d", wrong + (taken != BEATS), taken);
    $finish;
  end
endmodule
