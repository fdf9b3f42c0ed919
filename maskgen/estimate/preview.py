"""What a run would see: some planned images, opened as a worker opens them, and some texts."""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from maskgen.config import Config, Text
from maskgen.errors import SampleError
from maskgen.pipeline.worker import read_picture
from maskgen.runtime.store import Store
from maskgen.sample import Sample
from maskgen.sources import conversation
from maskgen.sources.images import ImageRoot
from maskgen.sources.plan import count_rows, read_shard
from maskgen.sources.rows import place

OPENED = 64
_THREADS = 8


@dataclass(frozen=True)
class Opened:
    """Images that were opened: how many, how many of them failed by outcome, and the first of each kind."""

    images: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class AskedText:
    """What the proposer is asked about a row; `cut`: characters of it that `text.strip` took away."""

    key: str
    image: str
    query: str
    cut: int


def open_images(config: Config, data: str, samples: Iterable[Sample], kept: Store | None = None) -> Opened:
    """Open each sample's image through the code of a worker. `kept`: as of `make_plan`."""
    source = config.source
    images = ImageRoot(place(data, source.images), config.limits.image_bytes, source.allow_links_to, kept)

    def problem(sample: Sample) -> tuple[str, str]:
        try:
            read_picture(images, sample, config.limits)
        except SampleError as error:
            return error.outcome.value, f"{sample.image}: {error.reason}"
        return "", ""

    with ThreadPoolExecutor(_THREADS) as pool:
        found = list(pool.map(problem, samples))
    failures = Counter(kind for kind, _ in found if kind)
    return Opened(
        len(found), dict(sorted(failures.items())), dict(reversed([one for one in found if one[0]]))
    )


def open_planned(config: Config, data: str, plan: Path, kept: Store | None = None) -> Opened:
    """Open the images of the first planned samples: the draw's order is a random one."""
    usable = (sample for sample in _planned(plan) if sample.image and not sample.outcome)
    return open_images(config, data, itertools.islice(usable, OPENED), kept)


def asked_texts(text: Text, plan: Path, count: int) -> Iterator[AskedText]:
    """The queries of the first planned samples that can be used."""
    whole = text.model_copy(update={"strip": []})
    usable = (sample for sample in _planned(plan) if not sample.outcome)
    for sample in itertools.islice(usable, count):
        turns = [(turn.speaker, turn.value) for turn in sample.conversations]
        uncut = conversation.make_query(turns, whole).text
        yield AskedText(sample.key, sample.image, sample.query.text, len(uncut) - len(sample.query.text))


def _planned(plan: Path) -> Iterator[Sample]:
    for shard in range(len(count_rows(plan))):
        yield from read_shard(plan, shard)
