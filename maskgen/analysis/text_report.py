"""What `maskgen ground`, `attend` and `similarity` print."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from maskgen.analysis.attend import LayerMap
from maskgen.analysis.attention_maps import MapReader
from maskgen.analysis.ground import LARGE, METRICS, SMALL, UNIFORM, AttentionGrounding
from maskgen.analysis.similarity import Similarity
from maskgen.bootstrap import BootstrapEstimate
from maskgen.draw import text

_SIZES = {
    "all": "all masks",
    "small": f"small masks, under {SMALL:.0%} of the grid",
    "medium": "medium masks",
    "large": f"large masks, {LARGE:.0%} of the grid and more",
}


def grounding_table(found: Sequence[AttentionGrounding]) -> str:
    """A table with a part for each size of mask; models of the same grid and masks share one."""
    alike: dict[tuple[int, ...], list[AttentionGrounding]] = {}
    for model in found:
        alike.setdefault((model.cells, *model.counts.values()), []).append(model)
    return "\n\n".join(_grounding_table(some) for some in alike.values())


def _grounding_table(found: Sequence[AttentionGrounding]) -> str:
    first = found[0]
    rows: list[tuple[str, ...]] = [("", "mass inside, %", "pointing, %", "attention IoU, %")]
    for size, figures in first.rows.items():
        rows += [("",) * 4, (f"{_SIZES[size]} ({first.counts[size]:,})", "", "", "")]
        for model in found:
            rows += [
                (
                    f"  {_row_label(model, layer, len(found))}",
                    *(_percent_interval(cells[name]) for name in METRICS),
                )
                for layer, cells in model.rows[size].items()
                if layer != UNIFORM
            ]
        rows.append((f"  {UNIFORM}", *(f"{100 * figures[UNIFORM][name].value:5.1f}" for name in METRICS)))
    lines = [
        f"attention of the text's tokens against {text.plural(first.counts['all'], 'mask')} on a grid of "
        f"{first.cells} x {first.cells}, with 95 % bootstrap intervals over pictures",
        *text.table(rows),
    ]
    for model in found:
        if min(model.image_share) < 0.999:
            shares = ", ".join(text.share(share, 1) for share in model.image_share)
            lines += [
                "",
                f"{model.name}: {shares} of the attention goes to the image; the rest stays in the text.",
            ]
        if model.skipped:
            lines += [
                "",
                f"{model.name}: {text.plural(model.skipped, 'sample')} without mask or text left out",
            ]
    return "\n".join(lines)


def attention_values(
    readers: Sequence[MapReader], found: Sequence[Sequence[LayerMap]]
) -> list[dict[str, Any]]:
    """The figures of `attention_table` as JSON values."""
    return [
        {
            "model": reader.name,
            "layers": [
                {
                    "layer": one.name,
                    "peak_over_even": float(one.ratios.max()),
                    "half_mass_cells": int(one.half_mass_cells),
                    "cells": int(one.attention.size),
                    "image_share": one.image_share,
                    "padding_share": one.padding_share,
                }
                for one in maps
            ],
        }
        for reader, maps in zip(readers, found, strict=True)
    ]


def attention_table(readers: Sequence[MapReader], found: Sequence[Sequence[LayerMap]]) -> str:
    """A line a model and layer: how pointed the attention is, and how much of it lies on padding."""
    padded = any(one.padding_share is not None for maps in found for one in maps)
    rows: list[tuple[str, ...]] = [
        (
            "model",
            "layer",
            "peak / even",
            "half of it on",
            "to the image",
            *(("on padding",) if padded else ()),
        )
    ]
    for reader, maps in zip(readers, found, strict=True):
        for one in maps:
            half = f"{one.half_mass_cells} of {one.attention.size} cells"
            share = text.share(one.image_share, 1)
            rows.append(
                (
                    reader.name,
                    one.name,
                    f"{one.ratios.max():.1f}",
                    half,
                    share,
                    *((_padding(reader, one),) if padded else ()),
                )
            )
    return "\n".join(text.table(rows, right=frozenset({2, 3, 4})))


def _padding(reader: MapReader, one: LayerMap) -> str:
    if one.padding_share is None:
        return "no padding"
    cells = f"{text.share(float((~one.image_cells).mean()), 1)} of the cells"
    return f"{text.share(one.padding_share, 1)} ({cells}" + (", masked)" if reader.masks_padding else ")")


def similarity_table(found: Sequence[Similarity]) -> str:
    """A line a model."""
    rows = [("", "matching", "non-matching", "overlap", "AUROC", "linear probe's AUROC")]
    for one in found:
        ranged = f"{one.auroc.value:.3f} ({one.auroc.low:.3f} to {one.auroc.high:.3f})"
        folds = f"{np.mean(one.probe):.3f} ({min(one.probe):.3f} to {max(one.probe):.3f} by fold)"
        means = f"{one.matching.mean():.3f}", f"{one.other.mean():.3f}"
        rows.append((f"  {one.name}", *means, f"{one.overlap:.2f}", ranged, folds))
    lines = [
        f"cosine similarity of image and text states, {text.plural(len(found[0].matching), 'text')} with "
        "their own picture and with another; AUROC with a 95 % bootstrap interval over texts",
        *text.table(rows),
    ]
    return "\n".join(lines + [_left_out(one.name, one.skipped) for one in found if one.skipped])


def _left_out(name: str, count: int) -> str:
    return f"{name}: {text.plural(count, 'sample')} without text or another picture left out"


def _row_label(model: AttentionGrounding, layer: str, models: int) -> str:
    return f"{model.name}, {layer}" if models > 1 else layer


def _percent_interval(figure: BootstrapEstimate) -> str:
    return f"{100 * figure.value:5.1f} ({100 * figure.low:.1f} to {100 * figure.high:.1f})"
