"""Whether a file of recorded shapes is about the images that were planned."""

from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pyarrow.parquet as pq

from maskgen.config import Config, Recorded


def compare_recorded(config: Config, data: str, plan: Path | IO[bytes]) -> list[str]:
    """Notes on how far the file knows the planned images; none for another proposer.

    MaskgenError if it knows none of them, or cannot be read.
    """
    if not isinstance(config.proposer, Recorded):
        return []
    from maskgen.grounding.recorded import RecordedProposer

    return RecordedProposer(config.proposer, data).compare(_images(plan))


def _images(plan: Path | IO[bytes]) -> Iterator[str]:
    with pq.ParquetFile(plan) as file:
        for batch in file.iter_batches(columns=["image", "outcome"]):
            for image, outcome in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                if image and not outcome:
                    yield image
