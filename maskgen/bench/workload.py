"""What all ways are given: drawn scenes as files, their queries, the pipeline that grounds them, its plan."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2

from maskgen import config
from maskgen.bench.answer_lengths import Lengths
from maskgen.config import Config
from maskgen.runtime.store import Store
from maskgen.sample import Sample
from maskgen.scenes.scene_dataset import ROWS, write_scenes
from maskgen.sources.plan import make_plan
from maskgen.sources.plan_file import read_shard

FIRST = 2_000_000  # scenes that no shipped model was trained on
LARGE_SIDE = 640  # pixels of the long side, as photographs have


@dataclass(frozen=True)
class Workload:
    """`data`: the folder of rows and images; `samples`: its plan, shard 0, in the order of all ways."""

    config: Config
    data: Path
    samples: list[Sample]

    def path(self, sample: Sample) -> Path:
        """The sample's image file."""
        return self.data / sample.image


def write_data(data: Path, images: int, large: bool, lengths: Lengths | None) -> None:
    """Write the scenes; `large` ones are enlarged to a photograph's size, and end in a length's word."""
    write_scenes(data, images, FIRST)
    rows = [json.loads(line) for line in (data / ROWS).read_text().splitlines()]
    if large:
        for row in rows:
            _enlarge(data / row["image"])
    if lengths:
        for row, word in zip(rows, lengths.draw(images, FIRST), strict=True):
            row["conversations"][0]["value"] += f" {word}"
    (data / ROWS).write_text("".join(json.dumps(row) + "\n" for row in rows))


def pipeline_config(overrides: list[str], images: int) -> Config:
    """The demo's pipeline with other models, as one shard of all images."""
    source = ["source.scenes=null", "source.truth=''", f"shards.size={images}"]
    return config.load("demo", overrides=[*source, *overrides])


def plan_workload(settings: Config, data: Path, out: Path) -> Workload:
    """The plan of all scenes, in `out`."""
    store = Store(str(out))
    with store.publish("plan.parquet") as path:
        make_plan(settings, str(data), path)
    with store.open("plan.parquet") as file:
        return Workload(settings, data, read_shard(file, 0))


def questions(data: Path) -> list[str]:
    """The scenes' queries as they stand in the rows."""
    rows: list[dict[str, Any]] = [json.loads(line) for line in (data / ROWS).read_text().splitlines()]
    return [row["conversations"][0]["value"].removeprefix("<image>\n") for row in rows]


def _enlarge(path: Path) -> None:
    image = cv2.imread(str(path))
    assert image is not None
    height, width = image.shape[:2]
    scale = LARGE_SIDE / max(height, width)
    size = round(width * scale), round(height * scale)
    cv2.imwrite(str(path), cv2.resize(image, size, interpolation=cv2.INTER_CUBIC))
