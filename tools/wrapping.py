"""Breaks the text of generated files into lines."""

from __future__ import annotations

WIDTH = 120


def packed(items: list[str], first: str, rest: str, last: str = "") -> str:
    """Items with commas between them, as many on a line as fit. `first` begins the first line, `rest` all others."""
    lines, line = [], first
    for i, item in enumerate(items):
        piece = item + ("," if i < len(items) - 1 else last)
        space = "" if line in (first, rest) else " "
        if space and len(line) + 1 + len(piece) > WIDTH:
            lines.append(line)
            line, space = rest, ""
        line += space + piece
    return "\n".join([*lines, line])
