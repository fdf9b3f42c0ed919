"""Beam search: several running answers a slot, and the best ended ones."""

import torch

from maskgen.grounding.fast.generation_rules import Rules
from maskgen.grounding.fast.search import FAR, Search
from maskgen.grounding.fast.topk import largest


class Beams(Search):
    """Scores of the running answers, and of the ended ones; what an ended one says is left in the trail.

    `_done`: int64 (slots, beams), where each ended answer ends, as place * beams * W + beam * W + token, the
    beam being the one it came from at that place; -1 for none.
    """

    _STATE = (*Search._STATE, "_scores", "_done_scores", "_done")

    def __init__(self, rules: Rules, slots: int, words: int, device: torch.device):
        """See `Search`."""
        shape = (slots, rules.beams)
        # Enough candidates that `beams` go on even if every end token is among them.
        self.candidates = max(2, 1 + len(rules.ends)) * rules.beams
        self._scores = torch.zeros(shape, device=device)
        self._done_scores = torch.full(shape, FAR, device=device)
        self._done = torch.full(shape, -1, device=device)
        # By place: what a score is divided by. The start token does not count, the new one does.
        lengths = torch.arange(1, rules.length + 1, device=device)
        self._penalties = lengths.float() ** rules.length_penalty
        self._limit = float(torch.tensor(rules.length - 1.0) ** rules.length_penalty)
        super().__init__(rules, slots, words, device)

    def begin(self, where: torch.Tensor) -> None:
        """See `Search.begin`."""
        super().begin(where)
        self._scores.index_fill_(0, where, FAR)
        self._scores[:, 0].index_fill_(0, where, 0.0)
        self._done_scores.index_fill_(0, where, FAR)
        self._done.index_fill_(0, where, -1)

    def advance(self, logits: torch.Tensor) -> torch.Tensor | None:
        """See `Search.advance`."""
        scores = logits.log_softmax(dim=-1)
        self._forbid_repeats(scores)
        best, places = self._force(*largest(scores, self._scores, self.candidates))
        ends = self._ends(places % self._words)
        penalty = self._penalties.index_select(0, self.place)[:, None]
        self._keep_ended(best, places, ends, penalty)

        running, going = best.masked_fill(ends, FAR).topk(self._rules.beams, dim=1)
        picked = places.gather(1, going)
        rows = (picked // self._words + self._first_rows).flatten()
        self._flat_trail.index_copy_(0, self.place + self._trail_rows, picked)
        self._remember((picked % self._words).flatten(), rows)
        self._scores.copy_(running)
        self.place.add_(self.alive[:, 0])
        self.alive.logical_and_(self._hopeful(running, penalty) & ~ends.all(dim=1, keepdim=True))
        return rows

    def answers(self, where: torch.Tensor) -> list[list[int]]:
        """See `Search.answers`."""
        ends = self._done[where, 0].tolist()
        span = self._rules.beams * self._words
        trails = self._trail[where, : max(0, *ends) // span + 1].tolist()
        return [
            # Scores that are no numbers end an answer without an end.
            self._walk(end // span, end % span, trail) if end >= 0 else [self._rules.start]
            for end, trail in zip(ends, trails, strict=True)
        ]

    def _walk(self, place: int, code: int, trail: list[list[int]]) -> list[int]:
        """From an answer's last choice, made after `place`, back to its start."""
        tokens = []
        while True:
            beam, token = divmod(code, self._words)
            tokens.append(token)
            if place == 0:
                return [self._rules.start, *reversed(tokens)]
            code = trail[place][beam]
            place -= 1

    def _force(self, best: torch.Tensor, places: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The candidates, or the forced ones, which cost their beams nothing."""
        if self._forced is None:
            return best, places
        forced = self._forced.index_select(0, self.place)
        beams = self._forced_beams.index_select(0, self.place)
        given = forced >= 0
        return torch.where(given, self._scores.gather(1, beams), best), torch.where(given, forced, places)

    def _keep_ended(
        self, best: torch.Tensor, places: torch.Tensor, ends: torch.Tensor, penalty: torch.Tensor
    ) -> None:
        """Merge candidates that have just ended, of the first `beams` alone, into the best ended ones."""
        beams = self._rules.beams
        just = ends[:, :beams] & self.alive
        scores = torch.where(just, best[:, :beams] / penalty, FAR)
        codes = places[:, :beams] + self.place[:, None] * (beams * self._words)
        codes = torch.where(just, codes, -1)
        merged, kept = torch.cat([self._done_scores, scores], dim=1).topk(beams, dim=1)
        self._done.copy_(torch.cat([self._done, codes], dim=1).gather(1, kept))
        self._done_scores.copy_(merged)

    def _hopeful(self, running: torch.Tensor, penalty: torch.Tensor) -> torch.Tensor:
        """bool (slots, 1): whether a running beam may still change the answer."""
        rules = self._rules
        never = rules.early == "never" and rules.length_penalty > 0
        possible = running[:, :1] / (self._limit if never else penalty)
        hopeful = possible > self._done_scores[:, -1:]
        if rules.early is True:
            hopeful = hopeful & (self._done < 0).any(dim=1, keepdim=True)
        return hopeful
