"""Images with a text each: what the analyses measure on, from shards or from memory."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b

import numpy as np

from maskgen.errors import MaskgenError
from maskgen.geometry import Frame, binarise
from maskgen.outcome import Outcome
from maskgen.sample import Turn
from maskgen.training.dataset import ShardSamples


@dataclass(frozen=True)
class Item:
    """A picture and a text t_q about it.

    `pixels`: uint8 (height, width, 3). `turns`: the conversation; `spans`: where in it t_q stands, as in
    `sample.Query`. `mask`: M', bool (cells, cells) in the frame of the model that is measured, or None.
    """

    pixels: np.ndarray
    turns: tuple[Turn, ...]
    spans: tuple[tuple[int, int, int], ...]
    mask: np.ndarray | None = None

    @property
    def text(self) -> str:
        """The text t_q."""
        return " ".join(self.turns[turn].value[start:end] for turn, start, end in self.spans)

    def image_id(self) -> str:
        """The same for the same pixels, and for no others."""
        return f"{self.pixels.shape}{blake2b(self.pixels.tobytes(), digest_size=16).hexdigest()}"

    def with_image_of(self, other: "Item") -> "Item":
        """This text with the image of another item, without a mask."""
        return replace(self, pixels=other.pixels, mask=None)


def question_item(pixels: np.ndarray, text: str, mask: np.ndarray | None = None) -> Item:
    """A question in memory. `pixels`: uint8 (height, width, 3); `mask`: bool (cells, cells) or None."""
    return Item(pixels, (Turn("human", text),), ((0, 0, len(text)),), mask)


class ShardItems(Sequence[Item]):
    """The samples of finished sets, read one at a time: with `frame` those that have a mask, M' with them."""

    def __init__(
        self,
        places: Sequence[str],
        frame: Frame | None = None,
        threshold: float = 0.5,
        limit: int = 0,
        seed: int = 0,
        answers: bool = False,
    ):
        """`threshold`: see `geometry.binarise`. `limit`: so many, drawn with `seed`; 0: all. `answers`: the
        text is all that the assistant says, not t_q.

        MaskgenError if there is no such sample.
        """
        self._samples = ShardSamples(places)
        self._frame, self._threshold, self._answers = frame, threshold, answers
        pictured = self._samples.outcomes != Outcome.TEXT_ONLY.value
        numbers = np.flatnonzero(pictured if frame is None else self._samples.has_mask)
        if not len(numbers):
            wanted = "a picture" if frame is None else "a mask"
            raise MaskgenError(
                f"no sample in {', '.join(places)} has {wanted}. Give a set that maskgen run made."
            )
        if limit and limit < len(numbers):
            numbers = np.sort(np.random.default_rng(seed).choice(numbers, limit, replace=False))
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, place: int) -> Item:  # type: ignore[override]
        number = int(self._numbers[place])
        sample = self._samples.sample(number)
        mask = None
        if self._frame is not None:
            mask = binarise(self._frame.grid(self._samples.mask(number, sample)), self._threshold)
        pixels = self._samples.picture(number, sample)
        spans = _answers(sample.turns) if self._answers else sample.query.spans
        return Item(pixels, sample.turns, spans, mask)

    def __iter__(self) -> Iterator[Item]:
        return (self[place] for place in range(len(self)))


def _answers(turns: tuple[Turn, ...]) -> tuple[tuple[int, int, int], ...]:
    """The spans of the assistant's turns."""
    return tuple((place, 0, len(turn.value)) for place, turn in enumerate(turns) if turn.role == "assistant")
