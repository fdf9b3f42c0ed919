"""Tiny models whose attention is far from even: otherwise every map would equal every other."""

from pathlib import Path

import torch

from helpers import small_training
from maskgen.age_vlm.registry import model_class


def model_folder(folder: Path, kind: str = "age_vlm", seed: int = 0) -> Path:
    """As `small_training.model_folder`, with larger weights."""
    small_training.model_folder(folder, kind, seed)
    model = model_class(kind).from_pretrained(folder)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("layer_scale_parameter"):
                weight.fill_(0.5)
            elif weight.dim() >= 2:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.35)
    model.save_pretrained(folder)
    return folder
