"""Pictures in rows and columns with words to them, as one image."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from maskgen.draw.lettering import font, renderable_text, wrap_text
from maskgen.draw.palette import GREY, INK, PALE, SKY, WHITE

_MARGIN, _GAP = 24, 16
_TITLE, _LABEL, _CAPTION, _METER = 30, 24, 21, 14


@dataclass(frozen=True)
class Tile:
    """A picture with a line under it. `meter`: a share and its reference, 0-1, as a bar under the line."""

    image: Image.Image
    caption: str = ""
    meter: tuple[float, float] | None = None


@dataclass(frozen=True)
class TileRow:
    """Tiles side by side under a label."""

    label: str
    tiles: Sequence[Tile]


def tile_sheet(
    rows: Sequence[TileRow],
    title: str = "",
    columns: Sequence[str] = (),
    foot: str = "",
    key: Image.Image | None = None,
) -> Image.Image:
    """All rows below one another, as wide as the widest; below them the line `foot` and the picture `key`.

    Every column is as wide as its widest tile or heading.
    """
    widths = _widths(rows, columns)
    width = max(_MARGIN * 2 + sum(widths) + _GAP * (len(widths) - 1), 640)
    line_width = width - 2 * _MARGIN
    title_lines = wrap_text(title, font(19), line_width, 3)
    head = _MARGIN + _TITLE * len(title_lines) + (_LABEL if any(columns) else 0)
    labels = [wrap_text(row.label, font(15), line_width, 2) for row in rows]
    heights = [_height(row, lines) for row, lines in zip(rows, labels, strict=True)]
    foot_lines = wrap_text(foot, font(13), line_width, 3)
    tail = _CAPTION * len(foot_lines) + (key.height + 8 if key else 0)
    canvas = Image.new("RGB", (width, head + sum(heights) + tail + _MARGIN), WHITE)
    pen = ImageDraw.Draw(canvas)
    for number, line in enumerate(title_lines):
        pen.text((_MARGIN, _MARGIN + number * _TITLE), line, INK, font=font(19))
    lefts = [_MARGIN + sum(widths[:place]) + place * _GAP for place in range(len(widths))]
    for left, name in zip(lefts, columns, strict=False):
        pen.text((left, head - _LABEL + 2), renderable_text(name), INK, font=font(15))
    top = head
    for row, lines, height in zip(rows, labels, heights, strict=True):
        _row(canvas, pen, row, lines, lefts, top)
        top += height
    for line in foot_lines:
        pen.text((_MARGIN, top), line, GREY, font=font(13))
        top += _CAPTION
    if key:
        canvas.paste(key, (_MARGIN - 20, top + 8))
    return canvas


def _widths(rows: Sequence[TileRow], columns: Sequence[str]) -> list[int]:
    count = max([len(row.tiles) for row in rows] + [len(columns)])
    widths = [0] * count
    for row in rows:
        for place, tile in enumerate(row.tiles):
            words = max((int(font(13).getlength(renderable_text(tile.caption))), tile.image.width))
            widths[place] = max(widths[place], words)
    for place, name in enumerate(columns):
        widths[place] = max(widths[place], int(font(15).getlength(renderable_text(name))))
    return widths


def _height(row: TileRow, label: list[str]) -> int:
    tall = max(tile.image.height for tile in row.tiles)
    captions = _CAPTION if any(tile.caption for tile in row.tiles) else 0
    meters = _METER if any(tile.meter for tile in row.tiles) else 0
    return _LABEL * len(label) + tall + captions + meters + _GAP


def _row(
    canvas: Image.Image, pen: ImageDraw.ImageDraw, row: TileRow, label: list[str], lefts: list[int], top: int
) -> None:
    for number, line in enumerate(label):
        pen.text((_MARGIN, top + number * _LABEL), line, INK, font=font(15))
    top += _LABEL * len(label)
    below = top + max(tile.image.height for tile in row.tiles)
    for tile, left in zip(row.tiles, lefts, strict=False):
        canvas.paste(tile.image, (left, top))
        pen.text((left, below + 3), renderable_text(tile.caption), GREY, font=font(13))
        if tile.meter:
            _meter(pen, tile.meter, (left, below + _CAPTION + 2), tile.image.width)


def _meter(pen: ImageDraw.ImageDraw, shares: tuple[float, float], place: tuple[int, int], width: int) -> None:
    """A bar filled to the share, with a tick at the reference."""
    x, y = place
    pen.rectangle([x, y, x + width - 1, y + 7], PALE)
    if shares[0] > 0:
        pen.rectangle([x, y, x + max(1, round((width - 1) * shares[0])), y + 7], SKY)
    tick = x + round((width - 1) * shares[1])
    pen.line([(tick, y - 2), (tick, y + 9)], INK, 2)
