"""The models that can be trained, and the numbers of each training."""

from dataclasses import dataclass, field

__all__ = ["RECIPES", "Recipe"]


@dataclass(frozen=True)
class Recipe:
    """One training.

    Attributes
    ----------
    task : "digits" or "docstrings"
    shape : dict
        Fields of `EncoderConfig` that the data does not give.
    start : str
        The model whose weights this one begins with ("" for random ones).
    teacher : str
        The model whose logits it learns from, beside the labels ("" for none).
    epochs, batch, rate, warmup :
        Passes over the training part, inputs of a step, peak of the learning rate, steps until it is reached; then it falls
        to zero as a cosine.
    decay : float
        Weight decay of the matrices (AdamW).
    smoothing : float
        Label smoothing.
    temperature, teacher_share : float
        Of the teacher's logits, and its share of the loss.
    lost_words : float
        Share of the words of a text that become unknown in each step.
    seed : int
    """

    task: str
    shape: dict = field(default_factory=dict)
    start: str = ""
    teacher: str = ""
    epochs: int = 150
    batch: int = 64
    rate: float = 2e-3
    warmup: int = 100
    decay: float = 0.0
    smoothing: float = 0.0
    temperature: float = 2.0
    teacher_share: float = 0.8
    lost_words: float = 0.0
    seed: int = 1


DIGITS = {"hidden_size": 64, "intermediate_size": 256, "n_layers": 4, "n_heads": 4}
TEXT = {"hidden_size": 64, "intermediate_size": 256, "n_layers": 2, "n_heads": 4}
WORDS = {"epochs": 25, "lost_words": 0.5}

RECIPES = {
    "digits-float": Recipe("digits", {**DIGITS, "twin": "float", "dropout": 0.1}, decay=0.05),
    "digits-ternary": Recipe("digits", {**DIGITS, "twin": "ternary"}, "digits-float", "digits-float"),
    "digits-w1a8": Recipe("digits", {**DIGITS, "twin": "w1a8"}, "digits-float", "digits-float"),
    "digits-w1a1": Recipe("digits", {**DIGITS, "twin": "w1a1"}, "digits-w1a8", "digits-float"),
    "digits-w1a1-softmax": Recipe("digits", {**DIGITS, "twin": "w1a1", "attention": "softmax"}, "digits-w1a8", "digits-float"),
    "docstrings-float": Recipe("docstrings", {**TEXT, "twin": "float", "dropout": 0.3}, **WORDS, decay=0.3, smoothing=0.1),
    "docstrings-ternary": Recipe("docstrings", {**TEXT, "twin": "ternary"}, "docstrings-float", "docstrings-float", **WORDS),
    "docstrings-w1a8": Recipe("docstrings", {**TEXT, "twin": "w1a8", "attention": "softmax"}, "docstrings-float",
                              "docstrings-float", **WORDS),
    "docstrings-w1a1": Recipe("docstrings", {**TEXT, "twin": "w1a1", "attention": "softmax"}, "docstrings-w1a8",
                              "docstrings-float", **WORDS),
}
