"""Between text and tokens: the prompt of a conversation, and the text of an answer up to a stop string."""

__all__ = ["FALLBACK_STOP", "AnswerText", "prompt_of"]

FALLBACK_STOP = "\nuser:"       # where a model without a chat template begins to speak for the other side


def prompt_of(tokenizer, messages):
    """(token ids, further stop strings) of a conversation, a list of {"role", "content"}.

    With the chat template of the image, or, where it has none, as lines ``role: text`` behind which ``assistant:`` begins the
    answer.
    ValueError where the template does not apply or the image has no tokenizer.
    """
    if tokenizer.has_chat_template:
        return tokenizer.chat(messages), ()
    lines = [f"{message['role']}: {message['content']}\n" for message in messages]
    return tokenizer.encode("".join(lines) + "assistant:"), (FALLBACK_STOP,)


class AnswerText:
    """From token ids to text, up to the first of ``stop`` (strings), which is not shown.

    Text that may be the beginning of a stop string is kept back until the next token decides.
    """

    def __init__(self, show, stop=()):
        self._show, self._stop, self._kept = show, tuple(stop), ""

    def __call__(self, token):
        """(text that can be shown now, whether a stop string was reached)."""
        text = self._kept + self._show(token)
        found = [place for stop in self._stop if (place := text.find(stop)) >= 0]
        if found:
            self._kept = ""
            return text[:min(found)], True
        n_kept = max((n for stop in self._stop for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)
        self._kept = text[len(text) - n_kept:]
        return text[:len(text) - n_kept], False

    def rest(self):
        """The text that was kept back, when no more tokens come."""
        text, self._kept = self._kept, ""
        return text
