"""Which samples a step takes: a pure function of its number."""

import numpy as np

WINDOW = 64
"""Shards whose samples are mixed at a time: enough for a good mix, few enough for a disk's cache."""


class Schedule:
    """One epoch over `n` samples in steps of `batch`, every sample once; -1 fills the last one up.

    The global batch of a step follows from seed, stage and step alone; `world_size` and `accumulation` only
    share it out. "stratified" gives every step its share of the samples with a mask; "random" does not look
    at them. Shards are shuffled, then samples within windows of WINDOW shards: at any time the samples of
    one kind come from two windows at most.
    """

    def __init__(
        self,
        n: int,
        has_mask: np.ndarray,
        shards: np.ndarray,
        batch: int,
        world_size: int,
        accumulation: int,
        seed: int,
        stage: int,
        order: str,
    ):
        """`has_mask`: bool (n,). `shards`: int (n,), the shard that each sample lies in, over all sets."""
        generator = np.random.default_rng((seed, stage))
        mixed = _mixed(shards, generator)
        if order == "stratified":
            place = np.empty(n)
            for kind in (True, False):
                members = mixed[has_mask[mixed] == kind]
                place[members] = (np.arange(len(members)) + generator.random()) / max(1, len(members))
            mixed = np.argsort(place, kind="stable")
        self.steps = -(-n // batch)
        rows = np.full(self.steps * batch, -1)
        rows[:n] = mixed
        self._rows = rows.reshape(self.steps, accumulation, world_size, -1)

    def batch(self, step: int, rank: int, micro: int) -> list[int]:
        """The samples of one micro-batch of one process."""
        return [int(row) for row in self._rows[step, micro, rank]]


def _mixed(shards: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """All samples, shuffled within windows of shuffled shards."""
    names, shard = np.unique(shards, return_inverse=True)
    window = generator.permutation(len(names))[shard] // WINDOW
    return np.lexsort((generator.random(len(shards)), window))
