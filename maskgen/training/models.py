"""Model folders: what is loaded before a stage and written after it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers.utils.logging import disable_progress_bar

from maskgen.age_vlm.concat import ConcatVlmForConditionalGeneration
from maskgen.age_vlm.configuration import AgeVlmConfig, ConcatVlmConfig
from maskgen.age_vlm.modeling import AgeVlmForConditionalGeneration
from maskgen.errors import MaskgenError
from maskgen.training.recipe import Recipe, Stage

_MODELS: dict[str, Any] = {
    "age_vlm": AgeVlmForConditionalGeneration,
    "concat_vlm": ConcatVlmForConditionalGeneration,
}


def model_class(kind: str) -> Any:
    """The class of a model_type."""
    return _MODELS[kind]


def full_size(kind: str) -> Any:
    """The paper's configuration: Llama-3.2-1B and the CLIP ConvNeXt-L at 768 pixels."""
    config: Any = AgeVlmConfig if kind == "age_vlm" else ConcatVlmConfig
    return config(
        text_config={
            "vocab_size": 128256,
            "hidden_size": 2048,
            "num_hidden_layers": 16,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 64,
            "intermediate_size": 8192,
            "tie_word_embeddings": True,
        },
        vision_config={"hidden_sizes": [192, 384, 768, 1536], "depths": [3, 3, 27, 3]},
        image_size=768,
    )


def read_config(folder: str | Path, recipe: Recipe) -> Any:
    """The folder's configuration. MaskgenError if it is no model, or not of the recipe's architecture."""
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise MaskgenError(
            f"--model {folder} is no model folder: it has no config.json. Make one with maskgen init-model, "
            "or give a folder that maskgen train wrote."
        )
    kind = json.loads(path.read_text()).get("model_type")
    if kind != recipe.architecture:
        raise MaskgenError(
            f"--model {folder} holds a {kind}, but the recipe {recipe.recipe} trains a "
            f"{recipe.architecture}. "
            "Give another --model or another --recipe."
        )
    return model_class(recipe.architecture).config_class.from_pretrained(folder)


def load(folder: str | Path, recipe: Recipe, stage: Stage) -> Any:
    """The model in float32, set to the stage's resolution."""
    disable_progress_bar()
    config = read_config(folder, recipe)
    config.image_size = stage.size
    config.fit = recipe.data.fit
    return model_class(recipe.architecture).from_pretrained(folder, config=config, dtype=torch.float32)


def tokenizer(folder: str | Path) -> Any:
    """The folder's tokenizer."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def normaliser(folder: str | Path) -> Callable[[torch.Tensor], torch.Tensor]:
    """From uint8 (N, S, S, 3) to what the model takes, float (N, 3, S, S), with the folder's mean and
    deviation.
    """
    mean, std = _statistics(folder)

    def normalise(pixels: torch.Tensor) -> torch.Tensor:
        where = pixels.device
        scaled = pixels.permute(0, 3, 1, 2).float() / 255
        return (scaled - mean.to(where)) / std.to(where)

    return normalise


def save(model: Any, weights: dict[str, torch.Tensor], source: str | Path, target: Path) -> None:
    """Write the model with `weights`, and beside it everything of `source` that is not the model's own."""
    for path in Path(source).iterdir():
        own = path.suffix == ".safetensors" or path.name.endswith(".index.json") or path.name == "config.json"
        if path.is_file() and not own:
            shutil.copy2(path, target / path.name)
    model.save_pretrained(target, state_dict=weights)


def _statistics(folder: str | Path) -> tuple[torch.Tensor, torch.Tensor]:
    mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    return torch.tensor(mean).view(1, 3, 1, 1), torch.tensor(std).view(1, 3, 1, 1)
