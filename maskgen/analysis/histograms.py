"""Fig. 2: the cosines of matching and of other pairs as two histograms, a panel a model."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from maskgen.analysis.separation import histogram_edges
from maskgen.analysis.similarity import Similarity
from maskgen.draw.palette import BLUE, GREY, INK, ORANGE, PALE
from maskgen.draw.vector_drawing import VectorDrawing

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 520, 400, 56, 20, 84, 62
_OPACITY = 0.55


def draw_histograms(found: Sequence[Similarity]) -> VectorDrawing:
    """Panels side by side, each on its own axis."""
    drawing = VectorDrawing(_WIDTH * len(found), _HEIGHT)
    for place, one in enumerate(found):
        _panel(drawing, one, place * _WIDTH)
    return drawing


@dataclass(frozen=True)
class _Axes:
    """Where values lie in the drawing. `values`: the range across; `most`: the greatest share upwards."""

    left: int
    values: tuple[float, float]
    most: float

    @property
    def box(self) -> tuple[int, int, int, int]:
        return self.left + _LEFT, _TOP, self.left + _WIDTH - _RIGHT, _HEIGHT - _BOTTOM

    def x(self, value: float) -> float:
        low, high = self.values
        return self.box[0] + (self.box[2] - self.box[0]) * (value - low) / (high - low)

    def y(self, share: float) -> float:
        return self.box[3] - (self.box[3] - self.box[1]) * share / (1.06 * self.most)


def _panel(drawing: VectorDrawing, one: Similarity, left: int) -> None:
    steps = histogram_edges(one.matching, one.other)
    series = [(one.matching, BLUE, "matching"), (one.other, ORANGE, "non-matching")]
    shares = [np.histogram(values, steps)[0] / len(values) for values, _, _ in series]
    axes = _Axes(left, (float(steps[0]), float(steps[-1])), max(float(each.max()) for each in shares))
    x0, y0, _, y1 = axes.box
    _draw_axes(drawing, axes)
    for (_, colour, _), counted in zip(series, shares, strict=True):
        for place, share in enumerate(counted.tolist()):
            if share:
                start, end = axes.x(float(steps[place])), axes.x(float(steps[place + 1]))
                drawing.rectangle(start, axes.y(share), end, y1, colour, _OPACITY)
    for values, colour, _ in series:
        middle = axes.x(float(values.mean()))
        drawing.line([(middle, y0), (middle, y1)], colour, 2, dashed=True)
    drawing.text(x0, 24, one.name, INK, 16)
    ranged = f"{one.auroc.value:.3f} ({one.auroc.low:.3f} to {one.auroc.high:.3f})"
    figures = f"AUROC {ranged}, overlap {one.overlap:.2f}, probe {np.mean(one.probe):.3f}"
    drawing.text(x0, 44, figures, GREY, 12)
    for place, (values, colour, name) in enumerate(series):
        at = x0 + place * 215
        drawing.rectangle(at, 56, at + 12, 68, colour, 0.75)
        drawing.text(at + 18, 67, f"{name}, mean {values.mean():.3f}", INK, 13)


def _draw_axes(drawing: VectorDrawing, axes: _Axes) -> None:
    x0, _, x1, floor = axes.box
    for share in _round_ticks(0, axes.most, 4):
        drawing.line([(x0, axes.y(share)), (x1, axes.y(share))], PALE if share else GREY)
        drawing.text(x0 - 8, axes.y(share) + 4, f"{100 * share:g} %", GREY, 12, "end")
    for value in _round_ticks(*axes.values, 6):
        drawing.line([(axes.x(value), floor), (axes.x(value), floor + 5)], GREY)
        drawing.text(axes.x(value), floor + 19, f"{value:g}", GREY, 12, "middle")
    label = "cosine similarity of image and text states; height: share of the pairs"
    drawing.text((x0 + x1) / 2, floor + 42, label, GREY, 12, "middle")


def _round_ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers from `low` to `high`, at most about so many."""
    raw = (high - low) / about
    magnitude = 10 ** np.floor(np.log10(raw))
    step = next(float(nice * magnitude) for nice in (1, 2, 5, 10) if nice * magnitude >= raw * 0.999)
    first = int(np.ceil(low / step - 1e-9))
    return [round(n * step, 12) for n in range(first, int(np.floor(high / step + 1e-9)) + 1)]
