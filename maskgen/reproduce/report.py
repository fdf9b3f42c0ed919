"""The report of a reproduction: one Markdown page, one HTML page, one picture, all from the measurements' files."""

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from maskgen.reproduce.findings import (
    CLAIMS,
    TABLES,
    Figure,
    Found,
    cosines,
    difference,
    of_model,
    verdict,
)
from maskgen.reproduce.measure import read
from maskgen.reproduce.picture import draw
from maskgen.reproduce.plan import MODELS, Place, recipe_of
from maskgen.reproduce.statistics import Estimate
from maskgen.training.recipe import Recipe
from maskgen.views import page

MARKDOWN, HTML, PICTURE, FINDINGS = "reproduction.md", "reproduction.html", "reproduction.png", "findings.json"

Row = Sequence[str]


def write(place: Place, shared: Recipe, seeds: int, exam: int, command: str) -> list[Path]:
    """Write all four files into the reproduction's folder, and return where they are."""
    found = {model: [read(place.found(seed, model)) for seed in range(seeds)] for model in MODELS}
    parts = _parts(found, shared, seeds, exam, command)
    draw(found, place.out / PICTURE)
    (place.out / MARKDOWN).write_text(_markdown(parts))
    (place.out / HTML).write_text(_html(parts, place.out / PICTURE))
    (place.out / FINDINGS).write_text(json.dumps(_findings(found), indent=2) + "\n")
    return [place.out / name for name in (MARKDOWN, HTML, PICTURE, FINDINGS)]
