"""Grounding as scripts do it, on the same weights: one image at a time, and competently in batches."""

from card.grounded import job
from card.part import Setting, Step
from card.record import Record
from maskgen.bench.methods import Scripted
from maskgen.runtime.clock import seconds


def one_by_one(setting: Setting, record: Record) -> None:
    """`generate` and SamPredictor, an image at a time."""
    _script(setting, record, "(a) an image at a time", 3, 1)


def in_batches(setting: Setting, record: Record) -> None:
    """`generate` and SAM's encoder on batches, SAM's decoder by one."""
    images, batch = (4, 2) if setting.small else (32, 16)
    _script(setting, record, f"(b) batches of {batch}", images, batch)


def _script(setting: Setting, record: Record, name: str, images: int, batch: int) -> None:
    with job(setting, images) as made:
        Scripted(made.pipeline, made.workload, min(batch, 2), min(batch, 2)).run()  # warms everything up
        script = Scripted(made.pipeline, made.workload, images, batch)
        (took,) = seconds(script.run, setting.device, spent=0, warm=0, least=1)
        record.figure(f"{name}: images a second", images / took, "images/s", f"{images} images")


STEPS: list[Step] = [in_batches, one_by_one]
