"""Small sets of shards for the tests, drawn on the spot."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from maskgen.config import Grid, Limits
from maskgen.geometry import Frame
from maskgen.outcome import Outcome
from maskgen.pixels import decode
from maskgen.runtime.store import Store
from maskgen.sample import Grounding, Picture, Query, Sample, Turn
from maskgen.sharding import index
from maskgen.sharding.writer import Record, ShardWriter

GRID = Grid(fit="pad", size=96, cells=8)
FINGERPRINT = "0123456789abcdef" * 4


def picture(seed: int = 0, kind: str = "JPEG", width: int = 40, height: int = 30) -> Picture:
    """A small photo-like picture."""
    noise = np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, kind)
    return decode(stream.getvalue(), Limits())


def sample(number: int, text: str = "the red cup", id: str = "") -> Sample:
    """The planned sample `number`."""
    turns = Turn("human", f"<image>\n{text}"), Turn("gpt", "Here it is.")
    query = Query(text, ((0, 8, 8 + len(text)),))
    return Sample(f"{number:016x}", id or f"row-{number}", f"photos/{number}.jpg", turns, query)


def grounding(shape: tuple[int, int], outcome: Outcome = Outcome.OK, grid: Grid = GRID) -> Grounding:
    """A rectangle in an image of that (height, width), or nothing."""
    mask = np.zeros(shape, bool)
    polygons = []
    if outcome in (Outcome.OK, Outcome.SAM_DISAGREES):
        mask[5:20, 10:33] = True
        polygons = [
            np.array([[10, 5], [33, 5], [33, 20.126], [10, 20]]),
            np.array([[1, 1], [2, 1], [2, 2.0]]),
        ]
    some = bool(polygons)
    return Grounding(
        outcome=outcome,
        reason="" if outcome is Outcome.OK else "a reason",
        polygons=polygons,
        mask=mask,
        grid=Frame.of(grid).grid(mask),
        box=(10.0, 5.0, 33.0, 20.126) if some else (0.0, 0.0, 0.0, 0.0),
        sam_iou=0.987654321 if some else 0.0,
        agreement=0.75 if some else 0.0,
        coverage=float(mask.mean()),
        query_truncated=False,
        tokens=17,
    )


def record(number: int, outcome: Outcome = Outcome.OK, kind: str = "JPEG", **changes: str) -> Record:
    """What became of the sample `number`."""
    planned = sample(number, **changes)
    if not outcome.in_tar:
        return Record(planned, outcome, "a reason")
    seen = picture(number, kind)
    done = grounding((seen.height, seen.width), outcome)
    return Record(planned, outcome, done.reason, seen, done)


def write_shard(store: Store, shard: int, records: list[Record]) -> None:
    """One committed shard."""
    with ShardWriter(store, shard, "demo", GRID, FINGERPRINT) as writer:
        for one in records:
            writer.add(one)
        writer.commit()


def write_set(store: Store, shards: list[list[Record]]) -> None:
    """A finished set: plan, run, shards, indexes."""
    keys = pa.schema([pa.field("key", pa.string())])
    with store.publish("plan.parquet") as path, pq.ParquetWriter(path, keys) as writer:
        for records in shards:
            writer.write_table(pa.table([[one.sample.key for one in records]], schema=keys))
    store.write_json("run.json", {"fingerprint": FINGERPRINT})
    for shard, records in enumerate(shards):
        write_shard(store, shard, records)
    index.finish(store, FINGERPRINT)


def mixed_set(store: Store, shards: int = 3, kind: str = "JPEG") -> list[list[Record]]:
    """A finished set whose first five samples grounded nothing, and the records in it."""
    outcomes = [
        *[Outcome.NO_GROUNDING] * 5,
        Outcome.OK,
        Outcome.IMAGE_MISSING,
        Outcome.SAM_DISAGREES,
        Outcome.DEGENERATE_POLYGON,
    ]
    made = [
        [record(shard * 100 + number, outcome, kind) for number, outcome in enumerate(outcomes)]
        for shard in range(shards)
    ]
    write_set(store, made)
    return made


def files(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
