"""`maskgen curves`: what runs wrote into metrics.jsonl, as one PNG; several runs lie over one another."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from maskgen.draw.lettering import font, renderable_text
from maskgen.draw.palette import INK, PALE, SILVER, WHITE
from maskgen.errors import MaskgenError
from maskgen.training.metrics import mean, read_lines
from maskgen.training.trainer import METRICS

_COLOURS = ((214, 39, 90), (31, 119, 180), (44, 140, 70), (220, 130, 20), (120, 80, 180), (90, 90, 90))
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 1100, 230, 70, 20, 30, 22
_SCALE = 2  # drawn larger and reduced: Pillow does not smooth lines itself
_SMOOTHING = 0.9

Line = dict[str, Any]


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
    """Draw the curves of `runs` into the PNG `to`. MaskgenError if a run has none."""
    lines = {run: _lines(Path(run)) for run in runs}
    steps = [line for run in lines.values() for line in run]
    panels = [panel for panel in PANELS if any(panel.value(line) is not None for line in steps)]
    height = _HEIGHT * len(panels) + 30
    image = Image.new("RGB", (_WIDTH * _SCALE, height * _SCALE), WHITE)
    pen = ImageDraw.Draw(image)
    _legend(pen, [Path(run).name or run for run in runs])
    for place, panel in enumerate(panels):
        _panel(pen, 30 + place * _HEIGHT, panel, list(lines.values()))
    to.parent.mkdir(parents=True, exist_ok=True)
    image.resize((_WIDTH, height), Image.Resampling.LANCZOS).save(to)
    return to


def smoothed(values: Sequence[float | None]) -> list[float | None]:
    """An exponential mean that starts at the first value and passes over steps without one."""
    found: list[float | None] = []
    last: float | None = None
    for value in values:
        if value is not None:
            last = value if last is None else _SMOOTHING * last + (1 - _SMOOTHING) * value
        found.append(None if value is None else last)
    return found


def _lines(run: Path) -> list[Line]:
    lines = read_lines(run / METRICS)
    if not lines:
        raise MaskgenError(f"{run} has no {METRICS} with steps. Give a folder that maskgen train writes to.")
    return lines


def _mass(line: Line) -> float | None:
    return mean(line["mass"]) if line["mass"] else None


def _panel(pen: ImageDraw.ImageDraw, top: int, panel: Panel, runs: list[list[Line]]) -> None:
    series = [[panel.value(line) for line in run] for run in runs]
    known = [value for values in series for value in values if value is not None]
    low, high = min(known), max(known)
    low, high = (low, high) if high > low else (low - 0.5, high + 0.5)
    steps = max(len(values) for values in series)
    box = (_LEFT, top + _TOP, _WIDTH - _RIGHT, top + _HEIGHT - _BOTTOM)

    def at(step: float, value: float) -> tuple[float, float]:
        x = box[0] + (box[2] - box[0]) * step / max(1, steps - 1)
        y = box[3] - (box[3] - box[1]) * (value - low) / (high - low)
        return x * _SCALE, y * _SCALE

    _words(pen, (_LEFT, top + 8), panel.title, INK)
    for value in (low, high):
        pen.line([at(0, value), at(steps - 1, value)], PALE, _SCALE)
        _words(pen, (6, at(0, value)[1] / _SCALE - 7), f"{value:.3g}", SILVER)
    for step, stage in _beginnings(runs[0]):
        pen.line([at(step, low), at(step, high)], PALE, 2 * _SCALE)
        _words(pen, (at(step, low)[0] / _SCALE + 4, box[3] + 4), f"stage {stage}", SILVER)
    for colour, values in zip(_cycle(len(series)), series, strict=True):
        _curve(pen, values, at, tuple(round(0.6 * 255 + 0.4 * part) for part in colour), _SCALE)
    for colour, values in zip(_cycle(len(series)), series, strict=True):
        _curve(pen, smoothed(values), at, colour, 2 * _SCALE)


def _curve(
    pen: ImageDraw.ImageDraw, values: Sequence[float | None], at: Any, colour: tuple[int, ...], width: int
) -> None:
    points = [at(step, value) for step, value in enumerate(values) if value is not None]
    if len(points) > 1:
        pen.line(points, colour, width, joint="curve")
    elif points:
        x, y = points[0]
        pen.ellipse([x - width, y - width, x + width, y + width], colour)


def _beginnings(lines: list[Line]) -> list[tuple[int, int]]:
    """Where each stage begins: place of its first step, and its number."""
    return [
        (place, line["stage"])
        for place, line in enumerate(lines)
        if place == 0 or lines[place - 1]["stage"] != line["stage"]
    ]


def _legend(pen: ImageDraw.ImageDraw, names: Sequence[str]) -> None:
    x = float(_LEFT)
    for colour, name in zip(_cycle(len(names)), names, strict=True):
        pen.rectangle([x * _SCALE, 12 * _SCALE, (x + 18) * _SCALE, 18 * _SCALE], colour)
        _words(pen, (x + 24, 8), name, INK)
        x += 50 + font(13 * _SCALE).getlength(renderable_text(name)) / _SCALE


def _words(pen: ImageDraw.ImageDraw, place: tuple[float, float], words: str, colour: tuple[int, ...]) -> None:
    pen.text((place[0] * _SCALE, place[1] * _SCALE), renderable_text(words), colour, font=font(12 * _SCALE))


def _cycle(count: int) -> list[tuple[int, int, int]]:
    return [_COLOURS[place % len(_COLOURS)] for place in range(count)]
