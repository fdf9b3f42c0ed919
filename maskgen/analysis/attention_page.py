"""`maskgen attend --grid`: the page of Tables 4 and 6, a row a picture and question, a column a model."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from maskgen.analysis.attend import Map, attend, legend, seen, tile
from maskgen.analysis.attention_maps import Gaze
from maskgen.analysis.samples import Item, asked
from maskgen.draw import heatmap, page
from maskgen.draw.overlay import fitted, scaled
from maskgen.draw.tiles import Row, Tile, sheet
from maskgen.errors import MaskgenError
from maskgen.pixels import open_image

MOST_PAIRS = 100
_ROOM = (330, 260)


@dataclass(frozen=True)
class Pair:
    """A line of PAIRS.jsonl."""

    image: str
    item: Item


def read_pairs(path: str | Path) -> list[Pair]:
    """The pictures and questions of a file of lines {"image": ..., "question": ...}.

    Images are relative to the file's folder and must lie in it. MaskgenError names the line that is wrong.
    """
    folder = Path(path).resolve().parent
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise MaskgenError(f"--grid {path} cannot be read as text ({error}).") from error
    pairs = [
        _pair(line, f"{path}, line {number}", folder) for number, line in enumerate(lines, 1) if line.strip()
    ]
    if not 0 < len(pairs) <= MOST_PAIRS:
        raise MaskgenError(f"--grid {path} has {len(pairs)} pairs: give 1 to {MOST_PAIRS}.")
    return pairs


def _pair(line: str, place: str, folder: Path) -> Pair:
    try:
        fields = json.loads(line)
        image, question = fields["image"], fields["question"].strip()
        assert isinstance(image, str) and question
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError):
        raise MaskgenError(
            f'{place} is not {{"image": "...", "question": "..."}} with both filled in.'
        ) from None
    try:
        inside = (folder / image).resolve().is_relative_to(folder)
    except (OSError, ValueError):
        inside = False
    if not inside:
        raise MaskgenError(
            f"{place}: the image {image} does not lie in the folder of the list. Put it there."
        )
    return Pair(image, asked(open_image(folder / image), question))


@dataclass(frozen=True)
class Line:
    """A row of the page: a pair and the chosen layer's map of every model."""

    pair: Pair
    maps: list[Map]


def look(gazes: Sequence[Gaze], pairs: Sequence[Pair], layer: str) -> list[Line]:
    """All rows. `layer`: "first" as in the paper, "last", "mean", or a number from 1."""
    return [Line(pair, [choose(found, layer) for found in attend(gazes, pair.item)]) for pair in pairs]


def choose(found: Sequence[Map], layer: str) -> Map:
    """The map that `layer` names; a model with a single layer has no other. MaskgenError if there is none."""
    layers = max(1, len(found) - 1)  # the last of several is their mean
    places = {"first": 0, "last": layers - 1, "mean": len(found) - 1}
    place = places.get(layer, int(layer) - 1 if layer.isdecimal() else -1)
    if layers == 1:
        place = min(place, 0)
    if not 0 <= place < len(found):
        raise MaskgenError(f"--layer {layer}: give first, last, mean, or a number from 1 to {layers}.")
    return found[place]


def as_image(gazes: Sequence[Gaze], lines: Sequence[Line]) -> Image.Image:
    """The page as one picture."""
    top = _top(lines)
    rows = []
    for line in lines:
        pixels = line.pair.item.pixels
        image = scaled(pixels, fitted(pixels.shape[1], pixels.shape[0], _ROOM))
        tiles = [tile(picture, one, top) for picture, one in _over(gazes, line)]
        rows.append(Row(line.pair.item.text, [Tile(image), *tiles]))
    maps = [line.maps for line in lines]
    return sheet(rows, columns=["image", *_names(gazes)], foot=legend(maps), key=heatmap.scale(top))


def as_page(gazes: Sequence[Gaze], lines: Sequence[Line]) -> str:
    """The page as HTML, pictures and all."""
    top = _top(lines)
    rows = []
    for line in lines:
        pixels = line.pair.item.pixels
        image = scaled(pixels, fitted(pixels.shape[1], pixels.shape[0], _ROOM))
        tiles = [
            Tile(image, line.pair.image),
            *(tile(picture, one, top) for picture, one in _over(gazes, line)),
        ]
        cells = [_cell(one) for one in tiles]
        rows.append([page.said(line.pair.item.text), *cells])
    head = ["question", "image", *_names(gazes)]
    scale = f'<img src="{page.inlined(heatmap.scale(top))}" alt="1 to {top} times the even share">'
    return page.page(
        "Where the models look",
        "<header><h1>Where the models look</h1>",
        f'<p class="soft">{page.said(legend([line.maps for line in lines]))}</p>{scale}</header>',
        page.table(head, rows),
    )


def _over(gazes: Sequence[Gaze], line: Line) -> list[tuple[Image.Image, Map]]:
    return [
        (seen(gaze.frame, line.pair.item.pixels, _ROOM), one)
        for gaze, one in zip(gazes, line.maps, strict=True)
    ]


def _top(lines: Sequence[Line]) -> int:
    return heatmap.top_of(*(one.ratios for line in lines for one in line.maps))


def _names(gazes: Sequence[Gaze]) -> list[str]:
    return [gaze.name for gaze in gazes]


def _cell(one: Tile) -> str:
    """A picture at three quarters of its size, sharp on fine screens, with its words."""
    image = f'<img src="{page.inlined(one.image)}" alt="" width="{one.image.width * 3 // 4}">'
    return f"{image}<br><small>{page.said(one.caption)}</small>"
