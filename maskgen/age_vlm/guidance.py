"""L_g: how far the attention is from the mask (Section 3.2.2, Eq. 3)."""

from dataclasses import dataclass
from typing import Literal

import torch

Normalisation = Literal["sum", "max", "minmax"]

_TINY = 1e-12


@dataclass(frozen=True)
class GuidanceTerms:
    """Eq. 3 for every layer and masked row.

    `loss`: float32 (L, G). `floor`: float32 (G,), the least that `loss` can be. `mass`: float32 (L, G), the
    share of the attention inside the mask, 0-1. `valid`: bool (G,), rows whose mask is not empty; the others
    are zero throughout and count for nothing.
    """

    loss: torch.Tensor
    floor: torch.Tensor
    mass: torch.Tensor
    valid: torch.Tensor


def guidance_loss(maps: torch.Tensor, masks: torch.Tensor, normalise: Normalisation = "sum") -> GuidanceTerms:
    """-log of the dice overlap between M' and the normalised attention P, in float32.

    `maps`: float32 (L, G, N), the attention A_l^q. `masks`: bool (G, N), M'. `normalise` says how A becomes
    P: "sum" to a distribution, the literal reading, whose floor is log((|M'| + 1) / 2); "max" to a peak of 1
    and "minmax" to the range 0-1, which reward covering the mask, floor 0.
    """
    # Autocast would take the logarithm of a half-precision number.
    with torch.autocast(maps.device.type, enabled=False):
        maps, wanted = maps.float(), masks.float()
        valid = masks.any(dim=-1)
        inside, total = (maps * wanted).sum(dim=-1), maps.sum(dim=-1)
        mass = torch.where(valid, inside / total.clamp(min=_TINY), 0)
        spread = _normalised(maps, normalise)
        area = wanted.sum(dim=-1)
        overlap = 2 * (spread * wanted).sum(dim=-1) / (area + spread.sum(dim=-1)).clamp(min=_TINY)
        # Of an empty mask the logarithm's argument is replaced, not its result: 0 * inf is no gradient.
        loss = -torch.where(valid, overlap, 1.0).clamp(min=_TINY).log()
        lowest = ((area + 1) / 2).clamp(min=1).log() if normalise == "sum" else torch.zeros_like(area)
        return GuidanceTerms(loss, torch.where(valid, lowest, 0), mass.detach(), valid)


def _normalised(maps: torch.Tensor, normalise: Normalisation) -> torch.Tensor:
    if normalise == "sum":
        return maps / maps.sum(dim=-1, keepdim=True).clamp(min=_TINY)
    most = maps.amax(dim=-1, keepdim=True)
    if normalise == "max":
        return maps / most.clamp(min=_TINY)
    least = maps.amin(dim=-1, keepdim=True)
    return (maps - least) / (most - least).clamp(min=_TINY)
