<<<<<<< HEAD
"""The witness of the binary machine: integers in torch, whole tensors, no gates."""
=======
"""What the binary machine must compute, in torch, with no gates."""
>>>>>>> wt-eng
