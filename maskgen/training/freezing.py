"""A row of Table 1 on a model: which tensors train and at what rate, and proof that the others did not."""

import hashlib
from collections.abc import Container
from typing import Protocol

import torch
from torch import nn

from maskgen.errors import MaskgenError
from maskgen.training.recipe import StageConfig

# A part comes after those that contain it, so that the narrowest one decides.
_WIDE_TO_NARROW = (
    "language",
    "cross_attention",
    "adapter",
    "vision",
    "vision.last_stage",
    "vision.last_block",
)


class HasParts(Protocol):
    """A model that knows the columns of Table 1."""

    def parts(self) -> dict[str, list[str]]: ...


def peak_learning_rates(model: HasParts, stage: StageConfig) -> dict[str, float]:
    """The peak rate of every parameter that trains, by name."""
    parts = model.parts()
    found: dict[str, float] = {}
    for part in _WIDE_TO_NARROW:
        if part in stage.train:
            found.update(dict.fromkeys(parts.get(part, []), stage.rate(part)))
    return found


def freeze(model: nn.Module, trained: Container[str]) -> None:
    """Only `trained` parameters get gradients; modules without one are in evaluation mode."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)
    for module in model.modules():
        module.training = any(parameter.requires_grad for parameter in module.parameters())


def frozen_tensors(model: nn.Module, trained: Container[str]) -> dict[str, torch.Tensor]:
    """Parameters that do not train, and all buffers."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: tensor for name, tensor in tensors.items() if name not in trained}


def digests(tensors: dict[str, torch.Tensor]) -> dict[str, str]:
    """SHA-256 of each tensor's bytes."""
    return {name: _digest(tensor) for name, tensor in tensors.items()}


def combined_digest(digests: dict[str, str]) -> str:
    """One digest for them all."""
    lines = "".join(f"{name} {value}\n" for name, value in sorted(digests.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def check_frozen_unchanged(before: dict[str, str], after: dict[str, str], stage: str) -> None:
    """MaskgenError if a frozen tensor is not byte for byte what it was."""
    changed = [name for name in before if before[name] != after.get(name)]
    if changed:
        raise MaskgenError(
            f"stage {stage} changed {len(changed)} frozen tensors, {changed[0]} among them. Its result is "
            "not Table 1's and is not kept; this is a bug in the model or the trainer: please report it."
        )


def _digest(tensor: torch.Tensor) -> str:
    if hasattr(tensor, "full_tensor"):
        tensor = tensor.full_tensor()
    data = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
    return hashlib.sha256(data.numpy().data).hexdigest()
