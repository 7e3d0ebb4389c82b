"""Descriptors checked, expanded and issued; the run; the registers. Knows programs, no numbers."""
