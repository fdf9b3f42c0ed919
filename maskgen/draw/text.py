"""How the views put numbers, times and foreign text into words: the one home for it."""

from collections.abc import Iterable, Sequence

from maskgen.outcome import Outcome

MEANINGS: dict[Outcome, str] = {
    Outcome.OK: "grounded; the mask is in the shard",
    Outcome.SAM_DISAGREES: "grounded, but the refined mask overlaps the polygon too little",
    Outcome.NO_GROUNDING: "the proposer found nothing for the query; zero mask",
    Outcome.DEGENERATE_POLYGON: "the polygons have no area inside the image; zero mask",
    Outcome.TRUNCATED_ANSWER: "the answer hit the length limit, so its polygons are not whole; zero mask",
    Outcome.OUTSIDE_CROP: "the mask lies outside what the crop keeps; zero mask",
    Outcome.NOT_GROUNDED: "packed for the language-model loss alone; zero mask",
    Outcome.TEXT_ONLY: "packed without an image: one pixel stands in; zero mask",
    Outcome.NO_IMAGE: "the row names no image: nothing to ground",
    Outcome.SEVERAL_IMAGES: "the row has several images; a model takes one",
    Outcome.UNKNOWN_SPEAKER: "a turn's speaker is neither user nor assistant nor system",
    Outcome.IMAGE_MISSING: "the image is not under the image root",
    Outcome.IMAGE_CORRUPT: "the image is truncated, damaged or no image",
    Outcome.IMAGE_TOO_LARGE: "the image is over the limits of the pipeline",
    Outcome.IMAGE_UNSUPPORTED: "a known image format that is not read",
    Outcome.SIZE_MISMATCH: "the recorded shapes were drawn in a picture of another shape",
    Outcome.PATH_ESCAPE: "the image's path leads out of the image root",
    Outcome.TEXT_EMPTY: "no text is left to ground after cleaning",
    Outcome.TEXT_TOO_LONG: "the query is longer than text.max_chars",
    Outcome.OOM: "memory ran out even for this sample alone",
    Outcome.QUARANTINED: "its process died each time it was grounded",
    Outcome.ERROR: "an unexpected exception in this sample",
}


def plural(count: int, noun: str) -> str:
    """ "1 shard", "1,234 shards"."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def share(part: float, whole: float) -> str:
    """A percentage with one decimal; what is not zero does not look like zero, nor a part like the whole."""
    if not whole:
        return "-"
    percent = 100 * part / whole
    if 0 < percent < 0.05:
        return "< 0.1 %"
    if 99.95 <= percent < 100:
        return "> 99.9 %"
    return f"{percent:.1f} %"


def duration(seconds: float) -> str:
    """The two largest units: "8 s", "3 min 20 s", "2 h 5 min", "4 d 3 h"."""
    total = round(max(0.0, seconds))
    parts: list[str] = []
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, total = divmod(total, length)
        if count or parts:
            parts.append(f"{count} {unit}" if count else "")
    return " ".join(part for part in parts[:2] if part) or "0 s"


def size(count: float) -> str:
    """Bytes in decimal units: "812 B", "1.2 GB"."""
    units = ["B", "kB", "MB", "GB", "TB"]
    while count >= 999.5 and len(units) > 1:
        count /= 1000
        units.pop(0)
    return f"{count:.0f} {units[0]}" if units[0] == "B" or count >= 99.5 else f"{count:.1f} {units[0]}"


def rate(images_per_second: float) -> str:
    """ "86 images/s", "2.3 images/s", "0.05 images/s"."""
    digits = 0 if images_per_second >= 100 else 1 if images_per_second >= 1 else 2
    return f"{images_per_second:,.{digits}f} images/s"


def listed(items: Sequence[object], most: int = 8) -> str:
    """The items with commas, the tail only counted."""
    shown = ", ".join(str(item) for item in items[:most])
    return f"{shown} and {len(items) - most:,} more" if len(items) > most else shown


def printable(text: str) -> str:
    """`text` without control, surrogate and direction characters: safe on a terminal."""
    return "".join(char for char in text if char.isprintable())


def plain(text: str) -> str:
    """`text` on one line, every white space a single space, without unprintable characters."""
    return " ".join(printable(" ".join(text.split())).split())


def shortened(text: str, limit: int) -> str:
    """At most `limit` characters of `text`, with an ellipsis where it was cut."""
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def table(rows: Iterable[Sequence[str]], right: frozenset[int] = frozenset()) -> list[str]:
    """Lines with aligned columns, two spaces apart; the columns in `right` are flush right."""
    rows = list(rows)
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if index in right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def scores(coverage: float, agreement: float, sam_iou: float, digits: int) -> list[str]:
    """What is known of a mask, each 0-1; nothing of one that is empty, and of SAM only where it ran, which a
    `sam_iou` of 0 says it did not."""
    if not coverage:
        return []
    refined = [f"agreement {agreement:.{digits}f}", f"SAM IoU {sam_iou:.{digits}f}"] if sam_iou else []
    return [f"coverage {share(coverage, 1)}", *refined]
