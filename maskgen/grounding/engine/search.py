"""Greedy and beam search over slots: each slot is one answer in the making, at a length of its own.

The arithmetic is that of transformers' searches, slot by slot instead of batch by batch: an answer does not
depend on what the other slots hold, and its slot is free as soon as it has ended.
"""

from typing import Protocol

import torch

from maskgen.grounding.engine.rules import Rules

FAR = -1.0e9  # what transformers gives to candidates that are out


class Search(Protocol):
    """State of all slots. `tokens`: int64 (slots, beams, length), as far as `lengths`, (slots,), say."""

    tokens: torch.Tensor
    lengths: torch.Tensor

    def begin(self, slot: int) -> None:
        """Empty the slot for a new answer."""

    def advance(self, logits: torch.Tensor, longest: int) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Choose the next tokens by `logits`, float32 (slots, beams, words); `longest`: the longest length.

        Returns the beam that each beam goes on from, int64 (slots, beams), or None for the beams as they are,
        and which slots have ended, bool (slots,).
        """

    def answer(self, slot: int) -> list[int]:
        """The ended slot's tokens, the start token first; what follows an end token is padding."""


def search(rules: Rules, slots: int, device: torch.device) -> Search:
    """The search that the rules ask for."""
    return Beams(rules, slots, device) if rules.beams > 1 else Greedy(rules, slots, device)


class Greedy:
    """The likeliest token, again and again."""

    def __init__(self, rules: Rules, slots: int, device: torch.device):
        self._rules = rules
        self.tokens = torch.full((slots, 1, rules.length), rules.pad, device=device)
        self.lengths = torch.ones(slots, dtype=torch.long, device=device)
        self._slots = torch.arange(slots, device=device)

    def begin(self, slot: int) -> None:
        """See `Search.begin`."""
        self.tokens[slot] = self._rules.pad
        self.tokens[slot, 0, 0] = self._rules.start
        self.lengths[slot] = 1

    def advance(self, logits: torch.Tensor, longest: int) -> tuple[torch.Tensor | None, torch.Tensor]:
        """See `Search.advance`."""
        scores = logits[:, 0]
        self._rules.forbid(scores, self.tokens[:, 0], self.lengths, longest)
        chosen = scores.argmax(dim=-1)
        self.tokens[self._slots, 0, self.lengths.clamp(max=self._rules.length - 1)] = chosen
        self.lengths += 1
        return None, self._rules.ended(chosen) | (self.lengths >= self._rules.length)

    def answer(self, slot: int) -> list[int]:
        """See `Search.answer`."""
        found: list[int] = self.tokens[slot, 0, : int(self.lengths[slot])].tolist()
        return found


class Beams:
    """Several running answers a slot, and the best ended ones."""

    def __init__(self, rules: Rules, slots: int, device: torch.device):
        self._rules = rules
        shape = (slots, rules.beams)
        self.tokens = torch.full((*shape, rules.length), rules.pad, device=device)
        self.lengths = torch.ones(slots, dtype=torch.long, device=device)
        self._scores = torch.zeros(shape, device=device)
        self._done = torch.full_like(self.tokens, rules.pad)
        self._done_scores = torch.full(shape, FAR, device=device)
        self._is_done = torch.zeros(shape, dtype=torch.bool, device=device)
        self._hopeful = torch.ones(slots, 1, dtype=torch.bool, device=device)
        # Enough candidates that `beams` go on even if every end token is among them.
        self._kept = max(2, 1 + len(rules.ends)) * rules.beams
        self._top = torch.arange(self._kept, device=device) < rules.beams
        self._limit = torch.tensor(rules.length - 1, device=device)

    def begin(self, slot: int) -> None:
        """See `Search.begin`."""
        for tokens in (self.tokens, self._done):
            tokens[slot] = self._rules.pad
            tokens[slot, :, 0] = self._rules.start
        self.lengths[slot] = 1
        self._scores[slot] = FAR
        self._scores[slot, 0] = 0.0
        self._done_scores[slot] = FAR
        self._is_done[slot] = False
        self._hopeful[slot] = True

    def advance(self, logits: torch.Tensor, longest: int) -> tuple[torch.Tensor | None, torch.Tensor]:
        """See `Search.advance`."""
        rules = self._rules
        slots, beams, words = logits.shape
        scores = logits.log_softmax(dim=-1).flatten(0, 1)
        rules.forbid(scores, self.tokens.flatten(0, 1), self.lengths.repeat_interleave(beams), longest)
        total = (scores.view(slots, beams, words) + self._scores[..., None]).flatten(1)
        best, places = total.topk(self._kept, dim=1)
        parents, chosen = places // words, places % words
        candidates = self.tokens.gather(1, parents[..., None].expand(-1, -1, rules.length))
        at = torch.minimum(self.lengths, self._limit)[:, None, None].expand(-1, self._kept, 1)
        candidates.scatter_(2, at, chosen[..., None])
        ends = rules.ended(chosen) | (self.lengths[:, None] + 1 >= rules.length)

        self._keep_ended(candidates, best, ends)
        running = best + ends * FAR
        self._scores, going = running.topk(beams, dim=1)
        self.tokens = candidates.gather(1, going[..., None].expand(-1, -1, rules.length))
        self.lengths += 1
        self._hope()
        full = self._is_done.all(dim=1) if rules.early is True else torch.zeros_like(self._hopeful[:, 0])
        return parents.gather(1, going), ~self._hopeful[:, 0] | full | ends.all(dim=1)

    def answer(self, slot: int) -> list[int]:
        """See `Search.answer`."""
        found: list[int] = self._done[slot, 0].tolist()
        return found

    def _keep_ended(self, candidates: torch.Tensor, best: torch.Tensor, ends: torch.Tensor) -> None:
        """Merge candidates that have just ended, of the first `beams` alone, into the best ended ones."""
        just = ends & self._top
        # Both lengths are counted without the start token, the new token included.
        scores = best / (self.lengths[:, None].to(best.dtype) ** self._rules.length_penalty)
        if self._rules.early is True:
            scores = scores + self._is_done.all(dim=1, keepdim=True) * FAR
        scores = scores + ~self._hopeful * FAR
        scores = scores + ~just * FAR
        merged = torch.cat([self._done_scores, scores], dim=1)
        self._done_scores, kept = merged.topk(self._rules.beams, dim=1)
        tokens = torch.cat([self._done, candidates], dim=1)
        self._done = tokens.gather(1, kept[..., None].expand(-1, -1, tokens.shape[2]))
        self._is_done = torch.cat([self._is_done, just], dim=1).gather(1, kept)

    def _hope(self) -> None:
        """Whether the best running beam could still beat the worst ended one."""
        rules = self._rules
        length: torch.Tensor = self.lengths[:, None] - 1
        if rules.early == "never" and rules.length_penalty > 0:
            length = torch.full_like(length, rules.length - 1)
        possible = self._scores[:, :1] / (length.to(self._scores.dtype) ** rules.length_penalty)
        worst = torch.where(self._is_done, self._done_scores.amin(dim=1, keepdim=True), FAR)
        self._hopeful &= (possible > worst).any(dim=1, keepdim=True)
