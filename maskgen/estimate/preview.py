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
from maskgen.sources.image_index import ImageIndex
from maskgen.sources.images import ImageRoot
from maskgen.sources.plan import find_images
from maskgen.sources.plan_file import planned_samples, to_samples, to_table
from maskgen.sources.row_layout import RawRow
from maskgen.sources.row_scan import check_of
from maskgen.sources.rows import draw_rows, find_files, place

OPENED = 64
_THREADS = 8
READ_THROUGH = 1_000_000_000  # bytes of .tar.gz, ten seconds or so


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
    """Open each sample's image through the code of a worker, unless planning decided that it cannot be.

    `kept`: as of `make_plan`.
    """
    source = config.source
    images = ImageRoot(place(data, source.images), config.limits.image_bytes, source.allow_links_to, kept)

    def problem(sample: Sample) -> tuple[str, str]:
        if sample.outcome:
            return sample.outcome.value, f"{sample.image}: {sample.reason}"
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
    usable = (sample for sample in planned_samples(plan) if sample.image and not sample.outcome)
    return open_images(config, data, itertools.islice(usable, OPENED), kept)


def open_drawn(config: Config, data: str, kept: Store) -> tuple[Opened, list[str]]:
    """Find and open the images of rows drawn from here and there, and what there is to say of how they lie.

    In seconds, but for archives of many members; large .tar.gz of which nothing is in `kept` are left out.
    """
    rows = draw_rows(find_files(data, config.source.files), OPENED, config.select.seed)
    check = check_of(config)
    contents = [conversation.canonical(row) for row in rows if isinstance(row, RawRow)]
    samples = [conversation.sample(content, "", config.text, check) for content in contents]
    with ImageIndex(data, config.source, kept, most_read_through=READ_THROUGH) as images:
        samples = to_samples(find_images(to_table(samples), images)) if samples else []
        notes = images.notes
    wanted = (one for one in samples if one.image and (not one.outcome or one.outcome.is_failure))
    return open_images(config, data, wanted, kept), notes


def asked_texts(text: Text, plan: Path, count: int) -> Iterator[AskedText]:
    """The queries of the first planned samples that can be used."""
    whole = text.model_copy(update={"strip": []})
    usable = (sample for sample in planned_samples(plan) if not sample.outcome)
    for sample in itertools.islice(usable, count):
        turns = [(turn.speaker, turn.value) for turn in sample.conversations]
        uncut = conversation.make_query(turns, whole).text
        yield AskedText(sample.key, sample.image, sample.query.text, len(uncut) - len(sample.query.text))
