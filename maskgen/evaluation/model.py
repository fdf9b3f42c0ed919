"""A trained model ready to answer, and its place in a run's folder."""

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

SAFELY = {"local_files_only": True, "trust_remote_code": False, "use_safetensors": True}
"""How from_pretrained loads weights here: nothing is downloaded, unpickled, or run."""


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
    where, dtype = place(device)
    try:
        model = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype, **SAFELY)
        processor = AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise MaskgenError(
            f"--model {folder} cannot be loaded ({type(error).__name__}: {str(error).splitlines()[0]}). "
            "Give a folder that maskgen train or init-model wrote."
        ) from error
    return Speaker(model.to(where).eval(), processor)


def place(device: str = "") -> tuple[torch.device, torch.dtype]:
    """Where to compute, "" being a GPU if there is one, and in what. MaskgenError without such a device."""
    try:
        where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=where)
    except (RuntimeError, AssertionError) as error:  # AssertionError: a PyTorch without CUDA
        raise MaskgenError(f"--device {device} is not to be had here. Leave it out, or give cpu.") from error
    return where, torch.float32 if where.type == "cpu" else torch.bfloat16


def identity(folder: Path) -> dict[str, Any]:
    """What the model is, without loading it: size and probe of each file that it is loaded from."""
    files = sorted({*folder.glob("*.json"), *folder.glob("*.safetensors")} - {folder / "lineage.json"})
    return {path.name: probe(str(path)) for path in files}
