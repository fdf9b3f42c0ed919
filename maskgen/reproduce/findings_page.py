"""The report of a reproduction, from the measurements' files: a Markdown page, an HTML page, and JSON."""

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from maskgen.bootstrap import SeedEstimate
from maskgen.draw import page
from maskgen.reproduce.findings import (
    CLAIMS,
    TABLES,
    Measurements,
    ReportFigure,
    difference,
    mean_cosines,
    model_estimate,
    read_measurements,
    verdict,
)
from maskgen.reproduce.findings_chart import draw_findings, format_value
from maskgen.reproduce.scales import MODELS, ReproductionFolder, model_recipe
from maskgen.training.recipe import Recipe

MARKDOWN, HTML, PICTURE, MAPS = "reproduction.md", "reproduction.html", "reproduction.png", "attention.png"
FINDINGS = "findings.json"

_PICTURE_CAPTION = (
    "All rows are on one scale. What reaches beyond a row's dashed line is better than not looking; where an "
    "interval crosses the line, that is not shown."
)
_MAPS_CAPTION = (
    "From left: a held-out scene, and the attention of each model of the first seed for the text above it."
)

_NO_VERDICTS = (
    "This scale is too small to show anything: it tries whether everything runs, and gives no verdicts."
)

_NOTES = {
    "Similarity of picture and text": "AGE-VLM's LLaMA has no image tokens: its image states are the "
    "adapter's, which nothing in training makes comparable to text by a cosine. The probe is the fairer "
    "question.",
}

Table = tuple[list[str], list[list[str]]]
"""Heading and rows."""


def write_pages(
    place: ReproductionFolder,
    to: Path,
    shared: Recipe,
    seeds: int,
    exam: int,
    command: str,
    verdicts: bool = True,
) -> Path:
    """Write the pages, the picture and the findings into `to`, from the measurements of `place`.

    Returns where the HTML page is. Without `verdicts` it does not say which claims hold. The maps that
    it shows are those that lie in `to` already.
    """
    found = read_measurements(place, seeds)
    draw_findings(found, to / PICTURE)
    head = _head(shared, seeds, exam, command)
    if not verdicts:
        head.append(_NO_VERDICTS)
    claims = claims_table(found, verdicts)
    tables = {title: figures_table(found, figures) for title, figures in TABLES.items()}
    tables["Cosines of picture and text"] = _cosines(found)
    tables["What was trained"] = _stages(shared)
    (to / MARKDOWN).write_text(_markdown(head, claims, tables))
    (to / HTML).write_text(_html(head, claims, tables, to))
    findings = {"command": command, "seeds": seeds, "exam": exam, **_findings(found, verdicts)}
    (to / FINDINGS).write_text(json.dumps(findings, indent=2) + "\n")
    return to / HTML


def claims_table(found: Measurements, verdicts: bool = True) -> Table:
    """Each claim, the difference it speaks of, and with `verdicts` whether it holds at this scale."""
    rows = []
    for claim in CLAIMS:
        one = difference(found, claim)
        rows.append(
            [
                claim.text,
                claim.figure.name,
                f"{claim.more} - {claim.less}",
                _difference_text(claim.figure, one),
                verdict(one) if verdicts else "",
            ]
        )
    return ["claim", "figure", "difference", "95 % interval", "at this scale"], rows


def figures_table(found: Measurements, figures: Sequence[ReportFigure]) -> Table:
    """A row a figure, a column a model, and one for the commonest answer where there are answers."""
    some = found[MODELS[0]][0]
    rows = []
    for figure in figures:
        row = [
            figure.name,
            *(_estimate_text(figure, model_estimate(found, model, figure)) for model in MODELS),
        ]
        if any(each.commonest for each in figures):
            row.append(
                format_value(figure, float(figure.commonest(some)[0].mean())) if figure.commonest else ""
            )
        rows.append(row)
    extra = ["the commonest answer"] if any(each.commonest for each in figures) else []
    return ["", *MODELS, *extra], rows


def _head(shared: Recipe, seeds: int, exam: int, command: str) -> list[str]:
    count = shared.data.expected
    return [
        f"Written by `{command}`; every figure follows from the `seed-*/*.json` beside this page.",
        f"Four models, {seeds} seeds each, trained alike from maskgen's own shards: {count['pretrain']:,} "
        f"drawn scenes for stages 1 to 3 and {count['finetune']:,} for stage 4, grounded by the small "
        f"Florence-2 and SAM. They are examined on {exam} scenes that nobody trained on, whose masks are "
        "known. Intervals (95 %) are over seeds and scenes at once; a claim holds if the interval of the "
        "difference lies above zero. Three seeds or so tell their own spread only roughly: the squares in "
        "the picture are the seeds.",
        "Not blind to one side: the small LLaMA and ConvNeXt, and the size of new layers' first weights, "
        "were chosen (on other scenes) so that a guided model learns at all. The others got the same, and no "
        "search of their own.",
        "What this can show is the mechanism, with two million parameters and drawn scenes. It does not "
        "repeat the paper's figures, nor can it refute them.",
    ]


def _stages(shared: Recipe) -> Table:
    rows = []
    for model in MODELS:
        for number, stage in model_recipe(model, shared, 0).stages.items():
            rows.append(
                [
                    model,
                    number,
                    stage.data,
                    ", ".join(stage.train),
                    ", ".join(stage.losses),
                    str(stage.epochs),
                ]
            )
    return ["model", "stage", "data", "trains", "losses", "epochs"], rows


def _cosines(found: Measurements) -> Table:
    rows = []
    for model in MODELS:
        one = mean_cosines(found, model)
        rows.append([model, *(f"{one[name]:.3f}" for name in ("matching", "other", "overlap"))])
    return ["", "mean, matching", "mean, other", "overlap"], rows


def _estimate_text(figure: ReportFigure, one: SeedEstimate) -> str:
    low, high = (format_value(figure, end).removesuffix(" %") for end in (one.low, one.high))
    return f"{format_value(figure, one.value)} ({low} to {high})"


def _difference_text(figure: ReportFigure, one: SeedEstimate) -> str:
    scale, digits = (1, 3) if figure.unit == "number" else (100, 1)
    unit = "" if figure.unit == "number" else " points"
    value, low, high = (f"{scale * each:+.{digits}f}" for each in (one.value, one.low, one.high))
    return f"{value}{unit} ({low} to {high})"


def _markdown(head: list[str], claims: Table, tables: dict[str, Table]) -> str:
    parts = [
        "# The paper's claims at small scale",
        *head,
        f"![The main figures of the four models]({PICTURE})",
        _PICTURE_CAPTION,
    ]
    parts += ["## Which claims hold", _as_markdown(claims)]
    parts += ["## Attention maps", f"![Attention of the four models]({MAPS})", _MAPS_CAPTION]
    for title, table in tables.items():
        parts += [f"## {title}", _as_markdown(table), *([_NOTES[title]] if title in _NOTES else [])]
    return "\n\n".join(parts) + "\n"


def _as_markdown(table: Table) -> str:
    head, rows = table
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def _html(head: list[str], claims: Table, tables: dict[str, Table], out: Path) -> str:
    introduction = "".join(f"<p>{_code(line)}</p>" for line in head)
    maps = (
        [_image(out / MAPS), f"<p class='soft'>{escape(_MAPS_CAPTION)}</p>"] if (out / MAPS).is_file() else []
    )
    return page.document(
        "The paper's claims at small scale",
        f"<header><h1>The paper's claims at small scale</h1>{introduction}</header>",
        _image(out / PICTURE),
        f"<p class='soft'>{escape(_PICTURE_CAPTION)}</p>",
        page.section("Which claims hold", _as_html(claims)),
        page.section("Attention maps", *maps),
        *(page.section(title, _as_html(table), _note(title)) for title, table in tables.items()),
    )


def _note(title: str) -> str:
    return f"<p class='soft'>{escape(_NOTES[title])}</p>" if title in _NOTES else ""


def _as_html(table: Table) -> str:
    head, rows = table
    return page.table(head, [[escape(cell) for cell in row] for row in rows])


def _code(line: str) -> str:
    pieces = escape(line).split("`")
    return "".join(f"<code>{piece}</code>" if odd % 2 else piece for odd, piece in enumerate(pieces))


def _image(path: Path) -> str:
    with Image.open(path) as image:
        return f'<img src="{page.data_uri(image.convert("RGB"))}" alt="" style="max-width: 100%">'


def _findings(found: Measurements, verdicts: bool) -> dict[str, Any]:
    """What the pages say, for machines: estimates by figure and model, and verdicts."""
    return {
        "figures": {
            figure.name: {model: _rounded(model_estimate(found, model, figure)) for model in MODELS}
            for figures in TABLES.values()
            for figure in figures
        },
        "claims": [
            {
                "claim": claim.text,
                "figure": claim.figure.name,
                "more": claim.more,
                "less": claim.less,
                "difference": _rounded(one := difference(found, claim)),
                "verdict": verdict(one) if verdicts else None,
            }
            for claim in CLAIMS
        ],
    }


def _rounded(one: SeedEstimate) -> dict[str, Any]:
    value, low, high, *seeds = (round(each, 6) for each in (one.value, one.low, one.high, *one.seeds))
    return {"value": value, "low": low, "high": high, "seeds": seeds}
