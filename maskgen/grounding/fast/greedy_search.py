"""Greedy search: the likeliest token, again and again."""

import torch

from maskgen.grounding.fast.search import Search
from maskgen.grounding.fast.topk import likeliest


class Greedy(Search):
    """One beam a slot; nothing is weighed."""

    def advance(self, logits: torch.Tensor) -> torch.Tensor | None:
        """See `Search.advance`."""
        self._forbid_repeats(logits)
        chosen = likeliest(logits)
        if self._forced is not None:
            forced = self._forced.index_select(0, self.place)[:, 0]
            chosen = torch.where(forced >= 0, forced, chosen)
        self._flat_trail.index_copy_(0, self.place + self._trail_rows, chosen[:, None])
        self._remember(chosen, None)
        ended = self._ends(chosen[:, None])
        self.place.add_(self.alive[:, 0])
        self.alive.logical_and_(~ended)
        return None

    def answers(self, where: torch.Tensor) -> list[list[int]]:
        """See `Search.answers`."""
        places = self.place[where].tolist()
        trails = self._trail[where, : max(places) + 1, 0].tolist()
        return [
            [self._rules.start, *trail[1 : place + 1]] for trail, place in zip(trails, places, strict=True)
        ]
