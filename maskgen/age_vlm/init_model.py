"""`maskgen init-model`: a LLaMA and a CLIP ConvNeXt made one, and what became of every tensor."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer, LlamaForCausalLM

from maskgen.age_vlm import convnext_checkpoints
from maskgen.age_vlm.image_processing import AgeVlmImageProcessor
from maskgen.age_vlm.processing import AgeVlmProcessor
from maskgen.age_vlm.registry import ARCHITECTURES
from maskgen.errors import MaskgenError, first_line
from maskgen.runtime.file_modes import follow_umask
from maskgen.runtime.lfs_pointers import refuse_lfs_pointers
from maskgen.runtime.place_errors import translate


@dataclass(frozen=True)
class InitialModel:
    """A new model, its processor, and names of tensors: absent in a source, unused, and made anew."""

    model: Any
    processor: AgeVlmProcessor
    missing: list[str]
    unexpected: list[str]
    new: list[str]


def build_model(
    language: str, vision: str, architecture: str = "age_vlm", seed: int = 0, **options: Any
) -> InitialModel:
    """The untrained AGE-VLM around a pretrained LLaMA and ConvNeXt; `options` are those of its configuration.

    `language`: a transformers folder or hub id of a LLaMA. `vision`: see `convnext_checkpoints.load`. New
    layers are drawn by `seed`. MaskgenError for a source that cannot be read or is of another kind, and for
    options that do not fit.
    """
    if architecture not in ARCHITECTURES:
        raise MaskgenError(f"{architecture} is no architecture. Give one of {', '.join(ARCHITECTURES)}.")
    for source in (language, vision):
        refuse_lfs_pointers(source)
    llama, tokenizer = _llama(language)
    trunk, missing, unexpected = convnext_checkpoints.load(vision)
    config_class, model_class = ARCHITECTURES[architecture]
    try:
        config = config_class(llama.config, trunk.config, **options)
    except (ValueError, TypeError) as error:
        raise MaskgenError(str(error)) from error
    if config.image_size % config.stride:
        raise MaskgenError(
            f"image_size {config.image_size} is no multiple of {config.stride} pixels, the side of a token."
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(config)
    model.model["language"].load_state_dict(llama.model.state_dict())
    model.lm_head.load_state_dict(llama.lm_head.state_dict())
    model.model["vision"].load_state_dict(trunk.state_dict())
    model.tie_weights()
    made = ("model.adapter.", "model.cross.")
    images = AgeVlmImageProcessor(config.image_size, config.cells, config.fit)
    return InitialModel(
        model=model,
        processor=AgeVlmProcessor(images, tokenizer),
        missing=[f"model.vision.{name}" for name in missing],
        unexpected=unexpected,
        new=[name for name, _ in model.named_parameters() if name.startswith(made)],
    )


def save_model(initial: InitialModel, out: str) -> list[str]:
    """Write model and processor to a new folder, and say what became of the tensors."""
    folder = Path(out)
    if folder.exists() and any(folder.iterdir() if folder.is_dir() else [folder]):
        raise MaskgenError(f"{out} exists already. Give a new --out, or remove it.")
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        initial.model.save_pretrained(part)
        initial.processor.save_pretrained(part)
        follow_umask(part)
        folder.parent.mkdir(parents=True, exist_ok=True)
        part.replace(folder)
    except Exception as error:  # a full disk is an OSError to us, and SafetensorError to safetensors
        if said := translate(error):
            raise MaskgenError(f"{out} cannot be written: {said}") from error
        raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    parameters = dict(initial.model.named_parameters())
    lines = [f"wrote {out}: {sum(p.numel() for p in parameters.values()) / 1e6:,.1f} M parameters"]
    made = sum(parameters[name].numel() for name in initial.new) / 1e6
    lines.append(f"of them {made:,.1f} M are new")
    for label, names in (
        ("missing in the source, and new", initial.missing),
        ("in the source, and not used", initial.unexpected),
        ("new", initial.new),
    ):
        lines.append(f"{label}: {len(names)}")
        lines += [f"  {name}" for name in names]
    return lines


def _llama(source: str) -> tuple[LlamaForCausalLM, Any]:
    try:
        kind = AutoConfig.from_pretrained(source, trust_remote_code=False).model_type
        if kind != "llama":
            raise MaskgenError(f"{source} is a {kind}, not a LLaMA. Give a folder or hub id of a LLaMA.")
        model, loading_info = LlamaForCausalLM.from_pretrained(
            source, dtype=torch.float32, output_loading_info=True
        )
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError, SafetensorError) as error:
        if "trust_remote_code" in str(error):
            raise MaskgenError(
                f"{source} comes with code of its own, which is never run. "
                "Give a LLaMA that transformers itself knows."
            ) from error
        raise MaskgenError(
            f"{source} cannot be read as a LLaMA: {first_line(error)} Give a local folder or a hub id."
        ) from error
    if loading_info["missing_keys"]:
        raise MaskgenError(
            f"{source} lacks {', '.join(sorted(loading_info['missing_keys'])[:3])}. Fetch it again."
        )
    return model, tokenizer
