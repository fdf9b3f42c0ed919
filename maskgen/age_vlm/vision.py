"""From pixels to image tokens in LLaMA's width: ConvNeXt and adapter (Section 3.2.1)."""

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
        return self.linear_2(self.act(self.linear_1(features)))


def look(
    vision: ConvNextModel, adapter: Adapter, pixel_values: torch.Tensor, has_image: torch.Tensor | None
) -> torch.Tensor:
    """I' (B, cells^2, width), row by row over the fourth stage's map; zeros in rows without an image.

    `pixel_values`: (N, 3, S, S), the images in the order of the rows that have one. `has_image`: bool (B,),
    or None if N = B. Where no row has one, a single picture keeps every weight in the autograd graph, and
    counts for nothing.
    """
    # Not the model's own forward: that would also pool, for nobody.
    features = vision.encoder(vision.embeddings(pixel_values)).last_hidden_state
    states: torch.Tensor = adapter(features.flatten(2).transpose(1, 2))
    if has_image is None:
        return states
    rows = has_image.nonzero()[:, 0]
    spread = states.new_zeros(len(has_image), *states.shape[1:])
    if len(rows) == 0:
        return spread + 0 * states.mean(dim=0)
    return spread.index_copy(0, rows, states)


def nothing_to_see(model: PreTrainedModel, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels and `has_image` for a training batch of `rows` texts alone: one black picture, which nobody has.

    Every process must reach every weight, or data-parallel training waits for ever.
    """
    weight, side = model.lm_head.weight, model.config.image_size
    pixels = torch.zeros(1, 3, side, side, dtype=weight.dtype, device=weight.device)
    return pixels, torch.zeros(rows, dtype=torch.bool, device=weight.device)
