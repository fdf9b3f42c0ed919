"""Curves of runs that began at different stages, and lines that lie over one another."""

import json

import numpy as np
import pytest
from PIL import Image

from maskgen.draw.vector_drawing import VectorDrawing
from maskgen.training.curves import _stage_starts, draw_curves, smoothed, ticks


def line(stage: int, step: int, lm: float) -> dict:
    return {"stage": stage, "step": step, "lm": lm, "guidance_above_floor": None, "mass": []} | {
        "grad_norm": 1.0,
        "samples_per_second": 2.0,
    }


def test_the_same_stages_lie_over_one_another():
    whole = [line(stage, step, 1.0) for stage in (1, 2, 3) for step in range(10)]
    later = [line(3, step, 1.0) for step in range(12)]
    assert _stage_starts([later, whole]) == {1: 0, 2: 10, 3: 20, 4: 32}


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3, 17), (0.0012, 0.0031), (199.0, 2000.0), (5, 5.1)])
def test_ticks_are_few_round_and_inside(low, high):
    found = ticks(low, high)
    assert 2 <= len(found) <= 6 and low <= min(found) and max(found) <= high * (1 + 1e-12)


def test_a_line_over_another_hides_nothing(tmp_path):
    for name in ("one", "other"):
        lines = [json.dumps(line(1, step, step / 10)) for step in range(60)]
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_text("\n".join(lines))
    drawn = draw_curves([str(tmp_path / "one"), str(tmp_path / "other")], tmp_path / "curves.png")
    panel = np.asarray(Image.open(drawn))[120:400].astype(int)
    orange = (abs(panel - (222, 119, 40)).sum(axis=2) < 30).sum()
    blue = (abs(panel - (44, 127, 184)).sum(axis=2) < 30).sum()
    assert 0.4 < orange / blue < 1.6


def test_smoothing_starts_at_the_first_value_and_a_dash_follows_its_line():
    assert smoothed([(0, 2.0), (1, 2.0)]) == [(0, 2.0), (1, 2.0)] and smoothed([]) == []
    drawing = VectorDrawing(60, 60)
    drawing.line([(10, 10), (50, 10), (50, 50)], (0, 0, 0), 2, dashed=True)
    dark = np.asarray(drawing.image().convert("L")) < 128
    assert dark[16:24, 20:100].any() and dark[24:100, 96:104].any() and not dark[30:, :90].any()
    assert 0.3 < dark[16:24, 20:100].any(axis=0).mean() < 0.8
