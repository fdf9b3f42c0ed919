"""A whole run on images as the hub publishes them: parts, a packed tar, a prefix, links into the cache."""

import io
import json
from collections import Counter
from pathlib import Path

import made_cambrian
import pyarrow.parquet as pq
import pytest
from PIL import Image

from helpers.archive_files import split, write_tar
from helpers.command import finished_set, maskgen

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

IMAGES = [
    *(f"sam/images/sa_{number}.jpg" for number in range(4)),
    *(f"allava/laion/images/{number}.jpeg" for number in range(4)),
    *(f"coco/train2017/{number:012d}.jpg" for number in range(4)),
    "vg/1.jpg",
]


def picture(number: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (80, 60), (number * 9, 200, 30)).save(stream, "JPEG")
    return stream.getvalue()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    snapshot = tmp_path / "datasets--me--mine" / "snapshots" / "abc"
    blobs = snapshot.parents[1] / "blobs"
    (snapshot / "vg").mkdir(parents=True)
    files = {name: picture(number) for number, name in enumerate(IMAGES)}
    write_tar(snapshot / "sam.tar", {name: files[name] for name in IMAGES[:4]})
    split(snapshot / "sam.tar", ["sam.tar_part1", "sam.tar_part2"])
    write_tar(snapshot / "allava.tar", {f"mnt/data/2.5m_v2/{name}": files[name] for name in IMAGES[4:8]})
    write_tar(blobs / "2", {name: files[name] for name in IMAGES[8:12]}, "w:gz")
    (snapshot / "coco.tar.gz").symlink_to("../../blobs/2")
    (blobs / "1").write_bytes(files["vg/1.jpg"])
    (snapshot / "vg" / "1.jpg").symlink_to("../../../blobs/1")
    shapes = {name: [{"label": "t", "polygon": [[5, 5], [70, 5], [70, 50]]}] for name in IMAGES}
    (snapshot / "shapes.json").write_text(json.dumps(shapes))
    with (snapshot / "rows.jsonl").open("w") as file:
        for name in IMAGES:
            talk = [{"from": "human", "value": "<image>\nWhere?"}, {"from": "gpt", "value": "There."}]
            file.write(json.dumps({"id": name, "image": name, "conversations": talk}) + "\n")
    return snapshot


def test_every_image_is_grounded_and_a_packed_tar_is_read_through_once(data, tmp_path):
    out = tmp_path / "out"
    options = [
        *("run", "--split", "pretrain", "--data", str(data), "--out", str(out)),
        *("--set", "source.files=[rows.jsonl]", "--set", "select.count=null", "--set", "resources.actors=1"),
        *("--set", "proposer={kind: recorded, file: shapes.json}", "--set", "refiner={kind: none}"),
    ]
    said = maskgen(*options)
    assert said.returncode == 0, said.stderr
    assert "1 of 1 .tar.gz archives" in said.stderr + said.stdout
    outcomes = pq.read_table(out / "index.parquet")["outcome"].to_pylist()
    assert outcomes == ["ok"] * len(IMAGES)
    made = finished_set(out)
    gone = [*out.glob("000000*"), *out.glob("gzip-*")]
    assert len(gone) > 3
    for path in gone:
        path.unlink()
    said = maskgen(*options)
    assert said.returncode == 0, said.stderr
    assert "1 of 1 .tar.gz archives" in said.stderr + said.stdout
    assert finished_set(out) == made


def test_a_made_up_cambrian_gives_every_sample_that_was_asked_for(tmp_path):
    """Parts, packed archives, prefixes on both sides, rows without images, missing files, broken rows."""
    made_cambrian.write(tmp_path / "data", 1000)
    options = [*made_cambrian.settings(300), "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out")]
    said = maskgen("run", *options)
    assert said.returncode == 0, said.stderr
    outcomes = Counter(pq.read_table(tmp_path / "out" / "index.parquet")["outcome"].to_pylist())
    assert outcomes["ok"] == 300 and outcomes.keys() == {"ok", "no_image", "image_missing"}
    for note in (
        "a prefix that rows lack",
        "a prefix that rows carry",
        "2 rows are broken",
        "took their places",
    ):
        assert note in said.stderr
