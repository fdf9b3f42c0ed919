"""`maskgen fetch weights`: parse, call, print."""

import shlex
from pathlib import Path
from typing import Annotated, Literal

import typer

from maskgen import config
from maskgen.commands.options import File, Overrides, Split, say, tell


def fetch(
    what: Annotated[Literal["weights"], typer.Argument(help="What to fetch: weights.")],
    to: Annotated[
        str, typer.Option("--out", "-o", "--to", metavar="FOLDER", help="The folder that they go into.")
    ],
    split: Split = "",
    file: File = "",
    overrides: Overrides = None,
) -> None:
    """Fetch the weights that a pipeline loads.

    Whole, resumable and checked by their published hashes. Where the hub or a mirror of it is: HF_ENDPOINT,
    as for the hf command.
    """
    from maskgen.draw import text
    from maskgen.grounding.fetch_weights import fetch_weights

    fetched = fetch_weights(config.load(split, file, overrides), Path(to), say)
    if not fetched:
        tell("nothing to fetch: this pipeline loads no weights, or has them here.")
        return
    for one in fetched:
        tell(f"{one.path}  {text.size(one.bytes)}  {one.checked}")
    chosen = ["--config", file] if file else ["--split", split]
    settings = [part for one in fetched for part in ("--set", f"{one.key}={one.path}")]
    own = [part for override in overrides or [] for part in ("--set", override)]
    tell(f"maskgen run {shlex.join([*chosen, *own, *settings])} --data DATA --out OUT")


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command()(fetch)
