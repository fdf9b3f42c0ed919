"""A benchmark's questions to answers: greedy, in batches, with the next batch's pictures read meanwhile."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np

from maskgen.age_vlm import generation
from maskgen.age_vlm.generation import GenerationOptions
from maskgen.evaluation.question import Question
from maskgen.sample import Turn


class Answering(Protocol):
    """A model that answers: `generation.Answerer`, or `peer_generation.PeerAnswerer`."""

    def answers(
        self, batches: Iterable[Sequence[generation.ChatPrompt]], options: GenerationOptions
    ) -> Iterator[generation.GeneratedAnswer]:
        """One batch after the other, an answer a question."""
        ...


Look = Callable[[str], np.ndarray]
"""From a picture's name to its pixels, uint8 (height, width, 3). Called from another thread."""


def answer_all(
    answerer: Answering,
    questions: Sequence[Question],
    look: Look | None = None,
    *,
    batch: int = 8,
    max_new_tokens: int = 128,
) -> list[str]:
    """An answer to each question, in their order. Without `look`, nobody sees a picture."""
    return list(answers(answerer, questions, look, batch=batch, max_new_tokens=max_new_tokens))


def answers(
    answerer: Answering,
    questions: Sequence[Question],
    look: Look | None = None,
    *,
    batch: int = 8,
    max_new_tokens: int = 128,
) -> Iterator[str]:
    """The same as they come. Prompts are the model's: `maskgen.age_vlm.chat` or `peers.vicuna_prompt`."""

    def asked(question: Question) -> generation.ChatPrompt:
        image = look(question.image) if look and question.image else None
        return generation.ChatPrompt([Turn("human", question.text)], image)

    starts = range(0, len(questions), batch)
    batches = ([asked(question) for question in questions[start : start + batch]] for start in starts)
    for answer in answerer.answers(batches, GenerationOptions(max_new_tokens)):
        yield answer.text
