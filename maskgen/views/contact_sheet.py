"""The report's contact sheets: a few samples of every outcome."""

import io
from typing import Any

from PIL import Image

from maskgen.config import Limits
from maskgen.draw import overlay, page, text
from maskgen.errors import SampleError
from maskgen.outcome import Outcome
from maskgen.runtime.store import AbsentError, Store
from maskgen.sample import Picture
from maskgen.sharding import format
from maskgen.sharding.commit import shard_name
from maskgen.sharding.format import FormatError, ShardSample
from maskgen.sharding.reader import scan
from maskgen.views.set_statistics import SamplePick, SetStatistics

_THUMBNAIL_SIZE = (360, 270)


def contact_sheets(store: Store, found: SetStatistics, limits: dict[str, Any]) -> str:
    """A sheet for each outcome: pictures if it is in the tars, a table if not."""
    parts = [
        _heading(outcome, found)
        + (_sheet(store, picks, Limits.model_validate(limits)) if outcome.in_tar else _table(picks))
        for outcome in Outcome
        if (picks := found.picks.get(outcome))
    ]
    if not parts:
        return ""
    legend = "Lit, with a rose edge: the mask. Amber: the proposer's polygons. Blue: the box shown to SAM."
    return (
        f'<p class="soft">{legend} The choice is drawn by key. maskgen show draws any sample large.</p>'
        + ("".join(parts))
    )


def css_class(outcome: Outcome) -> str:
    """The colour that an outcome is shown in."""
    return "good" if outcome is Outcome.OK else "bad" if outcome.is_failure else "fair"


def thumbnail(sample: ShardSample, picture: Picture) -> Image.Image:
    """A small picture with mask, polygons and box over it."""
    image = overlay.resize_pixels(
        picture.pixels, overlay.fit_size(picture.width, picture.height, _THUMBNAIL_SIZE)
    )
    if sample.grid.any():
        image = overlay.with_mask(image, sample.mask_pixels())
    source = (picture.width, picture.height)
    return overlay.with_outlines(image, source, sample.polygons, sample.fields.box)


def _heading(outcome: Outcome, found: SetStatistics) -> str:
    count, shown = found.outcomes[outcome], len(found.picks[outcome])
    number = text.plural(count, "sample") if count == shown else f"{shown} of {text.plural(count, 'sample')}"
    meaning = page.escape_text(text.MEANINGS[outcome])
    title = f'<span class="{css_class(outcome)}">{outcome}</span> · {number}'
    return f'<h3>{title}</h3><p class="soft">{meaning}</p>'


def _sheet(store: Store, picks: list[SamplePick], limits: Limits) -> str:
    return f'<div class="sheet">{"".join(_card(store, pick, limits) for pick in picks)}</div>'


def _card(store: Store, pick: SamplePick, limits: Limits) -> str:
    try:
        sample = _read(store, pick)
        drawn = page.data_uri(thumbnail(sample, sample.picture(limits)))
    except (AbsentError, FormatError, SampleError) as error:  # damage; that the place fails must not be shown
        return _card_html("", f"cannot be shown: {page.escape_text(error)}", pick, "")
    fields = sample.fields
    scores = " · ".join(text.scores(fields.coverage, fields.agreement, fields.sam_iou, 2))
    return _card_html(
        f'<img src="{drawn}" alt="">',
        page.escape_text(fields.query.text, 160),
        pick,
        page.escape_text(scores),
    )


def _card_html(picture: str, words: str, pick: SamplePick, scores: str) -> str:
    notes = [
        page.escape_text(pick.reason, 120),
        scores,
        f'<span class="key">{page.escape_text(pick.key)}</span>',
    ]
    captions = "".join(f"<small>{note}</small>" for note in notes if note)
    caption = f'<div class="words">{words}{captions}</div>'
    return f'<div class="card"><div class="frame">{picture}</div>{caption}</div>'


def _read(store: Store, pick: SamplePick) -> ShardSample:
    """The sample by its place in the tar, without a search."""
    with store.open(f"{shard_name(pick.shard)}.tar") as stream:
        stream.seek(pick.offset)
        stored = next(scan(io.BytesIO(stream.read(pick.size))), None)
    if stored is None:
        raise FormatError(f"{pick.key} is not where its parquet says.")
    return format.decode(dict(stored.members))


def _table(picks: list[SamplePick]) -> str:
    rows = [
        [
            f'<span class="key">{page.escape_text(pick.key)}</span>',
            page.escape_text(pick.id, 80),
            page.escape_text(pick.image, 160),
            page.escape_text(pick.reason),
        ]
        for pick in picks
    ]
    return page.table(["key", "id", "image", "reason"], rows)
