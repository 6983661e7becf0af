"""Plain aligned text tables, readable on a terminal and in a log file."""

from collections.abc import Sequence


def format_table(headers: Sequence[str], rows: Sequence[Sequence[str]], alignment: str) -> str:
    """Lay out cells under headers with a rule between them.

    Args:
        headers: One title per column.
        rows: Cells, already formatted, one sequence of ``len(headers)`` cells per row.
        alignment: One of ``<`` (left, for text) and ``>`` (right, for figures) per column.
    """
    columns = zip(headers, *rows, strict=True)
    widths = [max(map(len, column)) for column in columns]
    lines = [headers, ["-" * width for width in widths], *rows]
    return "\n".join(
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(line, alignment, widths, strict=True)).rstrip()
        for line in lines
    )
