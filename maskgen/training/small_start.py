"""The small model that trainings on drawn scenes start from: the package's LLaMA and ConvNeXt made one."""

from pathlib import Path
from typing import Any

from transformers import AutoConfig

from maskgen.age_vlm.init_model import build_model, save_model
from maskgen.age_vlm.registry import ARCHITECTURES
from maskgen.small_models import INITIALIZER_RANGE, checkpoint
from maskgen.training.recipe import Recipe

SLOTS = (1, 4, 7)
"""Where the cross-attention layers stand in the small LLaMA: spread as the paper's four are over sixteen."""


def initial_model(folder: Path, recipe: Recipe) -> Path:
    """The model, written to `folder`; left as it is if it is there.

    The recipe says of which architecture, and its seed draws the new layers.
    """
    if folder.is_dir():
        return folder
    language, vision = checkpoint("llama"), checkpoint("convnext")
    made = build_model(str(language), str(vision), recipe.architecture, recipe.seed, **_options(recipe))
    save_model(made, str(folder))
    return folder


def small_config(recipe: Recipe) -> Any:
    """The configuration of `initial_model`, without its weights."""
    parts = [AutoConfig.from_pretrained(checkpoint(name), dtype="float32") for name in ("llama", "convnext")]
    return ARCHITECTURES[recipe.architecture].config_class(*parts, **_options(recipe))


def _options(recipe: Recipe) -> dict[str, Any]:
    size = recipe.stages[str(len(recipe.stages))].size
    options: dict[str, Any] = {
        "image_size": size,
        "fit": recipe.data.fit,
        "initializer_range": INITIALIZER_RANGE,
    }
    if recipe.architecture == "age_vlm":
        options["slots"] = SLOTS
    return options
