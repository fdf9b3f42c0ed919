"""Masks where they are made: their share of each cell, and the bits that cross to the host."""

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F

from maskgen.geometry import Frame

Cuts = tuple[torch.Tensor, torch.Tensor, int]
"""Where cells end along an axis: whole lines before, the part of the next, and a line in the part's units."""

Found = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]
"""An image's mask, bool (height, width); its parts' scores (parts, n) and areas; its grid, if it has one."""


def coverage(mask: torch.Tensor, frame: Frame) -> torch.Tensor:
    """bool (height, width) to uint8 (cells, cells): `Frame.grid`, integer for integer, where the mask is."""
    height, width = mask.shape
    down, across = _cuts(frame, height, width, mask.device)
    areas = _summed(_summed(mask.long(), *down).T, *across).T.contiguous()
    shares = frame.shares(areas, width, height).to(torch.uint8)
    # A mask that shows at all never becomes zero.
    lost = areas.any() & ~shares.any()
    shares.view(-1)[areas.flatten().argmax()] += lost
    return shares


def pack(mask: torch.Tensor) -> torch.Tensor:
    """bool (height, width) to uint8 (bytes,): eight pixels a byte, column by column as run lengths go."""
    columns = mask.T.flatten()
    bits = F.pad(columns, (0, -len(columns) % 8)).view(-1, 8)
    values = torch.tensor([128, 64, 32, 16, 8, 4, 2, 1], dtype=torch.uint8, device=mask.device)
    return (bits * values).sum(dim=1, dtype=torch.uint8)


def unpack(packed: np.ndarray, height: int, width: int) -> np.ndarray:
    """What was packed, bool (height, width), its columns contiguous."""
    bits = np.unpackbits(packed, count=height * width)
    return bits.view(bool).reshape(width, height).T


def plain(found: torch.Tensor, scores: torch.Tensor) -> Found:
    """The union of an image's masks, bool (parts, height, width), with their scores and areas."""
    parts = found.cpu().numpy()
    return np.asarray(parts.any(axis=0)), scores.cpu().numpy(), parts.sum(axis=(1, 2)), None


def fetched(chosen: list[tuple[torch.Tensor, torch.Tensor]], frame: Frame | None) -> list[Found]:
    """As `plain`, of many images, with their grids in `frame`: nothing but bits and numbers crosses over."""
    unions = [found.any(dim=0) for found, _ in chosen]
    sizes = [(union.shape[0], union.shape[1]) for union in unions]
    bits = _to_host([pack(union) for union in unions])
    scores = [
        flat.reshape(-1, kinds.shape[1])
        for flat, (_, kinds) in zip(_to_host([one.flatten() for _, one in chosen]), chosen, strict=True)
    ]
    areas = _to_host([found.sum(dim=(1, 2)) for found, _ in chosen])
    masks = [unpack(each, *size) for each, size in zip(bits, sizes, strict=True)]
    grids: list[np.ndarray] | list[None] = [None] * len(masks)
    if frame is not None:
        cells = _to_host([coverage(union, frame).flatten() for union in unions])
        grids = [each.reshape(frame.cells, frame.cells) for each in cells]
    return list(zip(masks, scores, areas, grids, strict=True))


def _to_host(tensors: list[torch.Tensor]) -> list[np.ndarray]:
    """Tensors of one dimension and one dtype, in a single copy."""
    together = torch.cat(tensors).cpu().numpy()
    return np.split(together, np.cumsum([len(each) for each in tensors])[:-1])


@lru_cache(maxsize=256)
def _cuts(frame: Frame, height: int, width: int, device: torch.device) -> tuple[Cuts, Cuts]:
    place = frame.placement(width, height)
    axes = ((place.top, place.height, height), (place.left, place.width, width))
    units = [length * frame.cells for _, length, _ in axes]
    edges = torch.tensor([frame.edges(*axis) for axis in axes])
    whole = torch.stack([each // unit for each, unit in zip(edges, units, strict=True)]).to(device)
    part = torch.stack([each % unit for each, unit in zip(edges, units, strict=True)]).to(device)
    return (whole[0], part[0], units[0]), (whole[1], part[1], units[1])


def _summed(lines: torch.Tensor, whole: torch.Tensor, part: torch.Tensor, unit: int) -> torch.Tensor:
    """int64 (lines, ...) to (cells, ...): the sum of the lines in each cell."""
    before = F.pad(lines.cumsum(dim=0), (0, 0, 1, 0))
    cut = lines.index_select(0, whole.clamp(max=len(lines) - 1))
    return (before.index_select(0, whole) * unit + cut * part[:, None]).diff(dim=0)
