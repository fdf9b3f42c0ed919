"""ConvNeXt at small sizes, and the CLIP-style heads that it is pretrained with against captions."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import ConvNextConfig, ConvNextImageProcessor, ConvNextModel, PreTrainedTokenizerFast

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's
HEADS = "contrastive.safetensors"
_NAMES_ON_DISK = {"pool_queries": "asking"}  # as the shipped file has it


@dataclass(frozen=True)
class ConvNextSizes:
    """A ConvNeXt of any size: four stages; the map is `image` / (8 x `patch`) cells a side."""

    image: int
    patch: int
    channels: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]

    @property
    def cells(self) -> int:
        """Cells a side of the last feature map."""
        return self.image // (8 * self.patch)


TINY = ConvNextSizes(image=64, patch=2, channels=(8, 8, 16, 16), depths=(1, 1, 1, 1))
DEMO = ConvNextSizes(image=192, patch=2, channels=(16, 32, 64, 128), depths=(1, 1, 2, 1))


def create(sizes: ConvNextSizes) -> ConvNextModel:
    """An untrained trunk; draws its weights from torch's global random generator."""
    return ConvNextModel(
        ConvNextConfig(
            image_size=sizes.image,
            patch_size=sizes.patch,
            hidden_sizes=list(sizes.channels),
            depths=list(sizes.depths),
            drop_path_rate=0.0,
            layer_scale_init_value=1.0,  # 1e-6, the default, keeps a net of five blocks from mixing cells
        )
    )


def sizes(trunk: ConvNextModel) -> ConvNextSizes:
    """The sizes of a trunk."""
    config = trunk.config
    return ConvNextSizes(
        config.image_size, config.patch_size, tuple(config.hidden_sizes), tuple(config.depths)
    )


def save(folder: str | Path, trunk: ConvNextModel, sizes: ConvNextSizes) -> None:
    """Write the trunk and its image processor as transformers reads them."""
    trunk.save_pretrained(folder)
    ConvNextImageProcessor(
        size={"shortest_edge": sizes.image}, crop_pct=1.0, image_mean=MEAN, image_std=STD
    ).save_pretrained(folder)


def pixels(image: np.ndarray, side: int) -> torch.Tensor:
    """uint8 (height, width, 3) stretched to the square, as uint8 (3, side, side)."""
    small = Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(small)).permute(2, 0, 1)


def normalise(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 (n, 3, side, side) to float32, by CLIP's mean and std."""
    mean, std = (torch.tensor(values).view(3, 1, 1) * 255 for values in (MEAN, STD))
    return ((pixels - mean) / std).contiguous(memory_format=torch.channels_last)


class ContrastiveModel(nn.Module):
    """Trunk, image head and text encoder of a CLIP: images and captions to unit vectors of one space."""

    def __init__(self, trunk: ConvNextModel, cells: int, words: int, width: int = 128, longest: int = 80):
        super().__init__()
        channels = trunk.config.hidden_sizes[-1]
        self.trunk = trunk
        self.places = nn.Parameter(torch.randn(cells**2, channels) * 0.02)
        self.pool_queries = nn.Parameter(torch.randn(4, channels) * 0.5)
        self.keys = nn.Linear(channels, channels)
        self.image_out = nn.Linear(4 * channels, width)
        self.words = nn.Embedding(words, width)
        self.order = nn.Parameter(torch.randn(longest, width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.reader = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.text_out = nn.Linear(width, width)
        self.scale = nn.Parameter(torch.tensor(2.3))

    def feature_map(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 (n, 3, side, side) to the trunk's last map, float32 (n, channels, cells, cells)."""
        return self.trunk(normalise(pixels)).last_hidden_state

    def encode_image(self, features: torch.Tensor) -> torch.Tensor:
        """The trunk's map to unit vectors (n, width), pooled by four learnt queries."""
        cells = F.layer_norm(features.flatten(2).transpose(1, 2), features.shape[1:2])
        weights = (self.pool_queries @ self.keys(cells + self.places).transpose(1, 2)).softmax(dim=-1)
        return F.normalize(self.image_out((weights @ (cells + self.places)).flatten(1)), dim=-1)

    def encode_text(self, tokens: torch.Tensor, pad: int) -> torch.Tensor:
        """Captions, int64 (n, tokens), to unit vectors (n, width)."""
        mask = tokens != pad
        read = self.reader(self.words(tokens) + self.order[: tokens.shape[1]], src_key_padding_mask=~mask)
        mean = (read * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
        return F.normalize(self.text_out(mean), dim=-1)

    def similarity(self, images: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        """Scaled cosines (images, texts)."""
        return self.scale.exp().clamp(max=100) * images @ texts.T


def save_heads(folder: str | Path, contrast: ContrastiveModel) -> None:
    """Write everything but the trunk beside it, in half precision."""
    heads = {
        _NAMES_ON_DISK.get(name, name): weight.half().contiguous()
        for name, weight in contrast.state_dict().items()
        if "trunk." not in name
    }
    save_file(heads, Path(folder) / HEADS)


def load_contrastive(folder: str | Path, tokenizer: PreTrainedTokenizerFast) -> ContrastiveModel:
    """What `save` and `save_heads` wrote, float32, in eval mode."""
    trunk = ConvNextModel.from_pretrained(folder, dtype=torch.float32)
    heads = load_file(Path(folder) / HEADS)
    cells = round(len(heads["places"]) ** 0.5)
    contrast = ContrastiveModel(trunk, cells, len(heads["words.weight"]))
    names = {on_disk: name for name, on_disk in _NAMES_ON_DISK.items()}
    weights = {names.get(name, name): weight.float() for name, weight in heads.items()}
    contrast.load_state_dict(weights | {f"trunk.{name}": w for name, w in trunk.state_dict().items()})
    if len(tokenizer) != len(heads["words.weight"]):
        raise ValueError(f"{folder} was trained with another tokenizer than the one given")
    return contrast.eval()
