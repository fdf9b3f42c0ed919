"""The command `maskgen`: parse, call, print."""

import atexit
import contextlib
import logging
import os
import signal
import sys
import threading
from types import ModuleType
from typing import Annotated

import typer
from typer.exceptions import Abort, TyperException

from maskgen import __version__
from maskgen.commands import (
    analysis_commands,
    ask_commands,
    bench_commands,
    evaluation_commands,
    fetch_commands,
    grounding_commands,
    handing_commands,
    inspection_commands,
    paper_commands,
    quality_commands,
    reproduce_commands,
    training_commands,
)
from maskgen.commands.help_pages import CommandHelp, GroupHelp
from maskgen.errors import MaskgenError
from maskgen.runtime import console
from maskgen.runtime.place_errors import translate, write_report
from maskgen.runtime.silence import watched_silence
from maskgen.runtime.standard_streams import secure_standard_streams

app = typer.Typer(
    cls=GroupHelp,
    help="Grounding masks for attention-guided vision-language models (AGE-VLM).\n\n"
    "Florence-2 finds what a caption or question names, SAM refines it to a mask, and the masks go "
    "into WebDataset shards that the trainer reads.",
    epilog="Exit codes: 0 done; 1 something to mend first, in the line, the files or the place; 2 finished, "
    "but too much failed; 3 interrupted, and the same line goes on. They are not the shell's 2 for usage and "
    "130 for Ctrl-C because a scheduler has to tell what to run again (3) from what to look at (2) and to "
    "mend (1).",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)

_INTERRUPTED = 130  # what typer makes of a KeyboardInterrupt

_GROUPS: dict[str, tuple[ModuleType, ...]] = {
    "Make masks": (grounding_commands, fetch_commands),
    "Look": (inspection_commands, quality_commands),
    "Hand on": (handing_commands,),
    "Train": (training_commands,),
    "Ask and evaluate": (ask_commands, evaluation_commands),
    "Analyse": (analysis_commands, paper_commands),
    "Measure": (reproduce_commands, bench_commands),
}

for title, modules in _GROUPS.items():
    first = len(app.registered_commands)
    for commands in modules:
        commands.register(app)
    for command in app.registered_commands[first:]:
        command.cls, command.rich_help_panel = CommandHelp, title


@app.callback(invoke_without_command=True)
def _begin(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say warnings and errors alone.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Say what a run notes down of workers and shards, too.")
    ] = False,
) -> None:
    if version:
        typer.echo(f"maskgen {__version__}")
        raise typer.Exit
    if quiet and verbose:
        raise MaskgenError("--quiet and --verbose: give one of them.")
    console.set_level("quiet" if quiet else "verbose" if verbose else "normal")


def main() -> None:
    """The console script: every problem is a sentence and an exit code."""
    logging.getLogger("maskgen").addHandler(console.WarningsHandler())
    signal.signal(signal.SIGTERM, _interrupt)  # wherever the command is; as process 1 it would be ignored
    try:
        with watched_silence():
            code = app(standalone_mode=False) or 0
        if code == _INTERRUPTED:
            raise KeyboardInterrupt
        sys.exit(code)
    except MaskgenError as error:
        _fail(str(error), error.exit_code)
    except TyperException as error:
        _fail(_usage_error(error), 1)
    except (Abort, KeyboardInterrupt):
        _fail("interrupted; run the same line again to go on.", 3)
    except Exception as error:
        if os.environ.get("MASKGEN_TRACEBACK"):
            raise
        if said := translate(error):
            _fail(str(said), said.exit_code)
        report = write_report(error)
        where = f"{report} says where" if report else "MASKGEN_TRACEBACK=1 shows where"
        _fail(
            f"unexpected {type(error).__name__}: {error}\n"
            f"This is a bug in maskgen. {where}; please report it.",
            1,
        )


def script() -> None:
    """The console script: `main`, then what Python does at its end, and out.

    The destructors of C++ libraries are left out. Arrow's threads that have read from a Python file may meet
    an interpreter that has ended, and abort (apache/arrow issues 34314 and 50482): one `maskgen verify` in
    ten, all of its work done, would say that it failed. Giving Arrow bytes would hold whole plans in memory.
    """
    secure_standard_streams()
    code: int | str | None = 0
    try:
        main()
    except SystemExit as end:
        code = end.code
    threading._shutdown()  # type: ignore[attr-defined]  # noqa: SLF001
    atexit._run_exitfuncs()  # noqa: SLF001
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _usage_error(error: TyperException) -> str:
    """What is wrong with the line, and which help tells more."""
    context = getattr(error, "ctx", None)
    said = error.format_message().rstrip()
    said += "" if said.endswith((".", "?")) else "."
    return f"{said} See {context.command_path if context else 'maskgen'} --help."


def _fail(message: str, code: int) -> None:
    console.write(f"error: {message}")
    sys.exit(code)
