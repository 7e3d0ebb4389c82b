"""The demo model: its text, its training, and the checkpoint that is written for everybody else."""
