"""`maskgen run`, `pack`, `plan` and `config`: parse, call, print."""

import json
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
    by_comma,
    complete,
    data_or_scenes,
    say,
    tell,
    tell_json,
)
from maskgen.errors import MaskgenError
from maskgen.outcome import Outcome
from maskgen.training import recipe as recipes

RetryFailed = Annotated[
    bool, typer.Option("--retry-failed", help="Also try failed samples again, and rewrite their shards.")
]
Where = Annotated[
    list[str] | None,
    typer.Option(
        metavar="outcome=NAME",
        help="With --retry-failed: only this outcome. Repeatable.",
        callback=by_comma,
        autocompletion=complete(lambda: (f"outcome={one}" for one in Outcome if one.may_change)),
    ),
]


Repair = Annotated[
    bool,
    typer.Option("--repair", help="First verify what is there, and make damaged shards and indexes again."),
]


def run(
    split: Split = "",
    file: File = "",
    data: Data = "",
    out: Out = "",
    overrides: Overrides = None,
    address: Address = "",
    exact: Annotated[
        bool,
        typer.Option("--exact", help="Decode in float32, whatever the encoders' dtype (proposer.exact)."),
    ] = False,
    retry_failed: RetryFailed = False,
    where: Where = None,
    repair: Repair = False,
    as_json: Json = False,
) -> None:
    """Ground a split into shards.

    Rerun the same line after a failure: it makes what is missing. Exit codes: 0 all done; 1 usage or
    configuration; 2 finished, but over the failure budget; 3 interrupted, resumable.
    """
    from maskgen.pipeline import run_record

    overrides = [*(overrides or []), *(["proposer.exact=true"] if exact else [])]
    if not split and not file and run_record.is_begun(out):
        settings, data = run_record.settings(out, data, overrides)
    else:
        settings = config.load(split, file, overrides)
        out = out or f"shards/{settings.split}"
        data = data_or_scenes(settings, data, out)
    _finish(settings, data, out, address, as_json, _retry(retry_failed, where), repair)


def resume(
    out: RunFolder,
    data: Data = "",
    overrides: Overrides = None,
    address: Address = "",
    retry_failed: RetryFailed = False,
    where: Where = None,
    repair: Repair = False,
    as_json: Json = False,
) -> None:
    """Go on with the run in OUT as it was begun.

    Nothing else need be said. --data where the data has moved; --set for what may change (resources.*,
    batches). Exit codes as of run.
    """
    from maskgen.pipeline import run_record

    settings, data = run_record.settings(out, data, overrides)
    _finish(settings, data, out, address, as_json, _retry(retry_failed, where), repair)


def _retry(retry_failed: bool, where: list[str] | None) -> tuple[Outcome, ...]:
    if where and not retry_failed:
        raise MaskgenError("--where chooses what --retry-failed tries again: give both.")
    if not retry_failed:
        return ()
    from maskgen.pipeline.run import to_retry

    return to_retry(where or [])


def _finish(
    settings: config.Config,
    data: str,
    out: str,
    address: str,
    as_json: bool,
    retry: tuple[Outcome, ...] = (),
    repair: bool = False,
) -> None:
    from maskgen.pipeline.run import RunRequest, run
    from maskgen.views.summary import summarise_run

    request = RunRequest(settings, data, out, address, retry, repair)
    summary = run(request, say)
    words = summarise_run(request, summary)
    if as_json:
        tell_json({"out": out, **asdict(summary), "exit_code": summary.exit_code})
    else:
        tell(words)
    raise typer.Exit(summary.exit_code)


def pack(
    out: Out,
    data: Data = "",
    split: Split = "pretrain",
    file: File = "",
    without: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FOLDER", help="A finished set whose rows are left out. Repeatable.", callback=by_comma
        ),
    ] = None,
    text_only: Annotated[
        bool, typer.Option("--text-only/--no-text-only", help="Keep rows that have no image.")
    ] = True,
    overrides: Overrides = None,
    address: Address = "",
    as_json: Json = False,
) -> None:
    """Pack rows into shards without masks, for the LM loss.

    No GPU, no model. All rows of the split, unless --set select.count=N says otherwise. Rerun the same line
    after a failure.
    """
    from maskgen.pipeline import run_record

    if not data and run_record.is_begun(out):
        settings, data = run_record.settings(out, data, overrides)
        _finish(settings, data, out, address, as_json)
    if not data:
        raise MaskgenError("--data is missing: the folder that holds the annotations and the images.")
    keep = "keep" if text_only else "drop"
    unasked = [f"proposer={{kind: none, text_only: {keep}}}", "refiner={kind: none}", "source.truth=''"]
    everything = ["select.count=null", "select.fraction=null", f"select.without={json.dumps(without or [])}"]
    settings = config.load("" if file else split, file, [*unasked, *everything, *(overrides or [])])
    _finish(settings, data, out, address, as_json)


def plan(
    split: Split = "",
    file: File = "",
    data: Data = "",
    overrides: Overrides = None,
    pilot: Annotated[int, typer.Option(min=0, help="Ground this many rows for real and measure.")] = 0,
    gpus: Annotated[
        list[str],
        typer.Option(
            metavar="N", help="With --pilot: reckon the time on so many GPUs. Repeatable.", callback=by_comma
        ),
    ] = ["1", "8", "64", "512"],  # noqa: B006  # typer copies it
    out: Annotated[
        str,
        typer.Option(
            "--out",
            "-o",
            metavar="FOLDER",
            help="The run's --out: what is known of .tar.gz archives goes there, for the run.",
        ),
    ] = "",
    show_texts: Annotated[
        int, typer.Option(min=0, help="Print what would be asked for this many rows, and what is cut off.")
    ] = 0,
    as_json: Json = False,
) -> None:
    """Say what a run would do: rows, shards, disk, GPU-hours.

    How many rows are read and skipped, and why; the time with --pilot alone, which grounds some for real.
    """
    from maskgen.estimate.estimate import estimate
    from maskgen.estimate.scaling import parse_gpu_counts
    from maskgen.runtime.store import Store
    from maskgen.views.summary import render_estimate

    settings = config.load(split, file, overrides)
    data = data_or_scenes(settings, data, f"shards/{settings.split}")
    kept = Store(out or f"shards/{settings.split}")
    found = estimate(settings, data, pilot, parse_gpu_counts(",".join(gpus)), say, kept, show_texts)
    if as_json:
        tell_json(found.to_dict())
    else:
        tell(render_estimate(found))


def show_config(
    split: Split = "",
    file: File = "",
    recipe: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="A training recipe instead: a shipped one or a file.",
            autocompletion=complete(recipes.names),
        ),
    ] = "",
    overrides: Overrides = None,
    resolved: Annotated[
        bool, typer.Option("--resolved", help="Print what this machine's device makes of auto.")
    ] = False,
) -> None:
    """Print a pipeline or recipe with every default."""
    if recipe:
        if split or file:
            raise MaskgenError("--recipe is a training recipe, --split and --config are pipelines: give one.")
        if resolved:
            raise MaskgenError("--resolved is for pipelines: nothing in a recipe is auto.")
        typer.echo(config.dump(recipes.load(recipe, overrides)), nl=False)
        return
    settings = config.load(split, file, overrides)
    if resolved:
        from maskgen.grounding.auto_settings import resolve
        from maskgen.runtime.device import choose_device, device_name

        here = choose_device()
        typer.echo(f"# auto as resolved for this machine's device: {device_name(here)}")
        settings = resolve(settings, here)
    typer.echo(config.dump(settings), nl=False)


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command()(run)
    app.command()(resume)
    app.command()(pack)
    app.command()(plan)
    app.command("config")(show_config)
