"""The reproduction in one picture: a row a figure, a mark a model, a dot a seed."""

from pathlib import Path

from maskgen.bootstrap import SeedEstimate
from maskgen.draw.palette import BLUE, GREY, INK, ORANGE, PALE, SILVER, VIOLET, Colour
from maskgen.draw.vector_drawing import VectorDrawing
from maskgen.reproduce.findings import (
    ADVERSARIAL,
    ALL,
    AUROC,
    BLIND,
    MASS,
    POINTING,
    PRESENCE,
    SELECTION,
    Measurements,
    ReportFigure,
    model_estimate,
)
from maskgen.reproduce.scales import MODELS

SHOWN: list[ReportFigure] = [MASS, SELECTION, POINTING, PRESENCE, ADVERSARIAL, ALL, BLIND, AUROC]
COLOURS: dict[str, Colour] = {
    "concat": SILVER,
    "ca-baseline": ORANGE,
    "age-vlm": BLUE,
    "age-vlm-lm": VIOLET,
}
_WIDTH, _LEFT, _RIGHT, _TOP, _ROW, _STEP = 960, 300, 70, 74, 92, 17


def draw_findings(found: Measurements, to: Path) -> None:
    """Write the picture as a PNG, and beside it as SVG. Every row has its own scale, from 0 to 1."""
    drawing = VectorDrawing(_WIDTH, _TOP + _ROW * len(SHOWN) + 36)
    _legend(drawing)
    for place, figure in enumerate(SHOWN):
        _row(
            drawing,
            figure,
            {model: model_estimate(found, model, figure) for model in MODELS},
            _TOP + place * _ROW,
        )
    legend = "dots: seeds; bar: 95 % interval over seeds and scenes"
    drawing.text(_LEFT, drawing.height - 12, legend, GREY, 12)
    drawing.image().save(to)
    to.with_suffix(".svg").write_text(drawing.svg())


def _legend(drawing: VectorDrawing) -> None:
    at = float(_LEFT)
    for model in MODELS:
        drawing.rectangle(at, 24, at + 14, 38, COLOURS[model])
        drawing.text(at + 20, 36, model, INK, 14)
        at += 160


def _row(drawing: VectorDrawing, figure: ReportFigure, found: dict[str, SeedEstimate], top: int) -> None:
    low = min(0.0, *(min(one.low, *one.seeds) for one in found.values()))
    high = max(max(one.high, *one.seeds) for one in found.values())
    high = low + 1.08 * (high - low or 1.0)

    def x(value: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (value - low) / (high - low)

    drawing.text(_LEFT - 20, top + 36, figure.name, INK, 14, "end")
    drawing.line([(x(0), top), (x(0), top + _STEP * len(MODELS))], GREY)
    drawing.line(
        [(_LEFT, top + _STEP * len(MODELS) + 8), (_WIDTH - _RIGHT, top + _STEP * len(MODELS) + 8)], PALE
    )
    for place, (model, one) in enumerate(found.items()):
        y, colour = top + _STEP * (place + 0.5), COLOURS[model]
        drawing.rectangle(x(0), y - 6, x(one.value), y + 6, colour, 0.35)
        drawing.line([(x(one.low), y), (x(one.high), y)], colour, 2)
        for value in one.seeds:
            drawing.rectangle(x(value) - 3, y - 3, x(value) + 3, y + 3, colour)
        drawing.text(x(max(one.high, *one.seeds)) + 8, y + 5, format_value(figure, one.value), INK, 12)


def format_value(figure: ReportFigure, value: float) -> str:
    """A value in the figure's unit."""
    if figure.unit == "number":
        return f"{value:.3f}"
    return f"{100 * value:+.1f}" if figure.unit == "points" else f"{100 * value:.1f} %"
