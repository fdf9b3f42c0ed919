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
_WIDTH, _LEFT, _RIGHT, _TOP, _ROW, _STEP = 960, 300, 80, 84, 92, 17
_TICKS = (0, 20, 40, 60, 80, 100)
_FOOT = (
    "All rows on one scale; AUROC in hundredths. Squares: seeds; line: 95 % interval over seeds and scenes.",
    "Dashed: what does not look (even attention, each family's commonest answer, no gain, AUROC 0.5).",
)


def draw_findings(found: Measurements, to: Path) -> None:
    """Write the picture as a PNG, and beside it as SVG. All rows share the scale from 0 to 100 %."""
    bottom = _TOP + _ROW * len(SHOWN)
    drawing = VectorDrawing(_WIDTH, bottom + 22 + 18 * len(_FOOT))
    _legend(drawing)
    for tick in _TICKS:
        drawing.line([(_x(tick / 100), _TOP - 8), (_x(tick / 100), bottom - 8)], PALE)
        for y in (_TOP - 14, bottom + 6):
            drawing.text(
                _x(tick / 100), y, f"{tick} %" if tick == _TICKS[-1] else str(tick), GREY, 12, "middle"
            )
    for place, figure in enumerate(SHOWN):
        estimates = {model: model_estimate(found, model, figure) for model in MODELS}
        chance = figure.without_looking(found[MODELS[0]][0])
        _row(drawing, figure, estimates, chance, _TOP + place * _ROW)
    for place, line in enumerate(_FOOT):
        drawing.text(_LEFT, bottom + 30 + 18 * place, line, GREY, 12)
    drawing.image().save(to)
    to.with_suffix(".svg").write_text(drawing.svg())


def _legend(drawing: VectorDrawing) -> None:
    at = float(_LEFT)
    for model in MODELS:
        drawing.rectangle(at, 18, at + 14, 32, COLOURS[model])
        drawing.text(at + 20, 30, model, INK, 14)
        at += 160


def _row(
    drawing: VectorDrawing,
    figure: ReportFigure,
    found: dict[str, SeedEstimate],
    chance: float | None,
    top: int,
) -> None:
    drawing.text(_LEFT - 20, top + 38, figure.name, INK, 14, "end")
    for place, (model, one) in enumerate(found.items()):
        y, colour = top + _STEP * (place + 0.5), COLOURS[model]
        left, right = sorted((_x(0), _x(one.value)))
        drawing.rectangle(left, y - 6, right, y + 6, colour, 0.35)
        drawing.line([(_x(one.low), y), (_x(one.high), y)], colour, 2)
        for value in one.seeds:
            drawing.rectangle(_x(value) - 3, y - 3, _x(value) + 3, y + 3, colour)
        drawing.text(_x(max(one.high, *one.seeds)) + 8, y + 5, format_value(figure, one.value), INK, 12)
    if chance is not None:
        ends = [(_x(chance), top - 4.0), (_x(chance), top + _STEP * len(found) + 4.0)]
        drawing.line(ends, INK, 1.5, dashed=True)


def _x(value: float) -> float:
    """Where a share of one stands."""
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * value


def format_value(figure: ReportFigure, value: float) -> str:
    """A value in the figure's unit."""
    if figure.unit == "number":
        return f"{value:.3f}"
    return f"{100 * value:+.1f}" if figure.unit == "points" else f"{100 * value:.1f} %"
