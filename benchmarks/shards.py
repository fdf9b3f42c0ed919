"""Shards written, read and fed to the trainer, against plain webdataset on the same samples.

    python benchmarks/shards.py --samples 192

In one run, in turn: `ShardWriter` against `TarWriter`; the strict reader against `WebDataset(...).decode()`;
the trainer's feed against a WebDataset pipeline that decodes, places, masks, tokenises and collates the same
way, both in this process. Prints samples a second, the fastest of `--rounds` rounds after one that
warms up, and ratios above 1
where maskgen is faster, by the clock and of processor time. maskgen's writer also checks every sample by the
strict decoder, hashes the tar and writes its index; that is in its time.
"""

import argparse
import io
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import webdataset
from PIL import Image
from pycocotools import mask as coco
from transformers import AutoTokenizer

from maskgen import pixels, small_models
from maskgen.age_vlm.chat import ChatTemplate
from maskgen.config import Grid, Limits
from maskgen.geometry import Frame, binarise
from maskgen.outcome import Outcome
from maskgen.runtime.store import Store
from maskgen.sample import Grounding, Query, Sample, Turn
from maskgen.scenes.drawing import draw_scene
from maskgen.scenes.scene_dataset import scene_query, target_mask
from maskgen.sharding import index
from maskgen.sharding.reader import read_shard
from maskgen.sharding.writer import Record, ShardWriter
from maskgen.training.collate import TrainBatch, collate
from maskgen.training.data_loader import MicroBatchDataset, StepLoader
from maskgen.training.dataset import Example, ShardDataset
from maskgen.training.sampler import Schedule

FIRST, SIDE, FINGERPRINT = 2_000_000, 640, "0" * 64
GRID = Grid()
FRAME = Frame.of(GRID)


def record(seed: int) -> Record:
    """A scene at a photograph's size, with its true mask."""
    scene = draw_scene(seed)
    asked = scene_query(scene)
    height, width = scene.pixels.shape[:2]
    size = SIDE, round(SIDE * height / width)
    image = cv2.resize(scene.pixels, size, interpolation=cv2.INTER_CUBIC)
    mask = cv2.resize(target_mask(scene, asked).astype(np.uint8), size) > 0
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=90)
    outlines = [points * SIDE / width for t in asked.targets for points in scene.visible_outlines(t)]
    text = asked.text
    turns = Turn("human", f"<image>\n{text}"), Turn("gpt", asked.answer)
    sample = Sample(f"{seed:016x}", str(seed), f"{seed}.jpg", turns, Query(text, ((0, 8, 8 + len(text)),)))
    outcome = Outcome.OK if mask.any() else Outcome.NO_GROUNDING
    grounding = Grounding(
        outcome=outcome,
        reason="" if mask.any() else "nothing",
        polygons=outlines,
        mask=mask,
        grid=FRAME.grid(mask),
        box=(1.0, 2.0, 3.0, 4.0),
        sam_iou=0.9,
        agreement=0.9,
        coverage=float(mask.mean()),
        query_truncated=False,
        tokens=50,
    )
    return Record(sample, outcome, grounding.reason, pixels.decode(stream.getvalue(), Limits()), grounding)


def plain(one: Record) -> dict[str, Any]:
    """The same members as a script would hand them to TarWriter."""
    picture, found = one.picture, one.grounding
    assert picture and found
    packed = coco.encode(np.asfortranarray(found.mask, dtype=np.uint8))
    fields = {
        "id": one.sample.id,
        "image": one.sample.image,
        "conversations": [{"from": turn.speaker, "value": turn.value} for turn in one.sample.conversations],
        "query": {"text": one.sample.query.text, "spans": one.sample.query.spans},
        "outcome": str(found.outcome),
        "width": picture.width,
        "height": picture.height,
        "polygons": [np.round(points.ravel(), 2).tolist() for points in found.polygons],
        "rle": {"size": list(packed["size"]), "counts": packed["counts"].decode()},
        "box": found.box,
        "scores": [found.sam_iou, found.agreement, found.coverage, found.tokens],
    }
    texts = {"txt": one.sample.query.text, "json": fields}
    return {"__key__": one.sample.key, picture.extension: picture.data, **texts, "mask.npy": found.grid}


class Maskgen:
    """maskgen's own way."""

    def __init__(self, folder: Path, template: ChatTemplate, batch: int):
        self._store = Store(str(folder))
        self._folder, self._template, self._batch = str(folder), template, batch

    def write(self, records: list[Record]) -> int:
        """One shard and the set's index."""
        with ShardWriter(self._store, 0, "demo", GRID, FINGERPRINT) as writer:
            for one in records:
                writer.add(one)
            writer.commit()
        index.finish(self._store, FINGERPRINT)
        return len(records)

    def read(self) -> int:
        """Every sample, strictly decoded; the sum of the grids."""
        return sum(int(sample.grid.sum()) for sample in read_shard(self._store, 0))

    def loader(self) -> int:
        """Every micro-batch; the sum of the masks."""
        samples = ShardDataset([self._folder], self._template, FRAME)
        count = len(samples)
        epoch = Schedule(count, samples.has_mask, samples.shards, self._batch, 1, 1, 0, 1, "stratified")
        batches = MicroBatchDataset(samples, [epoch], 0, 0, 1)
        return total(step[0].batch for step in StepLoader(batches, 1, 0, 0, torch.device("cpu")))


class Webdataset:
    """The package's way."""

    def __init__(self, file: Path, template: ChatTemplate, batch: int):
        self._file, self._template, self._batch = str(file), template, batch

    def write(self, records: list[Record]) -> int:
        """One tar."""
        with webdataset.TarWriter(self._file) as sink:
            for one in records:
                sink.write(plain(one))
        return len(records)

    def _decoded(self) -> Any:
        return webdataset.WebDataset(self._file, shardshuffle=False).decode()

    def read(self) -> int:
        """Every sample, its members decoded by extension; the sum of the grids."""
        return sum(int(sample["mask.npy"].sum()) for sample in self._decoded())

    def loader(self) -> int:
        """Every batch; the sum of the masks."""

        def collated(examples: list[Example]) -> TrainBatch:
            return collate(examples, 0)

        return total(self._decoded().map(self._example).batched(self._batch, collation_fn=collated))

    def _example(self, sample: dict[str, Any]) -> Example:
        fields = sample["json"]
        image = np.array(Image.open(io.BytesIO(sample["jpg"])).convert("RGB"))
        turns = tuple(Turn(turn["from"], turn["value"]) for turn in fields["conversations"])
        spans = tuple(tuple(span) for span in fields["query"]["spans"])
        encoded = self._template.encode(turns, spans)
        mask = None
        if fields["outcome"] == Outcome.OK:
            packed = {"size": fields["rle"]["size"], "counts": fields["rle"]["counts"].encode()}
            mask = binarise(FRAME.grid(coco.decode(packed).astype(bool))).ravel()
        texts = encoded.input_ids, encoded.labels, encoded.query_mask
        return Example(sample["__key__"], FRAME.image(image), None, *texts, mask, encoded.cut)


def total(batches: Iterator[TrainBatch]) -> int:
    """Masked cells of all batches."""
    return sum(int(batch.masks.sum()) for batch in batches)


def timed(work: Callable[[], int]) -> tuple[int, float, float]:
    """What it gave, and seconds by the clock and of processor time."""
    began, idle = time.perf_counter(), time.process_time()
    given = work()
    return given, time.perf_counter() - began, time.process_time() - idle


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=192)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    warnings.filterwarnings("ignore", module="webdataset")
    torch.set_num_threads(1)
    template = ChatTemplate(AutoTokenizer.from_pretrained(small_models.checkpoint("llama")), 512)
    records = [record(seed) for seed in range(FIRST, FIRST + options.samples)]
    with tempfile.TemporaryDirectory() as folder:
        ways = {
            "maskgen": Maskgen(Path(folder, "maskgen"), template, options.batch),
            "webdataset": Webdataset(Path(folder, "plain.tar"), template, options.batch),
        }
        print(f"{options.samples} samples of {SIDE} pixels, JPEG; fastest of {options.rounds} rounds")
        for step in ("write", "read", "feed"):
            compare(step, ways, records, options.rounds)


def compare(step: str, ways: dict[str, Any], records: list[Record], rounds: int) -> None:
    """One step by both ways in turn."""
    best = {name: (float("inf"), float("inf")) for name in ways}
    given = {}
    for number in range(1 + rounds):
        for name, way in ways.items():
            work = getattr(way, step)
            arguments = (records,) if step == "write" else ()
            given[name], took, used = timed(lambda work=work, arguments=arguments: work(*arguments))
            if number:  # the first round warms up: imports, caches
                best[name] = min(best[name][0], took), min(best[name][1], used)
    assert len(set(given.values())) == 1, given
    (own, own_used), (other, other_used) = best.values()
    rates = ", ".join(f"{name} {len(records) / took:8,.1f}/s" for name, (took, _) in best.items())
    print(f"{step:6} {rates}; ratio {other / own:.2f}, of processor time {other_used / own_used:.2f}")


if __name__ == "__main__":
    main()
