"""The audit: sound sets pass, and each thing that would waste a training is named with its remedy."""

import json

import pytest
from PIL import Image

from helpers import small_training as small_runs
from maskgen.age_vlm.chat import ChatTemplate
from maskgen.geometry import Frame
from maskgen.training.audit import audit, render

FRAME = Frame("squash", small_runs.SIZE, small_runs.CELLS)


def look(places, tmp_path, *overrides, limit=200, read=0):
    template = ChatTemplate(small_runs.tokenizer(), limit)
    return audit(places, template, FRAME, small_runs.small(*overrides), tmp_path / "sheet.png", read)


def test_a_sound_set(tmp_path):
    found = look([small_runs.shards(tmp_path / "set")], tmp_path)
    assert found.problems == [] and found.samples == found.read == 21
    assert found.with_mask == found.masks == 7 and found.outcomes == {"no_grounding": 14, "ok": 7}
    assert found.steps == 3 and found.steps_without_mask == 0 and found.cut == 0
    assert 0 < found.coverage[0] <= found.coverage[2] < 1
    assert Image.open(tmp_path / "sheet.png").size[0] > 1000
    assert "Nothing here would waste a training." in render(found)
    json.dumps(found.to_dict())


def test_only_some_are_read(tmp_path):
    found = look([small_runs.shards(tmp_path / "set")], tmp_path, read=5)
    assert found.read == 5 and found.samples == 21 and found.with_mask == 7


@pytest.mark.parametrize(
    ("trouble", "named"),
    [
        ("twice", "more than once"),
        ("short", "texts are cut at 16 tokens, and 21 have no answer"),
        ("unmasked", "no sample has a mask"),
        ("random", "steps hold no mask"),
    ],
)
def test_what_would_waste_a_training_is_named(tmp_path, trouble, named):
    masked = {"unmasked": 0, "random": 11}.get(trouble, 3)
    place = small_runs.shards(tmp_path / "set", masked=masked)
    places = [place, place] if trouble == "twice" else [place]
    overrides = ["data.order=random", "batch=4"] if trouble == "random" else []
    found = look(places, tmp_path, *overrides, limit=16 if trouble == "short" else 200)
    assert any(named in problem for problem in found.problems), found.problems
    assert f"problem: {found.problems[0]}" in render(found)
