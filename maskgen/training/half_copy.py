"""Training in bfloat16 with float32 master weights: the model's copy that does the arithmetic."""

import copy
from functools import partial

import torch
from torch import nn


class HalfCopy:
    """A copy in bfloat16 of a model in float32, whose gradients become the model's, in float32.

    The model's own parameters are the master weights: optimizer and checkpoints know of nothing else. They
    are cast once a step, where autocast casts them in every layer of every micro-batch. `model`: the copy.
    """

    def __init__(self, master: nn.Module):
        self.model = copy.deepcopy(master)
        self._trained: list[tuple[nn.Parameter, nn.Parameter]] = []
        pairs = zip(master.parameters(), self.model.parameters(), strict=True)
        for own, half in pairs:
            # Parameters alone: what positions follow from stays in float32.
            half.data = half.data.to(torch.bfloat16)
            if own.requires_grad:
                self._trained.append((own, half))
                # As soon as it is whole, so that both are never there of all weights.
                half.register_post_accumulate_grad_hook(partial(_move_gradient, own))
            else:
                own.data = own.data.cpu()  # needed again when the model is written

    @torch.no_grad()
    def update(self) -> None:
        """Take over the master weights after the optimizer's step."""
        masters, halves = zip(*self._trained, strict=True)
        torch._foreach_copy_(list(halves), list(masters))


def _move_gradient(own: nn.Parameter, half: torch.Tensor) -> None:
    """Add the copy's gradient to the master's."""
    assert half.grad is not None
    if own.grad is None:
        own.grad = half.grad.float()
    else:
        own.grad += half.grad
    half.grad = None
