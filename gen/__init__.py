"""From a checkpoint to a packed image, a program and Verilog."""
