"""A trained model ready to answer, and its place in a run's folder."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.utils.logging import disable_progress_bar

import maskgen.age_vlm  # noqa: F401  (teaches the Auto classes our architectures)
from maskgen.errors import MaskgenError
from maskgen.grounding.weights import probe


@dataclass(frozen=True)
class Speaker:
    """A model in eval mode and its processor."""

    model: Any
    processor: Any


def find(run: str) -> Path:
    """The model of a run of maskgen train: its last one, or that of the last stage that is done; or `run`
    itself, if it is a model folder.
    """
    folder = Path(run)
    if (folder / "config.json").is_file():
        return folder
    stages = sorted(
        (int(name[1]), path)
        for path in folder.glob("stage-*/model")
        if (name := re.fullmatch(r"stage-(\d+)", path.parent.name))
    )
    for path in (folder / "model", *(path for _, path in reversed(stages))):
        if (path / "config.json").is_file():
            return path
    raise MaskgenError(
        f"--model {run}: there is no model in it. Give a run of maskgen train in which a stage is done, or a "
        "folder with config.json, of maskgen init-model or a stage."
    )


def load(folder: str | Path, device: str = "") -> Speaker:
    """Load the model of a folder: bfloat16 on a GPU, float32 on a CPU. MaskgenError if it cannot be read."""
    disable_progress_bar()
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    dtype = torch.float32 if where.type == "cpu" else torch.bfloat16
    try:
        model = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype, local_files_only=True)
        processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise MaskgenError(
            f"--model {folder} cannot be loaded ({type(error).__name__}: {str(error).splitlines()[0]}). "
            "Give a folder that maskgen train or init-model wrote."
        ) from error
    return Speaker(model.to(where).eval(), processor)


def identity(folder: Path) -> dict[str, Any]:
    """What the model is, without loading it: its configuration, size and probe of each file of weights."""
    return {
        "config": json.loads((folder / "config.json").read_text()),
        "weights": {path.name: probe(str(path)) for path in sorted(folder.glob("*.safetensors"))},
    }
