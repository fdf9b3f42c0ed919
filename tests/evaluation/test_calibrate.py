"""Labelled masks become a probability that can be believed, or a sentence that says why not."""

import csv
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from helpers.tiny_sets import CONFIG, FINGERPRINT, make_set, record
from maskgen import rle
from maskgen.cli import app
from maskgen.errors import MaskgenError
from maskgen.evaluation.mask_calibration import FEWEST, fit, reliability, wilson
from maskgen.evaluation.mask_labels import Truth, drawn, labels_by_decisions, labels_by_truth, masked_keys
from maskgen.runtime.store import Store
from maskgen.sample import Signals
from maskgen.sharding.calibration import NAME, read_calibration
from maskgen.sharding.index import finish
from maskgen.sharding.writer import Record, ShardWriter
from maskgen.training.dataset import ShardSamples


def scored(count: int, seed: int = 0, signal: float = 2.0) -> tuple[pa.Table, dict[str, bool]]:
    """An index whose log-probability tells right from wrong as a logistic model does, and the labels."""
    random = np.random.default_rng(seed)
    lp = random.normal(-1, 1, count)
    right = random.random(count) < 1 / (1 + np.exp(-(2 + signal * (lp + 1))))
    keys = [f"k{n:06d}" for n in range(count)]
    index = pa.table(
        {
            "key": keys,
            "outcome": ["ok"] * count,
            "agreement": random.random(count),
            "sam_iou": np.full(count, 0.9),
            "min_log_prob": lp,
            "stability": pa.array([None] * count, pa.float64()),
        }
    )
    return index, dict(zip(keys, map(bool, right), strict=True))


def test_a_fit_finds_the_model_that_made_the_labels():
    index, labels = scored(4000)
    found = fit(index, labels, 0.5)
    assert found.calibration.features == ["agreement", "min_log_prob"], (
        "constant and missing signals say nothing"
    )
    lp = found.calibration.features.index("min_log_prob")
    assert found.calibration.weights[lp] / found.calibration.scales[lp] == pytest.approx(2, abs=0.25)
    assert abs(found.calibration.weights[1 - lp]) < 0.15
    assert found.ece < 0.03 and found.gain[1] > 0 and found.auroc > 0.85
    quality = found.calibration.quality(index)
    right = np.array(list(labels.values()))
    for one in reliability(right, quality):
        assert one.low - 0.02 <= one.predicted <= one.high + 0.02
    assert [at for at, *_ in found.kept] == [0.5, 0.8, 0.9, 0.95]
    assert found.kept[0][2] > found.kept[-1][2]
    told = found.render()
    assert "4,000 masks" in told and "AUROC" in told and found.diagram().startswith("<svg")


def test_masks_that_were_not_labelled_and_rows_without_one_change_nothing():
    index, labels = scored(600)
    half = dict(list(labels.items())[:300])
    found = fit(index, half, 0.5)
    assert found.calibration.labels == 300
    assert found.calibration == fit(index.slice(0, 300), half, 0.5).calibration
    without = index.set_column(1, "outcome", pa.array(["no_grounding"] * 600))
    assert np.isnan(found.calibration.quality(without)).all()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_fit_that_improves_nothing_is_refused(seed):
    index, labels = scored(120, seed)
    random = np.random.default_rng(100 + seed)
    with pytest.raises(MaskgenError, match="not adopted: its held-out log loss"):
        fit(index, {key: bool(random.random() < 0.5) for key in labels}, 0.5)


@pytest.mark.parametrize(("wrong", "total"), [(0, 50), (FEWEST - 1, 200), (200 - FEWEST + 1, 200)])
def test_too_few_of_a_kind_is_a_sentence(wrong, total):
    index, labels = scored(total)
    labels = {key: number >= wrong for number, key in enumerate(labels)}
    with pytest.raises(
        MaskgenError, match=rf"of {total} labelled masks {total - wrong} are right.*Label more"
    ):
        fit(index, labels, 0.5)


def test_without_scikit_learn_the_error_names_the_extra():
    code = (
        "import sys; sys.modules['sklearn'] = None\n"
        "import pyarrow as pa\n"
        "from maskgen.evaluation.mask_calibration import fit\n"
        "fit(pa.table({'key': []}), {}, 0.5)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "MaskgenError" in ended.stderr and "maskgen[calibrate]" in ended.stderr


@pytest.mark.parametrize(
    ("share", "count", "low", "high"), [(0, 10, 0, 0.278), (0.9, 100, 0.826, 0.945), (1, 5, 0.566, 1)]
)
def test_wilson_intervals(share, count, low, high):
    assert wilson(share, count) == pytest.approx((low, high), abs=1e-3)


# Where labels come from.

RECORDS = [[replace(record(n), sample=replace(record(n).sample, id=f"row-{n}")) for n in range(6)]]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("set") / "set"
    make_set(folder, list(RECORDS))
    return str(folder)


def truth_file(folder, layout: str) -> str:
    """A COCO file that knows all but the last sample: right of even ones, elsewhere of odd ones."""
    images, annotations = [], []
    for number, one in enumerate(RECORDS[0][:5]):
        assert one.grounding is not None
        mask = one.grounding.mask if number % 2 == 0 else np.roll(one.grounding.mask, 40, axis=1)
        height, width = mask.shape
        image = {"id": number, "file_name": f"images/{number}.jpg", "width": width, "height": height}
        annotation: dict[str, Any] = {"id": number, "image_id": number, "category_id": 1}
        annotation["segmentation"] = {"size": [height, width], "counts": rle.encode(mask)}
        if layout == "row_id":
            annotation["row_id"] = f"row-{number}"
        if layout == "caption":
            image |= {"file_name": f"{number}.jpg", "caption": "A red  ellipse."}
            x0, x1 = (36, 84) if number % 2 == 0 else (0, 20)
            annotation["segmentation"] = [[x0, 22, x1, 22, x1, 72, x0, 72]]
        images.append(image)
        annotations.append(annotation)
    path = folder / f"{layout}.json"
    tree = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "ellipse"}]}
    path.write_text(json.dumps(tree))
    return str(path)


@pytest.mark.parametrize("layout", ["row_id", "caption", "category"])
def test_known_masks_say_which_are_right(place, tmp_path, layout):
    samples = ShardSamples([place])
    labels = labels_by_truth(samples, truth_file(tmp_path, layout), 10, 0, 0.5)
    assert labels == {f"k{n:06d}": n % 2 == 0 for n in range(5)}
    two = labels_by_truth(samples, truth_file(tmp_path, layout), 2, 7, 0.5)
    wanted = [key for key in drawn(masked_keys(samples), 7) if key != "k000005"][:2]
    assert list(two) == wanted
    assert (
        not any(labels_by_truth(samples, truth_file(tmp_path, layout), 9, 0, 0.9999).values())
        or layout != "caption"
    )


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"annotations": 3}', '{"annotations": [], "images": []}']
)
def test_a_file_that_knows_nothing_is_a_sentence(place, tmp_path, content):
    (tmp_path / "truth.json").write_text(content)
    with pytest.raises(MaskgenError, match=r"truth\.json"):
        labels_by_truth(ShardSamples([place]), str(tmp_path / "truth.json"), 10, 0, 0.5)


def test_a_truth_of_another_size_is_no_truth(place, tmp_path):
    tree = json.loads(Path(truth_file(tmp_path, "row_id")).read_text())
    tree["annotations"][0]["segmentation"] = {"size": [2, 2], "counts": rle.encode(np.ones((2, 2), bool))}
    (tmp_path / "other.json").write_text(json.dumps(tree))
    known = Truth(str(tmp_path / "other.json"))
    samples = ShardSamples([place])
    assert known.mask(samples.sample(0)) is None and known.mask(samples.sample(1)) is not None


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("d.csv", "key,right\nk000000,yes\nk000001,no\nk000002,\nother,yes\nk000000,No\n"),
        ("d.jsonl", '{"key": "k000000", "right": false}\n\n{"key": "k000001", "decision": "reject"}\n'),
    ],
)
def test_a_persons_decisions(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    keys = {"k000000", "k000001", "k000002"}
    assert labels_by_decisions(str(tmp_path / name), keys) == {"k000000": False, "k000001": False}
    pq.write_table(pa.table({"key": ["k000000"], "right": [True]}), tmp_path / "d.parquet")
    assert labels_by_decisions(str(tmp_path / "d.parquet"), keys) == {"k000000": True}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("d.csv", "key,right\nk000000,perhaps\n"),
        ("d.csv", "key,right\nsomething,yes\n"),
        ("d.csv", ""),
        ("d.jsonl", "[1]\n"),
        ("d.jsonl", "{"),
        ("d.parquet", "no parquet"),
        ("d.csv", "\xff\xfe"),
    ],
)
def test_decisions_that_cannot_be_read_are_a_sentence(tmp_path, name, content):
    (tmp_path / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(MaskgenError, match=rf"{name}"):
        labels_by_decisions(str(tmp_path / name), {"k000000"})


def test_the_draw_is_a_sample_that_others_can_repeat():
    keys = [f"k{n}" for n in range(100)]
    assert drawn(keys, 0) == drawn(keys[::-1], 0) != drawn(keys, 1)
    assert sorted(drawn(keys, 3)) == sorted(keys)
    assert drawn(keys[:50], 0) == [key for key in drawn(keys, 0) if int(key[1:]) < 50]


# The command.


def run(*arguments: object) -> str:
    ended = CliRunner().invoke(app, ["calibrate", *map(str, arguments)])
    if isinstance(ended.exception, MaskgenError):
        raise ended.exception
    assert ended.exit_code == 0, ended.output
    return ended.stdout


def trusted_set(folder) -> Store:
    """60 masks, of which those with a low log-probability are wrong."""
    random = np.random.default_rng(0)
    records: list[Record] = []
    for number in range(60):
        one = record(number, size=(24, 18))
        assert one.grounding is not None
        signals = Signals(min_log_prob=-float(number % 3) - random.random(), end_prob=0.1)
        records.append(replace(one, grounding=replace(one.grounding, signals=signals)))
    store = make_set(folder, [list(records)])
    with ShardWriter(store, 0, "tiny", CONFIG.grid, FINGERPRINT, signals=True) as writer:
        for one in records:
            writer.add(one)
        writer.commit()
    store.remove("index.parquet")
    finish(store, FINGERPRINT)
    return store


def test_drawn_decided_fitted_and_kept_beside_the_set(tmp_path):
    store = trusted_set(tmp_path / "set")
    folder = tmp_path / "decide"
    assert "--decisions" in run(store.place, "--draw", folder, "--count", 3)
    assert len(list(folder.glob("*.png"))) == 3
    with (folder / "decisions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["key"] for row in rows] == drawn([f"k{n:06d}" for n in range(60)], 0)[:3]
    rows[0]["right"] = "no"
    with (folder / "decisions.csv").open("w") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    run(store.place, "--draw", folder, "--count", 5)
    again = list(csv.DictReader((folder / "decisions.csv").open()))
    assert len(again) == 5 and again[0]["right"] == "no", "what was decided stays"

    lines = [f"k{n:06d},{'no' if n % 3 == 2 else 'yes'}" for n in range(60)]
    (tmp_path / "all.csv").write_text("\n".join(["key,right", *lines]))
    before = {path.name: path.read_bytes() for path in (tmp_path / "set").iterdir() if path.is_file()}
    told = run(store.place, "--decisions", tmp_path / "all.csv")
    assert "60 masks, 66.7 % of them right" in told
    kept = read_calibration(store)
    assert kept is not None and kept.labels == 60 and kept.report["reliability"]
    assert store.exists("calibration.svg")
    assert before == {name: (tmp_path / "set" / name).read_bytes() for name in before}
    samples = ShardSamples([store.place], "quality > 0.5")
    assert samples.kept is not None and 30 <= samples.kept.kept <= 45

    (tmp_path / "none.csv").write_text("key,right\nk000001,yes")
    with pytest.raises(MaskgenError, match="Label more"):
        run(store.place, "--decisions", tmp_path / "none.csv")
    assert read_calibration(store) == kept, "a refused fit leaves the old one"


@pytest.mark.parametrize(
    "options", [[], ["--truth", "a", "--decisions", "b"], ["--truth", "a", "--iou", "1"]]
)
def test_what_is_asked_for_must_be_clear(place, options):
    with pytest.raises(MaskgenError, match=r"give one of --truth|--iou 1"):
        run(place, *options)
    assert not Store(place).exists(NAME)
