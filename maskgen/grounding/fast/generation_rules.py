"""What transformers' generation settings mean for an answer, in one place."""

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class GenerationRules:
    """How an answer is searched for and when it ends.

    `max_length`: tokens at most, the decoder's start token included. `no_repeat_ngram`: n-grams of this size
    come once, 0 for no ban. `forced_bos`, `forced_eos`: the tokens one of which must stand after the start
    and at the limit, if any. `early_stopping`: stop once every beam has ended (True), when no running beam
    can do better by its present length (False), or by any length ("never"). `keep_scores`: whether an answer
    comes with its tokens' log-probabilities.
    """

    beams: int
    max_length: int
    no_repeat_ngram: int
    start: int
    pad: int
    forced_bos: tuple[int, ...]
    forced_eos: tuple[int, ...]
    eos: tuple[int, ...]
    early_stopping: bool | str
    length_penalty: float
    keep_scores: bool = False

    @classmethod
    def of(cls, generation: Any, keep_scores: bool = False) -> "GenerationRules":
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
            max_length=1 + generation.max_new_tokens,
            no_repeat_ngram=generation.no_repeat_ngram_size or 0,
            start=generation.decoder_start_token_id,
            pad=generation.pad_token_id,
            forced_bos=_tokens(generation.forced_bos_token_id),
            forced_eos=_tokens(generation.forced_eos_token_id),
            eos=_tokens(generation.eos_token_id),
            early_stopping=generation.early_stopping or False,
            length_penalty=1.0 if generation.length_penalty is None else generation.length_penalty,
            keep_scores=keep_scores,
        )

    def is_eos(self, tokens: torch.Tensor) -> torch.Tensor:
        """Which tokens are end tokens, bool like `tokens`."""
        found = tokens == self.eos[0]
        for end in self.eos[1:]:
            found = found | (tokens == end)
        return found


def _tokens(given: int | list[int] | None) -> tuple[int, ...]:
    if given is None:
        return ()
    return tuple(given) if isinstance(given, list) else (given,)
