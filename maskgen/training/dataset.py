"""Samples straight from finished shards: an index in memory, a seek for each sample."""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from maskgen.age_vlm.chat import ChatTemplate
from maskgen.config import Limits
from maskgen.errors import MaskgenError, SampleError, first_line
from maskgen.geometry import HALF, Frame, binarise
from maskgen.outcome import Outcome
from maskgen.runtime.folder_kind import check_finished
from maskgen.runtime.store import Store
from maskgen.sharding import format
from maskgen.sharding.commit import shard_name
from maskgen.sharding.format import FormatError, ShardSample
from maskgen.sharding.reader import scan
from maskgen.training.mask_filter import KeptMasks, MaskFilter

_LIMITS = Limits(image_megabytes=1000, image_megapixels=256)  # any that a set may have been made with
_GROUNDED = [Outcome.OK.value, Outcome.SAM_DISAGREES.value]


@dataclass(frozen=True)
class Example:
    """One sample as the model takes it.

    `pixels`: uint8 (S, S, 3) or None. `image_cells`: bool (cells^2,), the cells that hold image, or None if
    all do. `input_ids`, `labels`, `query_mask`: lists of one length. `mask`: M', bool (cells^2,), or None.
    `truncated`: the text lost its end.
    """

    key: str
    pixels: np.ndarray | None
    image_cells: np.ndarray | None
    input_ids: list[int]
    labels: list[int]
    query_mask: list[bool]
    mask: np.ndarray | None
    truncated: bool


class ShardSamples:
    """All samples of several finished sets, in the order of sets, shards and places in the tar.

    `has_mask`: bool (n,), those that guide. `kept`: of a condition on masks, what it left; None without one.
    """

    def __init__(self, places: Sequence[str], where: str = ""):
        """`where`: see `MaskFilter`; empty: every mask guides."""
        self._places = list(places)
        tables = [_index(place) for place in self._places]
        self.kept: KeptMasks | None = None
        if where:
            judge = MaskFilter(where)
            for place, table in zip(self._places, tables, strict=True):
                table["has_mask"] = judge.judge(place, table["has_mask"])
            self.kept = judge.kept()
        self.keys: np.ndarray = np.concatenate([table["key"] for table in tables])
        self.has_mask: np.ndarray = np.concatenate([table["has_mask"] for table in tables])
        self.outcomes: np.ndarray = np.concatenate([table["outcome"] for table in tables])
        self._shards = np.concatenate([table["shard"] for table in tables])
        self._offsets = np.concatenate([table["offset"] for table in tables])
        self._sizes = np.concatenate([table["size"] for table in tables])
        self._sets = np.repeat(np.arange(len(tables)), [len(table["key"]) for table in tables])
        most = int(self._shards.max(initial=0)) + 1
        self.shards: np.ndarray = self._sets * most + self._shards

    def __len__(self) -> int:
        return len(self.keys)

    def fingerprint(self) -> str:
        """A digest of what the sets hold, and in which order."""
        digest = hashlib.sha256()
        for column in (self.keys.astype("S64"), self.has_mask, self._shards, self._offsets, self._sizes):
            digest.update(np.ascontiguousarray(column).tobytes())
        return digest.hexdigest()

    def sample(self, number: int) -> ShardSample:
        """One as it stands in its tar. MaskgenError, with set, shard and key, if it is damaged."""
        store, tar = self._place(number)
        with store.open(tar) as stream:
            stream.seek(int(self._offsets[number]))
            part = io.BytesIO(stream.read(int(self._sizes[number])))
        try:
            sample = format.decode(dict(next(scan(part)).members))
        except (FormatError, StopIteration) as error:
            raise self._damaged(number, first_line(error) if str(error) else "the tar ends before") from error
        if sample.key != self.keys[number]:
            raise self._damaged(number, f"{sample.key} stands there")
        return sample

    def picture(self, number: int, sample: ShardSample) -> np.ndarray:
        """Its image, uint8 (height, width, 3). MaskgenError, with the member's name too, if it is damaged."""
        try:
            pixels = sample.picture(_LIMITS).pixels
        except SampleError as error:
            raise self._damaged(number, f"{sample.key}.{sample.extension}: {error.reason}") from error
        if pixels.shape[:2] != (sample.fields.height, sample.fields.width):
            raise self._damaged(number, f"{sample.key}.{sample.extension} is not as large as it was")
        return pixels

    def mask(self, number: int, sample: ShardSample) -> np.ndarray:
        """Its mask, bool (height, width). MaskgenError if it is damaged."""
        try:
            return sample.mask_pixels()
        except FormatError as error:
            raise self._damaged(number, str(error)) from error

    def _place(self, number: int) -> tuple[Store, str]:
        return Store(self._places[self._sets[number]]), f"{shard_name(int(self._shards[number]))}.tar"

    def _damaged(self, number: int, problem: str) -> MaskgenError:
        store, tar = self._place(number)
        return MaskgenError(
            f"{store.where(tar)} is damaged at the sample {self.keys[number]} ({problem.rstrip('.')}). "
            "maskgen verify says what else is. Remove the shard's .json and run the set's maskgen run again: "
            "it is made anew."
        )


class ShardDataset(ShardSamples):
    """The samples of finished sets as a model takes them."""

    def __init__(
        self,
        places: Sequence[str],
        template: ChatTemplate,
        frame: Frame,
        guided: bool = True,
        threshold: float = 0.5,
        where: str = "",
    ):
        """`guided`: whether masks are wanted. `threshold`: see `geometry.binarise`. `where`: see
        `MaskFilter`.
        """
        super().__init__(places, where)
        self._template = template
        self._frame = frame
        self._guided = guided
        self._threshold = threshold

    def __getitem__(self, number: int) -> Example:
        sample = self.sample(number)
        encoded = self._template.encode(sample.turns, sample.query.spans)
        if sample.fields.outcome == Outcome.TEXT_ONLY:
            texts = encoded.input_ids, encoded.labels, encoded.query_mask
            return Example(sample.key, None, None, *texts, None, encoded.truncated)
        pixels, cells = framed(self._frame, self.picture(number, sample))
        mask = None
        if self._guided and self.has_mask[number]:
            mask = binarise(self._frame.grid(self.mask(number, sample)), self._threshold).ravel()
        return Example(
            sample.key,
            pixels,
            cells,
            encoded.input_ids,
            encoded.labels,
            encoded.query_mask,
            mask,
            encoded.truncated,
        )


def framed(frame: Frame, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """uint8 (height, width, 3) as `Example.pixels` and `Example.image_cells`."""
    cells = frame.image_cells(pixels.shape[1], pixels.shape[0]) >= HALF
    return frame.image(pixels), None if cells.all() else cells.ravel()


def _index(place: str) -> dict[str, Any]:
    store = Store(place)
    check_finished(place)
    with store.open("index.parquet") as stream:
        rows = pq.read_table(stream, columns=["shard", "key", "outcome", "offset", "size"])
    rows = rows.filter(pc.greater_equal(rows["offset"], 0))
    has_mask = pc.is_in(rows["outcome"], value_set=_values(_GROUNDED))
    found = {name: rows[name].to_numpy() for name in ("shard", "key", "outcome", "offset", "size")}
    return {**found, "has_mask": has_mask.to_numpy()}


def _values(names: list[str]) -> Any:
    import pyarrow as pa

    return pa.array(names)
