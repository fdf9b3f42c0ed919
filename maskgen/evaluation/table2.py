"""Table 2 with our runs in it, and the paper's own figures, marked as the paper's."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from maskgen.evaluation.benchmarks import BENCHMARKS
from maskgen.evaluation.evaluate import Scored

# Table 2, in the order of its columns: HallusionBench aAcc, fAcc, qAcc; OCRBench scene-centric, key
# information; CV-Bench 2D, 3D; RealWorldQA; POPE.
PAPER: dict[str, tuple[float, ...]] = {
    "CA-Baseline": (40.38, 13.87, 11.21, 148, 51, 0.62, 0.50, 0.47, 85.11),
    "ConvLLaVA": (24.71, 8.96, 4.84, 117, 26, 0.59, 0.57, 0.51, 77.76),
    "mobile-vlm-v2": (44.37, 14.45, 11.65, 101, 2, 0.31, 0.40, 0.28, 84.30),
    "AGE-VLM": (43.85, 15.32, 11.21, 149, 59, 0.61, 0.52, 0.48, 87.34),
    "AGE-VLM-LM": (39.22, 11.56, 7.91, 126, 33, 0.66, 0.46, 0.51, 85.18),
}

_TITLES = {
    "hallusionbench": "HallusionBench",
    "ocrbench": "OCRBench",
    "cvbench": "CV-Bench",
    "realworldqa": "RWQA",
    "pope": "POPE",
}


@dataclass(frozen=True)
class Line:
    """A row of the table; `values` by (benchmark, heading), without those that nobody has measured."""

    name: str
    is_papers: bool
    values: dict[tuple[str, str], float]


def columns() -> list[tuple[str, str]]:
    """(benchmark, heading) in the paper's order."""
    return [(name, heading) for name, each in BENCHMARKS.items() for heading in each.columns]


def lines(found: Sequence[Scored]) -> list[Line]:
    """A row a run, one for each of its tests without pictures, and the paper's."""
    ours: dict[str, dict[tuple[str, str], float]] = {}
    for each in found:
        score, headings = each.score, BENCHMARKS[each.score.benchmark].columns
        rows = {each.run: score.figures} | {f"{each.run} ({test})": f for test, f in score.tests.items()}
        for name, figures in rows.items():
            values = {(score.benchmark, heading): figures[key].value for heading, key in headings.items()}
            ours.setdefault(name, {}).update(values)
    papers = [Line(name, True, dict(zip(columns(), row, strict=True))) for name, row in PAPER.items()]
    return [*(Line(name, False, values) for name, values in ours.items()), *papers]


def cells(found: Sequence[Scored]) -> list[list[str]]:
    """The table as text, its two rows of headings first."""
    heads = [_TITLES[name] for name, _ in columns()]
    above = ["", *(head if head not in heads[:at] else "" for at, head in enumerate(heads))]
    below = ["", *("" if heading == _TITLES[name] else heading for name, heading in columns())]
    rows = [
        [f"paper: {line.name}" if line.is_papers else line.name]
        + [_cell(line.values.get(column)) for column in columns()]
        for line in lines(found)
    ]
    return [above, below, *rows]


def _cell(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.2f}"
