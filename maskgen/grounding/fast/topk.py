"""The largest of many values, found by the largest of each chunk: a fraction of a full top-k's time."""

import torch

from maskgen.grounding.fast.decoder_weights import CHUNK


def chunked_topk(
    scores: torch.Tensor, offsets: torch.Tensor, count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The `count` largest of `scores` plus their row's offset in each group, in order, and where they stand.

    `scores`: (groups * rows, V), V a multiple of CHUNK; `offsets`: (groups, rows). A place is its row, within
    the group, times V plus its column.
    """
    groups, rows = offsets.shape
    chunks = scores.view(groups, -1, CHUNK)
    peaks = chunks.amax(dim=2).view(groups, rows, -1) + offsets[..., None]
    peaks = peaks.flatten(1)
    # The largest values lie in the chunks of the largest peaks.
    _, which = peaks.topk(min(count, peaks.shape[1]), dim=1)
    inside = chunks.gather(1, which[..., None].expand(-1, -1, CHUNK))
    inside = inside + offsets.gather(1, which // (scores.shape[1] // CHUNK))[..., None]
    best, found = inside.flatten(1).topk(count, dim=1)
    return best, which.gather(1, found // CHUNK) * CHUNK + found % CHUNK


def chunked_argmax(scores: torch.Tensor) -> torch.Tensor:
    """The column of the largest in each row of (rows, V), int64 (rows,); of equal ones the first."""
    chunks = scores.unflatten(1, (-1, CHUNK))
    which = chunks.amax(dim=2).argmax(dim=1, keepdim=True)
    inside = chunks.gather(1, which[..., None].expand(-1, -1, CHUNK))[:, 0]
    return which[:, 0] * CHUNK + inside.argmax(dim=1)
