"""The peers' vision encoders from their tensors: a ConvNeXt of five stages, and CLIP's ViT."""

from typing import Any

import torch
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel, ConvNextConfig, ConvNextModel

from maskgen.errors import MaskgenError

_HEAD = 64  # the width of a head in every CLIP of OpenAI's


class ConvNextTower(nn.Module):
    """The last stage's map without the final norm, row by row: (B, 3, S, S) to (B, (S / stride)^2, C)."""

    def __init__(self, tensors: dict[str, torch.Tensor], dtype: torch.dtype):
        super().__init__()
        _check_there(
            "ConvNext",
            tensors,
            "embeddings.patch_embeddings.weight",
            "encoder.stages.0.layers.0.dwconv.weight",
        )
        stem = tensors["embeddings.patch_embeddings.weight"]
        blocks = [name.split(".") for name in tensors if name.endswith(".dwconv.weight")]
        stages = sorted({int(parts[2]) for parts in blocks})
        config = ConvNextConfig(
            num_stages=len(stages),
            depths=[sum(parts[2] == str(stage) for parts in blocks) for stage in stages],
            hidden_sizes=[
                len(next(tensors[".".join(parts)] for parts in blocks if parts[2] == str(stage)))
                for stage in stages
            ],
            patch_size=stem.shape[-1],
        )
        # The final norm is not used, and not everywhere published.
        unused = ("layernorm.weight", "layernorm.bias")
        self.model = built(ConvNextModel, config, tensors, dtype, optional=unused)
        self.stride, self.channels = stem.shape[-1] * 2 ** (len(stages) - 1), config.hidden_sizes[-1]

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.model(pixels).last_hidden_state
        return found.flatten(2).transpose(1, 2)


class ClipTower(nn.Module):
    """The output of the layer before the last, without CLS and without the final norm: (B, (S / 14)^2, C)."""

    def __init__(self, tensors: dict[str, torch.Tensor], dtype: torch.dtype):
        super().__init__()
        names = [
            f"vision_model.{name}.weight"
            for name in (
                "embeddings.patch_embedding",
                "embeddings.position_embedding",
                "encoder.layers.0.mlp.fc1",
            )
        ]
        _check_there("CLIP", tensors, *names)
        patch, positions, inner = (tensors[name] for name in names)
        layers = {name.split(".")[3] for name in tensors if name.startswith("vision_model.encoder.layers.")}
        self.channels, side = len(patch), round((len(positions) - 1) ** 0.5)
        self.size, self.stride = side * patch.shape[-1], patch.shape[-1]
        config = CLIPVisionConfig(
            hidden_size=self.channels,
            intermediate_size=len(inner),
            num_hidden_layers=len(layers),
            num_attention_heads=max(1, self.channels // _HEAD),
            image_size=self.size,
            patch_size=self.stride,
            hidden_act="quick_gelu",
        )
        self.model = built(CLIPVisionModel, config, tensors, dtype)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        states: torch.Tensor = self.model(pixels, output_hidden_states=True).hidden_states[-2]
        return states[:, 1:]


def built(
    kind: Any,
    config: Any,
    tensors: dict[str, torch.Tensor],
    dtype: torch.dtype,
    optional: tuple[str, ...] = (),
    **options: Any,
) -> Any:
    """A model of transformers with these tensors, in eval mode.

    MaskgenError if one is missing, but for those of `optional`, is too many, or has another shape.
    """
    try:
        model, told = kind.from_pretrained(
            None, config=config, state_dict=tensors, dtype=dtype, output_loading_info=True, **options
        )
    except RuntimeError as error:  # of another shape
        raise MaskgenError(f"the checkpoint's tensors do not fit a {kind.__name__} ({error}).") from error
    missing = sorted(set(told["missing_keys"]) - set(optional))
    check(kind.__name__, missing, sorted(told["unexpected_keys"]))
    return model.eval()


def fill(module: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Put tensors into a small module of ours. MaskgenError as `built`."""
    part, wanted = type(module).__name__, module.state_dict()
    check(part, sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys()))
    odd = [name for name in wanted if wanted[name].shape != tensors[name].shape]
    if odd:
        raise MaskgenError(
            f"the checkpoint's {part} does not fit the rest of it: {odd[0]} is "
            f"{list(tensors[odd[0]].shape)}, not {list(wanted[odd[0]].shape)}."
        )
    module.load_state_dict(tensors)


def check(part: str, missing: list[str], unexpected: list[str]) -> None:
    """MaskgenError if there are any."""
    for names, wrong in ((missing, "lacks"), (unexpected, "has unknown")):
        if names:
            raise MaskgenError(
                f"the checkpoint {wrong} tensors of its {part}: {', '.join(names[:3])}"
                f"{' …' if len(names) > 3 else ''}. Download it again, whole."
            )


def _check_there(part: str, tensors: dict[str, torch.Tensor], *names: str) -> None:
    check(part, [name for name in names if name not in tensors], [])
