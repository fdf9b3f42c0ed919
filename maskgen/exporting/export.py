"""`maskgen export`: the masks of a finished set in another tool's format, and the way back."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from maskgen.config import Limits
from maskgen.errors import MaskgenError, SampleError
from maskgen.exporting.coco_format import CocoFormat, FiftyOneFormat
from maskgen.exporting.exported_mask import ExportedMask, ExportFormat
from maskgen.exporting.label_studio_format import LabelStudioFormat
from maskgen.exporting.yolo_format import YoloFormat
from maskgen.pipeline import run_record
from maskgen.runtime.store import Store
from maskgen.sharding.format import ShardSample
from maskgen.training.dataset import ShardSamples
from maskgen.training.mask_filter import KeptMasks

FORMATS: dict[str, type[ExportFormat]] = {
    "coco": CocoFormat,
    "yolo": YoloFormat,
    "labelstudio": LabelStudioFormat,
    "fiftyone": FiftyOneFormat,
}


def export_set(
    place: str, kind: str, to: Path, where: str, progress: Callable[[int], None]
) -> tuple[int, KeptMasks | None, list[str]]:
    """Write the masks of the set at `place` as `kind` into the folder `to`; samples without one are left
    out.

    `where`: see `MaskFilter`. Returns how many there are, what the condition left, and the images that
    could not be turned upright. Beside the format's own files and the images stand rows.jsonl and
    pipeline.yaml, by which `maskgen run --config pipeline.yaml --data TO` makes a set of what the tool
    saved. MaskgenError if `to` is not empty.
    """
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise MaskgenError(f"{to} is there already. Give an empty folder, or one that is not there yet.")
    samples = ShardSamples([place], where)
    limits = Limits()
    made, spoilt = 0, []
    to.mkdir(parents=True, exist_ok=True)
    written = FORMATS[kind](to)
    (to / written.images).mkdir()
    with (to / "rows.jsonl").open("w") as rows:
        for number in np.flatnonzero(samples.has_mask):
            sample = samples.sample(int(number))
            try:
                exported = ExportedMask.of(sample, limits)
            except SampleError as error:
                spoilt.append(f"{sample.key}: {error.reason}")
                continue
            (to / written.images / exported.name).write_bytes(exported.image)
            written.add(exported)
            rows.write(json.dumps(_row(sample, f"{written.images}/{exported.name}")) + "\n")
            made += 1
            progress(made)
    (to / "pipeline.yaml").write_text(_pipeline(place, written.recorded))
    written.close()
    return made, samples.kept, spoilt


def _row(sample: ShardSample, image: str) -> dict[str, Any]:
    """The row of an annotation file, as it was, but for its image."""
    turns = [{"from": turn.speaker, "value": turn.value} for turn in sample.turns]
    return {**json.loads(sample.fields.meta), "id": sample.fields.id, "image": image, "conversations": turns}


def _pipeline(place: str, recorded: str) -> str:
    """How to read it back: the masks from the file, the query and the grid as the set was made."""
    record = run_record.read(Store(place)) or {}
    before = record.get("config", {})
    tree = {
        "split": "imported",
        "source": {"files": ["rows.jsonl"]},
        "text": before.get("text", {"query": "caption"}),
        "proposer": {"kind": "recorded", "file": recorded, "match": "image"},
        "refiner": {"kind": "none"},
        **({"grid": before["grid"]} if "grid" in before else {}),
    }
    return yaml.safe_dump(tree, sort_keys=False)
