"""Right answers on the device, with models of seconds; `pytest -m gpu` takes the same steps."""

from collections.abc import Callable
from functools import wraps

import torch

from card import answers, learning, scenes, segmenting
from card.part import Setting, Step
from card.record import Record

CHECKS = (
    answers.tokens,
    segmenting.embeddings,
    segmenting.masks,
    learning.guidance_maps,
    learning.training_step,
    answers.tokens_in_half_precision,
)
"""In order of worth; each takes whether the models are large, the device, and a record."""


def steps(large: bool) -> list[Step]:
    """The checks with models of one size; a rehearsal's are small all the same."""
    return [_step(check, large) for check in CHECKS]


def _step(check: Callable[[bool, torch.device, Record], None], large: bool) -> Step:
    @wraps(check)
    def taken(setting: Setting, record: Record) -> None:
        check(large and not setting.small, setting.device, record)

    return taken


STEPS = [scenes.as_on_a_cpu, *steps(large=False)]
