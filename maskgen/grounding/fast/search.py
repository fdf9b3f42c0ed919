"""Greedy and beam search over slots: each slot is one answer in the making, at a position of its own.

The arithmetic is that of transformers' searches, slot by slot instead of batch by batch: an answer does not
depend on what the other slots hold. A step runs on the device alone, with fixed shapes, and changes nothing
of an answer that has ended: the host may look when it likes.
"""

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import reduce

import torch

from maskgen.grounding.fast.generation_rules import GenerationRules

EXCLUDED = -1.0e9  # what transformers gives to candidates that are out


@dataclass(frozen=True)
class WrittenAnswer:
    """An answer as the search leaves it.

    `ids`: its tokens, the start token first. With `GenerationRules.keep_scores`, `log_probs`: of each token
    after the start, given those before it (a forced one is certain: 0), and `end_prob`, 0-1: of an end where
    the first free token stands.
    """

    ids: list[int]
    log_probs: list[float] = field(default_factory=list)
    end_prob: float = 0.0


class Search(ABC):
    """State of all slots, the slot first in every tensor.

    `position`: int64 (slots,), where the last tokens stand, the start token at 0. `last`: int64 (slots,
    beams), those tokens. `alive`: bool (slots, 1). `_backpointers`: int64 (slots, length + 1, beams), at each
    position the beam that a beam came from, times V, plus its token. `_history`: int64 (slots, beams,
    length), the beams' tokens, the last one first, for the ban of repeated n-grams. `_log_probs`: float32, as
    `_backpointers`, of the tokens there; `_end_probs`: float32 (slots,).
    """

    STATE: tuple[str, ...] = (
        "position",
        "last",
        "alive",
        "_backpointers",
        "_history",
        "_log_probs",
        "_end_probs",
    )
    candidates = 1

    def __init__(self, rules: GenerationRules, slots: int, vocabulary: int, device: torch.device):
        """`vocabulary`: V, the width of the logits."""
        self._rules = rules
        self._vocabulary = vocabulary
        self.position = torch.zeros(slots, dtype=torch.long, device=device)
        self.last = torch.full((slots, rules.beams), rules.start, device=device)
        self.alive = torch.zeros(slots, 1, dtype=torch.bool, device=device)
        self._backpointers = torch.zeros(
            slots, rules.max_length + 1, rules.beams, dtype=torch.long, device=device
        )
        remembered = rules.max_length if rules.no_repeat_ngram else 1
        self._history = torch.full((slots, rules.beams, remembered), -1, device=device)
        remembered = self._backpointers.shape[1] if rules.keep_scores else 1
        self._log_probs = torch.zeros(slots, remembered, rules.beams, device=device)
        self._end_probs = torch.zeros(slots, device=device)
        self._first_free = 1 if rules.forced_bos else 0
        self._eos = torch.tensor(rules.eos, device=device)
        self._forced = self._forced_table(device)
        if self._forced is not None:
            self._forced_beams = self._forced.clamp(min=0) // vocabulary
        self.set_view(slots, rules.max_length)

    def first(self, slots: int, length: int) -> "Search":
        """The same search, on the first `slots` and their first `length` places."""
        other = copy.copy(self)
        for name in self.STATE:
            setattr(other, name, getattr(self, name)[:slots])
        other.set_view(slots, length)
        return other

    def start(self, index: torch.Tensor) -> None:
        """Empty the slots `index`, int64 (n,), for new answers."""
        self.position.index_fill_(0, index, 0)
        self.last.index_fill_(0, index, self._rules.start)
        self.alive.index_fill_(0, index, True)
        self._history.index_fill_(0, index, -1)
        self._history[:, :, 0].index_fill_(0, index, self._rules.start)

    def copy_slots(self, source: torch.Tensor, target: torch.Tensor) -> None:
        """Copy slots, int64 (n,), onto others."""
        for name in self.STATE:
            held = getattr(self, name)
            held.index_copy_(0, target, held.index_select(0, source))

    @abstractmethod
    def advance(self, logits: torch.Tensor) -> torch.Tensor | None:
        """Choose the next tokens by `logits`, float32 (slots * beams, V), which it may write to.

        Returns, for each row of slots * beams, the row it goes on from, int64; None if each its own.
        """

    @abstractmethod
    def answers(self, index: torch.Tensor) -> list[WrittenAnswer]:
        """Those of the ended slots `index`."""

    def set_view(self, slots: int, length: int) -> None:
        """The buffers as a step on `slots` and `length` places needs them."""
        beams, most = self._rules.beams, self._backpointers.shape[1]
        device = self.position.device
        self._flat_backpointers = self._backpointers.view(-1, beams)
        self._flat_log_probs = self._log_probs.view(-1, beams)
        self._backpointer_rows = torch.arange(slots, device=device) * most + 1
        self._first_rows = torch.arange(slots, device=device)[:, None] * beams
        self._tokens = self._history.view(-1, self._history.shape[2])[: slots * beams, :length]

    def _forced_table(self, device: torch.device) -> torch.Tensor | None:
        """(length, candidates): by the last token's position, the only candidates, or -1 for any."""
        rules = self._rules
        if not rules.forced_bos and not rules.forced_eos:
            return None
        forced = torch.full((rules.max_length, self.candidates), -1)
        for position, tokens in ((0, rules.forced_bos), (rules.max_length - 2, rules.forced_eos)):
            if tokens:
                only = [b * self._vocabulary + token for b in range(rules.beams) for token in sorted(tokens)]
                # Candidates beyond the beams are looked at only where they cannot win.
                only += only[-1:] * (self.candidates - len(only))
                forced[position] = torch.tensor(only[: self.candidates])
        return forced.to(device)

    def _forbid_repeats(self, scores: torch.Tensor) -> None:
        """Put minus infinity where a token would complete an n-gram that is there already."""
        tokens, given = self._tokens, self._rules.no_repeat_ngram - 1
        count = tokens.shape[1] - given
        if not self._rules.no_repeat_ngram or count < 1:
            return
        completing = tokens[:, :count]
        same = [tokens[:, 1 + i : 1 + i + count] == tokens[:, i : i + 1] for i in range(given)]
        banned = reduce(torch.logical_and, same) if same else completing >= 0
        # Unwritten places hold -1, which equals no token; they add nothing to word 0.
        ban = torch.zeros_like(banned, dtype=scores.dtype).masked_fill_(banned, -torch.inf)
        scores.scatter_add_(1, completing.clamp(min=0), ban)

    def _note_end(self, first: torch.Tensor, total: torch.Tensor | None = None) -> None:
        """Keep how likely an end is where the first free token is due. `first`: (slots, V), the first beams'
        logits, `total` their logsumexp (slots,); without it, their log-probabilities.
        """
        ends = first.index_select(1, self._eos).logsumexp(dim=1)
        found = (ends if total is None else ends - total).exp()
        self._end_probs.copy_(torch.where(self.position == self._first_free, found, self._end_probs))

    def _append(self, chosen: torch.Tensor, rows: torch.Tensor | None) -> None:
        """Put each row's new token, int64 (rows,), before those of the row that it goes on from."""
        self.last.copy_(chosen.view_as(self.last))
        if self._rules.no_repeat_ngram:
            before = self._tokens[:, :-1]
            before = before.clone() if rows is None else before.index_select(0, rows)
            self._tokens[:, 1:].copy_(before)
            self._tokens[:, 0].copy_(chosen)

    def _ends(self, chosen: torch.Tensor) -> torch.Tensor:
        """Which tokens, (slots, n), end an answer: end tokens, and all at the limit."""
        return self._rules.is_eos(chosen) | (self.position >= self._rules.max_length - 2)[:, None]
