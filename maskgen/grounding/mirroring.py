"""The same question about the mirrored picture: who sees the thing in one should see it in the other."""

import re

import numpy as np

from maskgen.sample import Picture

_SIDES = re.compile(r"\b(left|right)(?=(?:most|hand|side|wards?)?\b)", re.IGNORECASE)
_OTHER = {"left": "right", "right": "left"}


def mirrored_picture(picture: Picture) -> Picture:
    """Left and right swapped; of pictures with the same bytes, the mirrored ones too count as the same."""
    data = picture.data and b"mirrored " + picture.data
    return Picture(data, picture.extension, np.ascontiguousarray(picture.pixels[:, ::-1]))


def mirrored_text(text: str) -> str:
    """The words for left and right swapped, capital letters kept: "the Leftmost" is "the Rightmost"."""

    def other(match: re.Match[str]) -> str:
        word = match[0]
        swapped = _OTHER[word.lower()]
        return swapped.upper() if word.isupper() else swapped.title() if word[0].isupper() else swapped

    return _SIDES.sub(other, text)


def mirrored_polygons(polygons: list[np.ndarray], width: int) -> list[np.ndarray]:
    """Outlines, float64 (n, 2), of a picture so wide in the mirrored one's pixels."""
    return [np.stack([width - polygon[:, 0], polygon[:, 1]], axis=1) for polygon in polygons]
