"""The witness: torch functions, a whole model and a machine, all computing what the hardware must compute."""
