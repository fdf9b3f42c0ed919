"""`maskgen paper`: the paper's figure and tables with a column for each model."""

from pathlib import Path
from typing import Annotated

import typer

from maskgen.commands import analysis_commands, evaluation_commands
from maskgen.commands.early_checks import check_models, check_sets
from maskgen.commands.options import Device, by_comma, tell
from maskgen.errors import MaskgenError
from maskgen.runtime.folder_kind import refuse_other_kind


def paper(
    model: Annotated[
        list[str],
        typer.Option(
            "--model",
            metavar="MODEL",
            help="A run, or a folder or published name of a model. Repeatable.",
            callback=by_comma,
        ),
    ],
    out: Annotated[str, typer.Option("--out", "-o", metavar="FOLDER", help="The folder of everything.")],
    shards: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FOLDER",
            help="A finished set of shards, for Fig. 2. Repeatable.",
            callback=by_comma,
        ),
    ] = None,
    grid: Annotated[
        str, typer.Option(metavar="PAIRS.jsonl", help="For Tables 4 and 6: see maskgen attend --grid.")
    ] = "",
    data: Annotated[
        str, typer.Option(metavar="FOLDER", help="The benchmarks' files, for Table 2: see maskgen eval.")
    ] = "",
    limit: Annotated[
        int, typer.Option(min=0, help="So many pairs for Fig. 2, and questions a benchmark; 0: all.")
    ] = 0,
    batch: Annotated[int, typer.Option(min=1, help="Questions answered side by side.")] = 8,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens an answer has at most.")] = 128,
    device: Device = "",
) -> None:
    """Make the paper's Fig. 2 and Tables 2, 4 and 6 of models.

    A column for each, beside the paper's own figures. Makes those whose --shards, --grid or --data is given.
    Rerun the same line to go on with the answers.
    """
    if not (shards or grid or data):
        raise MaskgenError("give --shards for Fig. 2, --grid for Tables 4 and 6, or --data for Table 2.")
    folder = Path(out)
    refuse_other_kind(out, None)
    check_models(model)
    check_sets(shards or [])
    if shards:
        analysis_commands.similarity(model, shards, str(folder / "fig-2"), limit=limit or 2000)
    if grid:
        analysis_commands.attend(model, to=str(folder / "tables-4-and-6.png"), grid=grid)
    if data:
        answers = [str(folder / "answers" / name) for name in _names(model)]
        for place, to in zip(model, answers, strict=True):
            evaluation_commands.evaluate(
                place,
                data=data,
                out=to,
                batch=batch,
                limit=limit,
                max_new_tokens=max_new_tokens,
                device=device,
            )
        evaluation_commands.write_table2(answers, folder / "table-2.md")
        tell(str(folder / "table-2.md"))


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(paper)


def _names(models: list[str]) -> list[str]:
    """A folder's name for each, all different."""
    found: list[str] = []
    for place in models:
        name = Path(place).resolve().name if Path(place).exists() else Path(place).name
        name = name if name != "model" else Path(place).resolve().parent.name
        same = sum(each == name or each.startswith(f"{name}-") for each in found)
        found.append(f"{name}-{same + 1}" if same else name)
    return found
