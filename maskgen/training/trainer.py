"""`maskgen train`: what is left of the recipe's stages, on this process and its peers. Rerunning is
resuming.
"""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from maskgen import __version__
from maskgen.age_vlm.chat import ChatTemplate
from maskgen.errors import MaskgenError
from maskgen.geometry import Frame
from maskgen.pipeline.fingerprint import differences, packages
from maskgen.runtime.lease import Lease
from maskgen.training import model_folders
from maskgen.training.checkpoint import Checkpoints, Position, folder, whole
from maskgen.training.cost import cost
from maskgen.training.data_loader import MicroBatches, accumulation, cells
from maskgen.training.dataset import ShardDataset
from maskgen.training.distributed import World
from maskgen.training.freezing import check_untouched, digest_of, digests, freeze, frozen_tensors, rates
from maskgen.training.loop import Leg, Outputs, train_stage
from maskgen.training.metrics import Bar, Board, Lines, cut
from maskgen.training.optimizer import optimiser
from maskgen.training.parallel import Wrapped
from maskgen.training.recipe import Recipe, SetName, Stage
from maskgen.training.sampler import Schedule

METRICS, LEDGER, RECORD = "metrics.jsonl", "ledger", "run.json"


@dataclass(frozen=True)
class Request:
    """One `maskgen train`. `data`: the sets of shards by the name that stages call them; `first`: the
    first stage.
    """

    recipe: Recipe
    model: str
    data: dict[SetName, list[str]]
    out: str
    first: int = 1


def train(request: Request, world: World, say: Callable[[str], None]) -> Path:
    """Take the stages that are not done; returns the folder of the last one's model.

    Every process of the world calls it; the main one writes, prints and holds the lease.
    """
    if not world.is_main:
        return _train(request, world, say)
    with Lease(request.out):
        return _train(request, world, say)


def done(out: Path, stage: int) -> dict[str, Any] | None:
    """The record of a stage that has ended; None before that."""
    path = out / f"stage-{stage}" / "stage.json"
    return json.loads(path.read_text()) if path.is_file() else None


def _train(request: Request, world: World, say: Callable[[str], None]) -> Path:
    out, recipe = Path(request.out), request.recipe
    accumulation(recipe, world)  # what cannot be shared out is said before anything is read
    _begin(request, world)
    numbers = [number for number in range(1, len(recipe.stages) + 1) if number >= request.first]
    for number in numbers:
        if done(out, number):
            continue
        _stage(request, world, number, say)
    last = out / f"stage-{numbers[-1]}" / "model"
    if world.is_main and not (out / "model").exists():
        with folder(out / "model") as target:
            _copy(last, target)
    world.wait()
    return out / "model"


def _begin(request: Request, world: World) -> None:
    """The run's identity, written at its start; MaskgenError if what is there was begun with another one."""
    out = Path(request.out)
    held = {
        stage.data: _samples(request, stage.data, request.model, stage)[0]
        for stage in request.recipe.stages.values()
    }
    identity = {
        "recipe": request.recipe.content(),
        "data": {name: samples.fingerprint() for name, samples in held.items()},
        "model": _weights_digest(Path(request.model)),
        "first_stage": request.first,
    }
    if world.is_main:
        path = out / RECORD
        if path.is_file():
            _refuse_mixing(json.loads(path.read_text())["identity"], identity, request.out)
        else:
            out.mkdir(parents=True, exist_ok=True)
            record = {
                "identity": identity,
                "model": str(request.model),
                "data": request.data,
                "steps": {
                    number: stage.epochs * -(-len(held[stage.data]) // request.recipe.batch)
                    for number, stage in request.recipe.stages.items()
                },
                "resources": request.recipe.resources.model_dump(mode="json"),
                "packages": packages(),
                "version": __version__,
            }
            partial = out / f".partial-{RECORD}"
            partial.write_text(json.dumps(record, indent=2) + "\n")
            partial.replace(path)
    world.wait()


def _refuse_mixing(old: dict[str, Any], new: dict[str, Any], out: str) -> None:
    lines = differences(old, json.loads(json.dumps(new)))
    if lines:
        listed = "\n  ".join(lines)
        raise MaskgenError(
            f"{out} was begun with other settings:\n  {listed}\n"
            "Train with the settings it was begun with, or give another --out."
        )


def prepare(request: Request, world: World, number: int, source: str | Path) -> Leg:
    """Stage `number`, starting from the model folder `source`, at its first step."""
    recipe = request.recipe
    stage = recipe.stages[str(number)]
    each = accumulation(recipe, world)
    model = model_folders.load(source, recipe, stage)
    peaks = rates(model, stage)
    if not peaks:
        raise MaskgenError(f"stages.{number}.train names no part that this model has.")
    freeze(model, peaks)
    model.to(world.device)
    samples, template = _samples(request, stage.data, source, stage)
    epochs = [
        Schedule(
            n=len(samples),
            has_mask=samples.has_mask,
            shards=samples.shards,
            batch=recipe.batch,
            world_size=world.size,
            accumulation=each,
            seed=recipe.seed + epoch,
            stage=number,
            order=recipe.data.order,
        )
        for epoch in range(stage.epochs)
    ]
    steps = sum(epoch.steps for epoch in epochs)
    data = samples.fingerprint()
    price = cost(model.config, stage)
    wrapped = Wrapped(model, recipe.resources, world)
    return Leg(
        number=number,
        stage=stage,
        recipe=recipe,
        world=world,
        wrapped=wrapped,
        optimiser=optimiser(model, peaks, recipe.optimiser),
        batches=MicroBatches(samples, epochs, world.rank, template.pad_id, each),
        each=each,
        steps=steps,
        cost=price,
        normalise=model_folders.normaliser(source),
        lineage={
            "parent": _weights_digest(Path(source)),
            "recipe": _digest(recipe.content()),
            "data": data,
            "plan": _digest([recipe.batch, recipe.seed, recipe.data.order, steps, data]),
        },
    )


def _stage(request: Request, world: World, number: int, say: Callable[[str], None]) -> None:
    out = Path(request.out)
    source = Path(request.model) if number == request.first else out / f"stage-{number - 1}" / "model"
    leg = prepare(request, world, number, source)
    model = leg.wrapped.bare
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    before = digests(frozen_tensors(model, trained))
    checkpoints = Checkpoints(out, leg.recipe.resources.keep, world)
    found: Position | None = world.gather(checkpoints.newest(number))[0]
    if found:
        checkpoints.restore(found, model, leg.optimiser)
        say(f"going on in stage {number} at step {found.step} of {leg.steps}")
    first = found.step if found else 0
    outputs = _outputs(out, leg, first, checkpoints)
    began = time.monotonic()
    try:
        train_stage(leg, first, outputs, _steps_before(out, number))
    finally:
        outputs.close()
    check_untouched(before, digests(frozen_tensors(model, trained)), str(number))
    _finish(out, leg, source, trained, time.monotonic() - began)
    checkpoints.clear(number)
    world.wait()


def _outputs(out: Path, leg: Leg, first: int, checkpoints: Checkpoints) -> Outputs:
    """The files of the run, cut back to where it goes on."""
    world = leg.world
    if world.is_main:
        for path in [out / METRICS, *(out / LEDGER).glob("*.jsonl")]:
            cut(path, leg.number, first)
    world.wait()
    ledger = Lines(out / LEDGER / f"rank-{world.rank:04d}.jsonl")
    if not world.is_main:
        return Outputs(checkpoints, ledger, None, None, None)
    board = Board(out / "tensorboard") if leg.recipe.resources.tensorboard else None
    return Outputs(checkpoints, ledger, Lines(out / METRICS), board, Bar(leg.number, leg.steps, first))


def _finish(out: Path, leg: Leg, source: Path, trained: set[str], seconds: float) -> None:
    """Publish the stage: its model with lineage, and stage.json, which is the stage's commit."""
    model = leg.wrapped.bare
    # Sharded weights are gathered: every process takes part.
    weights = {name: whole(tensor) for name, tensor in model.state_dict().items()}
    if leg.world.is_main:
        counts = {name: tensor.numel() for name, tensor in model.named_parameters()}
        with folder(out / f"stage-{leg.number}") as target:
            (target / "model").mkdir()
            model_folders.save(model, weights, source, target / "model")
            lineage = {
                **leg.lineage,
                "stage": leg.number,
                "weights": _weights_digest(target / "model"),
            }
            (target / "model" / "lineage.json").write_text(json.dumps(lineage, indent=2) + "\n")
            record = {
                **lineage,
                "steps": leg.steps,
                "seconds": round(seconds, 3),
                "trained": sum(counts[name] for name in trained),
                "frozen": sum(count for name, count in counts.items() if name not in trained),
                "frozen_unchanged": True,
            }
            (target / "stage.json").write_text(json.dumps(record, indent=2) + "\n")
    leg.world.wait()


def _samples(
    request: Request, name: SetName, source: str | Path, stage: Stage
) -> tuple[ShardDataset, ChatTemplate]:
    recipe = request.recipe
    template = ChatTemplate(model_folders.tokenizer(source), recipe.data.max_tokens)
    config = model_folders.read_config(source, recipe)
    frame = Frame(recipe.data.fit, stage.size, cells(stage, config))
    guided = "guidance" in stage.losses
    places, threshold = request.data[name], recipe.data.threshold
    return ShardDataset(places, template, frame, guided, threshold=threshold), template


def _steps_before(out: Path, number: int) -> int:
    return sum((done(out, stage) or {}).get("steps", 0) for stage in range(1, number))


def _copy(source: Path, target: Path) -> None:
    import shutil

    shutil.copytree(source, target, dirs_exist_ok=True)


def _digest(tree: Any) -> str:
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()


def _weights_digest(folder: Path) -> str:
    """One digest of a model folder's weights, tensor by tensor: however they are spread over files."""
    from safetensors import safe_open

    found: dict[str, torch.Tensor] = {}
    values: dict[str, str] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118  # no mapping
                found = {name: file.get_tensor(name)}
                values.update(digests(found))
    if not values:
        raise MaskgenError(f"{folder} holds no .safetensors weights. Give a model folder with them.")
    return digest_of(values)
