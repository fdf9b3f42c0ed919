"""A set goes out in other tools' formats, opens there, and comes back with the same masks to the pixel."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from pycocotools.coco import COCO
from typer.testing import CliRunner

from helpers.tiny_sets import make_set, record
from maskgen import config
from maskgen.cli import app
from maskgen.config import Limits, Recorded
from maskgen.errors import MaskgenError
from maskgen.exporting.export import FORMATS, export_set
from maskgen.geometry import Frame
from maskgen.grounding.grounder import Grounder
from maskgen.grounding.recorded import RecordedProposer
from maskgen.outcome import Outcome
from maskgen.pixels import decode
from maskgen.sample import Picture, Sample
from maskgen.sharding.writer import Record
from maskgen.training.dataset import ShardSamples

GRID = config.Grid()


def masked(number: int, mask: np.ndarray, **facts: Any) -> Record:
    """A record with this mask in place of its ellipse."""
    height, width = mask.shape
    one = record(number, size=(width, height), text=f"thing {number}")
    assert one.grounding is not None
    grounding = replace(one.grounding, mask=mask, grid=Frame.of(GRID).grid(mask), coverage=float(mask.mean()))
    return replace(one, grounding=grounding, sample=replace(one.sample, **facts))


def hard_masks() -> list[np.ndarray]:
    """Holes, islands in holes, single pixels, corners that touch, a whole picture, lines at the border."""
    ring = np.zeros((30, 40), bool)
    ring[3:27, 4:36] = True
    ring[8:22, 10:30] = False
    ring[13:16, 18:22] = True
    board = np.indices((9, 11)).sum(axis=0) % 2 == 0
    dot = np.zeros((20, 31), bool)
    dot[7, 13] = True
    edges = np.zeros((17, 23), bool)
    edges[0] = edges[-1] = edges[:, 0] = True
    noise = np.random.default_rng(0).random((25, 37)) < 0.5
    return [ring, board, dot, edges, noise, np.ones((13, 7), bool)]


RECORDS = [masked(n, mask, meta=json.dumps({"source": "s"})) for n, mask in enumerate(hard_masks())]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("set") / "set"
    outside = [
        record(20, Outcome.NO_GROUNDING),
        record(21, Outcome.IMAGE_MISSING),
        record(22, Outcome.TEXT_ONLY),
    ]
    make_set(folder, [list(RECORDS[:4]), [*RECORDS[4:], *outside]])
    return str(folder)


def exported(place: str, kind: str, to: Path, where: str = "") -> int:
    made, _, spoilt = export_set(place, kind, to, where, lambda _: None)
    assert not spoilt
    return made


def brought_back(folder: Path) -> dict[str, np.ndarray]:
    """The masks that the exported pipeline makes of the folder, by row id."""
    chosen = config.load(file=str(folder / "pipeline.yaml"))
    grounder = Grounder(chosen, str(folder), "cpu")
    rows = [json.loads(line) for line in (folder / chosen.source.files[0]).read_text().splitlines()]
    pictures = [decode((folder / row["image"]).read_bytes(), Limits()) for row in rows]
    query = RECORDS[0].sample.query
    samples = [Sample(str(number), row["id"], row["image"], (), query) for number, row in enumerate(rows)]
    found = grounder.ground(pictures, samples)
    return {row["id"]: one.mask for row, one in zip(rows, found, strict=True)}


@pytest.mark.parametrize("kind", FORMATS)
def test_masks_come_back_to_the_pixel(place, tmp_path, kind):
    assert exported(place, kind, tmp_path / kind) == len(RECORDS)
    back = brought_back(tmp_path / kind)
    assert len(back) == len(RECORDS)
    for one in RECORDS:
        assert one.grounding is not None
        assert np.array_equal(back[one.sample.id], one.grounding.mask), one.sample.id


@pytest.mark.parametrize("kind", FORMATS)
@settings(max_examples=10)
@given(hnp.arrays(bool, st.tuples(st.integers(1, 24), st.integers(1, 24))).filter(lambda mask: mask.any()))
def test_any_mask_comes_back(kind, tmp_path_factory, mask):
    folder = tmp_path_factory.mktemp("any")
    make_set(folder / "set", [[masked(0, mask)]])
    exported(str(folder / "set"), kind, folder / "out")
    assert np.array_equal(brought_back(folder / "out")["0"], mask)


@pytest.mark.parametrize("kind", ["coco", "fiftyone"])
def test_pycocotools_opens_it(place, tmp_path, kind):
    exported(place, kind, tmp_path / "out")
    opened = COCO(str(tmp_path / "out" / FORMATS[kind].recorded))
    assert sorted(opened.getImgIds()) == list(range(1, len(RECORDS) + 1))
    for one, (annotation,) in zip(RECORDS, map(opened.imgToAnns.get, sorted(opened.imgs)), strict=True):
        assert one.grounding is not None
        mask = one.grounding.mask
        assert np.array_equal(opened.annToMask(annotation).astype(bool), mask)
        rows, columns = np.nonzero(mask)
        x, y, width, height = annotation["bbox"]
        assert (x, y, x + width, y + height) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert annotation["area"] == mask.sum() and annotation["query"] == one.sample.query.text
        image = opened.imgs[annotation["image_id"]]
        path = tmp_path / "out" / FORMATS[kind].images / image["file_name"]
        assert Image.open(path).size == (image["width"], image["height"]) == mask.shape[::-1]


def test_ultralytics_opens_its_labels(place, tmp_path):
    utils = pytest.importorskip("ultralytics.data.utils")
    exported(place, "yolo", tmp_path / "out")
    names = yaml.safe_load((tmp_path / "out" / "data.yaml").read_text())["names"]
    for label in (tmp_path / "out" / "labels").iterdir():
        image = next((tmp_path / "out" / "images").glob(f"{label.stem}.*"))
        one = next(one for one in RECORDS if one.sample.key == label.stem)
        if min(one.grounding.mask.shape) < 10:  # type: ignore[union-attr]
            continue  # it takes no images below 10 pixels
        checked = utils.verify_image_label((str(image), str(label), "", False, len(names), 0, 0, False))
        assert checked[0] and checked[8] == 0 and "corrupt" not in str(checked[-1]), checked[-1]


def test_rows_and_queries_stand_as_they_were(place, tmp_path):
    exported(place, "coco", tmp_path / "out")
    rows = [json.loads(line) for line in (tmp_path / "out" / "rows.jsonl").read_text().splitlines()]
    for row, one in zip(rows, RECORDS, strict=True):
        assert row["id"] == one.sample.id and row["source"] == "s"
        assert [(turn["from"], turn["value"]) for turn in row["conversations"]] == [
            (turn.speaker, turn.value) for turn in one.sample.conversations
        ]
    read = ShardSamples([place])
    sample = read.sample(0)
    assert (tmp_path / "out" / rows[0]["image"]).read_bytes() == sample.image
    assert config.load(file=str(tmp_path / "out" / "pipeline.yaml")).text.query == "caption"


def test_an_image_that_exif_turns_is_written_upright(tmp_path):
    """Some tools turn it and some do not: all see the same pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 32, 3), dtype=np.uint8)
    stream, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(stream, "JPEG", exif=exif)
    turned = decode(stream.getvalue(), Limits())
    assert turned.pixels.shape == (32, 20, 3)
    mask = np.zeros((32, 20), bool)
    mask[3:9, 2:5] = True
    one = masked(0, mask)
    make_set(tmp_path / "set", [[replace(one, picture=turned)]])
    exported(str(tmp_path / "set"), "coco", tmp_path / "out")
    (image,) = (tmp_path / "out" / "images").iterdir()
    assert image.suffix == ".png" and np.array_equal(np.asarray(Image.open(image)), turned.pixels)
    assert np.array_equal(brought_back(tmp_path / "out")["0"], mask)


def run(*arguments: object) -> str:
    ended = CliRunner().invoke(app, ["export", *map(str, arguments)])
    if isinstance(ended.exception, MaskgenError):
        raise ended.exception
    assert ended.exit_code == 0, ended.output
    return ended.stdout


def test_the_command(place, tmp_path):
    told = run(place, "--to", "yolo", "--out", tmp_path / "out", "--where", "coverage = 1")
    assert f"1 masks in {tmp_path / 'out'}" in " ".join(told.split()) and "pipeline.yaml" in told
    with pytest.raises(MaskgenError, match="is there already"):
        run(place, "--to", "coco", "--out", tmp_path / "out")
    with pytest.raises(MaskgenError, match=r"--to cocoo: .*coco"):
        run(place, "--to", "cocoo", "--out", tmp_path / "other")
    assert not (tmp_path / "other").exists()
    with pytest.raises(MaskgenError, match="no finished set"):
        run(tmp_path, "--to", "coco", "--out", tmp_path / "other")


# What the tools save.


def shapes(folder: Path, name: str, image: str = "a/cat.jpg", size: tuple[int, int] = (200, 100)) -> Any:
    width, height = size
    picture = Picture(b"", "png", np.zeros((height, width, 3), np.uint8))
    sample = Sample("k", "1", image, (), RECORDS[0].sample.query)
    return RecordedProposer(Recorded(file=name), str(folder)).propose([picture], [sample])[0]


def task(image: str, **parts: Any) -> dict[str, Any]:
    return {"id": 1, "data": {"image": image}, **parts}


def region(kind: str, **value: Any) -> dict[str, Any]:
    return {"type": kind, "original_width": 200, "original_height": 100, "value": value}


TRIANGLE = region("polygonlabels", points=[[10, 10], [50, 10], [50, 50]], polygonlabels=["cat"])


@pytest.mark.parametrize(
    "image",
    [
        "/data/local-files/?d=a/cat.jpg",
        "/data/upload/3/0a1b2c3d-cat.jpg",
        "s3://bucket/a/cat.jpg",
        "https://x/a/cat.jpg?t=1",
    ],
)
def test_label_studios_images_are_found(tmp_path, image):
    (tmp_path / "tasks.json").write_text(json.dumps([task(image, annotations=[{"result": [TRIANGLE]}])]))
    (polygon,) = shapes(tmp_path, "tasks.json").polygons
    assert polygon.tolist() == [[20, 10], [100, 10], [100, 50]]


def test_a_persons_annotation_counts_before_the_prediction(tmp_path):
    box = region("rectanglelabels", x=50, y=0, width=25, height=100, rotation=0, rectanglelabels=["cat"])
    parts = {
        "predictions": [{"result": [TRIANGLE]}],
        "annotations": [
            {"result": [TRIANGLE, TRIANGLE]},
            {"result": [box]},
            {"result": [], "was_cancelled": True},
        ],
    }
    (tmp_path / "tasks.json").write_text(json.dumps([task("cat.jpg", **parts)]))
    found = shapes(tmp_path, "tasks.json")
    assert not found.polygons and found.boxes.tolist() == [[100, 0, 150, 100]]
    (tmp_path / "tasks.json").write_text(
        json.dumps([task("cat.jpg", annotations=[{"result": []}], predictions=[])])
    )
    assert not shapes(tmp_path, "tasks.json").polygons, "a person found nothing"


@pytest.mark.parametrize(
    ("tasks", "why"),
    [
        ([task("", annotations=[])], "task 1: its data names no image"),
        ([{"data": 3}], "task 1: its data names no image"),
        (
            [task("cat.jpg", annotations=[{"result": [region("brushlabels", rle=[1])]}])],
            "Save it as polygons",
        ),
        ([task("cat.jpg", annotations=[{"result": [region("polygon", points=[["x", 1]])]}])], "no numbers"),
        (
            [task("cat.jpg", annotations=[{"result": [region("polygon", points=[[1, float("nan")]])]}])],
            "no numbers",
        ),
        ([task("cat.jpg", annotations=[{"result": [region("rectangle", x=1, y=1, width=1)]}])], "no numbers"),
        (
            [
                task(
                    "cat.jpg",
                    annotations=[{"result": [region("rectangle", x=1, y=1, width=1, height=1, rotation=9)]}],
                )
            ],
            "turned",
        ),
        ([1, 2], "no tasks of Label Studio"),
    ],
)
def test_what_label_studio_cannot_mean_is_a_sentence(tmp_path, tasks, why):
    (tmp_path / "tasks.json").write_text(json.dumps(tasks))
    with pytest.raises(MaskgenError, match=rf"tasks\.json: .*{why}.*Mend the file"):
        shapes(tmp_path, "tasks.json")


def test_yolos_labels(tmp_path):
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "cat.txt").write_text("7 0.1 0.1 0.5 0.1 0.5 0.5\n\n0 0.5 0.5 0.5 1\n")
    (tmp_path / "labels" / "dog.txt").write_text("")
    (tmp_path / "labels" / "notes.md").write_text("no labels")
    found = shapes(tmp_path, "labels")
    assert found.polygons[0].tolist() == [[20, 10], [100, 10], [100, 50]]
    assert found.boxes.tolist() == [[50, 0, 150, 100]]
    assert not shapes(tmp_path, "labels", "dog.png").polygons
    named = RecordedProposer(Recorded(file="labels"), str(tmp_path))
    with pytest.raises(MaskgenError, match="none of the 1 images"):
        named.compare(["bird.jpg"])
    assert named.compare(["x/cat.jpeg", "dog.jpg"]) == []


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("0 1 2 3", "has 3 numbers"),
        ("0 a b c d e f", "no class with numbers"),
        ("0 1 1 1 1 1 nan", "no pairs"),
        ("0 1 1 1 1 1 1 1", "no pairs"),
    ],
)
def test_broken_labels_are_a_sentence(tmp_path, line, why):
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "cat.txt").write_text(f"0 0.1 0.1 0.5 0.1 0.5 0.5\n{line}\n")
    with pytest.raises(MaskgenError, match=rf"labels: cat\.txt, line 2: .*{why}"):
        shapes(tmp_path, "labels")


def test_another_label_is_another_set(tmp_path):
    """The fingerprint covers every file of a folder of labels."""
    from maskgen.grounding.weights import identify

    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "cat.txt").write_text("0 0.5 0.5 0.5 1")
    chosen = config.parse(
        {
            "split": "x",
            "source": {"files": ["rows.jsonl"]},
            "text": {"query": "caption"},
            "proposer": {"kind": "recorded", "file": "labels"},
            "refiner": {"kind": "none"},
        },
        "test",
    )
    before = identify(chosen, str(tmp_path))
    assert before == identify(chosen, str(tmp_path))
    (tmp_path / "labels" / "cat.txt").write_text("0 0.5 0.5 0.4 1")
    assert identify(chosen, str(tmp_path)) != before
