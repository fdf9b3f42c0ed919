"""Trained models by the folder of their run, ready to answer, and how anything is loaded safely."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers.utils.logging import disable_progress_bar

from maskgen.age_vlm.processing import AgeVlmProcessor
from maskgen.age_vlm.registry import ARCHITECTURES
from maskgen.errors import MaskgenError, first_line
from maskgen.runtime.device import choose_device, usual_dtype
from maskgen.runtime.lfs_pointers import refuse_lfs_pointers
from maskgen.runtime.model_place import model_folder, model_type

LOCAL_KWARGS: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
SAFE_KWARGS: dict[str, Any] = {**LOCAL_KWARGS, "use_safetensors": True}
"""For from_pretrained: nothing is downloaded or run, and of weights (`SAFE_KWARGS`) nothing unpickled."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load(
    place: str | Path,
    device: str | torch.device = "",
    dtype: str = "",
    config: Mapping[str, Any] | None = None,
) -> tuple[Any, AgeVlmProcessor]:
    """Model and processor of a run or a model folder, of either architecture.

    The model is in evaluation mode on `device`, by default a GPU if there is one. `dtype`: a key of `DTYPES`;
    left out, what suits the device. `config`: settings of the configuration instead of the folder's own, for
    instance {"fit": "pad"}; the processor follows them. MaskgenError for a folder of another kind of model or
    one that cannot be read whole, and for a device that is not there.
    """
    folder, where = model_folder(place), choose_device(device)
    if dtype and dtype not in DTYPES:
        raise MaskgenError(f"{dtype} is no dtype. Give one of {', '.join(DTYPES)}.")
    kind = model_type(folder)
    if kind not in ARCHITECTURES:
        raise MaskgenError(f"{folder} holds a {kind}, not one of {', '.join(ARCHITECTURES)}.")
    config_class, model_class = ARCHITECTURES[kind]
    refuse_lfs_pointers(folder)
    disable_progress_bar()
    try:
        model, loading_info = model_class.from_pretrained(
            folder,
            config=config_class.from_pretrained(folder, **(config or {})),
            dtype=DTYPES.get(dtype) or usual_dtype(where),
            output_loading_info=True,
            **SAFE_KWARGS,
        )
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        raise MaskgenError(f"the model in {folder} cannot be read: {first_line(error)}") from error
    check_whole(loading_info, folder)
    made = processor(folder)
    images, read = made.image_processor, model.config
    images.size, images.cells, images.fit = read.image_size, read.cells, read.fit
    return model.to(where).eval(), made


def check_whole(loading_info: Mapping[str, Any], folder: str | Path) -> None:
    """MaskgenError if weights were missing, which transformers draws at random.

    `loading_info`: what from_pretrained gives with `output_loading_info`.
    """
    if loading_info["missing_keys"]:
        missing = ", ".join(sorted(loading_info["missing_keys"])[:3])
        raise MaskgenError(f"the model in {folder} lacks weights ({missing}). Copy it again, whole.")


def processor(folder: str | Path) -> AgeVlmProcessor:
    """The processor of a model folder. MaskgenError if it has none."""
    try:
        return AgeVlmProcessor.from_pretrained(folder, **LOCAL_KWARGS)
    except (OSError, ValueError, TypeError) as error:
        raise MaskgenError(
            f"--model {folder} has no processor that can be read ({type(error).__name__}). Make the folder "
            "with maskgen init-model."
        ) from error
