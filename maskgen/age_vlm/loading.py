"""Trained models by the folder of their run, ready to answer."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers.utils.logging import disable_progress_bar

from maskgen.age_vlm.processing import AgeVlmProcessor
from maskgen.age_vlm.start import ARCHITECTURES
from maskgen.errors import MaskgenError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


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


def load(
    place: str | Path, device: str | torch.device = "cpu", dtype: str = ""
) -> tuple[Any, AgeVlmProcessor]:
    """Model and processor of a run or a model folder, of either architecture.

    The model is in evaluation mode on `device`. `dtype`: a key of `DTYPES`; left out, float32 on a CPU and
    bfloat16 elsewhere. MaskgenError for a folder of another kind of model or one that cannot be read whole,
    and for a device that is not there.
    """
    folder = model_folder(place)
    try:
        where = torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # AssertionError: a PyTorch without CUDA
        raise MaskgenError(
            f"the device {device} is not to be had here. Leave it out, or give cpu."
        ) from error
    wanted = dtype or ("float32" if where.type == "cpu" else "bfloat16")
    if wanted not in DTYPES:
        raise MaskgenError(f"{dtype} is no dtype. Give one of {', '.join(DTYPES)}.")
    disable_progress_bar()
    try:
        kind = json.loads((folder / "config.json").read_text()).get("model_type")
        if kind not in ARCHITECTURES:
            raise MaskgenError(f"{folder} holds a {kind}, not one of {', '.join(ARCHITECTURES)}.")
        model, told = ARCHITECTURES[kind][1].from_pretrained(
            folder, dtype=DTYPES[wanted], output_loading_info=True, use_safetensors=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        first = str(error).strip().partition("\n")[0]
        raise MaskgenError(f"the model in {folder} cannot be read: {first}") from error
    if told["missing_keys"]:  # transformers would draw them at random
        missing = ", ".join(sorted(told["missing_keys"])[:3])
        raise MaskgenError(f"the model in {folder} lacks weights ({missing}). Copy it again, whole.")
    return model.to(where).eval(), processor(folder)


def processor(folder: str | Path) -> AgeVlmProcessor:
    """The processor of a model folder. MaskgenError if it has none."""
    try:
        return AgeVlmProcessor.from_pretrained(folder)
    except (OSError, ValueError, TypeError) as error:
        raise MaskgenError(
            f"--model {folder} has no processor that can be read ({type(error).__name__}). Make the folder "
            "with maskgen init-model."
        ) from error
