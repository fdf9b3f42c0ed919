"""Attention against masks: of scripted readers with known maps, and of real models on shards."""

import json
from collections.abc import Iterable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from helpers import peaked_attention as peaked
from helpers import small_training
from maskgen.analysis import text_report
from maskgen.analysis.attention_maps import AttentionMaps, AttentionReader
from maskgen.analysis.ground import LAYER_MEAN, OTHER_TEXT, UNIFORM, measure_grounding, split_by_size
from maskgen.analysis.samples import Item, ShardItems, question_item
from maskgen.errors import MaskgenError

SIDE = 10
EVERY = np.ones((SIDE, SIDE), bool)


def scripted_reader(*maps_of: Any) -> Any:
    """A stand-in for AttentionReader, a layer for each of `maps_of`, which make a map of an item."""
    items_read: list[Item] = []

    def attention_maps(items: Iterable[Item]) -> Iterator[tuple[Item, AttentionMaps]]:
        for item in items:
            items_read.append(item)
            maps = np.stack([np.asarray(make(item), np.float32) for make in maps_of])
            yield (
                item,
                AttentionMaps(maps / maps.sum(axis=(1, 2), keepdims=True), EVERY, EVERY, len(item.text)),
            )

    layers = [f"slot {number}" for number in range(len(maps_of))]
    return SimpleNamespace(
        attention_maps=attention_maps,
        items_read=items_read,
        name="scripted_reader",
        model_type="age_vlm",
        layers=layers,
        frame=SimpleNamespace(cells=SIDE),
    )


def items(count: int = 12) -> list[Item]:
    found = []
    for number in range(count):
        mask = np.zeros((SIDE, SIDE), bool)
        mask[: 1 + number % 3, : 1 + number % 4] = True
        found.append(question_item(np.full((8, 8, 3), number, np.uint8), f"thing {number}", mask))
    return found


def test_perfect_even_and_averted_attention():
    given = items()
    mask_of = {item.image_id(): np.asarray(item.mask) for item in given}

    def averted(item: Item) -> np.ndarray:
        return ~mask_of[item.image_id()]

    found = measure_grounding(scripted_reader(lambda i: ~averted(i), lambda i: EVERY, averted), given)
    rows = found.rows["all"]
    assert [rows["slot 0"][name].value for name in ("mass", "pointing", "iou")] == [1, 1, 1]
    assert [rows["slot 2"][name].value for name in ("mass", "pointing", "iou")] == [0, 0, 0]
    for name in ("mass", "pointing"):
        assert rows["slot 1"][name].value == pytest.approx(rows[UNIFORM][name].value)
    assert rows[LAYER_MEAN]["mass"].value == pytest.approx((1 + rows[UNIFORM]["mass"].value) / 3)
    assert found.counts == {"all": 12, "small": 1, "medium": 10, "large": 1}


def test_another_text_shows_what_the_text_does():
    """A model that finds what is named loses it with another text; one that only sees things does not."""
    given = items()
    masks = {item.text: item.mask for item in given}
    reads = measure_grounding(reading := scripted_reader(lambda i: masks[i.text]), given).rows["all"]
    assert reads["slot 0"]["mass"].value == 1 > reads[OTHER_TEXT]["mass"].value
    pictures = {item.image_id(): item.mask for item in given}
    sees = measure_grounding(scripted_reader(lambda i: pictures[i.image_id()]), given).rows["all"]
    assert sees["slot 0"]["mass"].value == sees[OTHER_TEXT]["mass"].value == 1
    swapped = reading.items_read[len(given) :]
    assert [item.image_id() for item in swapped] == [item.image_id() for item in given]
    assert all(one.text != other.text for one, other in zip(swapped, given, strict=True))


def test_alike_texts_have_no_other():
    alike = [question_item(item.pixels, "thing", item.mask) for item in items(3)]
    assert list(measure_grounding(scripted_reader(lambda i: EVERY), alike).rows["all"]) == ["slot 0", UNIFORM]


def test_sizes_part_the_masks():
    masks = np.arange(100)[:, None] > np.arange(100)[None]  # 0 to 99 cells of 100
    sizes = split_by_size(masks)
    assert sizes["small"].sum() == 2 and sizes["medium"].sum() == 8 and sizes["large"].sum() == 90
    assert (sizes["small"] ^ sizes["medium"] ^ sizes["large"]).all()


def test_items_without_mask_or_text_are_counted_and_left_out():
    mixed = [*items(3), question_item(np.zeros((8, 8, 3), np.uint8), "no mask")]
    mixed += [
        question_item(np.zeros((8, 8, 3), np.uint8), "", EVERY),
        question_item(mixed[0].pixels, "empty", ~EVERY),
    ]
    done: list[int] = []
    found = measure_grounding(scripted_reader(lambda i: EVERY), mixed, done.append)
    assert found.skipped == 3 and found.counts["all"] == 3 and done == [*range(1, 10)]
    with pytest.raises(MaskgenError, match="nothing to hold"):
        measure_grounding(scripted_reader(lambda i: EVERY), mixed[3:])


@pytest.mark.slow
def test_real_models_on_shards(tmp_path):
    place = small_training.shards(tmp_path / "set", 12)
    found = []
    for kind in ("age_vlm", "concat_vlm"):
        reader = AttentionReader.load(peaked.model_folder(tmp_path / kind, kind), device="cpu")
        found.append(measure_grounding(reader, ShardItems([place], reader.frame)))
    age, concat = found
    assert age.counts["all"] == concat.counts["all"] == 4
    assert list(age.rows["all"]) == ["slot 1", "slot 3", LAYER_MEAN, OTHER_TEXT, UNIFORM]
    assert list(concat.rows["all"]) == ["first self-attention", OTHER_TEXT, UNIFORM]
    assert age.image_share == pytest.approx([1, 1]) and 0 < concat.image_share[0] < 1
    printed = text_report.grounding_table(found)
    assert "concat_vlm: " in printed and "of the attention goes to the image" in printed
    figure = json.loads(json.dumps(age.to_dict()))["figures"]["all"]["slot 1"]["mass"]
    assert 0 <= figure["low"] <= figure["value"] <= figure["high"] <= 1


def test_a_limit_draws_some_and_a_set_without_masks_is_said(tmp_path):
    place = small_training.shards(tmp_path / "set", 12, masked=2)
    frame = small_training.Frame("squash", small_training.SIZE, small_training.CELLS)
    some = ShardItems([place], frame, limit=3)
    assert len(some) == len(list(some)) == 3
    assert len(ShardItems([place])) == 12 and ShardItems([place])[0].mask is None
    answers = ShardItems([place], answers=True)[1]
    assert answers.text == answers.turns[1].value == "therethere"
    with pytest.raises(MaskgenError, match="has a mask"):
        ShardItems([small_training.shards(tmp_path / "bare", 4, masked=0)], frame)
