"""Blocks of a page of documentation that a command writes, between two marks."""

__all__ = ["replaced"]


def replaced(text, page, begin, end, block):
    """``text`` of the file ``page`` with ``block`` between its lines ``begin`` and ``end``, in place of what is there.

    Raises ValueError, one sentence, when it does not have each mark once, in this order.
    """
    before, _, rest = text.partition(begin)
    _, found, after = rest.partition(end)
    if not found or text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f"{page.name} must have the line {begin} and, below it, {end}, once")
    return f"{before}{begin}\n\n{block}\n\n{end}{after}"
