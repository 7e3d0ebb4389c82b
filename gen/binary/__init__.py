"""Binary encoders: from a checkpoint to what the binary machine runs."""
