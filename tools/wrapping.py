"""Text of generated files on lines that are not too long."""

from __future__ import annotations

WIDTH = 120


def packed(items: list[str], first: str, rest: str, last: str = "") -> str:
    """Items with commas between them, as many on a line as there is room for: `first` and `rest` begin the lines."""
    lines, line = [], first
    for i, item in enumerate(items):
        piece = item + ("," if i < len(items) - 1 else last)
        space = "" if line in (first, rest) else " "
        if space and len(line) + 1 + len(piece) > WIDTH:
            lines.append(line)
            line, space = rest, ""
        line += space + piece
    return "\n".join([*lines, line])
