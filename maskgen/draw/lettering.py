"""Text on a canvas: fonts, wrapping, and whatever characters the data brings."""

import unicodedata
from functools import cache

from PIL import ImageFont

from maskgen.draw import text

Font = ImageFont.BaseImageFont

# Pillow's own font, the only one that is everywhere, knows no letter beyond ASCII.
FONT_FILES = (
    "DejaVuSans.ttf",
    "LiberationSans-Regular.ttf",
    "NotoSans-Regular.ttf",
    "Arial.ttf",
    "arial.ttf",
)


@cache
def font(points: int) -> Font:
    """A font with many of the world's letters if this machine has one, else Pillow's own."""
    found = (_installed(name, points) for name in FONT_FILES)
    return next((one for one in found if one), None) or ImageFont.load_default(points)


def _installed(name: str, points: int) -> Font | None:
    try:
        return ImageFont.truetype(name, points)
    except OSError:
        return None


@cache
def ascii_only() -> bool:
    return all(_installed(name, 10) is None for name in FONT_FILES)


def renderable_text(words: str) -> str:
    """`words` on one line, in letters that the font has: "café" may become "cafe"."""
    words = text.plain(words)
    if not ascii_only():
        return words
    folded = unicodedata.normalize("NFKD", words)
    return "".join(char if char.isascii() else "?" for char in folded if not unicodedata.combining(char))


def wrap_text(words: str, letters: Font, width: int, lines: int) -> list[str]:
    """`words` in at most `lines` lines of `width` pixels, with an ellipsis where it was cut."""
    found: list[str] = []
    rest = renderable_text(words[: 400 * lines])
    cut = len(words) > 400 * lines
    while rest and len(found) < lines:
        count = _fitting_length(rest, letters, width)
        if count < len(rest):
            space = rest.rfind(" ", 0, count + 1)
            count = space if space > count // 2 else count
        found.append(rest[:count].rstrip())
        rest = rest[count:].lstrip()
    if found and (rest or cut):
        last = found[-1]
        while last and letters.getlength(f"{last}...") > width:
            last = last[:-1]
        found[-1] = f"{last.rstrip()}..."
    return found


def _fitting_length(words: str, letters: Font, width: int) -> int:
    """How many of the first characters fit; at least one."""
    low, high = 1, min(len(words), width)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if letters.getlength(words[:middle]) <= width else (low, middle - 1)
    return low
