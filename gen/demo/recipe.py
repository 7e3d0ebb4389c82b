"""The numbers of a training run and its schedule."""

__all__ = ["Recipe"]


class Recipe:
    """The numbers of a run.  Learning rates are peaks, lengths are in steps, `descent` is the
    share of the steps over which the rate falls to zero."""

    def __init__(self, *, steps, batch=16, context=256, rate=3e-3, warmup=200, descent=0.4,
                 decay=0.1, seed=1):
        if steps < 1:
            raise ValueError(f"Steps must be at least 1, not {steps}")
        if not 0 < descent <= 1:
            raise ValueError(f"Descent must be a share above 0 and at most 1, not {descent}")
        self.steps, self.batch, self.context = steps, batch, context
        self.rate, self.warmup, self.descent = rate, warmup, descent
        self.decay, self.seed = decay, seed

    @property
    def descent_from(self):
        """The step at which the rate begins to fall."""
        return self.steps - max(1, round(self.steps * self.descent))

    def rate_at(self, step):
        """Learning rate of a step: warm-up, constant, linear descent."""
        left = (self.steps - step) / (self.steps - self.descent_from)
        return self.rate * min(1.0, (step + 1) / self.warmup) * min(1.0, left)

    def decay_at(self, step, ternary):
        """Weight decay of a step."""
        return 0.0 if ternary and step >= self.descent_from else self.decay
