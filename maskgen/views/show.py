"""`maskgen show`: one sample on one panel, from the image to what the trainer sees of its mask."""

import random
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
from PIL import Image, ImageDraw

from maskgen import config
from maskgen.draw import overlay, text
from maskgen.draw.lettering import font, renderable_text, wrap_text
from maskgen.draw.palette import GREEN, GREY, INK, OCHRE, PALE, WHITE
from maskgen.errors import MaskgenError, SampleError
from maskgen.geometry import Frame, binarise
from maskgen.outcome import Outcome
from maskgen.runtime.store import Store
from maskgen.sample import Picture
from maskgen.sharding import shard_table
from maskgen.sharding.commit import committed, shard_name
from maskgen.sharding.format import ShardSample
from maskgen.sharding.reader import find, find_row

_MARGIN, _GAP, _COLUMN = 32, 24, 424
_WIDTH = 2 * _MARGIN + 2 * _GAP + 3 * _COLUMN
_STACKED_RATIO, _MAX_HEIGHT = 2.4, 620
_CAPTION, _LEADING, _QUERY_LINES = 26, 25, 6


def random_key(out: str, outcome: str = "", seed: int | None = None) -> str:
    """A sample's key drawn at random: of those in the tars, or of those of an outcome.

    MaskgenError if there is none.
    """
    store, keys = Store(out), []
    if not store.exists("run.json"):
        raise MaskgenError(f"no run was begun in {store.place}: there is nothing to show. Check the path.")
    for shard, commit in committed(store).items():
        if outcome in ("", *commit.outcomes):
            rows = shard_table.read(store, f"{shard_name(shard)}.parquet")
            wanted = pc.equal(rows["outcome"], outcome) if outcome else pc.greater_equal(rows["offset"], 0)
            keys += rows.filter(wanted)["key"].to_pylist()
    if not keys:
        raise MaskgenError(f"{store.place} has no finished sample{f' that is {outcome}' if outcome else ''}.")
    return str(random.Random(seed).choice(sorted(keys)))


def describe(out: str, key: str) -> str:
    """The sample in words: texts, scores and where it came from, for a terminal."""
    row = find_row(Store(out), key)
    rows = [
        ("key", key),
        ("outcome", row["outcome"] + (f": {row['reason']}" if row["reason"] else "")),
        ("query", row["query"]),
        ("mask", " | ".join(text.scores(row["coverage"], row["agreement"], row["sam_iou"], 3)) or "none"),
        ("polygons", f"{row['polygons']:,}, of {text.plural(row['tokens'], 'token')}"),
        ("image", f"{row['image']} ({row['width']} x {row['height']} px)"),
        ("row", f"id {row['id']} of split {row['split']}"),
    ]
    turns = find(Store(out), key).turns if row["offset"] >= 0 else ()
    rows += [(turn.speaker, turn.value) for turn in turns]
    return "\n".join(f"{label:<10}{text.plain(words)}" for label, words in rows)


def write_png(out: str, key: str, to: str) -> str:
    """Draw the sample `key` of the set in `out` into the file `to`; returns where it is."""
    store = Store(out)
    sample = find(store, key)
    try:
        panel = show(sample, sample.picture(_limits(store)))
    except SampleError as error:
        raise MaskgenError(f"the image of {key} cannot be drawn: {error}. maskgen verify {out}.") from error
    try:
        panel.save(to, "PNG")
    except OSError as error:
        raise MaskgenError(f"cannot write {to}: {error.strerror or error}. Give another --out.") from error
    return str(Path(to))


def show(sample: ShardSample, picture: Picture) -> Image.Image:
    """The panel: image with polygons and box; mask; the trainer's frame with M'; texts and scores.

    The three stand side by side; an image much wider than tall gets the whole width instead.
    """
    stacked = picture.width > _STACKED_RATIO * picture.height
    bounds = (_WIDTH - 2 * _MARGIN, _MAX_HEIGHT) if stacked else (_COLUMN, _MAX_HEIGHT)
    image = overlay.resize_pixels(picture.pixels, overlay.fit_size(picture.width, picture.height, bounds))
    fields = sample.fields
    outlined = overlay.with_outlines(image, (picture.width, picture.height), sample.polygons, fields.box)
    masked = overlay.with_mask(image, sample.mask_pixels())
    views = [
        (_proposal_caption(sample), outlined),
        (f"mask, {text.share(fields.coverage, 1)} of the image" if fields.coverage else "no mask", masked),
        (_frame_caption(sample), _trainer_frame(sample, picture)),
    ]
    return _one_below_another(sample, views) if stacked else _side_by_side(sample, views)


def _trainer_frame(sample: ShardSample, picture: Picture) -> Image.Image:
    geometry = sample.fields.geometry
    frame = Frame(geometry.fit, geometry.size, geometry.cells).image(picture.pixels)
    return overlay.with_grid(overlay.resize_pixels(frame, (_COLUMN, _COLUMN)), sample.grid)


def _side_by_side(sample: ShardSample, views: list[tuple[str, Image.Image]]) -> Image.Image:
    below = _MARGIN + _CAPTION + max(image.height for _, image in views) + _GAP
    panel = _blank_panel(below + _text_height(sample, _WIDTH - 2 * _MARGIN) + _MARGIN)
    for index, (caption, image) in enumerate(views):
        _paste(panel, image, caption, (_MARGIN + index * (_COLUMN + _GAP), _MARGIN))
    _write(panel, sample, (_MARGIN, below), _WIDTH - 2 * _MARGIN)
    return panel


def _one_below_another(sample: ShardSample, views: list[tuple[str, Image.Image]]) -> Image.Image:
    tops = [_MARGIN]
    for _, image in views:
        tops.append(tops[-1] + _CAPTION + image.height + _GAP)
    beside, bounds = _MARGIN + _COLUMN + _GAP, _WIDTH - 2 * _MARGIN - _COLUMN - _GAP
    text_top = tops[2] + _CAPTION - 6
    panel = _blank_panel(max(tops[3], text_top + _text_height(sample, bounds)) - _GAP + _MARGIN)
    for (caption, image), top in zip(views, tops, strict=False):
        _paste(panel, image, caption, (_MARGIN, top))
    _write(panel, sample, (beside, text_top), bounds)
    return panel


def _blank_panel(height: int) -> Image.Image:
    return Image.new("RGB", (_WIDTH, height), WHITE)


def _paste(panel: Image.Image, image: Image.Image, caption: str, place: tuple[int, int]) -> None:
    x, y = place
    draw = ImageDraw.Draw(panel)
    draw.text((x, y), renderable_text(caption), GREY, font(14))
    panel.paste(image, (x, y + _CAPTION))
    draw.rectangle((x - 1, y + _CAPTION - 1, x + image.width, y + _CAPTION + image.height), outline=PALE)


def _proposal_caption(sample: ShardSample) -> str:
    x0, y0, x1, y1 = sample.fields.box
    box = " and box" if x1 > x0 and y1 > y0 else ""
    return text.plural(len(sample.polygons), "polygon") + box


def _frame_caption(sample: ShardSample) -> str:
    geometry = sample.fields.geometry
    on = int(np.count_nonzero(binarise(sample.grid)))
    return (
        f"trainer's frame ({geometry.fit}, {geometry.size} px): "
        f"{on} of {geometry.cells} x {geometry.cells} cells"
    )


def _paragraphs(sample: ShardSample, width: int) -> list[tuple[str, int, tuple[int, int, int]]]:
    """The lines under the pictures, with size in points and colour."""
    fields = sample.fields
    outcome = f"{fields.outcome}: {fields.reason}" if fields.reason else str(fields.outcome)
    source = f"id {fields.id} | {fields.image} | {fields.width} x {fields.height} px | {fields.split}"
    scores = [
        *text.scores(fields.coverage, fields.agreement, fields.sam_iou, 3),
        text.plural(fields.tokens, "token") if fields.tokens else "",
        "query cut for the proposer" if fields.query.truncated else "",
    ]
    return [
        (sample.key, 20, INK),
        *((line, 15, GREEN if fields.outcome is Outcome.OK else OCHRE) for line in _lines(outcome, width, 2)),
        *((line, 17, INK) for line in _lines(fields.query.text, width, _QUERY_LINES, 17)),
        (" | ".join(filter(None, scores)), 15, GREY),
        *((line, 15, GREY) for line in _lines(source, width, 2)),
    ]


def _lines(words: str, width: int, most: int, points: int = 15) -> list[str]:
    return wrap_text(words, font(points), width, most)


def _text_height(sample: ShardSample, width: int) -> int:
    return _LEADING * len(_paragraphs(sample, width))


def _write(panel: Image.Image, sample: ShardSample, place: tuple[int, int], width: int) -> None:
    draw = ImageDraw.Draw(panel)
    for index, (line, points, colour) in enumerate(_paragraphs(sample, width)):
        draw.text((place[0], place[1] + index * _LEADING), line, colour, font(points))


def _limits(store: Store) -> config.Limits:
    """The limits of the run that made the set."""
    if not store.exists("run.json"):
        return config.Limits()
    return config.Limits.model_validate(store.read_json("run.json")["config"]["limits"])
