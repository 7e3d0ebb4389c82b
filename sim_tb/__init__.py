"""Simulation: cocotb benches, stream and memory models, and the compiled accelerator."""
