"""What the binary machine must compute, in torch, with no gates."""
