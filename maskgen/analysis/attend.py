"""`maskgen attend`: where models look in a picture when they are asked something, drawn and in numbers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from maskgen.analysis.attention_maps import Gaze, Look
from maskgen.analysis.samples import Item
from maskgen.draw import heatmap
from maskgen.draw.overlay import fitted, scaled
from maskgen.draw.tiles import Row, Tile, sheet
from maskgen.errors import MaskgenError
from maskgen.geometry import Frame

_ROOM, _SMALL = (300, 300), (170, 170)
_ACROSS = 8  # tokens in a row
_LEGEND = "Colour: a cell's attention as a multiple of its even share; grey: less than that."
_PADDING = " Bar: share of the attention on padding; tick: the padding's share of the cells."


@dataclass(frozen=True)
class Map:
    """One map to be drawn: float32 (cells, cells) of any sum, the cells that can be attended to, and those
    that hold image.
    """

    name: str
    attention: np.ndarray
    open: np.ndarray
    image: np.ndarray

    @property
    def ratios(self) -> np.ndarray:
        """The attention as multiples of the even share."""
        return heatmap.ratio(self.attention, self.open)

    @property
    def on_padding(self) -> float | None:
        """The share on cells without image; None if there are none."""
        total = float(self.attention.sum())
        return None if self.image.all() else float(self.attention[~self.image].sum()) / max(total, 1e-12)

    @property
    def on_image_tokens(self) -> float:
        """The share of all the attention: 1 in a cross-attention."""
        return float(self.attention.sum())

    @property
    def half(self) -> int:
        """How many cells hold half of it."""
        falling = np.sort(self.attention.ravel())[::-1].cumsum()
        return int(np.searchsorted(falling, falling[-1] / 2)) + 1


def maps(gaze: Gaze, look: Look) -> list[Map]:
    """Each layer's, and their mean if there are several."""
    found = [Map(name, one, look.open, look.image) for name, one in zip(gaze.layers, look.maps, strict=True)]
    return found if len(found) == 1 else [*found, Map("mean of layers", look.mean(), look.open, look.image)]


def attend(gazes: Sequence[Gaze], item: Item) -> list[list[Map]]:
    """Every model's maps. MaskgenError if the text has no token."""
    found = []
    for gaze in gazes:
        ((_, look),) = gaze.looks([item])
        if not look.asking:
            raise MaskgenError("the question is empty: there is no token whose attention could be drawn.")
        found.append(maps(gaze, look))
    return found


def overlays(gazes: Sequence[Gaze], item: Item, found: Sequence[Sequence[Map]]) -> Image.Image:
    """A row a model: the picture as the model sees it, and every map over it."""
    top = heatmap.top_of(*(one.ratios for row in found for one in row))
    rows = []
    for gaze, row in zip(gazes, found, strict=True):
        picture = seen(gaze.frame, item.pixels, _ROOM)
        tiles = [Tile(picture, f"the picture ({gaze.frame.fit})"), *(tile(picture, one, top) for one in row)]
        rows.append(Row(gaze.name, tiles))
    return sheet(rows, item.text, foot=legend(found), key=heatmap.scale(top))


def token_overlays(gazes: Sequence[Gaze], item: Item) -> Image.Image:
    """For every model and layer the tokens of the text, one beside the other."""
    found = [[(word, maps(gaze, look)) for word, look in gaze.tokens(item)] for gaze in gazes]
    top = heatmap.top_of(*(one.ratios for tokens in found for _, layers in tokens for one in layers))
    rows = []
    for gaze, tokens in zip(gazes, found, strict=True):
        picture = seen(gaze.frame, item.pixels, _SMALL)
        for layer, one in enumerate(tokens[0][1]):
            tiles = [
                Tile(heatmap.heated(picture, layers[layer].ratios, top), f'"{word.strip() or word}"')
                for word, layers in tokens
            ]
            for first in range(0, len(tiles), _ACROSS):
                label = f"{gaze.name}, {one.name}" if first == 0 else ""
                rows.append(Row(label, tiles[first : first + _ACROSS]))
    return sheet(rows, item.text, foot=_LEGEND, key=heatmap.scale(top))


def seen(frame: Frame, pixels: np.ndarray, room: tuple[int, int]) -> Image.Image:
    """What the model sees, fitted into `room`: squashed pictures in their own shape, others in the square."""
    shown = pixels if frame.fit == "squash" else frame.image(pixels)
    return scaled(shown, fitted(shown.shape[1], shown.shape[0], room))


def tile(picture: Image.Image, one: Map, top: int) -> Tile:
    """The map over the picture, with its peak and its share on padding."""
    drawn = heatmap.heated(picture, one.ratios, top)
    caption = f"{one.name}, peak {one.ratios.max():.1f}x"
    if one.on_padding is None:
        return Tile(drawn, caption)
    if not one.open[~one.image].any():
        return Tile(drawn, f"{caption}, padding closed")
    meter = one.on_padding, float((~one.image).mean())
    return Tile(drawn, f"{caption}, padding {100 * one.on_padding:.0f} %", meter)


def legend(found: Sequence[Sequence[Map]]) -> str:
    """What the colours and bars mean."""
    padded = any(one.on_padding is not None for row in found for one in row)
    return _LEGEND + (_PADDING if padded else "")
