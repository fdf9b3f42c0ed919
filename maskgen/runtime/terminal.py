"""What a terminal can show: its width, whether a line can be rewritten, and texts folded to fit it."""

import os
import re
import unicodedata
from typing import TextIO

_CELLS = re.compile(r"\s*\S+(?: \S+)*")
_DEEPEST = 0.6  # share of the width up to which folded lines are indented
_MIN_COLUMNS = 20


def columns(stream: TextIO) -> int | None:
    """The width of the terminal behind `stream`; None for a pipe or a file, whose lines stay whole."""
    try:
        found = os.get_terminal_size(stream.fileno()).columns if stream.isatty() else 0
    except (OSError, ValueError):  # closed, or a terminal that does not say
        found = 0
    return max(found, _MIN_COLUMNS) if found else None


def can_rewrite(stream: TextIO) -> bool:
    """Whether a line on it can be written over: a terminal, and not one that calls itself dumb."""
    try:
        return stream.isatty() and os.environ.get("TERM") != "dumb"
    except ValueError:  # closed
        return False


def fold(words: str, width: int | None) -> str:
    """`words` in lines of at most `width` columns, broken between the cells of a table, else between words.

    What goes on is indented to where the line's last cell begins. A word that is longer stays whole: it is a
    path or a command to copy. Without a width nothing is changed.
    """
    if width is None:
        return words
    return "\n".join(piece for line in words.split("\n") for piece in _folded(line, width))


def shown_width(words: str) -> int:
    """Columns that `words` take: two for a wide letter, none for an accent that stands by itself."""
    if words.isascii():
        return len(words)
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in words)
    return len(words) + wide - sum(bool(unicodedata.combining(char)) for char in words)


def _folded(line: str, width: int) -> list[str]:
    if shown_width(line) <= width:
        return [line]
    cells = [(match[0].lstrip(), len(match[0]) - len(match[0].lstrip())) for match in _CELLS.finditer(line)]
    indent = _indent(cells, width)
    lines, used = [""], 0
    for cell, gap in cells:
        words = cell.split(" ")
        begins, whole = used + gap, shown_width(cell)
        prose = begins + shown_width(words[0]) <= width and (used <= indent or indent + whole > width)
        begins_here = begins + whole <= width or prose
        for place, word in enumerate(words):
            space = 1 if place else gap
            if lines[-1].strip() and (used + space + shown_width(word) > width or not (place or begins_here)):
                lines.append(" " * indent)
                used, space = indent, 0
            lines[-1] += " " * space + word
            used += space + shown_width(word)
    return lines


def _indent(cells: list[tuple[str, int]], width: int) -> int:
    """Where the last cell begins that begins early enough; of a single cell, two more than the line's own."""
    begins, found = 0, cells[0][1] + 2 if len(cells) == 1 else cells[0][1]
    for cell, gap in cells:
        begins += gap
        if begins <= _DEEPEST * width and len(cells) > 1:
            found = begins
        begins += shown_width(cell)
    return min(found, int(_DEEPEST * width))
