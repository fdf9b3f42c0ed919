"""How good a finished set is where the truth is known: `python -m maskgen.evaluation.mask_quality`."""

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from maskgen import config, rle
from maskgen.errors import MaskgenError, SampleError
from maskgen.geometry import Frame, binarise
from maskgen.grounding import polygon
from maskgen.outcome import Outcome
from maskgen.runtime.storage import open_file
from maskgen.runtime.store import Store
from maskgen.sharding.commit import committed
from maskgen.sharding.format import ShardSample
from maskgen.sharding.reader import read_shard

RIGHT = 0.5  # IoU above which the mask lies on the right thing
RESAMPLES = 2000

# What says "not here" of a text that names nothing in its picture.
_REFUSALS = {Outcome.NO_GROUNDING, Outcome.DEGENERATE_POLYGON, Outcome.SAM_DISAGREES}


def score(store: Store, truth_file: str) -> dict[str, Any]:
    """Figures of a finished set against `truth_file`, COCO annotations that carry a `row_id`.

    All IoUs are means over the samples whose text names something (`named`): `polygon_iou` of the
    proposer's outline, `mask_iou` of the final mask, `grid_iou` of the cells at least half covered, in the
    set's own frame; 0 where nothing was grounded. `gain` is mask minus polygon IoU with `gain_interval`,
    95 % by bootstrap; `right` the share with a mask IoU above 0.5. `refused` is the share of the `nothing`
    samples, whose text names nothing, that ended without a mask or as sam_disagrees; None if there is no
    such sample. `kinds` has n and mask IoU for each kind of text; `outcomes_of_nothing` counts.
    """
    truth = _truth(truth_file)
    rows = [_row(sample, truth[sample.fields.id]) for sample in _samples(store) if sample.fields.id in truth]
    if not rows:
        raise MaskgenError(
            f"no sample of {store.place} has a truth in {truth_file}. Give the set its own truth file."
        )
    named = [row for row in rows if row["named"]]
    nothing = [row for row in rows if not row["named"]]
    polygons, masks, grids = (_column(named, name) for name in ("polygon", "mask", "grid"))
    return {
        "n": len(rows),
        "named": len(named),
        "polygon_iou": _mean(polygons),
        "mask_iou": _mean(masks),
        "gain": _mean(masks - polygons),
        "gain_interval": _interval(masks - polygons),
        "grid_iou": _mean(grids),
        "right": _mean(masks > RIGHT),
        "nothing": len(nothing),
        "refused": _mean(_column(nothing, "refused")) if nothing else None,
        "outcomes_of_nothing": dict(Counter(row["outcome"] for row in nothing)),
        "kinds": {
            kind: {"n": len(of_kind), "mask_iou": _mean(_column(of_kind, "mask"))}
            for kind in sorted({row["kind"] for row in named})
            for of_kind in [[row for row in named if row["kind"] == kind]]
        },
    }


def render(figures: dict[str, Any]) -> list[str]:
    """The figures as lines for a person."""
    low, high = figures["gain_interval"]
    lines = [
        f"against the truth of {figures['named']} texts that name something:",
        f"  polygon IoU          {figures['polygon_iou']:9.3f}",
        f"  mask IoU after SAM   {figures['mask_iou']:9.3f}",
        f"  SAM's gain           {figures['gain']:+9.3f}  (95 % between {low:+.3f} and {high:+.3f})",
        f"  grid IoU             {figures['grid_iou']:9.3f}",
        f"  right object         {100 * figures['right']:7.1f} %",
    ]
    if figures["refused"] is not None:
        share = 100 * figures["refused"]
        lines.append(f"  refused              {share:7.1f} %  of {figures['nothing']} that name nothing")
    by_kind = [f"{kind} {each['mask_iou']:.2f} ({each['n']})" for kind, each in figures["kinds"].items()]
    return [*lines, f"  mask IoU by kind: {', '.join(by_kind)}"]


def _truth(url: str) -> dict[str, dict[str, Any]]:
    """Annotations by row id."""
    try:
        with open_file(url) as file:
            annotations = json.load(file)["annotations"]
        return {str(annotation["row_id"]): annotation for annotation in annotations}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MaskgenError(
            f"{url} cannot be read as known masks ({type(error).__name__}). It must be a COCO file whose "
            'annotations have a "row_id" and a run-length "segmentation".'
        ) from error


def _samples(store: Store) -> Iterator[ShardSample]:
    for shard in committed(store):
        yield from read_shard(store, shard)


def _row(sample: ShardSample, annotation: dict[str, Any]) -> dict[str, Any]:
    (height, width), counts = annotation["segmentation"]["size"], annotation["segmentation"]["counts"]
    truth = rle.decode(counts, height, width)
    frame = Frame.of(config.Grid(**sample.fields.geometry.model_dump()))
    return {
        "named": bool(truth.any()),
        "kind": annotation.get("kind", "any"),
        "outcome": str(sample.fields.outcome),
        "refused": sample.fields.outcome in _REFUSALS,
        "polygon": overlap(_polygon_pixels(sample), truth),
        "mask": overlap(sample.mask_pixels(), truth),
        "grid": overlap(binarise(sample.grid), binarise(frame.grid(truth))),
    }


def _polygon_pixels(sample: ShardSample) -> np.ndarray:
    width, height = sample.fields.width, sample.fields.height
    try:
        region = polygon.clean(sample.polygons, width, height)
    except SampleError:
        return np.zeros((height, width), bool)
    return polygon.rasterise(region, width, height)


def overlap(mask: np.ndarray, truth: np.ndarray) -> float:
    """IoU of two bool arrays; 0 if both are empty."""
    if mask.shape != truth.shape:
        return 0.0
    return float((mask & truth).sum() / max(1, (mask | truth).sum()))


def _column(rows: list[dict[str, Any]], name: str) -> np.ndarray:
    return np.array([row[name] for row in rows], float)


def _mean(values: np.ndarray) -> float:
    return round(float(values.mean()), 4) if len(values) else 0.0


def _interval(values: np.ndarray) -> list[float]:
    """95 % of the means of `values` drawn again with replacement; the same numbers every time."""
    if not len(values):
        return [0.0, 0.0]
    drawn = np.random.default_rng(0).integers(0, len(values), (RESAMPLES, len(values)))
    return [round(float(edge), 4) for edge in np.percentile(values[drawn].mean(axis=1), [2.5, 97.5])]


def main() -> None:
    """Print the figures of a finished set, as `maskgen run` does at the end of one whose truth is known."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", help="folder or URL of the finished set")
    parser.add_argument("truth", help="COCO file with the known masks")
    options = parser.parse_args()
    print("\n".join(render(score(Store(options.out), options.truth))))


if __name__ == "__main__":
    main()
