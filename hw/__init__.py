"""The accelerator in Amaranth: bits and cycles, and nothing of models or files."""
