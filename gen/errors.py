"""What the readers of checkpoints raise."""

__all__ = ["CheckpointError"]


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message is one sentence."""
