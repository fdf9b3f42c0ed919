"""Model folders: what is loaded before a stage and written after it."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from maskgen.age_vlm import loading
from maskgen.age_vlm.image_processing import normalise
from maskgen.age_vlm.loading import processor
from maskgen.age_vlm.registry import model_class, paper_config
from maskgen.runtime.model_place import check_start
from maskgen.training.recipe import Recipe, StageConfig
from maskgen.training.small_start import small_config


def config_of(recipe: Recipe, folder: str | Path = "") -> Any:
    """The configuration of the model in `folder`; without one, of the model that the recipe is for."""
    if folder:
        return read_config(folder, recipe)
    return small_config(recipe) if recipe.model == "small" else paper_config(recipe.architecture)


def read_config(folder: str | Path, recipe: Recipe) -> Any:
    """The folder's configuration. MaskgenError if it is no model, or not of the recipe's architecture."""
    check_start(folder, recipe.architecture, recipe.recipe)
    return model_class(recipe.architecture).config_class.from_pretrained(folder)


def load(folder: str | Path, recipe: Recipe, stage: StageConfig) -> Any:
    """The model in float32, set to the stage's resolution."""
    read_config(folder, recipe)
    settings = {"image_size": stage.size, "fit": recipe.data.fit}
    return loading.load(folder, "cpu", "float32", settings)[0]


def tokenizer(folder: str | Path) -> Any:
    """The folder's tokenizer."""
    return processor(folder).tokenizer


def normaliser(folder: str | Path) -> Callable[[torch.Tensor], torch.Tensor]:
    """From uint8 (N, S, S, 3) to float (N, 3, S, S) by the folder's mean and deviation."""
    images = processor(folder).image_processor
    return partial(normalise, mean=images.image_mean, std=images.image_std)


def save(model: Any, weights: dict[str, torch.Tensor], source: str | Path, target: Path) -> None:
    """Write the model with `weights`, and the processor of `source`, set to the model's resolution."""
    made = processor(source)
    images = made.image_processor
    images.size, images.cells, images.fit = model.config.image_size, model.config.cells, model.config.fit
    made.save_pretrained(target)
    model.save_pretrained(target, state_dict=weights)
