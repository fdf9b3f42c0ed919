"""`maskgen reproduce`: parse, call, print."""

import os
from typing import Annotated

import typer

from maskgen.commands.options import complete, say, tell


def reproduce(
    out: Annotated[
        str,
        typer.Option(
            "--out", "-o", metavar="FOLDER", help="The folder of everything: data, runs, figures, report."
        ),
    ],
    scale: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="demo: the whole of it; tiny: a try of every part that shows nothing.",
            autocompletion=complete(lambda: ("demo", "tiny")),
        ),
    ] = "demo",
    seeds: Annotated[int, typer.Option(min=0, help="Trainings of each model. Default: the scale's.")] = 0,
    jobs: Annotated[
        int, typer.Option(min=0, help="Trainings at a time. Default: one a core, or one on a GPU.")
    ] = 0,
) -> None:
    """Test the paper's claims at small scale.

    Four models, several seeds, one report. Draws and grounds scenes, trains concat, CA-baseline, AGE-VLM and
    AGE-VLM-LM on them, and examines all of them on other scenes. Rerun the same line after an
    interruption: it goes on.
    """
    from maskgen.reproduce.reproduce import reproduce
    from maskgen.reproduce.scales import get_scale
    from maskgen.runtime.device import choose_device

    size = get_scale(scale)
    count = seeds or size.seeds
    cores = len(os.sched_getaffinity(0)) if choose_device().type == "cpu" else 1
    side_by_side = jobs or min(cores, 2 * count)
    command = f"maskgen reproduce --scale {scale}" + (f" --seeds {seeds}" if seeds else "")
    done = reproduce(out, size, count, side_by_side, command, say)
    tell(f"the report is {done}")


def register(app: typer.Typer) -> None:
    """Hang the command into `app`."""
    app.command()(reproduce)
