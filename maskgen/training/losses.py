"""Both losses as sums, divided later by counts over the global batch: its mean, however it is split."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from maskgen.age_vlm.guidance import Normalisation, guidance_loss
from maskgen.age_vlm.modeling import VlmOutput
from maskgen.training.collate import TrainBatch

_TOKENS = 1024  # whose float32 logits exist at a time


@dataclass(frozen=True)
class LossCounts:
    """What a mean divides by. `tokens`: those to be learnt; `rows`: rows with guidance, once a layer."""

    tokens: float
    rows: float


@dataclass(frozen=True)
class LossSums:
    """Sums over one micro-batch: scalars with gradients, and `floor` and `mass` (layers,) without."""

    lm: torch.Tensor
    guidance: torch.Tensor
    floor: torch.Tensor
    mass: torch.Tensor


def cross_entropy_sum(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Sum of the cross-entropy, float32. `logits`: (n, vocabulary); `targets`: (n,), -100: not learnt."""
    total = logits.new_zeros((), dtype=torch.float32)
    for some, wanted in zip(logits.split(_TOKENS), targets.split(_TOKENS), strict=True):
        total = total + checkpoint(_cross_entropy, some, wanted, use_reentrant=False)
    return total


def count_targets(batch: TrainBatch) -> int:
    """How many tokens of the batch are to be learnt."""
    return int((batch.labels[:, 1:] != -100).sum())


def compute_losses(output: VlmOutput, batch: TrainBatch, normalise: Normalisation) -> LossSums:
    """Both sums of a forward pass; `output` is the model's, `batch` what it was given, logits at its
    `target_places` alone.
    """
    assert output.logits is not None
    lm = cross_entropy_sum(output.logits, batch.labels.flatten().index_select(0, batch.target_places + 1))
    maps = output.guidance_maps
    if maps is None or maps.shape[1] == 0:
        zero = torch.zeros((), device=lm.device)
        return LossSums(lm, zero, zero, zero)
    terms = guidance_loss(maps, batch.masks, normalise)
    return LossSums(
        lm,
        terms.loss.sum(),
        terms.floor.sum() * len(maps),
        terms.mass.detach().sum(dim=1),
    )


def _cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    with torch.autocast(logits.device.type, enabled=False):
        return F.cross_entropy(logits.float(), targets, ignore_index=-100, reduction="sum")
