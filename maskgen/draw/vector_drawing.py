"""A drawing of rectangles, lines and text that is written as SVG or as PNG alike."""

import math
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise

from PIL import Image, ImageDraw

from maskgen.draw.lettering import font, renderable_text
from maskgen.draw.palette import WHITE, Colour

_PIXEL_SCALE = 2  # the PNG's pixels for one of the drawing's


@dataclass(frozen=True)
class _Rectangle:
    left: float
    top: float
    right: float
    bottom: float
    colour: Colour
    opacity: float


@dataclass(frozen=True)
class _Line:
    points: list[tuple[float, float]]
    colour: Colour
    width: float
    dashed: bool


@dataclass(frozen=True)
class _Text:
    x: float
    y: float
    text: str
    colour: Colour
    size: int
    anchor: str


@dataclass
class VectorDrawing:
    """Shapes on white, `width` x `height`; later ones lie over earlier ones."""

    width: int
    height: int
    _shapes: list[_Rectangle | _Line | _Text] = field(default_factory=list)

    def rectangle(
        self, left: float, top: float, right: float, bottom: float, colour: Colour, opacity: float = 1.0
    ) -> None:
        """Filled; `opacity` 0-1 is how much it covers what lies under it."""
        self._shapes.append(_Rectangle(left, top, right, bottom, colour, opacity))

    def line(
        self, points: list[tuple[float, float]], colour: Colour, width: float = 1, dashed: bool = False
    ) -> None:
        """Through all points."""
        self._shapes.append(_Line(points, colour, width, dashed))

    def text(
        self, x: float, y: float, text: str, colour: Colour, size: int = 13, anchor: str = "start"
    ) -> None:
        """On the base line `y`; `x` is their "start", "middle" or "end"."""
        self._shapes.append(_Text(x, y, text, colour, size, anchor))

    def svg(self) -> str:
        """A document of its own."""
        parts = [_as_svg(shape) for shape in self._shapes]
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{self.width}" height="{self.height}" '
            f'viewBox="0 0 {self.width} {self.height}" font-family="system-ui, sans-serif">\n'
            f'<rect width="{self.width}" height="{self.height}" fill="#fff"/>\n'
            + "\n".join(parts)
            + "\n</svg>\n"
        )

    def image(self) -> Image.Image:
        """The same in pixels, twice as many."""
        canvas = Image.new("RGB", (self.width * _PIXEL_SCALE, self.height * _PIXEL_SCALE), WHITE)
        for shape in self._shapes:
            _paint(canvas, shape)
        return canvas


def _as_svg(shape: _Rectangle | _Line | _Text) -> str:
    colour = "rgb({}, {}, {})".format(*shape.colour)
    if isinstance(shape, _Rectangle):
        return (
            f'<rect x="{shape.left:.2f}" y="{shape.top:.2f}" width="{shape.right - shape.left:.2f}" '
            f'height="{shape.bottom - shape.top:.2f}" fill="{colour}" fill-opacity="{shape.opacity:g}"/>'
        )
    if isinstance(shape, _Line):
        points = " ".join(f"{x:.2f},{y:.2f}" for x, y in shape.points)
        dashes = ' stroke-dasharray="5 4"' if shape.dashed else ""
        stroke = f'stroke="{colour}" stroke-width="{shape.width:g}"{dashes}'
        return f'<polyline points="{points}" fill="none" {stroke}/>'
    return (
        f'<text x="{shape.x:.2f}" y="{shape.y:.2f}" font-size="{shape.size}" fill="{colour}" '
        f'text-anchor="{shape.anchor}">{escape(renderable_text(shape.text))}</text>'
    )


def _paint(canvas: Image.Image, shape: _Rectangle | _Line | _Text) -> None:
    if isinstance(shape, _Rectangle):
        left, top, right, bottom = (
            round(_PIXEL_SCALE * edge) for edge in (shape.left, shape.top, shape.right, shape.bottom)
        )
        if right > left and bottom > top:
            part = canvas.crop((left, top, right, bottom))
            cover = Image.new("RGB", part.size, shape.colour)
            canvas.paste(Image.blend(part, cover, shape.opacity), (left, top))
        return
    pen = ImageDraw.Draw(canvas)
    if isinstance(shape, _Text):
        anchor = {"start": "ls", "middle": "ms", "end": "rs"}[shape.anchor]
        place = (shape.x * _PIXEL_SCALE, shape.y * _PIXEL_SCALE)
        pen.text(
            place,
            renderable_text(shape.text),
            shape.colour,
            font=font(shape.size * _PIXEL_SCALE),
            anchor=anchor,
        )
        return
    points = [(x * _PIXEL_SCALE, y * _PIXEL_SCALE) for x, y in shape.points]
    for piece in _dashes(points) if shape.dashed else [points]:
        pen.line(piece, shape.colour, round(shape.width * _PIXEL_SCALE))


def _dashes(points: list[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    """The line in pieces of 5 with gaps of 4, measured along it."""
    on, off = 5 * _PIXEL_SCALE, 4 * _PIXEL_SCALE
    pieces: list[list[tuple[float, float]]] = [[points[0]]]
    left, drawn = float(on), True
    for (x0, y0), (x1, y1) in pairwise(points):
        length, gone = math.hypot(x1 - x0, y1 - y0), 0.0
        while length - gone > left:
            gone += left
            edge = (x0 + (x1 - x0) * gone / length, y0 + (y1 - y0) * gone / length)
            if drawn:
                pieces[-1].append(edge)
            else:
                pieces.append([edge])
            drawn = not drawn
            left = float(on if drawn else off)
        left -= length - gone
        if drawn:
            pieces[-1].append((x1, y1))
    return [piece for piece in pieces if len(piece) > 1]
