"""The command `maskgen`: parse, call, print."""

import atexit
import contextlib
import json
import os
import signal
import sys
import threading
from typing import Annotated

import typer
from typer.exceptions import Abort, TyperException

from maskgen import __version__, config
from maskgen.commands import (
    analysis_commands,
    bench_commands,
    evaluation_commands,
    reproduce_commands,
    training_commands,
)
from maskgen.errors import MaskgenError
from maskgen.training import recipe as recipes

app = typer.Typer(
    help="Grounding masks for attention-guided vision-language models (AGE-VLM).\n\n"
    "Florence-2 finds what a caption or question names, SAM refines it to a mask, and the masks go "
    "into WebDataset shards that the trainer reads.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)

_INTERRUPTED = 130  # what typer makes of a KeyboardInterrupt

Split = Annotated[str, typer.Option(help=f"A shipped pipeline: {', '.join(config.shipped())}.")]
File = Annotated[str, typer.Option("--config", help="A pipeline file of your own, instead of --split.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override any key, e.g. select.count=1000. Repeatable."),
]
Data = Annotated[str, typer.Option(help="The folder or URL with annotations and images.")]
Out = Annotated[str, typer.Option(help="Where the shards go: a folder or URL. Default: shards/SPLIT.")]
Address = Annotated[
    str, typer.Option(help="An existing Ray cluster, e.g. auto. Default: this machine alone.")
]
Place = Annotated[str, typer.Argument(metavar="OUT", help="The folder or URL that maskgen run wrote to.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


@app.command()
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
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Also try failed samples again, and rewrite their shards.")
    ] = False,
    where: Annotated[
        list[str] | None,
        typer.Option(metavar="outcome=NAME", help="With --retry-failed: only this outcome. Repeatable."),
    ] = None,
) -> None:
    """Ground a split into shards. Rerun the same line after a failure: it makes what is missing.

    Exit codes: 0 all done; 1 usage or configuration; 2 finished, but over the failure budget;
    3 interrupted, resumable.
    """
    from maskgen.pipeline.run import RunRequest, failures, run
    from maskgen.views.summary import close

    settings = config.load(split, file, [*(overrides or []), *(["proposer.exact=true"] if exact else [])])
    out = out or f"shards/{settings.split}"
    if where and not retry_failed:
        raise MaskgenError("--where chooses what --retry-failed tries again: give both.")
    retry = failures(where or []) if retry_failed else ()
    request = RunRequest(settings, _data(settings, data, out), out, address, retry)
    summary = run(request, _say)
    typer.echo(close(request, summary))
    raise typer.Exit(summary.exit_code)


@app.command()
def pack(
    data: Data,
    out: Out,
    split: Split = "pretrain",
    file: File = "",
    without: Annotated[
        list[str] | None, typer.Option(help="A finished set whose rows are left out. Repeatable.")
    ] = None,
    text_only: Annotated[
        bool, typer.Option("--text-only/--no-text-only", help="Keep rows that have no image.")
    ] = True,
    overrides: Overrides = None,
    address: Address = "",
) -> None:
    """Pack a split's rows into shards without masks, for the language-model loss. No GPU, no model.

    All rows, unless --set select.count=N says otherwise. Rerun the same line after a failure.
    """
    from maskgen.pipeline.run import RunRequest, run
    from maskgen.views.summary import close

    keep = "keep" if text_only else "drop"
    unasked = [f"proposer={{kind: none, text_only: {keep}}}", "refiner={kind: none}", "source.truth=''"]
    everything = ["select.count=null", "select.fraction=null", f"select.without={json.dumps(without or [])}"]
    settings = config.load("" if file else split, file, [*unasked, *everything, *(overrides or [])])
    request = RunRequest(settings, data, out, address)
    summary = run(request, _say)
    typer.echo(close(request, summary))
    raise typer.Exit(summary.exit_code)


@app.command()
def plan(
    split: Split = "",
    file: File = "",
    data: Data = "",
    overrides: Overrides = None,
    pilot: Annotated[int, typer.Option(min=0, help="Ground this many rows for real and measure.")] = 0,
    gpus: Annotated[
        str, typer.Option(metavar="N,N,...", help="With --pilot: reckon the time on so many GPUs.")
    ] = "1,8,64,512",
    as_json: Json = False,
) -> None:
    """The dry run: rows read and skipped and why, shards, disk; with --pilot also time and GPU-hours."""
    from maskgen.estimate.estimate import estimate
    from maskgen.estimate.scaling import counts
    from maskgen.views.summary import render_estimate

    settings = config.load(split, file, overrides)
    data = _data(settings, data, f"shards/{settings.split}")
    found = estimate(settings, data, pilot, counts(gpus), _say)
    typer.echo(_dumps(found.to_dict()) if as_json else render_estimate(found))


@app.command("config")
def show_config(
    split: Split = "",
    file: File = "",
    recipe: Annotated[str, typer.Option(help="A training recipe instead: a shipped one or a file.")] = "",
    overrides: Overrides = None,
    resolved: Annotated[
        bool, typer.Option("--resolved", help="Print what this machine's device makes of auto.")
    ] = False,
) -> None:
    """Print the resolved pipeline or recipe file, every default written out."""
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


@app.command()
def status(out: Place, as_json: Json = False) -> None:
    """What is done, what is under way, what is left: from files alone, also while a run works."""
    from maskgen.views.status import render, status

    found = status(out)
    typer.echo(_dumps(found.to_dict()) if as_json else render(found))


@app.command()
def verify(out: Place) -> None:
    """Recount, rehash and re-read every shard with the strict decoder. Exit code 1 if anything is wrong."""
    from maskgen.pipeline.progress import progress_bar
    from maskgen.runtime.store import Store
    from maskgen.sharding.verify import verify
    from maskgen.views.summary import render_problems

    with progress_bar("verifying", "shards") as count:
        problems = verify(Store(out), count)
    typer.echo(render_problems(out, problems))
    raise typer.Exit(1 if problems else 0)


@app.command()
def show(
    out: Place,
    key: Annotated[str, typer.Argument(metavar="KEY", help="The sample's key, as in index.parquet.")],
    to: Annotated[str, typer.Option("--to", "-o", help="The PNG to write. Default: KEY.png.")] = "",
) -> None:
    """Draw one sample as a PNG: image, polygon, mask and grid."""
    from maskgen.views.show import write_png

    typer.echo(write_png(out, key, to or f"{key}.png"))


@app.command()
def report(out: Place) -> None:
    """Write report.html, one self-contained page: outcomes, distributions, throughput, pictures."""
    from maskgen.runtime.store import Store
    from maskgen.views.report import write_report

    typer.echo(write_report(Store(out)))


@app.command()
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
    findings = examine(settings, out, data, address)
    typer.echo(render(findings))
    raise typer.Exit(1 if any(finding.ok is False for finding in findings) else 0)


for commands in (
    training_commands,
    evaluation_commands,
    analysis_commands,
    reproduce_commands,
    bench_commands,
):
    commands.register(app)


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(f"maskgen {__version__}")
        raise typer.Exit


def _data(settings: config.Config, data: str, out: str) -> str:
    if data:
        return data
    if settings.source.scenes is None:
        raise MaskgenError(
            f"--data is missing: the folder that holds {settings.source.files[0]} and the images."
        )
    return f"{out.rstrip('/')}-scenes"


def _say(line: str) -> None:
    typer.echo(line, err=True)


def _dumps(tree: object) -> str:
    return json.dumps(tree, indent=2)


def main() -> None:
    """The console script: every problem is a sentence and an exit code."""
    signal.signal(signal.SIGTERM, _interrupt)  # wherever the command is; as process 1 it would be ignored
    try:
        code = app(standalone_mode=False) or 0
        if code == _INTERRUPTED:
            raise KeyboardInterrupt
        sys.exit(code)
    except MaskgenError as error:
        _fail(str(error), error.exit_code)
    except TyperException as error:
        _fail(f"{error.format_message().rstrip('.')}. See maskgen --help, or maskgen COMMAND --help.", 1)
    except (Abort, KeyboardInterrupt):
        _fail("interrupted; run the same line again to go on.", 3)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader went away
        sys.exit(1)
    except Exception as error:
        if os.environ.get("MASKGEN_TRACEBACK"):
            raise
        _fail(
            f"unexpected {type(error).__name__}: {error}\n"
            "This is a bug in maskgen. MASKGEN_TRACEBACK=1 shows where; please report it.",
            1,
        )


def script() -> None:
    """The console script: `main`, then what Python does at its end, and out.

    The destructors of C++ libraries are left out. Arrow's threads that have read from a Python file may meet
    an interpreter that has ended, and abort (apache/arrow issues 34314 and 50482): one `maskgen verify` in
    ten, all of its work done, would say that it failed. Giving Arrow bytes would hold whole plans in memory.
    """
    code: int | str | None = 0
    try:
        main()
    except SystemExit as end:
        code = end.code
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _fail(message: str, code: int) -> None:
    typer.echo(f"error: {message}", err=True)
    sys.exit(code)
