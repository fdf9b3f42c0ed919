"""`maskgen export` and `push`: parse, call, print."""

from pathlib import Path
from typing import Annotated

import typer

from maskgen.commands.options import RunFolder, one_of, say, tell


def export(
    out: RunFolder,
    to: Annotated[str, typer.Option("--to", metavar="NAME", help="coco, yolo, labelstudio or fiftyone.")],
    folder: Annotated[
        str, typer.Option("--out", "-o", metavar="FOLDER", help="A new folder. Default: OUT-NAME.")
    ] = "",
    where: Annotated[
        str, typer.Option(metavar="SQL", help="Which masks, as data.where: quality >= 0.8. Default: all.")
    ] = "",
) -> None:
    """Write the masks of a set in another tool's format.

    Their images stand beside them, and what it takes to read back what was changed there.
    """
    from maskgen.exporting.export import FORMATS, export_set
    from maskgen.pipeline.progress import progress_bar

    one_of("--to", to, FORMATS)
    target = Path(folder or f"{out.rstrip('/')}-{to}")
    with progress_bar("exporting", "masks") as count:
        made, kept, spoilt = export_set(out, to, target, where, count)
    if kept:
        say(kept.render())
    for problem in spoilt:
        say(f"left out: {problem}")
    tell(
        f"{made:,} masks in {target}. Back, with what was changed there: maskgen run --config "
        f"{target}/pipeline.yaml --data {target} --out NEW"
    )


def push(
    out: RunFolder,
    to: Annotated[str, typer.Option("--to", metavar="PLACE", help="hf://NAME/SET on the Hugging Face hub.")],
    public: Annotated[
        bool, typer.Option("--public", help="If it has to be made, for everybody to see. Default: private.")
    ] = False,
) -> None:
    """Bring a finished set to the Hugging Face hub.

    The same line goes on after a failure: what has arrived is not sent again. Private, unless --public.
    """
    from maskgen.exporting.hub_push import push

    tell(push(out, to, private=not public, say=say))


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command()(export)
    app.command()(push)
