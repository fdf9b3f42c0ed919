"""`maskgen attend`: the attention of a question's tokens over an image, drawn and in numbers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from maskgen.analysis.attention_maps import AttentionMaps, MapReader
from maskgen.analysis.samples import Item
from maskgen.draw import heatmap
from maskgen.draw.overlay import fit_size, resize_pixels
from maskgen.draw.tiles import Tile, TileRow, tile_sheet
from maskgen.errors import MaskgenError
from maskgen.geometry import Frame

_MAP_SIZE, _TOKEN_MAP_SIZE = (300, 300), (170, 170)
_TOKENS_PER_ROW = 8
_LEGEND = "Colour: a cell's attention as a multiple of its even share; grey: less than that."
_PADDING_LEGEND = " Bar: share of the attention on padding; tick: the padding's share of the cells."


@dataclass(frozen=True)
class LayerMap:
    """The attention of one layer, or of the layers' mean, over an image.

    `attention`: float32 (cells, cells) of any sum. `attendable`: bool (cells, cells), the cells that can be
    attended to. `image_cells`: bool (cells, cells), those that hold image.
    """

    name: str
    attention: np.ndarray
    attendable: np.ndarray
    image_cells: np.ndarray

    @property
    def ratios(self) -> np.ndarray:
        """The attention as multiples of the even share, float32 (cells, cells)."""
        return heatmap.attention_ratios(self.attention, self.attendable)

    @property
    def padding_share(self) -> float | None:
        """The share on cells without image, 0-1; None if there are none."""
        if self.image_cells.all():
            return None
        total = float(self.attention.sum())
        return float(self.attention[~self.image_cells].sum()) / max(total, 1e-12)

    @property
    def image_share(self) -> float:
        """The share of all the attention that goes to the image, 0-1: 1 in a cross-attention."""
        return float(self.attention.sum())

    @property
    def half_mass_cells(self) -> int:
        """How many cells, the strongest first, hold half of the attention."""
        cumulative = np.sort(self.attention.ravel())[::-1].cumsum()
        return int(np.searchsorted(cumulative, cumulative[-1] / 2)) + 1


def layer_maps(reader: MapReader, attention: AttentionMaps) -> list[LayerMap]:
    """The map of each layer, and their mean if there are several."""
    cells = attention.attendable, attention.image_cells
    maps = [LayerMap(name, each, *cells) for name, each in zip(reader.layers, attention.maps, strict=True)]
    return maps if len(maps) == 1 else [*maps, LayerMap("mean of layers", attention.mean(), *cells)]


def attend(readers: Sequence[MapReader], item: Item) -> list[list[LayerMap]]:
    """The maps of every model. MaskgenError if the text has no token."""
    found = []
    for reader in readers:
        ((_, attention),) = reader.attention_maps([item])
        if not attention.query_tokens:
            raise MaskgenError("the question is empty: there is no token whose attention could be drawn.")
        found.append(layer_maps(reader, attention))
    return found


def overlay_sheet(
    readers: Sequence[MapReader], item: Item, found: Sequence[Sequence[LayerMap]]
) -> Image.Image:
    """A row for each model: the image as the model sees it, and every map of `found` over it."""
    top = heatmap.scale_top(*(each.ratios for maps in found for each in maps))
    rows = []
    for reader, maps in zip(readers, found, strict=True):
        image = model_view(reader.frame, item.pixels, _MAP_SIZE)
        tiles = [map_tile(image, each, top) for each in maps]
        rows.append(TileRow(reader.name, [Tile(image, f"the picture ({reader.frame.fit})"), *tiles]))
    return tile_sheet(rows, item.text, foot=legend(found), key=heatmap.colour_bar(top))


def token_overlay_sheet(readers: Sequence[MapReader], item: Item) -> Image.Image:
    """A map for every token of the text, side by side, for every model and layer."""
    found = [
        [(word, layer_maps(reader, attention)) for word, attention in reader.token_attention_maps(item)]
        for reader in readers
    ]
    top = heatmap.scale_top(*(each.ratios for tokens in found for _, maps in tokens for each in maps))
    rows = []
    for reader, tokens in zip(readers, found, strict=True):
        image = model_view(reader.frame, item.pixels, _TOKEN_MAP_SIZE)
        for layer, named in enumerate(tokens[0][1]):
            tiles = [
                Tile(heatmap.overlay_heatmap(image, maps[layer].ratios, top), f'"{word.strip() or word}"')
                for word, maps in tokens
            ]
            for first in range(0, len(tiles), _TOKENS_PER_ROW):
                label = f"{reader.name}, {named.name}" if first == 0 else ""
                rows.append(TileRow(label, tiles[first : first + _TOKENS_PER_ROW]))
    return tile_sheet(rows, item.text, foot=_LEGEND, key=heatmap.colour_bar(top))


def model_view(frame: Frame, pixels: np.ndarray, bounds: tuple[int, int]) -> Image.Image:
    """The image as the model sees it, within `bounds` (width, height).

    Squashed images keep their own aspect ratio here; padded and cropped ones are the model's square.
    `pixels`: uint8 (height, width, 3).
    """
    shown = pixels if frame.fit == "squash" else frame.image(pixels)
    return resize_pixels(shown, fit_size(shown.shape[1], shown.shape[0], bounds))


def map_tile(image: Image.Image, layer_map: LayerMap, top: int) -> Tile:
    """The map over the image, with its peak and its share on padding."""
    drawn = heatmap.overlay_heatmap(image, layer_map.ratios, top)
    caption = f"{layer_map.name}, peak {layer_map.ratios.max():.1f}x"
    if layer_map.padding_share is None:
        return Tile(drawn, caption)
    if not layer_map.attendable[~layer_map.image_cells].any():
        return Tile(drawn, f"{caption}, padding masked")
    meter = layer_map.padding_share, float((~layer_map.image_cells).mean())
    return Tile(drawn, f"{caption}, padding {100 * layer_map.padding_share:.0f} %", meter)


def legend(found: Sequence[Sequence[LayerMap]]) -> str:
    """What the colours and bars mean."""
    padded = any(each.padding_share is not None for maps in found for each in maps)
    return _LEGEND + (_PADDING_LEGEND if padded else "")
