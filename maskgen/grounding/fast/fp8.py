"""Linear layers in 8-bit floats: half the bytes, and on a GPU that has them more products a second."""

import torch
from torch import nn

from maskgen.errors import MaskgenError

LARGEST = torch.finfo(torch.float8_e4m3fn).max


class Fp8Linear(nn.Module):
    """A linear layer whose weight and input are rounded to e4m3, each row by a scale of its own."""

    weight: torch.Tensor
    scale: torch.Tensor

    def __init__(self, linear: nn.Linear):
        super().__init__()
        weight, scale = _rounded(linear.weight.detach())
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale.T.contiguous())
        self.bias = linear.bias

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """(..., in) to (..., out) in the dtype of `states`; the product itself comes in bfloat16."""
        rows, scale = _rounded(states.flatten(0, -2))
        product = torch._scaled_mm(  # noqa: SLF001
            rows, self.weight.T, scale_a=scale, scale_b=self.scale, out_dtype=torch.bfloat16
        )
        out = product.to(states.dtype).unflatten(0, states.shape[:-1])
        return out if self.bias is None else out + self.bias


def use_fp8(module: nn.Module, device: torch.device, key: str) -> None:
    """Replace, in place, the linear layers of `module` whose sizes allow it.

    MaskgenError, naming the setting `key`, on a GPU without 8-bit floats. On a CPU it works, slowly.
    """
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 9):
        raise MaskgenError(
            f"{key}: {torch.cuda.get_device_name(device)} has no 8-bit floats (that takes an Ada or Hopper "
            f"card). Leave it out: --set {key}=false."
        )
    for name, child in module.named_children():
        if isinstance(child, nn.Linear) and not child.in_features % 16 and not child.out_features % 16:
            setattr(module, name, Fp8Linear(child))
        else:
            use_fp8(child, device, key)


def _rounded(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows, n) in e4m3, and the float32 scales, (rows, 1), that give it back."""
    scale = values.abs().amax(dim=1, keepdim=True).float().clamp(min=1e-12) / LARGEST
    return (values / scale).clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn), scale
