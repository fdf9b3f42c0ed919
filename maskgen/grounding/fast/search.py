"""Greedy and beam search over slots: each slot is one answer in the making, at a place of its own.

The arithmetic is that of transformers' searches, slot by slot instead of batch by batch: an answer does not
depend on what the other slots hold. A step runs on the device alone, with fixed shapes, and changes nothing
of an answer that has ended: the host may look when it likes.
"""

import copy
from abc import ABC, abstractmethod
from functools import reduce

import torch

from maskgen.grounding.fast.generation_rules import Rules

FAR = -1.0e9  # what transformers gives to candidates that are out


class Search(ABC):
    """State of all slots, the slot first in every tensor.

    `place`: int64 (slots,), where the last tokens stand, the start token at 0. `last`: int64 (slots, beams),
    those tokens. `alive`: bool (slots, 1). `_trail`: int64 (slots, length + 1, beams), at each place the beam
    that a beam came from, times W, plus its token. `_history`: int64 (slots, beams, length), the beams'
    tokens, the last one first, for the ban of repeated n-grams.
    """

    _STATE: tuple[str, ...] = ("place", "last", "alive", "_trail", "_history")
    candidates = 1

    def __init__(self, rules: Rules, slots: int, words: int, device: torch.device):
        """`words`: W, the width of the logits."""
        self._rules = rules
        self._words = words
        self.place = torch.zeros(slots, dtype=torch.long, device=device)
        self.last = torch.full((slots, rules.beams), rules.start, device=device)
        self.alive = torch.zeros(slots, 1, dtype=torch.bool, device=device)
        self._trail = torch.zeros(slots, rules.length + 1, rules.beams, dtype=torch.long, device=device)
        remembered = rules.length if rules.ngram else 1
        self._history = torch.full((slots, rules.beams, remembered), -1, device=device)
        self._forced = self._forced_places(device)
        if self._forced is not None:
            self._forced_beams = self._forced.clamp(min=0) // words
        self._view(slots, rules.length)

    def first(self, slots: int, length: int) -> "Search":
        """The same search, on the first `slots` and their first `length` places."""
        other = copy.copy(self)
        for name in self._STATE:
            setattr(other, name, getattr(self, name)[:slots])
        other._view(slots, length)
        return other

    def begin(self, where: torch.Tensor) -> None:
        """Empty the slots `where`, int64 (n,), for new answers."""
        self.place.index_fill_(0, where, 0)
        self.last.index_fill_(0, where, self._rules.start)
        self.alive.index_fill_(0, where, True)
        self._history.index_fill_(0, where, -1)
        self._history[:, :, 0].index_fill_(0, where, self._rules.start)

    def move(self, source: torch.Tensor, target: torch.Tensor) -> None:
        """Copy slots, int64 (n,), onto others."""
        for name in self._STATE:
            held = getattr(self, name)
            held.index_copy_(0, target, held.index_select(0, source))

    @abstractmethod
    def advance(self, logits: torch.Tensor) -> torch.Tensor | None:
        """Choose the next tokens by `logits`, float32 (slots * beams, W), which it may write to.

        Returns, for each row of slots * beams, the row it goes on from, int64; None if each its own.
        """

    @abstractmethod
    def answers(self, where: torch.Tensor) -> list[list[int]]:
        """The tokens of the ended slots `where`, the start token first."""

    def _view(self, slots: int, length: int) -> None:
        """The buffers as a step on `slots` and `length` places needs them."""
        beams, most = self._rules.beams, self._trail.shape[1]
        device = self.place.device
        self._flat_trail = self._trail.view(-1, beams)
        self._trail_rows = torch.arange(slots, device=device) * most + 1
        self._first_rows = torch.arange(slots, device=device)[:, None] * beams
        self._tokens = self._history.view(-1, self._history.shape[2])[: slots * beams, :length]

    def _forced_places(self, device: torch.device) -> torch.Tensor | None:
        """(length, candidates): by the last token's place, the only candidates, or -1 for any."""
        rules = self._rules
        forced = torch.full((rules.length, self.candidates), -1)
        for place, tokens in ((0, rules.first), (rules.length - 2, rules.last)):
            if tokens:
                only = [b * self._words + token for b in range(rules.beams) for token in sorted(tokens)]
                # Candidates beyond the beams are looked at only where they cannot win.
                only += only[-1:] * (self.candidates - len(only))
                forced[place] = torch.tensor(only[: self.candidates])
        return forced.to(device) if (forced >= 0).any() else None

    def _forbid_repeats(self, scores: torch.Tensor) -> None:
        """Put minus infinity where a token would complete an n-gram that is there already."""
        tokens, given = self._tokens, self._rules.ngram - 1
        count = tokens.shape[1] - given
        if not self._rules.ngram or count < 1:
            return
        completing = tokens[:, :count]
        same = [tokens[:, 1 + i : 1 + i + count] == tokens[:, i : i + 1] for i in range(given)]
        banned = reduce(torch.logical_and, same) if same else completing >= 0
        # Unwritten places hold -1, which equals no token; they add nothing to word 0.
        ban = torch.zeros_like(banned, dtype=scores.dtype).masked_fill_(banned, -torch.inf)
        scores.scatter_add_(1, completing.clamp(min=0), ban)

    def _remember(self, chosen: torch.Tensor, rows: torch.Tensor | None) -> None:
        """Put each row's new token, int64 (rows,), before those of the row that it goes on from."""
        self.last.copy_(chosen.view_as(self.last))
        if self._rules.ngram:
            before = self._tokens[:, :-1]
            before = before.clone() if rows is None else before.index_select(0, rows)
            self._tokens[:, 1:].copy_(before)
            self._tokens[:, 0].copy_(chosen)

    def _ends(self, chosen: torch.Tensor) -> torch.Tensor:
        """Which tokens, (slots, n), end an answer: end tokens, and all at the limit."""
        return self._rules.ended(chosen) | (self.place >= self._rules.length - 2)[:, None]
