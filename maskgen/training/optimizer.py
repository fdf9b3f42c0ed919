"""AdamW with a rate for each part, and the rate's course over a stage (Appendix B)."""

import math
from collections.abc import Iterable

import torch
from torch import nn

from maskgen.training.recipe import OptimizerConfig


def build_optimizer(model: nn.Module, rates: dict[str, float], config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW over the parameters that `rates` names with their peak rates.

    Vectors (norms, biases, gates, layer scales) are not decayed. Each group keeps its peak in "peak".
    """
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if name in rates:
            groups.setdefault((rates[name], parameter.ndim > 1), []).append(parameter)
    first, second = config.betas
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "peak": peak,
                "lr": peak,
                "weight_decay": config.weight_decay if decayed else 0.0,
            }
            for (peak, decayed), parameters in groups.items()
        ],
        betas=(first, second),
        fused=True,
    )


def lr_factor(step: int, steps: int, warmup: float) -> float:
    """The share of the peak rate at `step` of `steps`: up over the first `warmup`, then a cosine to zero."""
    rising = math.ceil(warmup * steps)
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def set_learning_rates(optimizer: torch.optim.Optimizer, share: float) -> None:
    """Put every group at `share` of its peak."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * share


def clip_gradients(parameters: Iterable[nn.Parameter], limit: float) -> torch.Tensor:
    """Scale all gradients so that their common norm is at most `limit`; returns the norm before, a scalar."""
    norm = nn.utils.clip_grad_norm_(parameters, limit)
    return norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # sharded gradients: a sharded norm
