"""Masks as COCO run lengths: column by column, runs of 0 and 1 in turn, packed six bits a character."""

import numpy as np
from pycocotools import mask as coco

MAX_PIXELS = 2**28


def encode(mask: np.ndarray) -> str:
    """The run lengths of `mask`, bool (height, width), as COCO's ASCII string."""
    counts: bytes = coco.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"]
    return counts.decode("ascii")


def decode(counts: str | list[int], height: int, width: int) -> np.ndarray:
    """The mask, bool (height, width), of run lengths in COCO's string or as plain numbers.

    ValueError if they are not exactly such a mask. Written here, and not left to pycocotools, because its
    C parser trusts what it reads.
    """
    runs = _checked(counts, height, width)
    values = np.arange(len(runs)) % 2 == 1
    return np.ascontiguousarray(np.repeat(values, runs).reshape(width, height).T)


def check(counts: str | list[int], height: int, width: int) -> None:
    """ValueError if `decode` would raise it."""
    _checked(counts, height, width)


def _checked(counts: str | list[int], height: int, width: int) -> np.ndarray:
    """The run lengths, int64, which fill height x width pixels."""
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        raise ValueError(f"a mask of {height} x {width} pixels is out of bounds")
    runs = _unpack(counts) if isinstance(counts, str) else np.array(counts, np.int64)
    if runs.ndim != 1 or not len(runs):
        raise ValueError("the run lengths are no list of numbers")
    if runs.min() < 0 or runs.max() > height * width or runs.sum() != height * width:
        raise ValueError(f"the runs do not fill {height} x {width} pixels")
    return runs


def _unpack(counts: str) -> np.ndarray:
    """Run lengths, int64. A number is a group of characters of five bits each, lowest first; the sixth
    bit says that the group goes on, the fifth of the last is the sign. From the fourth on, a number is
    the difference to the run two before."""
    codes = np.frombuffer(counts.encode("ascii"), np.uint8).astype(np.int64) - 48
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        raise ValueError("the run lengths are not in COCO's alphabet")
    last = np.flatnonzero(codes & 32 == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    lengths = last - first + 1
    if lengths.max() > 7:
        raise ValueError("a run length is out of bounds")
    places = np.arange(len(codes)) - np.repeat(first, lengths)
    runs = np.add.reduceat((codes & 31) << (5 * places), first)
    runs[codes[last] & 16 != 0] -= (1 << (5 * lengths))[codes[last] & 16 != 0]
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs
