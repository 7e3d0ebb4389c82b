"""The driver: registers and buffers, numpy in and out; runs on the board and on the simulator alike."""
