"""Which samples a step takes: a pure function of its number."""

import numpy as np


class Schedule:
    """One epoch over `n` samples in steps of `batch`; -1 fills the last one up.

    "stratified" gives every step its share of the samples with a mask, "random" does not look at them.
    """

    def __init__(
        self,
        n: int,
        has_mask: np.ndarray,
        batch: int,
        world_size: int,
        accumulation: int,
        seed: int,
        stage: int,
        order: str,
    ):
        generator = np.random.default_rng((seed, stage))
        mixed = generator.permutation(n)
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
