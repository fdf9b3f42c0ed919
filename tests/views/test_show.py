from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from helpers import tiny_sets
from helpers.tiny_sets import CONFIG, record, sample_of
from maskgen.config import Grid
from maskgen.draw import overlay, text
from maskgen.errors import MaskgenError
from maskgen.outcome import Outcome
from maskgen.views.show import describe, random_key, show, write_png

HOSTILE = "a <script>\x00\x1b[2J \u202eright\ud800 中文 🙂 e\u0301 " + "x" * 5000


@pytest.mark.parametrize(
    ("size", "fit"),
    [
        ((1, 1), "squash"),
        ((40, 30), "pad"),
        ((900, 700), "squash"),
        ((1500, 200), "pad"),
        ((120, 900), "crop"),
        ((2000, 1), "crop"),
    ],
)
@pytest.mark.parametrize("outcome", [Outcome.OK, Outcome.NO_GROUNDING])
def test_every_shape_makes_a_panel(size, outcome, fit):
    one = record(1, outcome, size=size)
    config = CONFIG.model_copy(update={"grid": Grid(fit=fit)})
    assert one.picture is not None
    panel = show(sample_of(one, config), one.picture)
    assert panel.mode == "RGB" and panel.width == 1384 and 400 < panel.height < 2000


def test_the_panel_is_the_same_every_time():
    one = record(1)
    assert one.picture is not None
    panels = [show(sample_of(one), one.picture).tobytes() for _ in range(2)]
    assert panels[0] == panels[1]


def test_hostile_text_is_drawn_as_text():
    one = record(1, text=HOSTILE.replace("\ud800", ""), id="\u202e\x00é", image="a/" * 300)
    assert one.picture is not None
    assert show(sample_of(one), one.picture).height < 1000


def test_grid_tints_covered_cells_only():
    grid = np.zeros((4, 4), np.uint8)
    grid[1, 2], grid[3, 0] = 255, 100
    image = Image.new("RGB", (80, 80), (90, 90, 90))
    drawn = np.asarray(overlay.with_grid(image, grid)).astype(int)
    red = (drawn[..., 0] - drawn[..., 1]).reshape(4, 20, 4, 20).mean(axis=(1, 3))
    assert red[1, 2] > red[3, 0] > 5
    assert np.count_nonzero(np.abs(red) > 5) == 2


def test_the_mask_stays_lit():
    mask = np.zeros((40, 60), bool)
    mask[:, :30] = True
    lit = np.asarray(overlay.with_mask(Image.new("RGB", (60, 40), (200, 200, 200)), mask)).astype(int)
    assert lit[:, 2:26].mean() > 150 and lit[:, 34:].mean() < 110


def test_write_png(tmp_path):
    store = tiny_sets.make_set(
        tmp_path / "set", [[record(1), record(2, Outcome.IMAGE_MISSING, "no such file")]]
    )
    to = write_png(store.url, "k000001", str(tmp_path / "k.png"))
    assert Image.open(to).size[0] == 1384
    with pytest.raises(MaskgenError, match="no such file"):
        write_png(store.url, "k000002", str(tmp_path / "k.png"))
    with pytest.raises(MaskgenError, match="no sample"):
        write_png(store.url, "k9", str(tmp_path / "k.png"))
    with pytest.raises(MaskgenError, match="Give another --out"):
        write_png(store.url, "k000001", str(tmp_path / "no" / "k.png"))


def test_the_runs_own_limits_hold(tmp_path):
    tight = CONFIG.model_copy(update={"limits": CONFIG.limits.model_copy(update={"image_megapixels": 1})})
    large = replace(record(1, size=(1200, 1000)))
    store = tiny_sets.make_set(tmp_path / "set", [[large]], tight)
    with pytest.raises(MaskgenError, match="over the limit"):
        write_png(store.url, "k000001", str(tmp_path / "k.png"))


def test_scores_that_nobody_gave_are_not_shown():
    assert text.scores(0.25, 1.0, 0.0, 2) == ["coverage 25.0 %"], "the polygon is the mask"
    assert text.scores(0.25, 0.5, 0.75, 2) == ["coverage 25.0 %", "agreement 0.50", "SAM IoU 0.75"]
    assert text.scores(0.0, 0.0, 0.0, 2) == [], "nothing was found"


def test_without_a_key_a_sample_is_drawn_by_lot(tmp_path):
    hostile = record(4, Outcome.NO_GROUNDING, text=HOSTILE.replace("\ud800", ""))
    missing = record(5, Outcome.IMAGE_MISSING, "no such file")
    store = tiny_sets.make_set(
        tmp_path / "set", [[record(1), record(2), record(3)], [hostile, missing], None]
    )
    drawn = {random_key(store.url, seed=seed) for seed in range(30)}
    assert drawn == {"k000001", "k000002", "k000003", "k000004"}, "what is in no tar cannot be drawn"
    assert random_key(store.url, seed=3) == random_key(store.url, seed=3)
    assert random_key(store.url, "no_grounding") == "k000004"
    assert random_key(store.url, "image_missing") == "k000005"
    with pytest.raises(MaskgenError, match="no finished sample that is oom"):
        random_key(store.url, "oom")
    with pytest.raises(MaskgenError, match="no run was begun"):
        random_key(str(tmp_path / "none"))
    told = describe(store.url, "k000004")
    assert "\x1b" not in told and "\u202e" not in told and "no_grounding" in told
    assert "none" in told.splitlines()[3], "no mask, no scores"
    assert "image_missing: no such file" in describe(store.url, "k000005")
    assert "a red ellipse" in describe(store.url, "k000001") and "SAM IoU 0.900" in describe(
        store.url, "k000001"
    )
