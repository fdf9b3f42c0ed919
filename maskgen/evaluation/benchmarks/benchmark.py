"""What a benchmark is: files to questions, answers to readings, readings to figures."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from maskgen.errors import MaskgenError, did_you_mean
from maskgen.evaluation.published_files import Row
from maskgen.evaluation.question import Question
from maskgen.evaluation.reading import Reader
from maskgen.evaluation.weighted_scores import Figures

PAPER = "paper"
"""The protocol that is compatible with Table 2, and the default; the prompt of that name likewise."""

Prompt = Callable[[Question], str]
"""What a model is asked, from a question whose text is the dataset's own."""


def as_published(question: Question) -> str:
    """The dataset's own text."""
    return question.text


def ending(words: str) -> Prompt:
    """The dataset's own text and `words`."""
    return lambda question: f"{question.text}{words}"


@dataclass(frozen=True)
class Benchmark:
    """`columns`: headings of Table 2 and the figures under them.

    `files`: glob patterns of the annotation files, alternatives of which the first that matches counts; where
    its pictures are missing, the next. `folders`: where the pictures lie below the data folder, alternatives
    too. `protocols`: how answers are read, by name. `prompts`: what is asked, by name. `fields`: those that
    tell its rows from other benchmarks', any of these sets. `size`: how many questions the published
    benchmark has, 0 if nobody published it. `note`: what a reader of the figures has to know.
    """

    name: str
    read: Callable[[Iterable[Row]], list[Question]]
    protocols: Mapping[str, Reader]
    figures: Figures
    prompts: Mapping[str, Prompt]
    columns: Mapping[str, str] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    folders: tuple[str, ...] = (".",)
    fields: tuple[tuple[str, ...], ...] = ()
    size: int = 0
    note: str = ""

    def reader(self, protocol: str) -> Reader:
        """The protocol's rule. MaskgenError if the benchmark has none of that name."""
        if protocol not in self.protocols:
            raise MaskgenError(
                f"{self.name} has no protocol {protocol}.{did_you_mean(protocol, self.protocols)} It has "
                f"{', '.join(self.protocols)}. "
                f"Name another, or for this benchmark alone: --protocol {self.name}=NAME."
            )
        return self.protocols[protocol]

    def asked(self, questions: Iterable[Question], prompt: str) -> list[Question]:
        """The questions as the prompt of that name puts them. MaskgenError if the benchmark has none."""
        if prompt not in self.prompts:
            raise MaskgenError(
                f"{self.name} has no prompt {prompt}.{did_you_mean(prompt, self.prompts)} It has "
                f"{', '.join(self.prompts)}. "
                f"Name another, or for this benchmark alone: --prompt {self.name}=NAME."
            )
        put = self.prompts[prompt]
        return [replace(question, text=put(question)) for question in questions]
