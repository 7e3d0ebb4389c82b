"""The shipped binary encoders: their data, their training, and the checkpoints that are written for everybody else."""
