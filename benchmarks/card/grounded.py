"""Drawn scenes and a pipeline over models of random weights, for the worker's part and the scripts'."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from card.models import given, masker, scripted
from card.part import Setting
from maskgen.bench import workload
from maskgen.bench.answer_lengths import Lengths
from maskgen.bench.methods import Pipeline
from maskgen.bench.workload import Workload
from maskgen.config import Config, load
from maskgen.grounding.auto_settings import in_words, resolve

FOLDER = "data"


@dataclass(frozen=True)
class Job:
    """`settings`: those that `maskgen run --split pretrain` comes with, but for the models' names."""

    workload: Workload
    settings: Config
    pipeline: Pipeline

    @property
    def words(self) -> str:
        """Batches, slots and dtypes."""
        return in_words(self.settings)


@contextmanager
def job(setting: Setting, images: int) -> Iterator[Job]:
    """Everything loaded, in a temporary folder."""
    lengths = Lengths(40 if setting.small else 150)
    with tempfile.TemporaryDirectory(prefix="card-") as name:
        folder = Path(name)
        workload.write_data(folder / FOLDER, images, not setting.small, lengths)
        settings = _settings(setting, images)
        planned = workload.plan_workload(settings, folder / FOLDER, folder / "out")
        dtype = getattr(torch, str(settings.proposer.dtype))  # type: ignore[union-attr]
        texts = workload.questions(folder / FOLDER)
        with given(
            proposer=scripted(not setting.small, setting.device, dtype, lengths, texts),
            refiner=masker(not setting.small, setting.device),
        ):
            pipeline = Pipeline(settings, planned, str(folder / "out"), setting.where)
        yield Job(planned, settings, pipeline)


def _settings(setting: Setting, images: int) -> Config:
    """The shipped ones, resolved for this device."""
    shipped = load("pretrain")
    tokens = 300 if setting.small else 1024
    demo = workload.pipeline_config([], images)
    refiner = {"model": "demo", "checkpoint": ""} if setting.small else {}
    settings = demo.model_copy(
        update={
            "proposer": shipped.proposer.model_copy(update={"max_new_tokens": tokens}),
            "refiner": shipped.refiner.model_copy(update=refiner),
        }
    )
    return resolve(settings, setting.where)
