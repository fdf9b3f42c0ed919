"""From pixels to image features of LLaMA's width: ConvNeXt and adapter (Section 3.2.1)."""

import torch
from torch import nn
from transformers import ConvNextModel, PreTrainedModel

from maskgen.age_vlm.configuration import VisionLanguageConfig


class Adapter(nn.Module):
    """Two linear layers with a GELU between, from ConvNeXt's channels to LLaMA's width."""

    def __init__(self, config: VisionLanguageConfig):
        super().__init__()
        width = config.text_config.hidden_size
        self.linear_1 = nn.Linear(config.vision_config.hidden_sizes[-1], width)
        self.act = nn.GELU()
        self.linear_2 = nn.Linear(width, width)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, N, channels) to (B, N, C)."""
        return self.linear_2(self.act(self.linear_1(features)))


def image_features(
    vision: ConvNextModel, adapter: Adapter, pixel_values: torch.Tensor, has_image: torch.Tensor | None
) -> torch.Tensor:
    """I' (B, N, C): the N = cells^2 image tokens, row by row over the fourth stage's map.

    `pixel_values`: (images, 3, S, S) of any float type, in the order of the rows that have an image.
    `has_image`: bool (B,), or None if every row has one. Rows without an image are zero. Where none has one,
    a single image keeps every weight in the autograd graph and adds zero.
    """
    # Not the model's own forward: that would also pool, which nothing here needs.
    pixel_values = pixel_values.to(vision.embeddings.patch_embeddings.weight.dtype)
    feature_map = vision.encoder(
        vision.embeddings(pixel_values)
    ).last_hidden_state  # (images, channels, h, w)
    features: torch.Tensor = adapter(feature_map.flatten(2).transpose(1, 2))  # (images, N, C)
    if has_image is None:
        return features
    # The number of each row's image; nothing is asked of the device.
    number = (has_image.cumsum(dim=0) - 1).clamp(min=0)
    return torch.where(has_image[:, None, None], features.index_select(0, number), 0.0)


def blank_image(model: PreTrainedModel, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """One black image (1, 3, S, S) that belongs to none of the `rows` texts, and `has_image`, all False (B,).

    A training batch without images needs it: every process must reach every weight, or data-parallel
    training waits for ever.
    """
    weight, side = model.lm_head.weight, model.config.image_size
    pixel_values = torch.zeros(1, 3, side, side, dtype=weight.dtype, device=weight.device)
    return pixel_values, torch.zeros(rows, dtype=torch.bool, device=weight.device)
