"""`maskgen ask` and `chat`: parse, call, print."""

from typing import Annotated

import typer

from maskgen.commands.analysis_commands import draw
from maskgen.commands.early_checks import check_file, check_models
from maskgen.commands.options import Device, say, tell
from maskgen.errors import MaskgenError
from maskgen.runtime.silence import end_watch

Run = Annotated[str, typer.Option("--model", metavar="RUN", help="A run of maskgen train or a model folder.")]
ImageFile = Annotated[str, typer.Argument(metavar="IMAGE", help="A picture.")]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="Tokens an answer has at most.")]


def ask(
    model: Run,
    image: ImageFile,
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="What is asked about it.")],
    look: Annotated[
        str, typer.Option(metavar="PNG", help="Also draw where it looked: every layer, and their mean.")
    ] = "",
    max_new_tokens: MaxNewTokens = 128,
    device: Device = "",
) -> None:
    """Ask a model something about a picture."""
    if not question.strip():
        raise MaskgenError("the question is empty. Say what to ask, e.g. 'Is there a red star?'.")
    _check(model, image)
    from maskgen.api import as_picture, load_model

    picture = as_picture(image).pixels
    asked = load_model(model, device=device)
    tell(asked.answer(picture, question, max_new_tokens=max_new_tokens))
    if look:
        draw(asked.look(picture, question), look)
        say(look)


def chat(model: Run, image: ImageFile, max_new_tokens: MaxNewTokens = 128, device: Device = "") -> None:
    """Talk with a model about a picture.

    Answers appear as they are written; an empty line ends.
    """
    _check(model, image)
    from transformers import TextStreamer

    from maskgen.api import as_picture, load_model

    picture = as_picture(image).pixels
    asked = load_model(model, device=device)
    streamer = TextStreamer(asked.processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
    history: list[tuple[str, str]] = []
    end_watch()
    while question := _next_question():
        said = asked.answer(
            picture, question, max_new_tokens=max_new_tokens, history=history, streamer=streamer
        )
        history.append((question, said))


def register(app: typer.Typer) -> None:
    """Hang the commands into the command line."""
    for command in (ask, chat):
        app.command()(command)


def _check(model: str, image: str) -> None:
    """What is mistyped is said at once, before torch is imported."""
    check_models([model])
    check_file("picture", image)


def _next_question() -> str:
    """A line without white space around it; "" for an empty one and where there is no more."""
    try:
        return input("> ").strip()
    except (EOFError, KeyboardInterrupt):
        return ""
