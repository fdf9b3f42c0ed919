"""The embedded models over drawn scenes, on the device and on the CPU: the same outcomes and masks."""

from typing import Any

import numpy as np

from card.numerics import in_full_precision
from card.part import Setting
from card.record import Record
from maskgen import config
from maskgen.config import Config
from maskgen.grounding.grounder import Grounder
from maskgen.pixels import decode
from maskgen.sample import Grounding, Picture, Query, Sample
from maskgen.scenes.drawing import FIRST_HELD_OUT_SEED, draw_scene
from maskgen.scenes.scene_dataset import encode_image, scene_query


def as_on_a_cpu(setting: Setting, record: Record) -> None:
    """From pixels and words to masks by the fast engines, against the reference engines on a CPU."""
    count = 8 if setting.small else 32
    drawn = [draw_scene(seed) for seed in range(FIRST_HELD_OUT_SEED, FIRST_HELD_OUT_SEED + count)]
    pictures = [decode(encode_image(scene)[1], config.Limits()) for scene in drawn]
    samples = [
        Sample(str(number), str(number), "", (), Query(scene_query(scene).text, ()))
        for number, scene in enumerate(drawn)
    ]
    with in_full_precision():
        reference = _ground("reference", "cpu", "float32", pictures, samples)
        for dtype in ("float32", "bfloat16"):
            found = _ground("fast", str(setting.device), dtype, pictures, samples)
            ious = [_iou(one.mask, other.mask) for one, other in zip(found, reference, strict=True)]
            alike = sum(iou > 0.9 for iou in ious)
            record.figure(f"{dtype}: IoU of masks with the CPU's, mean", float(np.mean(ious)), "")
            wanted = count - 1 if dtype == "float32" else round(0.85 * count)
            record.check(f"{dtype}: scenes as on a CPU", alike >= wanted, f"{alike} of {count} masks")


def _ground(
    engine: str, device: str, dtype: str, pictures: list[Picture], samples: list[Sample]
) -> list[Grounding]:
    overrides = [
        f"{part}.{key}" for part in ("proposer", "refiner") for key in (f"engine={engine}", f"dtype={dtype}")
    ]
    settings: Config = config.load("demo", overrides=overrides)
    return Grounder(settings, "", device).ground(pictures, samples)


def _iou(one: np.ndarray, other: np.ndarray) -> float:
    union: Any = np.count_nonzero(one | other)
    return float(np.count_nonzero(one & other) / union) if union else 1.0
