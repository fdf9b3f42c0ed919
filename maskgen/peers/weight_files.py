"""Tensors of a checkpoint folder by their names: safetensors, or PyTorch files of tensors alone."""

import json
import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from maskgen.errors import MaskgenError, first_line
from maskgen.runtime.lfs_pointers import refuse_lfs_pointers

_NAMES = ("model.safetensors", "pytorch_model.bin")


def read(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors, on the CPU, read from the disk when they are first used.

    Of the formats that are there the first of `_NAMES`, whole or in parts with an index. MaskgenError for a
    part that is missing or damaged, or that holds other tensors than the index says.
    """
    for name in _NAMES:
        index = folder / f"{name}.index.json"
        if index.is_file():
            return _parts(folder, index)
        if (folder / name).is_file():
            return _file(folder / name)
    raise MaskgenError(
        f"{folder} holds no weights: neither {' nor '.join(_NAMES)}. Download it again, whole."
    )


def _parts(folder: Path, index: Path) -> dict[str, torch.Tensor]:
    try:
        places = dict(json.loads(index.read_text())["weight_map"])
        files = sorted(set(places.values()))
        assert all(isinstance(file, str) and Path(file).name == file for file in files)
    except (OSError, ValueError, KeyError, TypeError, AssertionError):
        raise MaskgenError(f"{index} is no index of weights. Download it again.") from None
    found: dict[str, torch.Tensor] = {}
    for file in files:
        held = _file(folder / file)
        told = {name for name, place in places.items() if place == file}
        if held.keys() != told:
            odd = sorted(held.keys() ^ told)[0]
            raise MaskgenError(f"{folder / file} and {index.name} disagree about {odd}. Download both again.")
        found |= held
    return found


def _file(file: Path) -> dict[str, torch.Tensor]:
    refuse_lfs_pointers(file)
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        held = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError:
        raise MaskgenError(f"{file} is missing. Download the checkpoint again, whole.") from None
    except (OSError, ValueError, RuntimeError, pickle.UnpicklingError, SafetensorError) as error:
        raise MaskgenError(
            f"{file} cannot be read as a file of tensors alone ({first_line(error)}). Download it again."
        ) from error
    if not isinstance(held, dict) or not all(isinstance(value, torch.Tensor) for value in held.values()):
        raise MaskgenError(f"{file} holds something besides tensors, and is not read.")
    return dict(held)


def under(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Those whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): each for name, each in tensors.items() if name.startswith(prefix)}
