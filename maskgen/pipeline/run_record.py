"""run.json: what a set was begun with, so that no other flag is needed to go on with it."""

import copy
from pathlib import Path
from typing import Any

from maskgen import config
from maskgen.errors import MaskgenError
from maskgen.runtime.store import Store


def read(store: Store) -> dict[str, Any] | None:
    """The record of the run into this place; None if none was begun."""
    return dict(store.read_json("run.json")) if store.exists("run.json") else None


def settings(out: str, data: str, overrides: list[str] | None = None) -> tuple[config.Config, str]:
    """The configuration and the data that the set in `out` was begun with; `data` and `overrides` come first.

    MaskgenError if no run was begun there, or if its record does not say where the data lay.
    """
    record = read(Store(out))
    if record is None:
        raise MaskgenError(f"no run was begun in {out}. Begin one: maskgen run --split NAME --data FOLDER.")
    tree = copy.deepcopy(record["config"])
    for override in overrides or []:
        config.lay_over(tree, override)
    place = data or record.get("data", "")
    if not place:
        raise MaskgenError(f"{out} does not say where its data lies: an older maskgen began it. Give --data.")
    return config.parse(tree, f"{out}/run.json", overrides), place


def is_begun(out: str) -> bool:
    """Whether a run was begun in `out`."""
    return bool(out) and Store(out).exists("run.json")


def data_place(data: str) -> str:
    """`data` so that it is found from any folder."""
    return data if "://" in data else str(Path(data).absolute())
