// halut_pkg: the numbers every module shares. A codebook is a tree of 4 levels over 8-bit values
// with 16 leaves; a leaf has one signed byte a lane.
package halut_pkg;
  localparam int unsigned Leaves = 16;
  localparam int unsigned RowW = 20;   // bits of RUN_ROWS
  localparam int unsigned OutW = 32;   // bits of a result

  localparam logic [31:0] Id = 32'h4841_4C55;
  localparam logic [31:0] Version = 32'h0001_0000;

  // Bits of CONTROL and STATUS.
  localparam int unsigned ControlRun = 0;
  localparam int unsigned ControlLoad = 1;
  localparam int unsigned ControlReset = 2;
  localparam int unsigned ControlClear = 3;

  // Packed sums: four of 16 bits in a word, of the even or the odd bytes of what is added. No carry
  // goes from one to the next while each stays below 65,536: 256 bytes are 65,280 at most
  // (formal/packed.sv).
  function automatic logic [63:0] add_even(input logic [63:0] sum,
                                             input logic [63:0] word);
    add_even = sum + (word & 64'h00FF_00FF_00FF_00FF);
  endfunction
  function automatic logic [63:0] add_odd(input logic [63:0] sum,
                                             input logic [63:0] word);
    add_odd = sum + ((word >> 8) & 64'h00FF_00FF_00FF_00FF);
  endfunction
endpackage
