"""What a stage costs: FLOPs a sample, aware of frozen parts, counted on a model without weights."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from maskgen.age_vlm.configuration import VisionLanguageConfig
from maskgen.age_vlm.meta_model import meta_logits, meta_model, meta_text_logits
from maskgen.age_vlm.modeling import VlmPreTrainedModel
from maskgen.flops import counted
from maskgen.training.freezing import freeze
from maskgen.training.recipe import StageConfig

_LENGTHS = (64, 128, 256)  # a transformer's FLOPs are a quadratic of the length: three points give it


@dataclass(frozen=True)
class Polynomial:
    """The parabola through `values` at `_LENGTHS`."""

    values: Sequence[float]

    def __call__(self, x: float) -> float:
        (x0, x1, x2), (y0, y1, y2) = _LENGTHS, self.values
        slope = (y1 - y0) / (x1 - x0)
        curvature = ((y2 - y0) / (x2 - x0) - slope) / (x2 - x1)
        return y0 + slope * (x - x0) + curvature * (x - x0) * (x - x1)


@dataclass(frozen=True)
class SampleFlops:
    """FLOPs of one sample (2 for a multiply-add), as polynomials of its text's length.

    `forward`, `backward`: of a sample with an image; `text`: both passes of one without, which needs the
    LLaMA alone; `query`: for each query token of a sample with a mask, if attention is recomputed for
    guidance; `head`: included in them, for each token, and not spent on those that are not learnt.
    """

    forward: Polynomial
    backward: Polynomial
    text: Polynomial
    query: float
    head: float = 0.0

    def of(self, tokens: int, has_image: bool, query_tokens: int = 0, targets: int | None = None) -> float:
        """FLOPs of a sample of `tokens` text tokens, `query_tokens` of them guided, `targets` learnt (None:
        all of them).
        """
        passes = self.forward(tokens) + self.backward(tokens) if has_image else self.text(tokens)
        spared = 0 if targets is None else tokens - targets
        return passes + self.query * query_tokens - self.head * spared


@dataclass(frozen=True)
class MetaStage:
    """What the counts of a stage depend on, so that they are made once: a model, and the parts that train."""

    config: VisionLanguageConfig = field(compare=False)
    architecture: str
    train: frozenset[str]

    @classmethod
    def of(cls, config: VisionLanguageConfig, stage: StageConfig) -> "MetaStage":
        """With a model of this configuration."""
        return cls(config, config.to_json_string(), frozenset(stage.train))

    def model(self) -> VlmPreTrainedModel:
        """On meta, with what does not train frozen."""
        model = meta_model(self.config)
        freeze(model, {name for part, names in model.parts().items() if part in self.train for name in names})
        return model


def sample_flops(config: VisionLanguageConfig, stage: StageConfig) -> SampleFlops:
    """What a sample of `stage` costs with a model of this configuration."""
    parts = MetaStage.of(config, stage)
    forward, backward = _image_flops(parts, stage.size)
    tokens = (stage.size // config.stride) ** 2
    layers = config.cross_attention_layers if "guidance" in stage.losses else 0
    heads = config.text_config.num_attention_heads * config.text_config.head_dim
    # q k^T forward, once more when the backward recomputes it, and twice for the gradients if it is trained.
    passes = 4 if stage.losses.get("guidance") else 1
    query = float(passes * 2 * layers * heads * tokens)
    # The backward pass costs twice the forward where the LLaMA trains, and nothing where it is frozen.
    factor = 3 if "language" in stage.train else 1
    text = Polynomial([factor * flops for flops in _text_forward(replace(parts, train=frozenset()))])
    product = 2.0 * config.text_config.hidden_size * config.text_config.vocab_size
    head = product * (3 if "language" in stage.train else 2)
    return SampleFlops(forward, backward, text, query, head)


@cache
def _image_flops(stage: MetaStage, size: int) -> tuple[Polynomial, Polynomial]:
    """Of a forward and of a backward pass over an image of `size` pixels and a text."""
    model = stage.model()
    passes = [forward_backward_flops(model, size, length) for length in _LENGTHS]
    return Polynomial([forward for forward, _ in passes]), Polynomial([backward for _, backward in passes])


@cache
def _text_forward(stage: MetaStage) -> Sequence[float]:
    """Of LLaMA's own layers and head, at each length."""
    model = stage.model()
    ids = (torch.zeros(1, length, dtype=torch.long, device="meta") for length in _LENGTHS)
    with torch.no_grad():
        return [counted(partial(meta_text_logits, model, each)) for each in ids]


def forward_backward_flops(model: VlmPreTrainedModel, size: int, length: int) -> tuple[float, float]:
    """FLOPs of a forward and of a backward pass; `model` is on meta, its frozen parts frozen."""
    ids = torch.zeros(1, length, dtype=torch.long, device="meta")
    pixels = torch.zeros(1, 3, size, size, device="meta")
    with FlopCounterMode(display=False, custom_mapping=_CORRECTED) as forward:
        logits = meta_logits(model, ids, pixels)
    with FlopCounterMode(display=False, custom_mapping=_CORRECTED) as backward:
        if logits.requires_grad:
            logits.sum().backward()
    model.zero_grad(set_to_none=True)
    return float(forward.get_total_flops()), float(backward.get_total_flops())


@cache
def activation_bytes(stage: MetaStage, size: int, length: int, dtype: torch.dtype) -> int:
    """Bytes that autograd keeps of a sample's forward pass in `dtype`, weights not counted."""
    model = stage.model().to(dtype)
    weights = {id(tensor) for tensor in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        base = tensor._base if tensor._base is not None else tensor  # noqa: SLF001
        if id(base) not in weights and id(tensor) not in weights:
            kept[tensor.untyped_storage()._cdata] = tensor  # noqa: SLF001
        return tensor

    ids = torch.zeros(1, length, dtype=torch.long, device="meta")
    pixels = torch.zeros(1, 3, size, size, device="meta", dtype=dtype)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        logits = meta_logits(model, ids, pixels)
    # The logits once more in float32, for the entropy of a few rows at a time.
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) + logits.numel() * 2


def _convolution_backward(
    grad_shape: Sequence[int], x_shape: Sequence[int], w_shape: Sequence[int], *others: Any, **_: Any
) -> int:
    """Each gradient that is wanted costs what the forward did; torch's own count forgets the groups."""
    mask = others[7]
    forward = 2 * grad_shape[0] * _product(grad_shape[2:]) * _product(w_shape)
    return forward * (bool(mask[0]) + bool(mask[1]))


def _product(shape: Sequence[int]) -> int:
    total = 1
    for side in shape:
        total *= int(side)
    return total


_CORRECTED: dict[Any, Callable[..., int]] = {torch.ops.aten.convolution_backward: _convolution_backward}
