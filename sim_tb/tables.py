"""Tables of the pages."""

__all__ = ["table"]


def table(header, rows):
    """Markdown of a table: ``header`` and ``rows`` are lists of what stands in the columns."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
