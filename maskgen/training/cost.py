"""What a stage costs: FLOPs a sample, aware of frozen parts, counted on a model without weights."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from maskgen.age_vlm.configuration import VisionLanguageConfig
from maskgen.age_vlm.meta_model import meta_logits, meta_model, meta_text_logits
from maskgen.age_vlm.modeling import VlmPreTrainedModel
from maskgen.flops import counted
from maskgen.training.freezing import freeze, peak_learning_rates
from maskgen.training.recipe import StageConfig

_LENGTHS = (64, 128, 256)  # a transformer's FLOPs are a quadratic of the length: three points give it


@dataclass(frozen=True)
class SampleFlops:
    """FLOPs of one sample, forward and backward (2 for a multiply-add), as polynomials of its text's length.

    `image`: of a sample with an image; `text`: of one without, which needs the LLaMA alone; `query`: for
    each query token of a sample with a mask, if attention is recomputed for guidance.
    """

    image: tuple[float, float, float]
    text: tuple[float, float, float]
    query: float

    def of(self, tokens: int, has_image: bool, query_tokens: int = 0) -> float:
        """FLOPs of a sample of `tokens` text tokens, `query_tokens` of them guided."""
        a, b, c = self.image if has_image else self.text
        return a + b * tokens + c * tokens**2 + self.query * query_tokens


def sample_flops(config: VisionLanguageConfig, stage: StageConfig) -> SampleFlops:
    """What a sample of `stage` costs with a model of this configuration."""
    model = meta_model(config)
    freeze(model, peak_learning_rates(model, stage))
    tokens = (stage.size // config.stride) ** 2
    image = _quadratic([sum(forward_backward_flops(model, stage.size, length)) for length in _LENGTHS])
    text = _quadratic([_text_flops(model, length, "language" in stage.train) for length in _LENGTHS])
    layers = config.cross_attention_layers if "guidance" in stage.losses else 0
    heads = config.text_config.num_attention_heads * config.text_config.head_dim
    # q k^T forward, once more when the backward recomputes it, and twice for the gradients if it is trained.
    passes = 4 if stage.losses.get("guidance") else 1
    return SampleFlops(image, text, float(passes * 2 * layers * heads * tokens))


def forward_backward_flops(
    model: VlmPreTrainedModel, size: int, length: int, batch: int = 1
) -> tuple[float, float]:
    """FLOPs of a forward and of a backward pass; `model` is on meta, its frozen parts frozen."""
    ids = torch.zeros(batch, length, dtype=torch.long, device="meta")
    pixels = torch.zeros(batch, 3, size, size, device="meta")
    with FlopCounterMode(display=False, custom_mapping=_CORRECTED) as forward:
        logits = meta_logits(model, ids, pixels)
    with FlopCounterMode(display=False, custom_mapping=_CORRECTED) as backward:
        if logits.requires_grad:
            logits.sum().backward()
    model.zero_grad(set_to_none=True)
    return float(forward.get_total_flops()), float(backward.get_total_flops())


def activation_bytes(model: VlmPreTrainedModel, size: int, length: int, batch: int) -> int:
    """Bytes that autograd keeps from a forward pass in bf16 for its backward, weights not counted."""
    weights = {id(tensor) for tensor in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        base = tensor._base if tensor._base is not None else tensor  # noqa: SLF001
        if id(base) not in weights and id(tensor) not in weights:
            kept[tensor.untyped_storage()._cdata] = tensor  # noqa: SLF001
        return tensor

    ids = torch.zeros(batch, length, dtype=torch.long, device="meta")
    pixels = torch.zeros(batch, 3, size, size, device="meta", dtype=next(model.parameters()).dtype)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        logits = meta_logits(model, ids, pixels)
    # The logits once more in float32, for the entropy of a few rows at a time.
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) + logits.numel() * 2


def _text_flops(model: VlmPreTrainedModel, length: int, trained: bool) -> float:
    """LLaMA's own layers and head; backward twice the forward where it trains, nothing where it is frozen."""
    input_ids = torch.zeros(1, length, dtype=torch.long, device="meta")
    with torch.no_grad():
        forward = counted(lambda: meta_text_logits(model, input_ids))
    return forward * (3 if trained else 1)


def _quadratic(values: Sequence[float]) -> tuple[float, float, float]:
    """Coefficients of the parabola through `values` at `_LENGTHS`."""
    (x0, x1, x2), (y0, y1, y2) = _LENGTHS, values
    slope = (y1 - y0) / (x1 - x0)
    c = ((y2 - y0) / (x2 - x0) - slope) / (x2 - x1)
    b = slope - c * (x0 + x1)
    return y0 - b * x0 - c * x0**2, b, c


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
