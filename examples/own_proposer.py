"""A proposer of one's own: python examples/own_proposer.py IMAGE "anything".

It answers every text with the box around what is least like the image's commonest colour; SAM, here the
small one that ships with the package, makes a mask of it.
"""

import sys

import numpy as np

import maskgen


class OddColour:
    """Finds one box: what differs most from the commonest colour. Any class with these two methods does."""

    def propose(
        self, pictures: list[maskgen.Picture], samples: list[maskgen.Sample]
    ) -> list[maskgen.Proposal]:
        """One answer a sample; `pictures[i].pixels` is uint8 (height, width, 3)."""
        return [self._box(picture.pixels) for picture in pictures]

    def describe(self) -> dict[str, object]:
        """What run.json records: equal for two runs that would answer alike."""
        return {"kind": "odd-colour", "threshold": 60}

    def _box(self, pixels: np.ndarray) -> maskgen.Proposal:
        colours, counts = np.unique(pixels.reshape(-1, 3), axis=0, return_counts=True)
        odd = np.abs(pixels.astype(int) - colours[counts.argmax()]).sum(axis=2) > 60
        rows, columns = np.flatnonzero(odd.any(axis=1)), np.flatnonzero(odd.any(axis=0))
        if not len(rows):
            return maskgen.Proposal()  # found nothing: the outcome is no_grounding
        box = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        return maskgen.Proposal(boxes=np.array([box], dtype=float))


grounder = maskgen.load_grounder("demo", proposer=OddColour())
found = grounder.ground(sys.argv[1], sys.argv[2])
print(f"{found.outcome}: box {found.box}, {found.coverage:.1%} of the image")
