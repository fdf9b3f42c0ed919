"""The reproduction in one picture: a row a figure, a mark a model, a dot a seed."""

from pathlib import Path

from maskgen.draw.vector_drawing import Colour, Sketch
from maskgen.reproduce.findings import (
    ALL,
    ANSWERS,
    AUROC,
    BLIND,
    MASS,
    POINTING,
    PRESENCE,
    SELECTION,
    Figure,
    Found,
    of_model,
)
from maskgen.reproduce.scales import MODELS
from maskgen.reproduce.seed_bootstrap import Estimate

SHOWN: list[Figure] = [MASS, SELECTION, POINTING, PRESENCE, ANSWERS[2], ALL, BLIND, AUROC]
COLOURS: dict[str, Colour] = {
    "concat": (130, 136, 146),
    "ca-baseline": (222, 119, 40),
    "age-vlm": (44, 127, 184),
    "age-vlm-lm": (120, 80, 180),
}

_INK, _GREY, _PALE = (24, 28, 36), (104, 112, 126), (226, 229, 234)
_WIDTH, _LEFT, _RIGHT, _TOP, _ROW, _STEP = 960, 300, 70, 74, 92, 17


def draw(found: Found, to: Path) -> None:
    """Write the picture as a PNG, and beside it as SVG. Every row has its own scale, from 0 to 1."""
    sketch = Sketch(_WIDTH, _TOP + _ROW * len(SHOWN) + 36)
    _legend(sketch)
    for place, figure in enumerate(SHOWN):
        _row(sketch, figure, {model: of_model(found, model, figure) for model in MODELS}, _TOP + place * _ROW)
    told = "dots: seeds; bar: 95 % interval over seeds and scenes"
    sketch.words(_LEFT, sketch.height - 12, told, _GREY, 12)
    sketch.image().save(to)
    to.with_suffix(".svg").write_text(sketch.svg())


def _legend(sketch: Sketch) -> None:
    at = float(_LEFT)
    for model in MODELS:
        sketch.rectangle(at, 24, at + 14, 38, COLOURS[model])
        sketch.words(at + 20, 36, model, _INK, 14)
        at += 160


def _row(sketch: Sketch, figure: Figure, found: dict[str, Estimate], top: int) -> None:
    low = min(0.0, *(min(one.low, *one.seeds) for one in found.values()))
    high = max(max(one.high, *one.seeds) for one in found.values())
    high = low + 1.08 * (high - low or 1.0)

    def x(value: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (value - low) / (high - low)

    sketch.words(_LEFT - 20, top + 36, figure.name, _INK, 14, "end")
    sketch.line([(x(0), top), (x(0), top + _STEP * len(MODELS))], _GREY)
    sketch.line(
        [(_LEFT, top + _STEP * len(MODELS) + 8), (_WIDTH - _RIGHT, top + _STEP * len(MODELS) + 8)], _PALE
    )
    for place, (model, one) in enumerate(found.items()):
        y, colour = top + _STEP * (place + 0.5), COLOURS[model]
        sketch.rectangle(x(0), y - 6, x(one.value), y + 6, colour, 0.35)
        sketch.line([(x(one.low), y), (x(one.high), y)], colour, 2)
        for value in one.seeds:
            sketch.rectangle(x(value) - 3, y - 3, x(value) + 3, y + 3, colour)
        sketch.words(x(max(one.high, *one.seeds)) + 8, y + 5, written(figure, one.value), _INK, 12)


def written(figure: Figure, value: float) -> str:
    """A value in the figure's unit."""
    if figure.unit == "number":
        return f"{value:.3f}"
    return f"{100 * value:+.1f}" if figure.unit == "points" else f"{100 * value:.1f} %"
