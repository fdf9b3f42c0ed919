"""Options that several commands share, and how a command says and prints."""

import json
from typing import Annotated

import typer

from maskgen import config
from maskgen.errors import MaskgenError

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
RunFolder = Annotated[str, typer.Argument(metavar="OUT", help="The folder or URL that maskgen run wrote to.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def data_or_scenes(settings: config.Config, data: str, out: str) -> str:
    """`data`, or for a drawn source where its scenes are drawn: beside `out`. MaskgenError if neither."""
    if data:
        return data
    if settings.source.scenes is None:
        raise MaskgenError(
            f"--data is missing: the folder that holds {settings.source.files[0]} and the images."
        )
    return f"{out.rstrip('/')}-scenes"


def say(line: str) -> None:
    """A line for the person who waits, on stderr."""
    typer.echo(line, err=True)


def as_text(tree: object) -> str:
    """JSON as the commands print it."""
    return json.dumps(tree, indent=2)
