"""Greedy search: the likeliest token, again and again."""

import torch

from maskgen.grounding.fast.search import Search, WrittenAnswer
from maskgen.grounding.fast.topk import chunked_argmax


class GreedySearch(Search):
    """One beam a slot; nothing is weighed."""

    def advance(self, logits: torch.Tensor) -> torch.Tensor | None:
        """See `Search.advance`."""
        total = logits.logsumexp(dim=1) if self._rules.keep_scores else None
        if total is not None:
            self._note_end(logits, total)
        self._forbid_repeats(logits)
        chosen = chunked_argmax(logits)
        log_probs = None if total is None else logits.gather(1, chosen[:, None])[:, 0] - total
        if self._forced is not None:
            forced = self._forced.index_select(0, self.position)[:, 0]
            chosen = torch.where(forced >= 0, forced, chosen)
            log_probs = None if log_probs is None else torch.where(forced >= 0, 0.0, log_probs)
        places = self.position + self._backpointer_rows
        self._flat_backpointers.index_copy_(0, places, chosen[:, None])
        if log_probs is not None:
            self._flat_log_probs.index_copy_(0, places, log_probs[:, None])
        self._append(chosen, None)
        ended = self._ends(chosen[:, None])
        self.position.add_(self.alive[:, 0])
        self.alive.logical_and_(~ended)
        return None

    def answers(self, index: torch.Tensor) -> list[WrittenAnswer]:
        """See `Search.answers`."""
        positions = self.position[index].tolist()
        tokens = self._backpointers[index, : max(positions) + 1, 0].tolist()
        if not self._rules.keep_scores:
            return [
                WrittenAnswer([self._rules.start, *own[1 : position + 1]])
                for own, position in zip(tokens, positions, strict=True)
            ]
        log_probs = self._log_probs[index, : max(positions) + 1, 0].tolist()
        ends = self._end_probs[index].tolist()
        return [
            WrittenAnswer([self._rules.start, *own[1 : position + 1]], scores[1 : position + 1], end)
            for own, scores, end, position in zip(tokens, log_probs, ends, positions, strict=True)
        ]
