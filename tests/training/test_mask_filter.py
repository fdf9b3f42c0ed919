"""`data.where`: masks that do not meet it no longer guide; every row is still learnt from."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from helpers.small_training import model_folder, shards, small
from helpers.tiny_sets import CONFIG, FINGERPRINT, make_set, record
from maskgen.errors import MaskgenError
from maskgen.outcome import Outcome
from maskgen.runtime.store import Store
from maskgen.sample import Signals
from maskgen.sharding.calibration import NAME, Calibration
from maskgen.sharding.index import finish
from maskgen.sharding.verify import verify
from maskgen.sharding.writer import Record, ShardWriter
from maskgen.training.dataset import ShardSamples
from maskgen.training.distributed import World
from maskgen.training.recipe import SetName
from maskgen.training.trainer import TrainRequest, train
from maskgen.views.report import write_report
from maskgen.views.set_statistics import collect_statistics


def scored(number: int, agreement: float, signals: Signals | None = None, **facts: str) -> Record:
    one = record(number, image=facts.get("image", f"coco/{number}.jpg"))
    assert one.grounding is not None
    sample = replace(one.sample, meta=facts.get("meta", "{}"))
    return replace(one, sample=sample, grounding=replace(one.grounding, agreement=agreement, signals=signals))


def signed(folder) -> Store:
    """A finished set whose quality was measured."""
    store = make_set(folder, RECORDS)  # plan, run.json
    for number, shard in enumerate(RECORDS):
        with ShardWriter(store, number, "tiny", CONFIG.grid, FINGERPRINT, signals=True) as writer:
            for one in shard or []:
                writer.add(one)
            writer.commit()
    store.remove("index.parquet")
    finish(store, FINGERPRINT)
    return store


RECORDS: list[list[Record] | None] = [
    [
        scored(
            n, n / 10, Signals(min_log_prob=-n / 2, end_prob=0.5), meta=json.dumps({"source": f"s{n % 2}"})
        )
        for n in range(5)
    ],
    [
        record(5, Outcome.NO_GROUNDING),
        scored(6, 0.6),
        record(7, Outcome.IMAGE_MISSING),
        scored(8, 0.8, Signals()),
    ],
]


def guides(place, where: str) -> list[str]:
    samples = ShardSamples([str(place)], where)
    assert samples.keys.tolist() == [f"k{n:06d}" for n in (0, 1, 2, 3, 4, 5, 6, 8)]
    return [key[-1] for key, has in zip(samples.keys, samples.has_mask, strict=True) if has]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("set") / "set"
    signed(folder)
    return folder


@pytest.mark.parametrize(
    ("where", "kept"),
    [
        ("", "0123468"),
        ("agreement >= 0.3", "3468"),
        ("agreement >= 0.3 AND min_log_prob > -2", "3"),
        ("min_log_prob IS NULL", "68"),
        ("source = 's1'", "13"),
        ("outcome = 'no_grounding'", ""),
        ("image LIKE 'coco/%' AND width = 120 AND polygons = 1", "0123468"),
        ("true", "0123468"),
        ("shard = 1", "68"),
    ],
)
def test_which_masks_guide(place, where, kept):
    assert "".join(guides(place, where)) == kept


@pytest.mark.parametrize(
    ("where", "why"),
    [
        ("agreemnt > 0.3", "has no column agreemnt. There are agreement, box_x0, .*quality, .*source"),
        ("quality > 0.5", "is not calibrated. Run: maskgen calibrate"),
        ("agreement >", "syntax error.*for example: quality >= 0.8"),
        ("agreement > (SELECT 1)", "more than one row tells"),
        ("agreement > 'x'", "Could not convert"),
    ],
)
def test_what_is_no_condition_is_refused_in_a_sentence(place, where, why):
    with pytest.raises(MaskgenError, match=rf"data\.where.*{why}"):
        ShardSamples([str(place)], where)


def test_quality_is_what_the_calibration_makes_of_the_signals(tmp_path):
    signed(tmp_path)
    fit = Calibration(
        features=["agreement", "min_log_prob"],
        means=[0.5, -1.0],
        scales=[0.1, 1.0],
        weights=[1.0, 2.0],
        intercept=0.5,
        iou=0.5,
        labels=100,
        log_loss=0.1,
        base_log_loss=0.2,
    )
    (tmp_path / NAME).write_text(fit.model_dump_json())
    index = pq.read_table(tmp_path / "index.parquet")
    row = index["key"].to_pylist().index("k000003")
    expected = 1 / (1 + torch.tensor(-((0.3 - 0.5) / 0.1 + 2 * (-1.5 + 1) + 0.5)).exp())
    assert fit.quality(index)[row] == pytest.approx(float(expected))
    assert guides(tmp_path, f"quality > {float(expected) - 1e-3} AND key = 'k000003'") == ["3"]
    assert guides(tmp_path, f"quality > {float(expected) + 1e-3} AND key = 'k000003'") == []
    assert guides(tmp_path, "quality IS NULL") == ["6", "8"], "no log-probability is known of these"
    shown = {one.column: sum(one.counts) for one in collect_statistics(Store(str(tmp_path))).distributions}
    assert (shown["quality"], shown["end_prob"], shown["agreement"]) == (5, 5, 7)
    assert "mirror" not in shown and "stability" not in shown
    page = Path(write_report(Store(str(tmp_path)))).read_text()
    assert "by the set's calibration" in page and "how likely the text names nothing" in page
    for broken in ("{}", '{"version": 2}', "[", fit.model_dump_json().replace('"agreement"', '"key"')):
        (tmp_path / NAME).write_text(broken)
        with pytest.raises(MaskgenError, match=r"calibration\.json.*maskgen calibrate"):
            guides(tmp_path, "quality > 0.5")


def test_what_is_kept_is_told_by_polygons_size_and_source(place):
    kept = ShardSamples([str(place)], "agreement >= 0.3").kept
    assert kept is not None and (kept.kept, kept.masks) == (4, 7)
    assert ("polygons", "1", 4, 7) in kept.groups
    assert [group for group in kept.groups if group[0] == "source"] == [
        ("source", "s0", 1, 3),
        ("source", "coco", 2, 2),
        ("source", "s1", 1, 2),
    ]
    assert sum(group[3] for group in kept.groups if group[0] == "size") == 7
    assert "agreement >= 0.3" in kept.render() and "57.1 %" in kept.render()
    assert ShardSamples([str(place)]).kept is None


def test_signals_stand_in_the_index_where_they_are_measured_and_nowhere_else(place, tmp_path):
    plain = make_set(tmp_path / "plain", RECORDS)
    names = [field.name for field in pq.read_schema(plain.local("index.parquet"))]
    assert "min_log_prob" not in names
    with_signals = pq.read_table(place / "index.parquet")
    assert with_signals.schema.names == [*names, *vars(Signals())]
    assert with_signals["min_log_prob"].to_pylist()[:6] == [0.0, -0.5, -1.0, -1.5, -2.0, None]
    for name in ("000000.tar", "000001.tar", "features.json"):
        assert (place / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()
    for one in (Store(str(place)), plain):
        assert [p for p in verify(one) if "plan.parquet" not in p and "planned" not in p] == []


@pytest.mark.usefixtures("one_thread")
def test_training_tells_what_guides_and_goes_on_with_the_same_alone(tmp_path):
    data, model = shards(tmp_path / "data", 8, shard=8), str(model_folder(tmp_path / "model"))
    samples = ShardSamples([data])
    half = f"key < '{sorted(samples.keys[samples.has_mask])[2]}'"
    sets: dict[SetName, list[str]] = {"pretrain": [data], "finetune": [data]}
    request = TrainRequest(
        small("batch=8", f"data.where={half}"), model, sets, str(tmp_path / "run"), first=4
    )
    said: list[str] = []
    train(request, World(0, 1, torch.device("cpu")), said.append)
    assert int(ShardSamples([data], half).has_mask.sum()) == 2
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert next(line for line in said if line.startswith(f"data.where: {half}"))
    assert [line["guided"] for line in lines if "loss" in line] == [2]
    other = replace(request, recipe=small("batch=8"))
    with pytest.raises(MaskgenError, match="begun with other settings"):
        train(other, World(0, 1, torch.device("cpu")), said.append)
