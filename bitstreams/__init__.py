"""Built overlays: a folder each, as `celosia vivado --collect` writes it; PYNQ finds them by the entry point ``pynq.overlays``."""
