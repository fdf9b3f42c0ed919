"""What transformers' generation settings mean for an answer, in one place."""

import math
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Rules:
    """How an answer is searched for and when it ends.

    `length`: tokens at most, the decoder's start token included. `ngram`: n-grams of this size come once, 0
    for no ban. `first`, `last`: tokens that must stand after the start and at the limit, or None. `ends`: end
    tokens. `early`: stop once every beam has ended (True), when no running beam can do better by its present
    length (False), or by any length ("never").
    """

    beams: int
    length: int
    ngram: int
    start: int
    pad: int
    first: int | None
    last: tuple[int, ...] | None
    ends: tuple[int, ...]
    early: bool | str
    length_penalty: float

    @classmethod
    def of(cls, generation: Any) -> "Rules":
        """From a GenerationConfig with `max_new_tokens`; ValueError for what is not supported."""
        unsupported = {
            "do_sample": False,
            "repetition_penalty": 1.0,
            "min_length": 0,
            "min_new_tokens": 0,
            "num_beam_groups": 1,
            "bad_words_ids": None,
            "suppress_tokens": None,
            "begin_suppress_tokens": None,
            "encoder_no_repeat_ngram_size": 0,
            "sequence_bias": None,
        }
        for name, plain in unsupported.items():
            value = getattr(generation, name, None)
            if value is not None and value != plain and not (value == 0 and not plain):
                raise ValueError(f"{name}={value}")
        last = generation.forced_eos_token_id
        ends = generation.eos_token_id
        return cls(
            beams=generation.num_beams or 1,
            length=1 + generation.max_new_tokens,
            ngram=generation.no_repeat_ngram_size or 0,
            start=generation.decoder_start_token_id,
            pad=generation.pad_token_id,
            first=generation.forced_bos_token_id,
            last=None if last is None else tuple(last) if isinstance(last, list) else (last,),
            ends=tuple(ends) if isinstance(ends, list) else (ends,),
            early=generation.early_stopping or False,
            length_penalty=1.0 if generation.length_penalty is None else generation.length_penalty,
        )

    def forbid(self, scores: torch.Tensor, tokens: torch.Tensor, lengths: torch.Tensor, longest: int) -> None:
        """Put minus infinity, in place, where a token may not follow.

        `scores`: float32 (rows, words). `tokens`: int64 (rows, length), of which the first `lengths`, int64
        (rows,), are written; `longest` is their maximum.
        """
        if self.ngram and longest >= self.ngram:
            self._forbid_repeats(scores, tokens[:, :longest], lengths)
        if self.first is not None:
            self._force(scores, lengths == 1, (self.first,))
        if self.last is not None and longest >= self.length - 1:
            self._force(scores, lengths == self.length - 1, self.last)

    def _forbid_repeats(self, scores: torch.Tensor, tokens: torch.Tensor, lengths: torch.Tensor) -> None:
        """What would complete an n-gram that is there already."""
        given = self.ngram - 1
        windows = tokens.unfold(1, self.ngram, 1)
        places = lengths[:, None] - given + torch.arange(given, device=tokens.device)
        places = places.clamp(0, tokens.shape[1] - 1)  # of rows too short, or not in use
        suffix = tokens.gather(1, places)
        # A window counts if it ends before the row does.
        whole = torch.arange(windows.shape[1], device=tokens.device) + self.ngram <= lengths[:, None]
        repeated = (windows[..., :-1] == suffix[:, None]).all(dim=-1) & whole
        rows, columns = repeated.nonzero(as_tuple=True)
        scores[rows, windows[rows, columns, -1]] = -math.inf

    @staticmethod
    def _force(scores: torch.Tensor, rows: torch.Tensor, words: tuple[int, ...]) -> None:
        chosen = torch.zeros(scores.shape[1], dtype=torch.bool, device=scores.device)
        chosen[list(words)] = True
        scores.masked_fill_(rows[:, None] & ~chosen, -math.inf)
        scores.masked_fill_(rows[:, None] & chosen, 0.0)

    def ended(self, tokens: torch.Tensor) -> torch.Tensor:
        """Which tokens end an answer, bool like `tokens`."""
        found = tokens == self.ends[0]
        for end in self.ends[1:]:
            found = found | (tokens == end)
        return found
