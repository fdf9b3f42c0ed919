"""The budget for decoded pictures: waited for, never overdrawn, without a trace in the bytes of a shard."""

import json
import threading
import weakref
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from maskgen import config
from maskgen.config import Limits
from maskgen.errors import SampleError
from maskgen.outcome import Outcome
from maskgen.pipeline import worker as workers
from maskgen.pipeline.picture_memory import FoundImage, PictureMemory, parts
from maskgen.pipeline.worker import Job, ShardWorker, Task
from maskgen.pixels import decode, header_size
from maskgen.runtime.store import Store
from maskgen.sample import Picture, Query, Sample
from maskgen.sources.plan import make_plan

CHUNK, WIDTH, HEIGHT = 2, 640, 400  # two of them cost 2 MB


def image(key: str, cost: int) -> FoundImage:
    return FoundImage(Sample(key, "", "", (), Query("object", ())), b"", cost)


@given(st.lists(st.integers(0, 200), max_size=40))
def test_parts_keep_the_order_and_the_limit(costs):
    images = [image(str(number), cost) for number, cost in enumerate(costs)]
    pieces = list(parts(images, 100))
    assert [one for piece in pieces for one in piece] == images
    assert all(len(piece) == 1 or sum(one.cost for one in piece) <= 100 for piece in pieces)
    for before, after in pairwise(pieces):
        assert sum(one.cost for one in before) + after[0].cost > 100


def test_images_wait_until_there_is_room():
    memory = PictureMemory(100)
    memory.take([image("a", 60), image("b", 0)])
    through = threading.Event()

    def take_more() -> None:
        memory.take([image("c", 30), image("d", 30)])
        through.set()

    waiting = threading.Thread(target=take_more)
    waiting.start()
    assert not through.wait(0.2)
    memory.give("b")
    memory.give("a")
    waiting.join(30)
    assert through.is_set()


def test_what_costs_more_than_the_budget_goes_alone():
    memory = PictureMemory(10)
    memory.take([image("a", 500)])
    memory.give("a")
    memory.take([image("b", 900)])


def test_closing_lets_whoever_waits_go_on():
    memory = PictureMemory(1)
    memory.take([image("a", 1)])
    waiting = threading.Thread(target=memory.take, args=([image("b", 1)],))
    waiting.start()
    memory.close()
    waiting.join(30)
    assert not waiting.is_alive()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_the_header_says_how_large_the_pixels_are(kind):
    stream = BytesIO()
    Image.new("RGB", (31, 17)).save(stream, kind)
    data = stream.getvalue()
    assert header_size(data, Limits()) == (31, 17)
    assert FoundImage.of(image("a", 0).sample, data, Limits()).cost == len(data) + 4 * 31 * 17
    assert decode(data, Limits()).pixels.nbytes == 3 * 31 * 17


def test_a_png_read_without_its_texts_has_its_size_too():
    """Pillow gives up such a file for its texts, and decode() reads it all the same."""
    texts = PngImagePlugin.PngInfo()
    texts.add_text("note", "x" * (PngImagePlugin.MAX_TEXT_CHUNK + 1), zip=True)
    stream = BytesIO()
    Image.new("RGB", (31, 17)).save(stream, "PNG", pnginfo=texts)
    assert decode(stream.getvalue(), Limits()).width == 31
    assert header_size(stream.getvalue(), Limits()) == (31, 17)


def test_what_cannot_be_decoded_costs_its_file_alone():
    sample = image("a", 0).sample
    assert FoundImage.of(sample, b"no picture", Limits()).cost == 10
    assert FoundImage.of(sample, SampleError(Outcome.IMAGE_MISSING, ""), Limits()).cost == 0
    stream = BytesIO()
    Image.new("1", (2000, 1000)).save(stream, "PNG")
    data = stream.getvalue()
    assert FoundImage.of(sample, data, Limits(image_megapixels=1)).cost == len(data)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Twelve pictures with a shape each, one of them cut off after its header."""
    root = tmp_path / "data"
    root.mkdir()
    rows = []
    for number in range(12):
        Image.new("RGB", (WIDTH, HEIGHT), (9 * number, 90, 120)).save(root / f"{number}.png")
        turns = [{"from": "human", "value": f"<image>\nWhere is number {number}?"}]
        rows.append({"id": number, "image": f"{number}.png", "conversations": turns})
    (root / "5.png").write_bytes((root / "5.png").read_bytes()[:100])
    (root / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    box = [{"label": "thing", "box": [5, 5, 250, 200]}]
    (root / "boxes.json").write_text(json.dumps({f"{number}.png": box for number in range(12)}))
    return root


def made(data: Path, out: Path, megabytes: int, task: Task) -> bytes:
    """The shard's tar, made under a budget."""
    tree = {
        "split": "test",
        "source": {"files": ["rows.jsonl"]},
        "text": {"query": "question"},
        "proposer": {"kind": "recorded", "file": "boxes.json"},
        "refiner": {"kind": "none"},
        "resources": {"picture_megabytes": megabytes},
    }
    job = Job(config.parse(tree, "the test"), str(data), str(out), "f" * 16)
    with Store(job.out).publish("plan.parquet") as path:
        make_plan(job.config, job.data, path)
    ShardWorker(job, "w", "cpu").make(task)
    return (out / "000000.tar").read_bytes()


@pytest.mark.parametrize("alone", [False, True])
def test_the_budget_bounds_what_is_held_and_leaves_no_trace(data, tmp_path, monkeypatch, alone):
    monkeypatch.setattr(workers, "DEFAULT_CHUNK", CHUNK)
    decoded: list[weakref.ref[Picture]] = []
    most = 0

    def watched(*arguments):
        nonlocal most
        picture = decode(*arguments)
        decoded.append(weakref.ref(picture))
        most = max(most, sum(one() is not None for one in decoded))
        return picture

    monkeypatch.setattr(workers, "decode", watched)
    task = Task(0, {}, alone=alone)
    tight = made(data, tmp_path / "tight", 1, task)
    bound, most = most, 0
    assert bound <= CHUNK  # one chunk costs more than the budget, so there is never another
    wide = made(data, tmp_path / "wide", 1000, task)
    assert tight == wide


def test_large_pictures_are_proposed_in_smaller_parts(data, tmp_path, monkeypatch):
    asked = []
    propose = workers.Grounder.propose

    def watched(self, works):
        asked.append(len(works))
        propose(self, works)

    monkeypatch.setattr(workers.Grounder, "propose", watched)
    whole = made(data, tmp_path / "whole", 1000, Task(0, {}))
    assert asked == [12]
    asked.clear()
    monkeypatch.setattr(workers, "PART_BYTES", 4 * WIDTH * HEIGHT * 5)
    assert made(data, tmp_path / "parts", 1000, Task(0, {})) == whole
    assert len(asked) > 2 and sum(asked) == 12
