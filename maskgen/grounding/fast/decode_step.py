"""One decode step of all slots, for a few numbers of slots and lengths; on a GPU each of them one graph."""

import logging
from typing import Any

import torch

from maskgen.errors import first_line
from maskgen.grounding.fast.decoder import Decoder
from maskgen.grounding.fast.search import Search
from maskgen.runtime import cuda
from maskgen.runtime.spans import span

SHORTEST = 16  # positions that the smallest bucket looks back on


class DecodeSteps:
    """Decodes a token for the first slots, on buckets of slots and of positions looked back on.

    The same function runs as it is, or captured as a CUDA graph and replayed. All graphs share one pool of
    memory, since only one of them runs at a time. A bucket whose capture fails goes on as it is.
    """

    def __init__(self, decoder: Decoder, search: Search, length: int):
        """`length`: positions that the decoder has, a multiple of SHORTEST."""
        self._decoder = decoder
        self._search = search
        self._length = length
        self._captures = cuda.on(search.position.device)
        self._bound: dict[tuple[int, int], tuple[Decoder, Search]] = {}
        self._graphs: dict[tuple[int, int], Any] = {}
        self._eager: set[tuple[int, int]] = set()
        self._pool = torch.cuda.graph_pool_handle() if self._captures else None

    def run(self, slots: int, position: int) -> None:
        """A step of the first `slots`; none that matters stands further than `position`."""
        length = SHORTEST
        while length < position + 2:
            length *= 2
        key = slots, min(length, self._length)
        with span("florence2.decode"):
            self._run(key)

    def _run(self, key: tuple[int, int]) -> None:
        if key not in self._bound:
            # As it is: this also makes ready what cannot be made ready while a graph is captured.
            self._bound[key] = self._decoder.first(*key), self._search.first(*key)
            step(*self._bound[key])
        elif graph := self._graph(key):
            graph.replay()
        else:
            step(*self._bound[key])

    def _graph(self, key: tuple[int, int]) -> Any:
        """The bucket's graph, captured when it is first wanted; None if there is none."""
        if self._captures and key not in self._graphs and key not in self._eager:
            try:
                graph = cuda.capture(lambda: step(*self._bound[key]), self._pool)
            except Exception as error:
                # Nothing has run. If the device is lost, the step as it is will say so.
                self._give_up(key, error)
            else:
                if graph is not None:
                    self._graphs[key] = graph
        return self._graphs.get(key)

    def _give_up(self, key: tuple[int, int], error: Exception) -> None:
        if not self._eager:
            logging.getLogger(__name__).warning(
                "decoding goes on without a CUDA graph, more slowly: its capture failed (%s)",
                first_line(error),
            )
        self._eager.add(key)


def step(decoder: Decoder, search: Search) -> None:
    """The next token of every beam. Asks nothing of the device; every shape is known before."""
    logits = decoder.step(search.last, search.position)
    with span("florence2.search"):
        rows = search.advance(logits)
    if rows is not None:
        decoder.reorder(rows)
