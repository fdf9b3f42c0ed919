"""One question of a benchmark: all that asking and scoring need, without the picture's pixels."""

import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["yes_no", "choice", "text"]


@dataclass(frozen=True)
class Question:
    """`id` is unique in its benchmark; `text` is put to the model as it stands.

    `answers`: the right ones, any of which counts: "yes" or "no"; a letter; or words. `choices`: the options'
    texts in the order of their letters. `image`: the picture's name, None without one. `groups`: what figures
    are taken over, such as split or figure. `cluster`: questions that are resampled together, since they
    share a picture; "" stands for the question alone.
    """

    id: str
    text: str
    kind: Kind
    answers: tuple[str, ...]
    image: str | None = None
    choices: tuple[str, ...] = ()
    groups: Mapping[str, str] = field(default_factory=dict)
    cluster: str = ""

    @property
    def letters(self) -> str:
        """The letters of the options, "ABC" for three."""
        return string.ascii_uppercase[: len(self.choices)]


@dataclass(frozen=True)
class Reading:
    """What an answer was taken to say ("" if it could not be read), and whether that is right."""

    read: str
    right: bool
