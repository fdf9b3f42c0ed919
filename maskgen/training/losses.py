"""Both losses as sums, to be divided by counts over the whole batch: the mean of one big batch, however it
is cut.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from maskgen.age_vlm.guidance import guidance

if TYPE_CHECKING:
    from maskgen.training.collate import Batch

_ROWS = 4  # rows whose float32 logits exist at a time


@dataclass(frozen=True)
class Counts:
    """What a mean divides by. `tokens`: those to be learnt; `rows`: rows with guidance, each once for
    every layer.
    """

    tokens: float
    rows: float


@dataclass(frozen=True)
class Losses:
    """Sums over one micro-batch: scalars with gradients, and `floor` and `mass` (layers,) without."""

    lm: torch.Tensor
    guidance: torch.Tensor
    floor: torch.Tensor
    mass: torch.Tensor


def language_sum(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Sum of the cross-entropy of the next token, float32. `logits`: (B, T, words); `labels`: (B, T),
    -100: not learnt.
    """
    total = logits.new_zeros((), dtype=torch.float32)
    for rows, wanted in zip(logits[:, :-1].split(_ROWS), labels[:, 1:].split(_ROWS), strict=True):
        total = total + checkpoint(_entropy, rows, wanted, use_reentrant=False)
    return total


def targets(batch: "Batch") -> int:
    """How many tokens of the batch are to be learnt."""
    return int((batch.labels[:, 1:] != -100).sum())


def measure(output: Any, batch: "Batch", normalise: Any) -> Losses:
    """Both sums of a forward pass; `output` is the model's, `batch` what it saw."""
    lm = language_sum(output.logits, batch.labels)
    maps = output.guidance_maps
    if maps is None or maps.shape[1] == 0:
        nothing = torch.zeros((), device=lm.device)
        return Losses(lm, nothing, nothing, nothing)
    found = guidance(maps, batch.masks, normalise)
    return Losses(
        lm,
        found.loss.sum(),
        found.floor.sum() * len(maps),
        found.mass.detach().sum(dim=1),
    )


def _entropy(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    with torch.autocast(logits.device.type, enabled=False):
        return F.cross_entropy(
            logits.float().flatten(0, 1), wanted.flatten(), ignore_index=-100, reduction="sum"
        )
