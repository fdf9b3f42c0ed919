"""A scripted decoder: random Florence-2 weights whose answers have a drawn length and hold an outline.

Weights at random write no outline and never end, so nothing like the real work follows from them. Here a few
channels are set by hand, and the rest is random and too small to disturb them. Every way of running the
weights then writes the same kind of answer, and none has to be given its length.

- *Places.* A position of the decoder says which of the 1000 places comes next, as an angle and two multiples
  of it, which tell neighbours apart; the rows that write places point along theirs. Odd and even positions
  walk along an ellipse, so the outline is simple.
- *The end.* A word of the query, one of a few, carries its length. The first decoder layer reads it and takes
  it from the position; what is left turns positive where the answer ends, and writes the end token.
"""

import math
from collections.abc import Sequence

import torch
from torch import nn
from transformers import BartModel, Florence2ForConditionalGeneration
from transformers.models.bart.modeling_bart import BartDecoder, BartDecoderLayer, BartEncoderLayer

STOP, ONE, MARK, LENGTH, ANGLES = range(5)
"""The channels that are set by hand; from ANGLES on there are two for each multiple."""

MULTIPLES = (1, 10, 100)
RESERVED = ANGLES + 2 * len(MULTIPLES)
PLACES = 1000
SHARE = 0.5  # of a position's length: of each angle, and of ONE; all four together have length 1
NOISE = 0.2  # of the random channels of an embedding, together
ATTENUATION = 0.03  # by which whatever a layer adds is scaled down
COUNT_SCALE = 0.5  # of the position's count, at its longest
PLACE_LOGITS = 10.0  # nats of each angle, between its place and the far side
MAX_SINE = 0.8  # sine of the longest length
END_LOGITS = 10.0  # nats that the end token gains with each position


def script_decoder(
    model: Florence2ForConditionalGeneration, places: Sequence[int], words: dict[int, int], longest: int
) -> None:
    """Set the hand-made channels of a Florence-2 with untied words, in place.

    `places`: the ids of the 1000 location tokens. `words`: the answer's length in tokens, end token
    included, for the id of each word that carries one; every prompt must hold exactly one. `longest`: of the
    lengths.
    """
    with torch.no_grad():
        language = model.model.language_model
        width = int(model.config.text_config.d_model)
        for part in (language.encoder, language.decoder):
            for layer in part.layers:
                _attenuate_layer(layer)
            _rescale(part.embed_positions.weight, NOISE / math.sqrt(2 * width))
        _rescale(language.shared.weight, NOISE / math.sqrt(2 * width))
        norm = model.model.multi_modal_projector.image_proj_norm
        norm.weight[:RESERVED] = 0.0
        norm.bias[:RESERVED] = 0.0
        _set_positions(language.decoder, longest)
        _write_words(language, words, longest, width)
        _set_length_attention(language.decoder, longest, width)
        _write_head(model.lm_head.weight, places, model.generation_config.eos_token_id, longest, width)


def _attenuate_layer(layer: BartEncoderLayer | BartDecoderLayer) -> None:
    """What the layer adds to its residual stream is small, and nothing in the reserved channels."""
    for name in ("self_attn", "encoder_attn"):
        if hasattr(layer, name):
            _attenuate(getattr(layer, name).out_proj)
    _attenuate(layer.fc2)


def _attenuate(linear: nn.Linear) -> None:
    linear.weight.mul_(ATTENUATION)
    linear.weight[:RESERVED] = 0.0


def _rescale(table: torch.Tensor, deviation: float) -> None:
    """Rows of random channels of this standard deviation; the reserved ones are empty."""
    table.mul_(deviation / table.std())
    table[:, :RESERVED] = 0.0


def _set_positions(decoder: BartDecoder, longest: int) -> None:
    table = decoder.embed_positions.weight[decoder.embed_positions.offset :]
    for position, row in enumerate(table[: longest + 2]):
        row[STOP] = COUNT_SCALE * position / longest
        row[ONE] = SHARE
        row[ANGLES:RESERVED] = SHARE * _angles(_place(position, longest)).to(row)


def _place(position: int, longest: int) -> int:
    """The place that is written after this position: x after odd ones, y after even ones."""
    turn = 2 * math.pi * ((position - 1) // 2) / (longest // 2 + 2)
    return round(500 + 350 * (math.cos(turn) if position % 2 else math.sin(turn)))


def _angles(place: int) -> torch.Tensor:
    """Cosine and sine of the place's angle and its multiples."""
    turns = [math.pi * place / PLACES * multiple for multiple in MULTIPLES]
    return torch.tensor([of(turn) for turn in turns for of in (math.cos, math.sin)])


def _normalised_count(decoder: BartDecoder, position: float) -> float:
    """The stop channel at a position, or between two, as the decoder's first normalisation leaves it."""
    table = decoder.embed_positions.weight[decoder.embed_positions.offset :].float()
    rows = table[[math.floor(position), math.ceil(position)]]
    spread = rows.var(dim=1, unbiased=False) + NOISE**2 / 2 / table.shape[1]  # a token is added to each
    return float(((rows[:, STOP] - rows.mean(dim=1)) / spread.sqrt()).mean())


def _normalised_length(sine: float, width: int) -> float:
    """The length channel of a word of this sine, as the encoder's first normalisation leaves it."""
    mean = (sine + math.sqrt(1 - sine**2)) / width
    return (sine - mean) / math.sqrt((1 + NOISE**2) / width - mean**2)


def _write_words(language: BartModel, words: dict[int, int], longest: int, width: int) -> None:
    """A word carries its count as the sine of an angle, so that all of them have the same length."""
    full = _normalised_count(language.decoder, longest)
    for word, length in words.items():
        # The end token is the answer's last: after `length - 1` positions, from 0, half a step early.
        wanted = (
            _normalised_length(MAX_SINE, width) * _normalised_count(language.decoder, length - 1.5) / full
        )
        low, high = 0.0, 1.0
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if _normalised_length(middle, width) < wanted else (low, middle)
        row = language.shared.weight[word]
        row[MARK], row[LENGTH] = math.sqrt(1 - low**2), low


def _set_length_attention(decoder: BartDecoder, longest: int, width: int) -> None:
    """The first head attends to the marked word alone, and takes its count from the stop channel."""
    attention = decoder.layers[0].encoder_attn
    d = width // attention.num_heads
    for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
        projection.weight[:d] = 0.0
        projection.bias[:d] = 0.0
    scale = math.sqrt(width / (1 + NOISE**2))  # a channel of length 1 in the encoder's states
    attention.q_proj.bias[1] = 1.0
    attention.k_proj.weight[1, MARK] = 50.0 * math.sqrt(d) / scale
    attention.v_proj.weight[0, LENGTH] = 1.0
    attention.out_proj.weight[STOP, 0] = -_normalised_count(decoder, longest) / _normalised_length(
        MAX_SINE, width
    )


def _write_head(head: torch.Tensor, places: Sequence[int], end: int, longest: int, width: int) -> None:
    scale = math.sqrt(width / (1 + NOISE**2))  # of a position's channels, once normalised
    weight = PLACE_LOGITS / (SHARE * scale)
    _rescale(head, 0.1 / math.sqrt(width))
    head[:, ONE] = -weight * len(MULTIPLES)  # so that the place meant gets 0, and what is no place much less
    head[list(places), ANGLES:RESERVED] = weight * torch.stack([_angles(n) for n in range(PLACES)]).to(head)
    head[end, ONE] = 0.0
    head[end, STOP] = END_LOGITS * longest / (COUNT_SCALE * scale)  # a position is this part of the channel
