"""Where a model lies, told by its files alone: a mistyped path is refused before torch is imported."""

import json
from pathlib import Path

from maskgen.errors import MaskgenError


def model_folder(place: str | Path) -> Path:
    """The model folder that `place` means: itself, or the last stage's model of a run of maskgen train.

    MaskgenError if there is none; a run with stages to go is told apart from a folder of something else.
    """
    run = Path(place)
    for found in (run, run / "model"):
        if (found / "config.json").is_file():
            return found
    ended = sorted(run.glob("stage-*/model/config.json"), key=lambda path: (len(path.parts[-3]), path))
    if ended:
        raise MaskgenError(
            f"the run {place} has stages to go. Finish it with maskgen train, or give the model of its last "
            f"finished stage, {ended[-1].parent}."
        )
    raise MaskgenError(
        f"{place} is no model: neither a run of maskgen train nor a folder with a config.json. "
        "Check the path."
    )


def model_type(folder: Path) -> str:
    """What the config.json of a model folder calls the architecture. MaskgenError if it does not."""
    try:
        return str(json.loads((folder / "config.json").read_text())["model_type"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MaskgenError(
            f"{folder / 'config.json'} cannot be read or names no model_type: {folder} is no model. "
            "Check the path, or copy the folder again."
        ) from error


def check_start(folder: str | Path, architecture: str, recipe: str) -> None:
    """MaskgenError if a training cannot start from `folder`: no model, or of another architecture."""
    if not (Path(folder) / "config.json").is_file():
        raise MaskgenError(
            f"--model {folder} is no model folder: it has no config.json. Make one with maskgen init-model, "
            "or give a folder that maskgen train wrote."
        )
    kind = model_type(Path(folder))
    if kind != architecture:
        raise MaskgenError(
            f"--model {folder} holds a {kind}, but the recipe {recipe} trains a {architecture}. "
            "Give another --model or another --recipe."
        )
