"""From a vision tower's tokens to the language model's width: ConvLLaVA's and MobileVLM V2's projectors."""

import torch
from torch import nn

SIDE = 12
"""Of the grid that MobileVLM's tokens are pooled to."""


class MlpProjector(nn.Sequential):
    """Linear, exact GELU, Linear: (B, N, C) to (B, N, width)."""

    def __init__(self, channels: int, width: int):
        super().__init__(nn.Linear(channels, width), nn.GELU(), nn.Linear(width, width))


class LdpNetV2(nn.Module):
    """The same, then means over the fields of a grid of 12 x 12, and a depthwise 3 x 3 convolution of those,
    added to them: (B, side^2, C) to (B, 144, width).
    """

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.mlp = nn.ModuleDict({"mlp": MlpProjector(channels, width)})
        convolution = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.peg = nn.ModuleDict({"peg": nn.Sequential(convolution)})

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        projected: torch.Tensor = self.mlp["mlp"](tokens)
        side = round(projected.shape[1] ** 0.5)
        grid = projected.transpose(1, 2).unflatten(2, (side, side))
        pooled = nn.functional.adaptive_avg_pool2d(grid, SIDE)
        pooled = pooled + self.peg["peg"](pooled)
        return pooled.flatten(2).transpose(1, 2)
