"""ConvNeXt trunks as they are published: transformers' folders, and CLIP files of open_clip and timm."""

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import ConvNextConfig, ConvNextModel

from maskgen.errors import MaskgenError
from maskgen.runtime.lfs_pointers import refuse_lfs_pointers

FILES = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "model.safetensors",
    "pytorch_model.bin",
)
"""Where a folder or a hub repository keeps a CLIP or a timm model; the first that is there is read."""

# timm's names after the CLIP's own prefix, and transformers'.
_RENAMED = [
    (re.compile(pattern), name)
    for pattern, name in (
        (r"^stem\.0\.", "embeddings.patch_embeddings."),
        (r"^stem\.1\.", "embeddings.layernorm."),
        (r"^stages\.(\d+)\.downsample\.", r"encoder.stages.\1.downsampling_layer."),
        (r"^stages\.(\d+)\.blocks\.(\d+)\.conv_dw\.", r"encoder.stages.\1.layers.\2.dwconv."),
        (r"^stages\.(\d+)\.blocks\.(\d+)\.norm\.", r"encoder.stages.\1.layers.\2.layernorm."),
        (r"^stages\.(\d+)\.blocks\.(\d+)\.mlp\.fc([12])\.", r"encoder.stages.\1.layers.\2.pwconv\3."),
        (r"^stages\.(\d+)\.blocks\.(\d+)\.gamma$", r"encoder.stages.\1.layers.\2.layer_scale_parameter"),
        (r"^(?:head\.)?norm\.", "layernorm."),
    )
]
_TRUNK = "visual.trunk."


def load(source: str) -> tuple[ConvNextModel, list[str], list[str]]:
    """The trunk in `source`, float32, and the names of its missing tensors and of those it has no use for.

    `source`: a folder of transformers, a folder with one of FILES, such a file itself, or a hub repository.
    MaskgenError if it is none of them or holds no ConvNeXt of four stages.
    """
    described = Path(source) / "config.json"
    if described.is_file() and json.loads(described.read_text()).get("model_type") == "convnext":
        model, loading_info = ConvNextModel.from_pretrained(
            source, dtype=torch.float32, output_loading_info=True
        )
        return model, sorted(loading_info["missing_keys"]), sorted(loading_info["unexpected_keys"])
    return convert(_read(_file(source)), source)


def convert(tensors: dict[str, torch.Tensor], source: str) -> tuple[ConvNextModel, list[str], list[str]]:
    """As `load`, from tensors under timm's names, with or without a CLIP around them."""
    clip = any(name.startswith(_TRUNK) for name in tensors)
    named, unused = {}, []
    for name, tensor in tensors.items():
        own = name.removeprefix(_TRUNK) if clip else name
        if clip and not name.startswith(_TRUNK):
            continue  # the text tower and the projections, which nobody expects in a trunk
        renamed = next((pattern.sub(to, own) for pattern, to in _RENAMED if pattern.match(own)), None)
        if renamed is None:
            unused.append(name)
        else:
            named[renamed] = _linear(renamed, tensor)
    model = ConvNextModel(_config(named, source))
    loaded = model.load_state_dict({name: tensor.float() for name, tensor in named.items()}, strict=False)
    return model, sorted(loaded.missing_keys), sorted([*unused, *loaded.unexpected_keys])


def _linear(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """timm may keep the pointwise layers as 1 x 1 convolutions."""
    return tensor[:, :, 0, 0] if "pwconv" in name and tensor.dim() == 4 else tensor


def _config(tensors: dict[str, torch.Tensor], source: str) -> ConvNextConfig:
    """What the tensors' shapes say."""
    stem = tensors.get("embeddings.patch_embeddings.weight")
    blocks = re.compile(r"encoder\.stages\.(\d+)\.layers\.(\d+)\.dwconv\.weight")
    found = {(int(m[1]), int(m[2])): tensors[m[0]] for name in tensors if (m := blocks.fullmatch(name))}
    stages = sorted({stage for stage, _ in found})
    if stem is None or stages != [0, 1, 2, 3]:
        raise MaskgenError(
            f"{source} holds no ConvNeXt of four stages. Give a folder of transformers' ConvNextModel, or "
            "the file of a CLIP ConvNeXt (open_clip_model.safetensors)."
        )
    return ConvNextConfig(
        num_channels=stem.shape[1],
        patch_size=stem.shape[-1],
        hidden_sizes=[found[stage, 0].shape[0] for stage in stages],
        depths=[sum(stage == each for each, _ in found) for stage in stages],
        drop_path_rate=0.0,
        image_size=224,
    )


def _file(source: str) -> Path:
    path = Path(source)
    if path.is_file():
        return path
    if path.is_dir():
        for name in FILES:
            if (path / name).is_file():
                return path / name
        raise MaskgenError(f"{source} holds none of {', '.join(FILES)}. Give the model's own folder or file.")
    return _from_hub(source)


def _from_hub(repository: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    try:
        for name in FILES:
            try:
                return Path(hf_hub_download(repository, name))
            except LocalEntryNotFoundError:
                raise
            except EntryNotFoundError:
                continue
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise MaskgenError(
            f"{repository} is no file or folder here and cannot be read from the hub "
            f"({type(error).__name__}). Check the name, or give a local folder."
        ) from error
    raise MaskgenError(f"{repository} on the hub holds none of {', '.join(FILES)}. Give another one.")


def _read(path: Path) -> dict[str, torch.Tensor]:
    refuse_lfs_pointers(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        held: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError, ValueError, EOFError, KeyError) as error:
        reason = f"cannot be read as weights ({type(error).__name__}). Fetch it again."
        raise MaskgenError(f"{path} {reason}") from error
    except Exception as error:  # the unpickler refuses what is not plain tensors in its own ways
        reason = "holds more than tensors and is not loaded. Use the safetensors file."
        raise MaskgenError(f"{path} {reason}") from error
    held = held.get("state_dict", held) if isinstance(held, dict) else {}
    return {name: tensor for name, tensor in held.items() if isinstance(tensor, torch.Tensor)}
