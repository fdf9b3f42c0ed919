"""Everything that annotation files and image folders hold in the wild, through one plan and one shard."""

import json
import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw

from maskgen import config
from maskgen.config import Limits
from maskgen.pipeline.worker import Job, ShardWorker, Task
from maskgen.runtime.store import Store
from maskgen.sharding.index import finish
from maskgen.sharding.reader import read_shard
from maskgen.sharding.verify import verify
from maskgen.sources.plan import make_plan

# Left half dark, right half bright, so that a mirrored or turned picture shows.
WIDTH, HEIGHT = 64, 48


def picture(mode: str = "RGB") -> Image.Image:
    image = Image.new("RGB", (WIDTH, HEIGHT), (20, 30, 40))
    ImageDraw.Draw(image).rectangle([WIDTH // 2, 0, WIDTH, HEIGHT], fill=(200, 220, 240))
    return image.convert(mode)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown a quarter turn clockwise
    return saved(picture().rotate(90, expand=True), "JPEG", exif=exif, quality=95)


def bomb() -> bytes:
    """A PNG that says it has 40,000 x 40,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


READABLE = {
    "plain.jpg": saved(picture(), "JPEG", quality=95),
    "cmyk.jpg": saved(picture("CMYK"), "JPEG", quality=95),
    "grey16.png": saved(Image.fromarray(np.asarray(picture("L"), np.uint16) * 257), "PNG"),
    "palette.png": saved(picture("P"), "PNG"),
    "alpha.png": saved(picture("RGBA"), "PNG"),
    "animated.gif": saved(picture(), "GIF", save_all=True, append_images=[picture("L").convert("RGB")]),
    "rotated.jpg": rotated(),
    "really_a_png.jpg": saved(picture(), "PNG"),
    "picture.webp": saved(picture(), "WEBP", quality=95),
    "no_extension": saved(picture(), "JPEG", quality=95),
    "UPPER.JPG": saved(picture(), "JPEG", quality=95),
    "with space é.png": saved(picture(), "PNG"),
}
UNREADABLE = {
    "zero.jpg": (b"", "image_corrupt"),
    "cut.jpg": (READABLE["plain.jpg"][: len(READABLE["plain.jpg"]) // 2], "image_corrupt"),
    "page.jpg": (b"<!DOCTYPE html><html>404</html>", "image_corrupt"),
    "noise.png": (bytes(range(256)) * 8, "image_corrupt"),
    "bomb.png": (bomb(), "image_too_large"),
    "heavy.jpg": (READABLE["plain.jpg"] + b"\0" * 1_100_000, "image_too_large"),
    "drawing.svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "image_unsupported"),
}
REFERENCES = {
    "missing.jpg": "image_missing",
    "../secret.jpg": "path_escape",
    "a/../../secret.jpg": "path_escape",
    "/etc/hostname": "path_escape",
    "..\\secret.jpg": "path_escape",
    "https://example.org/a.jpg": "path_escape",
    "link.jpg": "path_escape",
    "folder": "image_missing",
}
TEXTS = {
    "": "text_empty",
    "  <image>\n ": "text_empty",
    "<loc_12><poly></s>": "text_empty",
    "where? " * 200_000: "text_too_long",
}


def row(identity: object, image: str | None, question: str = "<image>\nWhere is the light?") -> dict:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": "Right."}]
    return {"id": identity, "image": image, "conversations": turns}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict]]:
    """Everything above, grounded; the output folder, and the parquet's rows by id."""
    root = tmp_path_factory.mktemp("wild")
    data, out = root / "data", root / "out"
    (data / "folder").mkdir(parents=True)
    (root / "secret.jpg").write_bytes(READABLE["plain.jpg"])
    (data / "link.jpg").symlink_to(root / "secret.jpg")
    files = {**READABLE, **{name: content for name, (content, _) in UNREADABLE.items()}}
    for name, content in files.items():
        (data / name).write_bytes(content)
    rows = [row(name, name) for name in [*files, *REFERENCES]]
    rows += [row(f"text {number}", "plain.jpg", text) for number, text in enumerate(TEXTS)]
    rows += [row("special", "plain.jpg", "<image>Where is <loc_12> the </s>light <poly> now?")]
    rows += [row("none", None), row("plain.jpg", "plain.jpg")]  # the last is a copy of the first
    lines = [json.dumps(each) for each in rows]
    lines += ["{broken", "[1, 2]", '{"id": 1, "image": "plain.jpg"}', ""]
    (data / "rows.jsonl").write_text("\n".join(lines))
    half = [{"label": "light", "box": [WIDTH // 2, 0, WIDTH, HEIGHT]}]
    (data / "boxes.json").write_text(json.dumps(dict.fromkeys(files, half)))
    tree = {
        "split": "wild",
        "source": {"files": ["rows.jsonl"]},
        "text": {"query": "question"},
        "proposer": {"kind": "recorded", "file": "boxes.json"},
        "refiner": {"kind": "none"},
        "limits": {"image_megabytes": 1},
    }
    job = Job(config.parse(tree, "the test"), str(data), str(out), "f" * 16)
    store = Store(str(out))
    with store.publish("plan.parquet") as path:
        summary = make_plan(job.config, job.data, path)
    assert (summary.broken, summary.duplicates) == (3, 1)
    store.write_json("run.json", {"fingerprint": job.fingerprint})
    ShardWorker(job, "w", "cpu").make(Task(0, {}))
    finish(store, job.fingerprint)
    found = {line["id"]: line for line in pq.read_table(out / "000000.parquet").to_pylist()}
    assert len(found) == len(rows) - 1
    return out, found


@pytest.mark.parametrize("name", READABLE)
def test_a_readable_picture_is_grounded_whatever_its_mode(run, name):
    assert run[1][name]["outcome"] == "ok"
    assert (run[1][name]["width"], run[1][name]["height"]) == (WIDTH, HEIGHT)


@pytest.mark.parametrize("name", READABLE)
def test_pixels_and_mask_lie_on_one_another(run, name):
    """The bright half is the right one, in the pixels and in the mask, EXIF-turned pictures too."""
    sample = next(each for each in read_shard(Store(str(run[0])), 0) if each.fields.id == name)
    pixels = sample.picture(Limits()).pixels.astype(float).mean(axis=2)
    mask = sample.mask_pixels()
    assert mask.shape == pixels.shape
    assert pixels[mask].mean() > pixels[~mask].mean() + 80
    assert (sample.grid[:, 12:] == 255).all() and (sample.grid[:, :12] == 0).all()
    assert sample.image == READABLE[name], "the source's own bytes"


@pytest.mark.parametrize(("name", "outcome"), [(name, what) for name, (_, what) in UNREADABLE.items()])
def test_an_unreadable_picture_has_its_outcome(run, name, outcome):
    assert (run[1][name]["outcome"], run[1][name]["offset"]) == (outcome, -1)
    assert run[1][name]["reason"]


@pytest.mark.parametrize(("name", "outcome"), list(REFERENCES.items()))
def test_a_reference_that_leads_nowhere_or_outside_has_its_outcome(run, name, outcome):
    assert run[1][name]["outcome"] == outcome


@pytest.mark.parametrize(("number", "outcome"), list(enumerate(TEXTS.values())))
def test_a_text_that_cannot_be_grounded_has_its_outcome(run, number, outcome):
    assert run[1][f"text {number}"]["outcome"] == outcome


def test_special_tokens_are_cleaned_out_of_the_query_and_stay_in_the_conversation(run):
    assert run[1]["special"]["outcome"] == "ok"
    assert run[1]["special"]["query"] == "Where is the light now?"
    sample = next(each for each in read_shard(Store(str(run[0])), 0) if each.fields.id == "special")
    assert "<loc_12>" in sample.turns[0].value


def test_a_row_without_an_image_is_an_outcome(run):
    assert run[1]["none"]["outcome"] == "no_image"


def test_the_set_is_sound(run):
    assert verify(Store(str(run[0]))) == []
