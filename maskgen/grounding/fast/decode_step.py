"""One step of all slots, for a few numbers of slots and lengths; on a GPU each of them one graph."""

from typing import Any

import torch

from maskgen.grounding.fast.decoder import Decoder
from maskgen.grounding.fast.search import Search

SHORTEST = 16  # places that the smallest bucket looks back on


class Steps:
    """Decodes a token for the first slots, on buckets of slots and of places looked back on.

    The same function runs as it is, or captured as a CUDA graph and replayed. All graphs share one pool of
    memory, since only one of them runs at a time.
    """

    def __init__(self, decoder: Decoder, search: Search, length: int):
        """`length`: places that the decoder has, a multiple of SHORTEST."""
        self._decoder = decoder
        self._search = search
        self._length = length
        self._captures = search.place.is_cuda
        self._bound: dict[tuple[int, int], tuple[Decoder, Search]] = {}
        self._graphs: dict[tuple[int, int], Any] = {}
        self._pool = torch.cuda.graph_pool_handle() if self._captures else None

    def run(self, slots: int, place: int) -> None:
        """A step of the first `slots`; none that matters stands further than `place`."""
        length = SHORTEST
        while length < place + 2:
            length *= 2
        key = slots, min(length, self._length)
        if key in self._graphs:
            self._graphs[key].replay()
        elif key not in self._bound:
            # As it is: this also makes ready what cannot be made ready while a graph is captured.
            self._bound[key] = self._decoder.first(*key), self._search.first(*key)
            step(*self._bound[key])
        elif self._captures:
            self._graphs[key] = torch.cuda.CUDAGraph()
            # Only this thread's calls are captured: others may be copying pictures.
            mode = "thread_local"
            with torch.cuda.graph(self._graphs[key], pool=self._pool, capture_error_mode=mode):
                step(*self._bound[key])
            self._graphs[key].replay()
        else:
            step(*self._bound[key])


def step(decoder: Decoder, search: Search) -> None:
    """The next token of every beam. Asks nothing of the device; every shape is known before."""
    rows = search.advance(decoder.step(search.last, search.place))
    if rows is not None:
        decoder.follow(rows)
