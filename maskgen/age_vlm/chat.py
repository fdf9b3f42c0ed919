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
class EncodedConversation:
    """A conversation as tokens, all lists of the same length.

    `labels` are the ids to be learnt, -100 elsewhere (not yet shifted). `query_mask` marks the tokens of t_q.
    `truncated`: the end did not fit.
    """

    input_ids: list[int]
    labels: list[int]
    query_mask: list[bool]
    truncated: bool


@dataclass(frozen=True)
class _Segment:
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

    def encode(
        self, turns: Sequence[Turn], spans: Sequence[tuple[int, int, int]] = ()
    ) -> EncodedConversation:
        """The conversation for training. `spans`: (turn, start, end) in characters of `turns[turn].value`.

        Learnt are the assistant's words and the end after them. A token belongs to the query if any of its
        characters does; beginnings, ends and the speakers' names never do. What exceeds `max_length` is cut
        off at the end.
        """
        ids, labels, query = self._bos(), [-100] * len(self._bos()), [False] * len(self._bos())
        for segment in _merged(_segments(turns, spans)):
            tokens = self._tokens(segment.text)
            ids += tokens.input_ids
            query += [bool(segment.query[start:end].any()) for start, end in tokens.offset_mapping]
            labels += tokens.input_ids if segment.learnt else [-100] * len(tokens.input_ids)
            if segment.learnt:
                ids.append(self.tokenizer.eos_token_id)
                labels.append(self.tokenizer.eos_token_id)
                query.append(False)
        limit = self.max_length
        return EncodedConversation(ids[:limit], labels[:limit], query[:limit], len(ids) > limit)

    def prompt(
        self, turns: Sequence[Turn], spans: Sequence[tuple[int, int, int]] = ()
    ) -> EncodedConversation:
        """The conversation so far, ready for the assistant's next words; `labels` are all -100.

        A prompt that is too long loses its beginning, since its end is what has to be answered.
        """
        ids, query = self._bos(), [False] * len(self._bos())
        opening = _Segment(ASSISTANT, np.zeros(len(ASSISTANT), bool), False)
        between = _Segment("\n", np.zeros(1, bool), False)
        segments = _segments(turns, spans)
        segments += [between, opening] if segments and segments[-1].learnt else [opening]
        for segment in _merged(segments):
            tokens = self._tokens(segment.text)
            ids += tokens.input_ids
            query += [bool(segment.query[start:end].any()) for start, end in tokens.offset_mapping]
            if segment.learnt:
                ids.append(self.tokenizer.eos_token_id)
                query.append(False)
        cut = max(0, len(ids) - self.max_length)
        return EncodedConversation(ids[cut:], [-100] * (len(ids) - cut), query[cut:], cut > 0)

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


def _segments(turns: Sequence[Turn], spans: Sequence[tuple[int, int, int]]) -> list[_Segment]:
    segments: list[_Segment] = []
    for number, turn in enumerate(turns):
        marks = np.zeros(len(turn.value), bool)
        for at, start, end in spans:
            if at == number:
                marks[start:end] = True
        text, query = _without_placeholders(turn.value, marks)
        if segments and segments[-1].learnt:
            segments.append(_framed("\n", "", query[:0], "", learnt=False))
        if turn.role == "assistant":
            segments.append(_framed(ASSISTANT, "", query[:0], "", learnt=False))
            segments.append(_framed(" ", text, query, "", learnt=True))
        else:
            name = SYSTEM if turn.role == "system" else USER
            segments.append(_framed(f"{name} ", text, query, "\n", learnt=False))
    return segments


def _framed(before: str, text: str, query: np.ndarray, after: str, learnt: bool) -> _Segment:
    marks = np.concatenate([np.zeros(len(before), bool), query, np.zeros(len(after), bool)])
    return _Segment(before + text + after, marks, learnt)


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


def _merged(segments: list[_Segment]) -> list[_Segment]:
    """Neighbours that are tokenised together, as apply_chat_template does: all that no end token parts."""
    merged: list[_Segment] = []
    for segment in segments:
        if merged and not merged[-1].learnt and not segment.learnt:
            last = merged.pop()
            segment = _Segment(last.text + segment.text, np.concatenate([last.query, segment.query]), False)
        merged.append(segment)
    return merged
