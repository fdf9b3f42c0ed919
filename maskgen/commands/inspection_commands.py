"""`maskgen status`, `verify`, `show`, `report` and `doctor`: parse, call, print."""

from dataclasses import asdict
from typing import Annotated

import typer

from maskgen import config
from maskgen.commands.options import (
    Address,
    Data,
    File,
    Json,
    Out,
    Overrides,
    RunFolder,
    Split,
    complete,
    one_of,
    tell,
    tell_json,
)
from maskgen.errors import MaskgenError
from maskgen.outcome import Outcome
from maskgen.pipeline import run_record


def status(out: RunFolder, as_json: Json = False) -> None:
    """Say what is done, under way and left.

    Of a set of shards, a training, an evaluation or a reproduction; from files alone, also while it works.
    """
    from maskgen.views.folder_status import folder_status

    found = folder_status(out)
    if as_json:
        tell_json(found.to_dict())
    else:
        tell(found.render())


def verify(out: RunFolder, as_json: Json = False) -> None:
    """Recount, rehash and re-read every shard.

    With the strict decoder. Exit code 1 if anything is wrong; each problem comes with how to mend it.
    """
    from maskgen.pipeline.progress import progress_bar
    from maskgen.runtime.store import Store
    from maskgen.sharding.verify import find_problems
    from maskgen.views.summary import remedies, render_problems

    with progress_bar("verifying", "shards") as count:
        problems = find_problems(Store(out), count)
    if as_json:
        found = [asdict(problem) for problem in problems]
        tell_json({"out": out, "problems": found, "remedies": remedies(out, problems)})
    else:
        tell(render_problems(out, problems))
    raise typer.Exit(1 if problems else 0)


def show(
    out: RunFolder,
    key: Annotated[
        str,
        typer.Argument(metavar="KEY", help="Its key, as in index.parquet. Default: one drawn at random."),
    ] = "",
    outcome: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Draw one of this outcome, e.g. no_grounding.",
            autocompletion=complete(lambda: Outcome),
        ),
    ] = "",
    words: Annotated[bool, typer.Option("--text", help="Print it instead: texts, scores, source.")] = False,
    seed: Annotated[
        int, typer.Option(min=-1, help="Of the drawing by lot. Default: another one every time.")
    ] = -1,
    to: Annotated[
        str,
        typer.Option("--out", "-o", "--to", metavar="FILE", help="The PNG to write. Default: KEY.png."),
    ] = "",
) -> None:
    """Draw one sample as a PNG: image, polygon, mask and grid."""
    if key and outcome:
        raise MaskgenError("KEY names a sample, --outcome draws one by lot: give one of them.")
    if outcome:
        one_of("--outcome", outcome, Outcome)
    from maskgen.views.show import describe, random_key, write_png

    key = key or random_key(out, outcome, None if seed < 0 else seed)
    if words or (outcome and not Outcome(outcome).in_tar):
        tell(describe(out, key))
    else:
        tell(write_png(out, key, to or f"{key}.png"))


def report(out: RunFolder) -> None:
    """Write report.html: outcomes, scores, speed, pictures.

    One page that holds all it shows.
    """
    from maskgen.runtime.store import Store
    from maskgen.views.report import write_report

    tell(write_report(Store(out)))


def doctor(
    split: Split = "",
    file: File = "",
    overrides: Overrides = None,
    data: Data = "",
    out: Out = "",
    address: Address = "",
    as_json: Json = False,
) -> None:
    """Look at GPU, packages, weights, Ray, data and disk.

    Says what to do about each. Exit code 1 if a run would not get through.
    """
    from maskgen.views.doctor import examine, render

    settings = config.load(split, file, overrides) if split or file else None
    if settings is None and run_record.is_begun(out):
        settings, data = run_record.settings(out, data, overrides)
    findings = examine(settings, out, data, address)
    if as_json:
        tell_json([asdict(finding) for finding in findings])
    else:
        tell(render(findings))
    raise typer.Exit(1 if any(finding.ok is False for finding in findings) else 0)


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command()(status)
    app.command()(verify)
    app.command()(show)
    app.command()(report)
    app.command()(doctor)
