"""How many bytes of pictures a worker holds at once: known from headers, before anything is decoded."""

import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from maskgen.config import Limits
from maskgen.errors import SampleError
from maskgen.pixels import header_size
from maskgen.sample import Sample

PART_BYTES = 1_000_000_000
"""What is proposed together costs no more, or is one picture. A constant, since the bytes of a shard follow
from what is together, and are not to follow from a budget."""

DECODING_BYTES = 200_000_000
"""What is decoded at one moment costs no more, or is one picture."""

_BYTES_PER_PIXEL = 4  # RGB, and a mask


@dataclass(frozen=True)
class FoundImage:
    """A sample and its image's own bytes, b"" for text alone, or what says why there are none.

    `cost`: bytes of memory, the mask and the file's own with it, that it takes until it is encoded.
    """

    sample: Sample
    data: bytes | SampleError
    cost: int

    @classmethod
    def of(cls, sample: Sample, data: bytes | SampleError, limits: Limits) -> "FoundImage":
        """With the cost that its header announces; what `decode` will refuse costs its file alone."""
        if isinstance(data, SampleError):
            return cls(sample, data, 0)
        width, height = header_size(data, limits) or (0, 0)
        return cls(sample, data, len(data) + _BYTES_PER_PIXEL * width * height)


def parts(found: Iterable[FoundImage], limit: int) -> Iterator[list[FoundImage]]:
    """`found` in order, in pieces that cost at most `limit` bytes, or hold one image that costs more."""
    part: list[FoundImage] = []
    for one in found:
        if part and sum(each.cost for each in part) + one.cost > limit:
            yield part
            part = []
        part.append(one)
    if part:
        yield part


class PictureMemory:
    """A budget that images take from before they are decoded, and that each gives back once it is encoded.

    It decides when, never what: the bytes of a shard do not depend on it. What costs more than the whole
    budget waits until nothing else is held. No wait here has a limit of its own: the stages after this one
    give back without waiting for it, and the driver kills a worker without progress.
    """

    def __init__(self, limit: int):
        self._limit = limit
        self._held: dict[str, int] = {}
        self._changed = threading.Condition()
        self._closed = False

    def take(self, images: Iterable[FoundImage]) -> None:
        """Wait until there is room for all of `images`; not any longer once the budget is closed."""
        costs = {one.sample.key: one.cost for one in images if one.cost}
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not self._held or self._has_room(costs))
            self._held.update(costs)

    def give(self, key: str) -> None:
        """The sample of this key holds no picture any more; it may never have held one."""
        with self._changed:
            if self._held.pop(key, None) is not None:
                self._changed.notify_all()

    def close(self) -> None:
        """Nobody gives any more: whoever waits goes on."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _has_room(self, costs: dict[str, int]) -> bool:
        return sum(self._held.values()) + sum(costs.values()) <= self._limit
