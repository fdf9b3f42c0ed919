"""Greedy search: the likeliest token, again and again."""

import torch

from maskgen.grounding.fast.search import Search
from maskgen.grounding.fast.topk import chunked_argmax


class GreedySearch(Search):
    """One beam a slot; nothing is weighed."""

    def advance(self, logits: torch.Tensor) -> torch.Tensor | None:
        """See `Search.advance`."""
        self._forbid_repeats(logits)
        chosen = chunked_argmax(logits)
        if self._forced is not None:
            forced = self._forced.index_select(0, self.position)[:, 0]
            chosen = torch.where(forced >= 0, forced, chosen)
        self._flat_backpointers.index_copy_(0, self.position + self._backpointer_rows, chosen[:, None])
        self._append(chosen, None)
        ended = self._ends(chosen[:, None])
        self.position.add_(self.alive[:, 0])
        self.alive.logical_and_(~ended)
        return None

    def answers(self, index: torch.Tensor) -> list[list[int]]:
        """See `Search.answers`."""
        positions = self.position[index].tolist()
        tokens = self._backpointers[index, : max(positions) + 1, 0].tolist()
        return [
            [self._rules.start, *own[1 : position + 1]]
            for own, position in zip(tokens, positions, strict=True)
        ]
