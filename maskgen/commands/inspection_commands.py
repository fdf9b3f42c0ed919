"""`maskgen status`, `verify`, `show`, `report` and `doctor`: parse, call, print."""

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
    as_text,
)
from maskgen.pipeline import run_record


def status(out: RunFolder, as_json: Json = False) -> None:
    """What is done, what is under way, what is left: from files alone, also while a run works."""
    from maskgen.views.folder_status import folder_status

    found = folder_status(out)
    typer.echo(as_text(found.to_dict()) if as_json else found.render())


def verify(out: RunFolder) -> None:
    """Recount, rehash and re-read every shard with the strict decoder. Exit code 1 if anything is wrong."""
    from maskgen.pipeline.progress import progress_bar
    from maskgen.runtime.store import Store
    from maskgen.sharding.verify import verify
    from maskgen.views.summary import render_problems

    with progress_bar("verifying", "shards") as count:
        problems = verify(Store(out), count)
    typer.echo(render_problems(out, problems))
    raise typer.Exit(1 if problems else 0)


def show(
    out: RunFolder,
    key: Annotated[str, typer.Argument(metavar="KEY", help="The sample's key, as in index.parquet.")],
    to: Annotated[str, typer.Option("--to", "-o", help="The PNG to write. Default: KEY.png.")] = "",
) -> None:
    """Draw one sample as a PNG: image, polygon, mask and grid."""
    from maskgen.views.show import write_png

    typer.echo(write_png(out, key, to or f"{key}.png"))


def report(out: RunFolder) -> None:
    """Write report.html, one self-contained page: outcomes, distributions, throughput, pictures."""
    from maskgen.runtime.store import Store
    from maskgen.views.report import write_report

    typer.echo(write_report(Store(out)))


def doctor(
    split: Split = "",
    file: File = "",
    overrides: Overrides = None,
    data: Data = "",
    out: Out = "",
    address: Address = "",
) -> None:
    """Look at GPU, packages, weights, Ray and disk, and say what to do about each."""
    from maskgen.views.doctor import examine, render

    settings = config.load(split, file, overrides) if split or file else None
    if settings is None and run_record.is_begun(out):
        settings, data = run_record.settings(out, data, overrides)
    findings = examine(settings, out, data, address)
    typer.echo(render(findings))
    raise typer.Exit(1 if any(finding.ok is False for finding in findings) else 0)


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command()(status)
    app.command()(verify)
    app.command()(show)
    app.command()(report)
    app.command()(doctor)
