"""The sample on its way through the pipeline: planned, read, grounded."""

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from maskgen.outcome import Outcome

PUBLISHED = {
    "human": "user",
    "gpt": "assistant",
    "user": "user",
    "assistant": "assistant",
    "system": "system",
}
"""Speakers as LLaVA's and the chat layouts write them, and their roles."""

_OTHERS = {"model": "assistant", "bot": "assistant", "chatgpt": "assistant", "ai": "assistant"}


@lru_cache(maxsize=4096)
def role(speaker: str) -> str:
    """ "user", "assistant" or "system", in any letter case and by the names of other data; "" if unknown."""
    name = speaker.strip().lower()
    return PUBLISHED.get(name) or _OTHERS.get(name, "")


@dataclass(frozen=True)
class Turn:
    """One turn of a LLaVA conversation; `speaker` is the row's `from` ("human", "gpt", "system")."""

    speaker: str
    value: str

    @property
    def role(self) -> str:
        """As `role` says of the speaker."""
        return role(self.speaker)


@dataclass(frozen=True)
class Query:
    """The text t_q that is grounded (Section 3.2.2).

    `text` is clean: no special tokens, no image placeholder, no surrounding white space.
    `spans` says where it stands in the conversation: (turn, start, end) in characters of
    `turns[turn].value`, end exclusive; the trainer maps them to tokens.
    """

    text: str
    spans: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class ArchiveMember:
    """Where an image's bytes lie inside an archive: `archive` is relative to the image root."""

    archive: str
    offset: int
    size: int
    deflated: bool


@dataclass(frozen=True)
class Sample:
    """One row of the plan.

    `key` is unique over the set and derived from the row's content alone. `outcome` is set when
    planning already decided it (no image, empty text, ...); `reason` then says why. `meta`: the row's further
    columns as JSON.
    """

    key: str
    id: str
    image: str
    conversations: tuple[Turn, ...]
    query: Query
    member: ArchiveMember | None = None
    outcome: Outcome | None = None
    reason: str = ""
    meta: str = "{}"


@dataclass(frozen=True)
class Picture:
    """An image as read: the source's own bytes and its pixels.

    `pixels` is uint8 (height, width, 3) RGB with the EXIF orientation applied; `extension` is what
    the bytes are ("jpg", "png", "webp", ...), whatever the file was called.
    """

    data: bytes
    extension: str
    pixels: np.ndarray

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])


@dataclass(frozen=True)
class Signals:
    """How sure the models were of a grounding; None: not measured, or there was nothing to measure.

    `min_log_prob`: the least of the log-probabilities of the answer's tokens. `structure_log_prob`: the mean
    of those that are no place: what separates polygons, and the end. `end_prob`: 0-1, of an end where the
    first token stands: that the text names nothing. `stability`: 0-1, the IoU of SAM's mask at logits 1 above
    and 1 below its threshold. `mirror`: 0-1, the IoU of the mask with the polygons of the mirrored picture.
    """

    min_log_prob: float | None = None
    structure_log_prob: float | None = None
    end_prob: float | None = None
    stability: float | None = None
    mirror: float | None = None


@dataclass(frozen=True)
class Proposal:
    """A proposer's answer for one query.

    `polygons`: float64 (n, 2) arrays of x, y in pixels of the oriented image, as predicted.
    `boxes`: float64 (k, 4) x0, y0, x1, y1, for proposers that know boxes and no outline.
    `truncated`: the answer hit the length limit. `query_truncated`: the query did.
    `tokens`: generated tokens, 0 where nothing was generated. `signals`: with the quality measured, those of
    the answer; `mirrored`: the polygons of the mirrored picture, mirrored back, None if it was not asked.
    """

    polygons: list[np.ndarray] = field(default_factory=list)
    boxes: np.ndarray = field(default_factory=lambda: np.zeros((0, 4)))
    truncated: bool = False
    query_truncated: bool = False
    tokens: int = 0
    signals: Signals | None = None
    mirrored: list[np.ndarray] | None = None


@dataclass(frozen=True)
class Grounding:
    """The result for one sample.

    `mask`: bool (height, width) in the oriented image. `grid`: uint8 (cells, cells), the share of
    each cell that the mask covers in the trainer's frame, 0-255. `box`: x0, y0, x1, y1 prompt box in
    pixels. `sam_iou`: SAM's predicted IoU, 0-1. `agreement`: IoU of polygon and mask, 0-1.
    `coverage`: share of the image's area under the mask, 0-1. All are zero if nothing was grounded.
    `signals`: None if the quality is not measured.
    """

    outcome: Outcome
    reason: str
    polygons: list[np.ndarray]
    mask: np.ndarray
    grid: np.ndarray
    box: tuple[float, float, float, float]
    sam_iou: float
    agreement: float
    coverage: float
    query_truncated: bool
    tokens: int
    signals: Signals | None = None
