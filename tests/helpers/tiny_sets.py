"""Small sets on the spot: drawn pictures, known masks, a run.json and a journal."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from maskgen.config import Config, Limits, parse
from maskgen.geometry import Frame
from maskgen.outcome import Outcome
from maskgen.pixels import decode
from maskgen.runtime.store import Store
from maskgen.sample import Grounding, Picture, Query, Sample, Turn
from maskgen.sharding import format
from maskgen.sharding.format import ShardSample
from maskgen.sharding.index import finish
from maskgen.sharding.writer import Record, ShardWriter

FINGERPRINT = "0123456789abcdef"
CONFIG: Config = parse(
    {
        "split": "tiny",
        "source": {"files": ["rows.jsonl"]},
        "text": {"query": "caption"},
        "proposer": {"kind": "recorded", "file": "polygons.json"},
        "refiner": {"kind": "none"},
        "shards": {"size": 4},
    },
    "test",
)


def picture(width: int = 120, height: int = 90, seed: int = 0) -> Picture:
    """A soft two-colour gradient with an ellipse, as JPEG bytes and pixels."""
    rng = np.random.default_rng(seed)
    low, high = rng.integers(40, 215, (2, 3))
    down, across = np.linspace(0, 1, height)[:, None, None], np.linspace(0, 1, width)[None, :, None]
    canvas = Image.fromarray((low + (high - low) * (down + across) / 2).astype(np.uint8))
    ImageDraw.Draw(canvas).ellipse(
        (width * 0.3, height * 0.25, width * 0.7, height * 0.8), tuple(rng.integers(0, 255, 3).tolist())
    )
    stream = io.BytesIO()
    canvas.save(stream, "JPEG", quality=90)
    return decode(stream.getvalue(), Limits())


def grounded(shown: Picture, outcome: Outcome = Outcome.OK, reason: str = "") -> Grounding:
    """The ellipse of `picture` as polygon and mask; nothing if the outcome has a zero mask."""
    empty = outcome not in (Outcome.OK, Outcome.SAM_DISAGREES)
    width, height = shown.width, shown.height
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    polygon = np.stack(
        [width * (0.5 + 0.2 * np.cos(angle)), height * (0.525 + 0.275 * np.sin(angle))], axis=1
    )
    mask = Image.new("1", (width, height))
    if not empty:
        ImageDraw.Draw(mask).polygon([(x, y) for x, y in polygon.tolist()], fill=1)
    covered = np.array(mask)
    x0, y0, x1, y1 = (*polygon.min(axis=0), *polygon.max(axis=0)) if not empty else (0.0, 0.0, 0.0, 0.0)
    return Grounding(
        outcome=outcome,
        reason=reason,
        polygons=[] if empty else [polygon],
        mask=covered,
        grid=Frame.of(CONFIG.grid).grid(covered),
        box=(float(x0), float(y0), float(x1), float(y1)),
        sam_iou=0.0 if empty else 0.9,
        agreement=0.0 if empty else 0.8,
        coverage=float(covered.mean()),
        query_truncated=False,
        tokens=12,
    )


def record(
    number: int,
    outcome: Outcome = Outcome.OK,
    reason: str = "",
    text: str = "a red ellipse",
    size: tuple[int, int] = (120, 90),
    **facts: str,
) -> Record:
    """One planned sample with its fate; `facts` may give its id and its image."""
    sample = Sample(
        key=f"k{number:06d}",
        id=facts.get("id", str(number)),
        image=facts.get("image", f"images/{number}.jpg"),
        conversations=(Turn("human", "<image>"), Turn("gpt", text)),
        query=Query(text, ((1, 0, len(text)),)),
    )
    if not outcome.in_tar:
        return Record(sample, outcome, reason)
    shown = picture(*size, seed=number)
    return Record(sample, outcome, reason, shown, grounded(shown, outcome, reason))


def make_set(folder: Path, shards: list[list[Record] | None], config: Config = CONFIG) -> Store:
    """A set in `folder`: a list of records a shard, None for a shard that is not made yet."""
    store = Store(str(folder))
    planned = sum(config.shards.size if records is None else len(records) for records in shards)
    plan = {
        "read": planned + 5,
        "planned": planned,
        "groundable": planned,
        "duplicates": 2,
        "broken": 1,
        "shards": len(shards),
        "notes": [],
    }
    run = {
        "maskgen": "0.1.0",
        "fingerprint": FINGERPRINT,
        "identity": {},
        "config": config.model_dump(mode="json"),
        "packages": {"numpy": "2"},
        "plan": plan,
        "models": {},
    }
    store.write_json("run.json", run)
    for number, records in enumerate(shards):
        if records is not None:
            with ShardWriter(store, number, config.split, config.grid, FINGERPRINT) as writer:
                for one in records:
                    writer.add(one)
                writer.commit()
    if None not in shards:
        finish(store, FINGERPRINT)
    return store


def note(store: Store, time: float, event: str, **facts: object) -> None:
    """Append an event of a given time to the set's journal."""
    journal = Store(f"{store.url}/.maskgen")
    name = "events-1.jsonl"
    before = journal.read_bytes(name) if journal.exists(name) else b""
    line = json.dumps({"time": time, "event": event, **facts})
    journal.write_bytes(name, before + line.encode() + b"\n")


def sample_of(one: Record, config: Config = CONFIG) -> ShardSample:
    """The record as the shards hold it."""
    assert one.picture is not None and one.grounding is not None
    grid = Frame.of(config.grid).grid(one.grounding.mask)
    grounding = replace(one.grounding, grid=grid)
    return format.decode(dict(format.encode(one.sample, one.picture, grounding, config.split, config.grid)))
