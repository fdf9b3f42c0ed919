"""Checkpoints in the middle of a stage, and the models at the end of one: there whole, or not at all.

There is no random state to store: each step seeds from its own number, and the data follow from it and from
the lineage. Both are in state.json, with the sha256 of the weights' and the optimizer's files, and of itself.
"""

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from maskgen.errors import MaskgenError
from maskgen.runtime.file_modes import follow_umask
from maskgen.runtime.place_errors import translate
from maskgen.training.distributed import World

_PARTIAL, _DAMAGED = ".partial-", "damaged-"
_NAME = re.compile(r"stage-(\d+)-step-(\d+)")
_STATE, _WEIGHTS, _MOMENTS = "state.json", "model.safetensors", "optimiser.safetensors"


@dataclass(frozen=True)
class Position:
    """Where a run stands: `step` of the stage is the next to take."""

    stage: int
    step: int


class Checkpoints:
    """The rotating checkpoints in RUN/checkpoints, without what is frozen: that lies in the stage before."""

    def __init__(self, run: Path, keep: int, world: World):
        self._folder = run / "checkpoints"
        self._keep = keep
        self._world = world

    def newest_whole(
        self, stage: int, lineage: dict[str, Any], say: Callable[[str], None]
    ) -> Position | None:
        """The last one of `stage` that is what was written, for the main process. Damaged ones are set aside,
        and said; MaskgenError for one with another lineage, which belongs to another run.
        """
        for position in sorted(self._of(stage), key=lambda position: -position.step):
            folder = self._folder / _name(position)
            state, damage = _proven(folder, position)
            if not damage:
                _check_lineage(folder, state, lineage)
                if "files" not in state:
                    say(f"the checkpoint {folder} has no hashes, as an older maskgen wrote it: used as it is")
                return position
            aside = folder.with_name(_DAMAGED + folder.name)
            shutil.rmtree(aside, ignore_errors=True)
            folder.rename(aside)
            say(
                f"the checkpoint {folder} is damaged ({damage}): it is set aside as {aside.name} and not used"
            )
        return None

    def save(
        self, position: Position, model: nn.Module, optimizer: torch.optim.Optimizer, lineage: dict[str, Any]
    ) -> None:
        """Write the trained tensors and the optimizer's; every process calls it, the main one writes."""
        weights, moments = _state(model, optimizer)
        if self._world.is_main:
            with new_folder(self._folder / _name(position)) as partial:
                save_file(weights, partial / _WEIGHTS)
                save_file(moments, partial / _MOMENTS)
                files = {name: digest_of_file(partial / name) for name in (_WEIGHTS, _MOMENTS)}
                state = {"stage": position.stage, "step": position.step, "lineage": lineage, "files": files}
                state["sha256"] = _digest(state)
                (partial / _STATE).write_text(json.dumps(state, indent=2) + "\n")
            self._rotate(position)
        self._world.wait()

    def restore(self, position: Position, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Put what `save` wrote into `model` and `optimizer`."""
        folder = self._folder / _name(position)
        try:
            weights, moments = load_file(folder / _WEIGHTS), load_file(folder / _MOMENTS)
        except Exception as error:
            raise MaskgenError(
                f"the checkpoint {folder} is damaged ({error}). Remove it, and the run goes on from "
                "the one before."
            ) from error
        names = {parameter: name for name, parameter in model.named_parameters() if parameter.requires_grad}
        with torch.no_grad():
            for parameter, name in names.items():
                parameter.copy_(_placed_like(weights[name], parameter))
        for parameter in (each for group in optimizer.param_groups for each in group["params"]):
            name = names[parameter]
            if f"step.{name}" not in moments:
                continue  # it never had a gradient
            optimizer.state[parameter] = {
                kind: moments[f"{kind}.{name}"].to(parameter.device)
                if kind == "step"
                else _placed_like(moments[f"{kind}.{name}"], parameter)
                for kind in ("step", "exp_avg", "exp_avg_sq")
            }

    def clear(self, stage: int) -> None:
        """Remove those of a stage that has ended."""
        if self._world.is_main:
            for position in self._of(stage):
                shutil.rmtree(self._folder / _name(position))
            for aside in self._folder.glob(f"{_DAMAGED}stage-{stage}-*"):
                shutil.rmtree(aside)

    def _rotate(self, newest: Position) -> None:
        ordered = sorted(self._all(), key=lambda position: (position.stage, position.step))
        for position in ordered[: -self._keep]:
            shutil.rmtree(self._folder / _name(position))

    def _of(self, stage: int) -> list[Position]:
        return [position for position in self._all() if position.stage == stage]

    def _all(self) -> list[Position]:
        if not self._folder.is_dir():
            return []
        names = (_NAME.fullmatch(path.name) for path in self._folder.iterdir())
        return [Position(int(name[1]), int(name[2])) for name in names if name]


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder to fill; on a clean exit it appears as `target`, whole and on the disk."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for leftover in target.parent.glob(f"{_PARTIAL}{target.name}"):
            shutil.rmtree(leftover)
        partial = target.parent / f"{_PARTIAL}{target.name}"
        partial.mkdir()
        yield partial
        follow_umask(partial)
        for path in [*partial.rglob("*"), partial]:
            _sync(path)
        if target.exists():
            shutil.rmtree(target)
        partial.rename(target)
        _sync(target.parent)
    except Exception as error:  # a full disk is an OSError to us, and SafetensorError to safetensors
        said = translate(error)
        if said is None or said is error:
            raise
        raise MaskgenError(
            f"cannot write {target}: {said} Then run the same line again: training goes on from the last "
            "checkpoint."
        ) from error
    finally:
        shutil.rmtree(target.parent / f"{_PARTIAL}{target.name}", ignore_errors=True)


def digest_of_file(path: Path) -> str:
    """Its sha256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(state: dict[str, Any]) -> str:
    """The sha256 of state.json's content, without this very entry."""
    content = {name: value for name, value in state.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _proven(folder: Path, position: Position) -> tuple[dict[str, Any], str]:
    """The checkpoint's state, and what is wrong with the checkpoint; empty if nothing is."""
    try:
        state = json.loads((folder / _STATE).read_bytes())
    except (OSError, ValueError) as error:
        _raise_unless_damage(error)
        return {}, f"{_STATE} cannot be read"
    if not isinstance(state, dict) or (state.get("stage"), state.get("step")) != (
        position.stage,
        position.step,
    ):
        return {}, f"{_STATE} is not that of this step"
    if "files" not in state and "sha256" not in state:
        return state, ""
    if state.get("sha256") != _digest(state):
        return {}, f"{_STATE} has another hash than it was written with"
    for name, digest in state["files"].items():
        try:
            found = digest_of_file(folder / name)
        except OSError as error:
            _raise_unless_damage(error)
            return {}, f"{name} cannot be read: {error.strerror}"
        if found != digest:
            return {}, f"{name} has another hash than it was written with"
    return state, ""


def _raise_unless_damage(error: Exception) -> None:
    """A file that is gone, or on a bad sector, is damage; one that may not be read is not."""
    if isinstance(error, OSError) and error.errno not in (errno.ENOENT, errno.EIO):
        raise error


def _check_lineage(folder: Path, state: dict[str, Any], lineage: dict[str, Any]) -> None:
    changed = [name for name, value in lineage.items() if state.get("lineage", {}).get(name) != value]
    if changed:
        raise MaskgenError(
            f"the checkpoint {folder} was made with another {', '.join(changed)}. Give the run's own model, "
            "data and recipe; or remove the checkpoint, and the stage begins anew."
        )


def _state(
    model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Trained tensors and AdamW's, whole and on the CPU. It gathers sharded ones: every process calls it."""
    weights, moments = {}, {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            weights[name] = to_full_tensor(parameter)
            for kind, value in optimizer.state[parameter].items():
                moments[f"{kind}.{name}"] = to_full_tensor(value)
    return weights, moments


def to_full_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor on the CPU, gathered from all processes if it is sharded."""
    tensor = tensor.detach()
    gather: Callable[[], torch.Tensor] | None = getattr(tensor, "full_tensor", None)
    return (gather() if gather else tensor).cpu().contiguous()


def _placed_like(value: torch.Tensor, pattern: torch.Tensor) -> torch.Tensor:
    """`value` on the device of `pattern`, and sharded as it is."""
    value = value.to(pattern.device)
    if hasattr(pattern, "full_tensor"):
        from torch.distributed.tensor import distribute_tensor

        return distribute_tensor(value, pattern.device_mesh, pattern.placements)  # type: ignore[attr-defined]
    return value


def _name(position: Position) -> str:
    return f"stage-{position.stage}-step-{position.step:07d}"


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
