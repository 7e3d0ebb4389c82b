"""The witness of the binary machine: integers in torch, whole tensors, no gates."""
