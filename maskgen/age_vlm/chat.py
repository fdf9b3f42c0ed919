"""The chat template, and the only way from a conversation to tokens: for training, prompts and spans alike.

A base LLaMA has no template of its own, so the plainest one is used:

    <bos>User: Where is the star?
    Assistant: At the top left<eos>
    User: ...

The image is not in the text: cross-attention layers read it beside the text, `concat` puts it before it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from maskgen.sample import Turn

USER, ASSISTANT, SYSTEM = "User:", "Assistant:", "System:"

# The same for transformers' apply_chat_template; `{% generation %}` marks what is learnt.
JINJA = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['content'] is string %}{% set text = message['content'] %}"
    "{% else %}{% set parts = message['content'] | selectattr('type', 'equalto', 'text') | list %}"
    "{% set text = parts | map(attribute='text') | join('\n') %}{% endif %}"
    "{% if message['role'] == 'assistant' %}{{ 'Assistant:' }}"
    "{% generation %}{{ ' ' + text | trim + eos_token }}{% endgeneration %}"
    "{% if not loop.last or add_generation_prompt %}{{ '\n' }}{% endif %}"
    "{% else %}{{ 'System: ' if message['role'] == 'system' else 'User: ' }}"
    "{{ text | trim + '\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)

_PLACEHOLDER = re.compile(r"\s*<image>\s*")


@dataclass(frozen=True)
class Encoded:
    """A conversation as tokens, all lists of the same length.

    `labels` are the ids to be learnt, -100 elsewhere (not yet shifted). `query_mask` marks the tokens of t_q.
    `cut`: the end did not fit.
    """

    input_ids: list[int]
    labels: list[int]
    query_mask: list[bool]
    cut: bool


@dataclass(frozen=True)
class _Piece:
    """A stretch of text that is tokenised at once; `query`, bool (characters,), marks those of t_q."""

    text: str
    query: np.ndarray
    learnt: bool


class ChatTemplate:
    """Conversations to token ids with one tokenizer.

    Text is tokenised as text: `</s>` or `<|end_of_text|>` in a caption cannot end a turn.
    """

    def __init__(self, tokenizer: Any, max_length: int = 2048):
        """`tokenizer`: a fast one of transformers with an end token; `max_length`: tokens a conversation."""
        if not tokenizer.is_fast:
            raise ValueError(
                f"{type(tokenizer).__name__} has no character offsets: a fast tokenizer is needed"
            )
        if tokenizer.eos_token_id is None:
            raise ValueError("the tokenizer has no end token (eos_token)")
        self.tokenizer = tokenizer
        self.max_length = max_length

    @property
    def pad_id(self) -> int:
        """What rows of a batch are filled up with; the end token if the tokenizer has no padding."""
        pad = self.tokenizer.pad_token_id
        return int(self.tokenizer.eos_token_id if pad is None else pad)

    def encode(self, turns: Sequence[Turn], spans: Sequence[tuple[int, int, int]] = ()) -> Encoded:
        """The conversation for training. `spans`: (turn, start, end) in characters of `turns[turn].value`.

        Learnt are the assistant's words and the end after them. A token belongs to the query if any of its
        characters does; beginnings, ends and the speakers' names never do. What exceeds `max_length` is cut
        off at the end.
        """
        ids, labels, query = self._bos(), [-100] * len(self._bos()), [False] * len(self._bos())
        for piece in _merged(_pieces(turns, spans)):
            tokens = self._tokens(piece.text)
            ids += tokens.input_ids
            query += [bool(piece.query[start:end].any()) for start, end in tokens.offset_mapping]
            labels += tokens.input_ids if piece.learnt else [-100] * len(tokens.input_ids)
            if piece.learnt:
                ids.append(self.tokenizer.eos_token_id)
                labels.append(self.tokenizer.eos_token_id)
                query.append(False)
        limit = self.max_length
        return Encoded(ids[:limit], labels[:limit], query[:limit], len(ids) > limit)

    def prompt(self, turns: Sequence[Turn], spans: Sequence[tuple[int, int, int]] = ()) -> Encoded:
        """The conversation so far, ready for the assistant's next words; `labels` are all -100.

        A prompt that is too long loses its beginning, since its end is what has to be answered.
        """
        ids, query = self._bos(), [False] * len(self._bos())
        opening = _Piece(ASSISTANT, np.zeros(len(ASSISTANT), bool), False)
        between = _Piece("\n", np.zeros(1, bool), False)
        pieces = _pieces(turns, spans)
        pieces += [between, opening] if pieces and pieces[-1].learnt else [opening]
        for piece in _merged(pieces):
            tokens = self._tokens(piece.text)
            ids += tokens.input_ids
            query += [bool(piece.query[start:end].any()) for start, end in tokens.offset_mapping]
            if piece.learnt:
                ids.append(self.tokenizer.eos_token_id)
                query.append(False)
        cut = max(0, len(ids) - self.max_length)
        return Encoded(ids[cut:], [-100] * (len(ids) - cut), query[cut:], cut > 0)

    def _bos(self) -> list[int]:
        bos = self.tokenizer.bos_token_id
        return [] if bos is None else [int(bos)]

    def _tokens(self, text: str) -> Any:
        return self.tokenizer(
            text,
            add_special_tokens=False,
            split_special_tokens=True,
            return_offsets_mapping=True,
            verbose=False,
        )


def _pieces(turns: Sequence[Turn], spans: Sequence[tuple[int, int, int]]) -> list[_Piece]:
    pieces: list[_Piece] = []
    for number, turn in enumerate(turns):
        marks = np.zeros(len(turn.value), bool)
        for at, start, end in spans:
            if at == number:
                marks[start:end] = True
        text, query = _without_placeholders(turn.value, marks)
        if pieces and pieces[-1].learnt:
            pieces.append(_framed("\n", "", query[:0], "", learnt=False))
        if turn.role == "assistant":
            pieces.append(_framed(ASSISTANT, "", query[:0], "", learnt=False))
            pieces.append(_framed(" ", text, query, "", learnt=True))
        else:
            name = SYSTEM if turn.role == "system" else USER
            pieces.append(_framed(f"{name} ", text, query, "\n", learnt=False))
    return pieces


def _framed(before: str, text: str, query: np.ndarray, after: str, learnt: bool) -> _Piece:
    marks = np.concatenate([np.zeros(len(before), bool), query, np.zeros(len(after), bool)])
    return _Piece(before + text + after, marks, learnt)


def _without_placeholders(value: str, marks: np.ndarray) -> tuple[str, np.ndarray]:
    """Text and marks without `<image>`, and without white space at either end."""
    kept, marked, start = [], [], 0
    for placeholder in _PLACEHOLDER.finditer(value):
        kept.append(value[start : placeholder.start()])
        marked.append(marks[start : placeholder.start()])
        start = placeholder.end()
        if kept[-1] and start < len(value):  # what stood on both sides stays apart
            kept.append("\n")
            marked.append(np.zeros(1, bool))
    kept.append(value[start:])
    marked.append(marks[start:])
    text, query = "".join(kept), np.concatenate(marked)
    left = len(text) - len(text.lstrip())
    right = len(text.rstrip())
    return text[left:right], query[left : max(left, right)]


def _merged(pieces: list[_Piece]) -> list[_Piece]:
    """Neighbours that are tokenised together, as apply_chat_template does: all that no end token parts."""
    merged: list[_Piece] = []
    for piece in pieces:
        if merged and not merged[-1].learnt and not piece.learnt:
            last = merged.pop()
            piece = _Piece(last.text + piece.text, np.concatenate([last.query, piece.query]), False)
        merged.append(piece)
    return merged
