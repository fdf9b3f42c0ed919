"""What transformers' generation settings mean for an answer, in one place."""

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Rules:
    """How an answer is searched for and when it ends.

    `length`: tokens at most, the decoder's start token included. `ngram`: n-grams of this size come once, 0
    for no ban. `first`, `last`: the tokens one of which must stand after the start and at the limit, if any.
    `ends`: end tokens. `early`: stop once every beam has ended (True), when no running beam can do better by
    its present length (False), or by any length ("never").
    """

    beams: int
    length: int
    ngram: int
    start: int
    pad: int
    first: tuple[int, ...]
    last: tuple[int, ...]
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
        return cls(
            beams=generation.num_beams or 1,
            length=1 + generation.max_new_tokens,
            ngram=generation.no_repeat_ngram_size or 0,
            start=generation.decoder_start_token_id,
            pad=generation.pad_token_id,
            first=_tokens(generation.forced_bos_token_id),
            last=_tokens(generation.forced_eos_token_id),
            ends=_tokens(generation.eos_token_id),
            early=generation.early_stopping or False,
            length_penalty=1.0 if generation.length_penalty is None else generation.length_penalty,
        )

    def ended(self, tokens: torch.Tensor) -> torch.Tensor:
        """Which tokens end an answer, bool like `tokens`."""
        found = tokens == self.ends[0]
        for end in self.ends[1:]:
            found = found | (tokens == end)
        return found


def _tokens(given: int | list[int] | None) -> tuple[int, ...]:
    if given is None:
        return ()
    return tuple(given) if isinstance(given, list) else (given,)
