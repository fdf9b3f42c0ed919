"""quality.json on the report: whatever figures a set was scored with, as tables."""

from typing import Any

from maskgen.draw import page

_INTERVAL = "_interval"


def tables(figures: dict[str, Any]) -> str:
    """Plain figures in one table, with their intervals; each group of figures in one of its own."""
    plain = {name: value for name, value in figures.items() if not isinstance(value, dict)}
    groups = {name: value for name, value in figures.items() if isinstance(value, dict) and value}
    rows = [
        [page.escape_text(_words(name)), page.escape_text(_figure(value, plain.get(name + _INTERVAL)))]
        for name, value in plain.items()
        if not (name.endswith(_INTERVAL) and name.removesuffix(_INTERVAL) in plain)
    ]
    parts = [page.table(["figure", "value"], rows)] if rows else []
    for name, group in groups.items():
        parts += [f"<h3>{page.escape_text(_words(name))}</h3>", _group(group)]
    return f'<div class="narrow">{"".join(parts)}</div>' if parts else ""


def _group(group: dict[str, Any]) -> str:
    """A table with a row for each member; if the members are groups themselves, a column for each figure."""
    members = {name: value if isinstance(value, dict) else {"value": value} for name, value in group.items()}
    columns = list(dict.fromkeys(column for value in members.values() for column in value))
    rows = [
        [
            page.escape_text(_words(name)),
            *(page.escape_text(_figure(value.get(column, ""))) for column in columns),
        ]
        for name, value in members.items()
    ]
    return page.table(["", *map(_words, columns)], rows)


def _words(name: str) -> str:
    """ "mask_iou" as "mask IoU"."""
    known = {"iou": "IoU", "sam": "SAM", "n": "samples"}
    return " ".join(known.get(word, word) for word in name.split("_"))


def _figure(value: Any, interval: Any = None) -> str:
    """A list of two is an interval, a list of three a value with its interval."""
    if isinstance(value, list):
        if len(value) == 3:
            return _figure(value[0], value[1:])
        return " to ".join(map(_figure, value)) if len(value) == 2 else ", ".join(map(_figure, value))
    if isinstance(value, float):
        shown = f"{value:.4g}"
    else:
        shown = f"{value:,}" if type(value) is int else "-" if value is None else str(value)
    return f"{shown} ({_figure(interval)})" if interval else shown
