"""Options that several commands share, and how a command says and prints."""

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from maskgen import config
from maskgen.errors import MaskgenError, did_you_mean
from maskgen.runtime import console, terminal


def complete(names: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """What a shell is given after such an option."""
    return lambda incomplete: [name for name in names() if name.startswith(incomplete)]


def by_comma(given: list[str] | None) -> list[str] | None:
    """For options that are repeatable: "a,b" is a and b. A place whose name has the comma is left whole."""
    if given is None:
        return None
    split = ([each] if Path(each).exists() else each.split(",") for each in given)
    return [name.strip() for names in split for name in names if name.strip()]


Split = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help=f"A shipped pipeline: {', '.join(config.shipped())}.",
        autocompletion=complete(config.shipped),
    ),
]
File = Annotated[
    str, typer.Option("--config", metavar="FILE", help="A pipeline file of your own, instead of --split.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override any key, e.g. select.count=1000. Repeatable."),
]
Data = Annotated[str, typer.Option(metavar="FOLDER", help="The folder or URL with annotations and images.")]
Out = Annotated[
    str,
    typer.Option(
        "--out",
        "-o",
        metavar="FOLDER",
        help="Where the shards go: a folder or URL. Default: shards/SPLIT.",
    ),
]
Sets = Annotated[
    list[str],
    typer.Option("--data", metavar="FOLDER", help="A finished set of shards. Repeatable.", callback=by_comma),
]
Address = Annotated[
    str,
    typer.Option(
        metavar="HOST:PORT", help="An existing Ray cluster, e.g. auto. Default: this machine alone."
    ),
]
RunFolder = Annotated[str, typer.Argument(metavar="OUT", help="The folder or URL that maskgen run wrote to.")]
Device = Annotated[
    str, typer.Option(metavar="NAME", help="cpu, cuda or cuda:1. Default: a GPU if there is one.")
]
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


def one_of(option: str, given: str, known: Iterable[str]) -> None:
    """MaskgenError if what was given is not one of those."""
    names = [*known]
    if given not in names:
        near = did_you_mean(given, names)
        raise MaskgenError(f"{option} {given}: give one of {', '.join(names)}.{near}")


def say(line: str) -> None:
    """A line for the person who waits, on stderr, unless --quiet."""
    console.say(line)


def tell(words: str) -> None:
    """What the command found, on stdout; folded to a terminal's width, and whole in a pipe."""
    typer.echo(terminal.fold(words, terminal.columns(sys.stdout)))


def tell_json(tree: Any) -> None:
    """The same for a program."""
    typer.echo(json.dumps(tree, indent=2))


def write_file(place: str, words: str) -> None:
    """What --out asks for, as a file. MaskgenError if it cannot be written."""
    path = Path(place)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(words, encoding="utf-8")
    except OSError as error:
        raise MaskgenError(
            f"cannot write --out {path}: {error.strerror or error}. Give another place."
        ) from error
