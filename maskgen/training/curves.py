"""`maskgen curves`: what runs wrote into metrics.jsonl, as one PNG; several runs lie over one another."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskgen.draw.palette import BLUE, GREEN, GREY, INK, OCHRE, ORANGE, PALE, ROSE, VIOLET, Colour
from maskgen.draw.vector_drawing import VectorDrawing
from maskgen.errors import MaskgenError
from maskgen.training.metrics import mean, read_lines
from maskgen.training.trainer import METRICS

_COLOURS = (ORANGE, BLUE, GREEN, ROSE, VIOLET, OCHRE)
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM, _LEGEND = 1100, 240, 70, 20, 34, 30, 36
_SMOOTHING = 0.9

Line = dict[str, Any]
Points = list[tuple[int, float]]
"""Steps, counted through all stages, and values."""


@dataclass(frozen=True)
class Panel:
    """One curve of every run; `value` gives None where a step has nothing to show."""

    title: str
    value: Callable[[Line], float | None]


PANELS = (
    Panel("LM loss (nats a token)", lambda line: line["lm"]),
    Panel("guidance loss above its floor", lambda line: line["guidance_above_floor"]),
    Panel("attention inside the mask (mean over layers)", lambda line: _mass(line)),
    Panel("gradient norm before clipping", lambda line: line["grad_norm"]),
    Panel("samples a second", lambda line: line["samples_per_second"]),
)


def draw_curves(runs: Sequence[str], to: Path) -> Path:
    """Draw the curves of `runs` into the PNG `to`. MaskgenError if a run has none.

    The same stages lie over one another, also of runs that began at different ones. Pale is each step, strong
    the mean of the last ones; all but the first run's are dashed, so that none hides another.
    """
    lines = [_lines(Path(run)) for run in runs]
    starts = _stage_starts(lines)
    panels = [
        panel for panel in PANELS if any(panel.value(line) is not None for run in lines for line in run)
    ]
    drawing = VectorDrawing(_WIDTH, _HEIGHT * len(panels) + _LEGEND)
    _legend(drawing, [Path(run).name or run for run in runs])
    for place, panel in enumerate(panels):
        series = [_points(panel, run, starts) for run in lines]
        _panel(drawing, _LEGEND + place * _HEIGHT, panel.title, series, starts)
    to.parent.mkdir(parents=True, exist_ok=True)
    drawing.image().save(to)
    return to


def smoothed(points: Points) -> Points:
    """An exponential mean that starts at the first value."""
    found: Points = []
    for step, value in points:
        last = found[-1][1] if found else value
        found.append((step, _SMOOTHING * last + (1 - _SMOOTHING) * value))
    return found


def ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers within `low` and `high`."""
    power = 10.0 ** math.floor(math.log10(high - low))
    step = next(step for step in (power / 5, power / 2, power, 2 * power) if (high - low) / step < 5.5)
    return [number * step for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _lines(run: Path) -> list[Line]:
    lines = read_lines(run / METRICS)
    if not lines:
        raise MaskgenError(f"{run} has no {METRICS} with steps. Give a folder that maskgen train writes to.")
    return lines


def _mass(line: Line) -> float | None:
    return mean(line["mass"]) if line["mass"] else None


def _stage_starts(runs: Sequence[list[Line]]) -> dict[int, int]:
    """The step at which each stage begins, and under the last stage's successor where all ends."""
    lengths: dict[int, int] = {}
    for line in (line for run in runs for line in run):
        lengths[line["stage"]] = max(lengths.get(line["stage"], 0), line["step"] + 1)
    starts, at = {}, 0
    for stage in sorted(lengths):
        starts[stage] = at
        at += lengths[stage]
    return starts | {max(lengths) + 1: at}


def _points(panel: Panel, run: list[Line], starts: dict[int, int]) -> Points:
    values = ((starts[line["stage"]] + line["step"], panel.value(line)) for line in run)
    return [(step, value) for step, value in values if value is not None]


def _panel(
    drawing: VectorDrawing, top: int, title: str, series: list[Points], starts: dict[int, int]
) -> None:
    known = [value for points in series for _, value in points]
    low, high = min(known), max(known)
    low, high = (low, high) if high > low else (low - 0.5, high + 0.5)
    left, right, upper, lower = _LEFT, _WIDTH - _RIGHT, top + _TOP, top + _HEIGHT - _BOTTOM
    steps = max(starts.values())

    def at(step: float, value: float) -> tuple[float, float]:
        return left + (right - left) * step / steps, lower - (lower - upper) * (value - low) / (high - low)

    drawing.text(left, top + 20, title, INK, 14)
    for value in ticks(low, high):
        drawing.line([at(0, value), at(steps, value)], PALE)
        drawing.text(left - 8, at(0, value)[1] + 4, f"{value:.4g}", GREY, 12, "end")
    *stages, _ = starts
    for stage in stages:
        x, _ = at(starts[stage], low)
        drawing.line([(x, upper), (x, lower + 6)], GREY)
        drawing.text(x + 4, lower + 18, f"stage {stage}, from step {starts[stage]:,}", GREY, 12)
    for number, points in enumerate(series):
        _curve(drawing, [at(*point) for point in points], _pale(_colour(number)), 1)
    for number, points in enumerate(series):
        drawn = [at(*point) for point in smoothed(points)]
        _curve(drawing, drawn, _colour(number), 2, dashed=number > 0)


def _curve(
    drawing: VectorDrawing,
    points: list[tuple[float, float]],
    colour: Colour,
    width: float,
    dashed: bool = False,
) -> None:
    if len(points) > 1:
        drawing.line(points, colour, width, dashed)
    for x, y in points if len(points) == 1 else []:
        drawing.rectangle(x - width, y - width, x + width, y + width, colour)


def _legend(drawing: VectorDrawing, names: Sequence[str]) -> None:
    x = float(_LEFT)
    for number, name in enumerate(names):
        drawing.line([(x, 18), (x + 28, 18)], _colour(number), 3, dashed=number > 0)
        drawing.text(x + 36, 22, name, INK, 14)
        x += 80 + 9 * len(name)


def _colour(number: int) -> Colour:
    return _COLOURS[number % len(_COLOURS)]


def _pale(colour: Colour) -> Colour:
    red, green, blue = (round(0.6 * 255 + 0.4 * part) for part in colour)
    return red, green, blue
