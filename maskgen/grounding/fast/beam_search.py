"""Beam search: several running answers a slot, and the best ended ones."""

import torch

from maskgen.grounding.fast.generation_rules import GenerationRules
from maskgen.grounding.fast.search import EXCLUDED, Search, WrittenAnswer
from maskgen.grounding.fast.topk import chunked_topk


class BeamSearch(Search):
    """Scores of the running hypotheses, and of the finished ones, whose tokens the backpointers tell.

    `_finished`: int64 (slots, beams), where each finished one ends, as position * beams * V + beam * V +
    token, the beam being the one it came from at that position; -1 for none. `_finished_log_probs`: of the
    last token of each.
    """

    STATE = (*Search.STATE, "_scores", "_finished_scores", "_finished", "_finished_log_probs")

    def __init__(self, rules: GenerationRules, slots: int, vocabulary: int, device: torch.device):
        """See `Search`."""
        shape = (slots, rules.beams)
        # Enough candidates that `beams` go on even if every end token is among them.
        self.candidates = max(2, 1 + len(rules.eos)) * rules.beams
        self._scores = torch.zeros(shape, device=device)
        self._finished_scores = torch.full(shape, EXCLUDED, device=device)
        self._finished = torch.full(shape, -1, device=device)
        self._finished_log_probs = torch.zeros(shape, device=device)
        # By position: what a score is divided by. The start token does not count, the new one does.
        lengths = torch.arange(1, rules.max_length + 1, device=device)
        self._penalties = lengths.float() ** rules.length_penalty
        self._limit = float(torch.tensor(rules.max_length - 1.0) ** rules.length_penalty)
        super().__init__(rules, slots, vocabulary, device)

    def start(self, index: torch.Tensor) -> None:
        """See `Search.start`."""
        super().start(index)
        self._scores.index_fill_(0, index, EXCLUDED)
        self._scores[:, 0].index_fill_(0, index, 0.0)
        self._finished_scores.index_fill_(0, index, EXCLUDED)
        self._finished.index_fill_(0, index, -1)

    def advance(self, logits: torch.Tensor) -> torch.Tensor | None:
        """See `Search.advance`."""
        scores = logits.log_softmax(dim=-1)
        if self._rules.keep_scores:
            self._note_end(scores.view(-1, self._rules.beams, self._vocabulary)[:, 0])
        self._forbid_repeats(scores)
        best, candidates = self._force(*chunked_topk(scores, self._scores, self.candidates))
        ends = self._ends(candidates % self._vocabulary)
        penalty = self._penalties.index_select(0, self.position)[:, None]
        self._keep_finished(best, candidates, ends, penalty)

        running, going = best.masked_fill(ends, EXCLUDED).topk(self._rules.beams, dim=1)
        picked = candidates.gather(1, going)
        rows = (picked // self._vocabulary + self._first_rows).flatten()
        places = self.position + self._backpointer_rows
        self._flat_backpointers.index_copy_(0, places, picked)
        if self._rules.keep_scores:
            self._flat_log_probs.index_copy_(0, places, self._last_log_probs(running, picked))
        self._append((picked % self._vocabulary).flatten(), rows)
        self._scores.copy_(running)
        self.position.add_(self.alive[:, 0])
        self.alive.logical_and_(self._can_improve(running, penalty) & ~ends.all(dim=1, keepdim=True))
        return rows

    def answers(self, index: torch.Tensor) -> list[WrittenAnswer]:
        """See `Search.answers`."""
        ends = self._finished[index, 0].tolist()
        span = self._rules.beams * self._vocabulary
        length = max(0, *ends) // span + 1
        backpointers = self._backpointers[index, :length].tolist()
        # Scores that are no numbers end an answer without an end.
        written = [
            self._walk(end // span, end % span, pointers) if end >= 0 else []
            for end, pointers in zip(ends, backpointers, strict=True)
        ]
        ids = [[self._rules.start, *(token for token, _ in walked)] for walked in written]
        if not self._rules.keep_scores:
            return [WrittenAnswer(each) for each in ids]
        log_probs = self._log_probs[index, :length].tolist()
        last = self._finished_log_probs[index, 0].tolist()
        return [
            WrittenAnswer(tokens, [*_along(walked, kept), end][: len(walked)], first_end)
            for tokens, walked, kept, end, first_end in zip(
                ids, written, log_probs, last, self._end_probs[index].tolist(), strict=True
            )
        ]

    def _walk(self, position: int, code: int, pointers: list[list[int]]) -> list[tuple[int, int]]:
        """The tokens of an answer whose last choice was made after `position`, and the beams that each came
        from.
        """
        walked = []
        while True:
            beam, token = divmod(code, self._vocabulary)
            walked.append((token, beam))
            if position == 0:
                return walked[::-1]
            code = pointers[position][beam]
            position -= 1

    def _force(self, best: torch.Tensor, candidates: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The candidates, or the forced ones, which cost their beams nothing."""
        if self._forced is None:
            return best, candidates
        forced = self._forced.index_select(0, self.position)
        beams = self._forced_beams.index_select(0, self.position)
        given = forced >= 0
        return torch.where(given, self._scores.gather(1, beams), best), torch.where(given, forced, candidates)

    def _keep_finished(
        self, best: torch.Tensor, candidates: torch.Tensor, ends: torch.Tensor, penalty: torch.Tensor
    ) -> None:
        """Merge candidates that have just ended, of the first `beams` alone, into the best ended ones."""
        beams = self._rules.beams
        just = ends[:, :beams] & self.alive
        scores = torch.where(just, best[:, :beams] / penalty, EXCLUDED)
        codes = candidates[:, :beams] + self.position[:, None] * (beams * self._vocabulary)
        codes = torch.where(just, codes, -1)
        merged, kept = torch.cat([self._finished_scores, scores], dim=1).topk(beams, dim=1)
        self._finished.copy_(torch.cat([self._finished, codes], dim=1).gather(1, kept))
        if self._rules.keep_scores:
            last = self._last_log_probs(best[:, :beams], candidates[:, :beams])
            last = torch.cat([self._finished_log_probs, last], dim=1).gather(1, kept)
            self._finished_log_probs.copy_(last)
        self._finished_scores.copy_(merged)

    def _last_log_probs(self, scores: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        """Of the last tokens of hypotheses, (slots, n): what their scores have over their beams'."""
        return scores - self._scores.gather(1, codes // self._vocabulary)

    def _can_improve(self, running: torch.Tensor, penalty: torch.Tensor) -> torch.Tensor:
        """bool (slots, 1): whether a running beam may still change the answer."""
        rules = self._rules
        never = rules.early_stopping == "never" and rules.length_penalty > 0
        possible = running[:, :1] / (self._limit if never else penalty)
        improves = possible > self._finished_scores[:, -1:]
        if rules.early_stopping is True:
            improves = improves & (self._finished < 0).any(dim=1, keepdim=True)
        return improves


def _along(walked: list[tuple[int, int]], kept: list[list[float]]) -> list[float]:
    """The log-probabilities of an answer's tokens but the last. `kept`: by position, those of each beam's
    token there. The beam that a token came from is the one that its predecessor stands in.
    """
    return [kept[place][beam] for place, (_, beam) in enumerate(walked[1:], start=1)]
