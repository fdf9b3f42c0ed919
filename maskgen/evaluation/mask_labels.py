"""Which masks of a set are right: by known masks, or as a person decided."""

import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from maskgen import rle
from maskgen.config import Recorded
from maskgen.errors import MaskgenError, SampleError
from maskgen.evaluation.mask_quality import overlap
from maskgen.grounding import polygon
from maskgen.grounding.recorded import RecordedProposer
from maskgen.runtime.storage import open_file
from maskgen.sample import Picture, Sample
from maskgen.sharding.format import ShardSample
from maskgen.training.dataset import ShardSamples

_YES = {"yes", "y", "true", "1", "right", "accept", "accepted"}
_NO = {"no", "n", "false", "0", "wrong", "reject", "rejected"}


def drawn(keys: list[str], seed: int) -> list[str]:
    """The keys in the order in which they are drawn: by the SHA-256 of "seed:key", so any beginning of
    it is a random sample, and the same for everybody.
    """
    return sorted(keys, key=lambda key: hashlib.sha256(f"{seed}:{key}".encode()).digest())


def masked_keys(samples: ShardSamples) -> list[str]:
    """Those of a set's samples that have a mask."""
    return [str(key) for key in samples.keys[samples.has_mask]]


def labels_by_truth(
    samples: ShardSamples, truth_file: str, count: int, seed: int, iou: float
) -> dict[str, bool]:
    """Of `count` drawn samples that `truth_file` knows, whether the IoU of mask and truth is at least `iou`.

    MaskgenError if it knows none of them, or cannot be read.
    """
    truth = Truth(truth_file)
    places = {str(key): place for place, key in enumerate(samples.keys)}
    found: dict[str, bool] = {}
    for key in drawn(masked_keys(samples), seed):
        sample = samples.sample(places[key])
        known = truth.mask(sample)
        if known is not None:
            found[key] = overlap(sample.mask_pixels(), known) >= iou
        if len(found) == count:
            break
    if not found:
        raise MaskgenError(
            f"{truth_file} has a truth for none of the masks: it must name their rows (row_id), their images "
            "and captions, or their images and the things in them."
        )
    return found


class Truth:
    """Known masks from a COCO file. A sample finds its own, in this order:

    by `row_id` of an annotation, if any annotation has one; by the image's `file_name` and `caption`, if
    the images have captions (RefCOCO as MDETR and others write it), which then is the query; else by the
    shapes of the image whose category the query names.
    """

    def __init__(self, file: str):
        """MaskgenError if it cannot be read."""
        try:
            with open_file(file) as stream:
                tree = json.loads(stream.read())
            annotations = tree["annotations"]
            images = {image["id"]: image for image in tree.get("images", [])}
            self._rows = {str(one["row_id"]): [one["segmentation"]] for one in annotations if "row_id" in one}
            self._captions: dict[tuple[str, str], list[Any]] = {}
            for one in annotations:
                image = images.get(one.get("image_id"), {})
                if "caption" in image:
                    key = _name(image["file_name"]), _words(image["caption"])
                    self._captions.setdefault(key, []).append(one["segmentation"])
        except (OSError, ValueError, ImportError, KeyError, TypeError, AttributeError) as error:
            raise MaskgenError(
                f"{file} cannot be read as known masks ({type(error).__name__}). Give a COCO file: images, "
                "annotations with a segmentation, categories."
            ) from error
        self._shapes = None
        if not self._rows and not self._captions:
            folder, _, name = str(file).rpartition("/")
            self._shapes = RecordedProposer(Recorded(file=name, match="label"), folder or ".")

    def mask(self, sample: ShardSample) -> np.ndarray | None:
        """bool (height, width) as the sample's; None if the file does not know it."""
        fields = sample.fields
        if self._rows:
            segmentations = self._rows.get(fields.id)
        elif self._captions:
            segmentations = self._captions.get((_name(fields.image), _words(fields.query.text)))
        else:
            return self._named(sample)
        if segmentations is None:
            return None
        parts = [_pixels(one, fields.height, fields.width) for one in segmentations]
        known = [part for part in parts if part is not None]
        return np.logical_or.reduce(known) if known and len(known) == len(parts) else None

    def _named(self, sample: ShardSample) -> np.ndarray | None:
        assert self._shapes is not None
        fields = sample.fields
        blank = Picture(b"", "png", np.zeros((fields.height, fields.width, 3), np.uint8))
        asked = Sample(sample.key, fields.id, fields.image, sample.turns, sample.query)
        try:
            [found] = self._shapes.propose([blank], [asked])
        except SampleError:
            return None  # drawn in a picture of another size
        if not found.polygons:
            return None
        return _outlined(found.polygons, fields.height, fields.width)


def labels_by_decisions(file: str, keys: set[str]) -> dict[str, bool]:
    """A person's decisions on masks among `keys`, by key; the last one counts where there are several.

    `file`: .csv, .jsonl or .parquet with `key` and `right` (or `decision`), yes or no; rows without an answer
    are left out. MaskgenError if it cannot be read or decides nothing of the set.
    """
    found: dict[str, bool] = {}
    for number, row in enumerate(_decisions(file), start=1):
        said = row.get("right", row.get("decision"))
        word = "" if said is None else str(said).strip().lower()
        if not word:
            continue
        if word not in _YES | _NO or "key" not in row:
            raise MaskgenError(f"{file}: row {number} has no key, or its answer is not yes or no: {said!r}.")
        if str(row["key"]) in keys:
            found[str(row["key"])] = word in _YES
    if not found:
        raise MaskgenError(
            f"{file} decides no mask of this set. Draw some: maskgen calibrate OUT --draw FOLDER."
        )
    return found


def write_to_decide(
    samples: ShardSamples, keys: list[str], folder: Path, draw: Callable[[str, str], object]
) -> Path:
    """A folder to decide in: a picture of each sample, made by `draw(key, file)`, and decisions.csv, whose
    column `right` is to be filled with yes or no. What was decided there already stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "decisions.csv"
    before = {row["key"]: row["right"] for row in _decisions(str(file))} if file.exists() else {}
    places = {str(key): place for place, key in enumerate(samples.keys)}
    text = io.StringIO()
    writer = csv.DictWriter(text, ["picture", "key", "query", "right"])
    writer.writeheader()
    for number, key in enumerate(keys, start=1):
        picture = f"{number:04d}-{key}.png"
        if not (folder / picture).exists():
            draw(key, str(folder / picture))
        query = samples.sample(places[key]).fields.query.text
        writer.writerow({"picture": picture, "key": key, "query": query, "right": before.get(key, "")})
    file.write_text(text.getvalue())
    return file


def _decisions(file: str) -> Iterator[dict[str, Any]]:
    try:
        with open_file(file) as stream:
            content = stream.read()
        if file.endswith(".parquet"):
            yield from pq.read_table(io.BytesIO(content)).to_pylist()
        elif file.endswith(".csv"):
            yield from csv.DictReader(io.StringIO(content.decode("utf-8-sig")))
        else:
            for line in content.decode().splitlines():
                row = json.loads(line) if line.strip() else {}
                if not isinstance(row, dict):
                    raise ValueError("a line is no object")
                yield row
    except (OSError, ValueError, ImportError, pa.ArrowException) as error:
        raise MaskgenError(
            f"{file} cannot be read as decisions ({error}). Give a .csv, .jsonl or .parquet file with key "
            "and right."
        ) from error


def _pixels(segmentation: Any, height: int, width: int) -> np.ndarray | None:
    """bool (height, width); None where it was drawn in a picture of another size, or is none."""
    try:
        if isinstance(segmentation, dict):
            if list(segmentation["size"]) != [height, width]:
                return None
            return rle.decode(segmentation["counts"], height, width)
        return _outlined([np.array(ring, float).reshape(-1, 2) for ring in segmentation], height, width)
    except (KeyError, TypeError, ValueError):
        return None


def _outlined(polygons: list[np.ndarray], height: int, width: int) -> np.ndarray:
    try:
        return polygon.rasterise(polygon.clean(polygons, width, height), width, height)
    except SampleError:
        return np.zeros((height, width), bool)


def _name(image: str) -> str:
    return image.replace("\\", "/").rsplit("/", 1)[-1]


def _words(text: str) -> str:
    return " ".join(text.lower().split()).rstrip(".")
