"""Attention of a decode step over slots: each slot's few queries on as many keys as it really has."""

import importlib.util
import logging
from collections.abc import Callable

import torch
import torch.nn.functional as F

from maskgen.errors import first_line
from maskgen.runtime import cuda

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""`attend(query, keys, values, bias, lengths)`.

`query`: (slots, heads, beams, d), d a power of two. `keys`, `values`: (slots, heads, n, d), the last axis
dense, both strided alike. `bias`: (slots, 1, beams or 1, n), added to the scores: minus infinity hides a key.
`lengths`: int32 (slots,), keys that may count, which may be more than n; the bias hides all others. A query
that sees no key gets no number. Returns (slots, heads, beams, d). Scores and sums are float32.
"""


def attend_by_bias(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    bias: torch.Tensor,
    lengths: torch.Tensor,
) -> torch.Tensor:
    """Reads every key and leaves it to the bias which count."""
    return F.scaled_dot_product_attention(query, keys, values, attn_mask=bias)


def attend_for(device: torch.device, dtype: torch.dtype) -> Attend:
    """The kernel that reads no more than `lengths` says on a GPU, if Triton is there and it works."""
    if not cuda.on(device) or importlib.util.find_spec("triton") is None:
        return attend_by_bias
    from maskgen.grounding.fast.slot_attention_kernel import attend_by_lengths

    try:
        _check(attend_by_lengths, device, dtype)
    except Exception as error:  # whatever a compiler may say
        logging.getLogger(__name__).warning(
            "decoding reads every slot's keys up to the furthest one's place: the kernel that reads each "
            "slot's own does not work here (%s)",
            first_line(error),
        )
        return attend_by_bias
    return attend_by_lengths


@torch.inference_mode()
def _check(attend: Attend, device: torch.device, dtype: torch.dtype) -> None:
    """RuntimeError if the kernel's results are not those of the plain attention."""
    made = torch.Generator().manual_seed(0)
    query, keys, values = (torch.randn(2, 2, n, 64, generator=made).to(device, dtype) for n in (3, 300, 300))
    lengths = torch.tensor([1, 299], dtype=torch.int32, device=device)
    hidden = torch.arange(300, device=device) >= lengths[:, None]
    bias = query.new_zeros(2, 1, 1, 300).masked_fill_(hidden[:, None, None], -torch.inf)
    given = query, keys, values, bias, lengths
    off = (attend(*given).float() - attend_by_bias(*given).float()).abs().max()
    if not off < (1e-4 if dtype == torch.float32 else 3e-2):
        raise RuntimeError(f"its results are off by {float(off):.1e}")
