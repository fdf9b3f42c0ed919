"""`maskgen train`: the stages of a recipe that are not done, in every process. Rerunning is resuming."""

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskgen import __version__
from maskgen.age_vlm.chat import ChatTemplate
from maskgen.errors import MaskgenError
from maskgen.geometry import Frame
from maskgen.pipeline.fingerprint import differences, packages
from maskgen.runtime.folder_kind import refuse_other_kind
from maskgen.runtime.lease import Lease
from maskgen.runtime.lfs_pointers import refuse_lfs_pointers
from maskgen.runtime.store import Store
from maskgen.training import model_folders
from maskgen.training.checkpoint import Checkpoints, new_folder, to_full_tensor
from maskgen.training.cost import sample_flops
from maskgen.training.data_loader import StepDataset, cells_per_side, gradient_accumulation_steps
from maskgen.training.dataset import ShardDataset, ShardSamples
from maskgen.training.distributed import World
from maskgen.training.freezing import (
    check_frozen_unchanged,
    combined_digest,
    digests,
    freeze,
    frozen_tensors,
    peak_learning_rates,
)
from maskgen.training.loop import Outputs, StageRun, train_stage
from maskgen.training.mask_filter import KeptMasks
from maskgen.training.metrics import JsonLines, ProgressBar, TensorBoardWriter, truncate_lines
from maskgen.training.optimizer import build_optimizer
from maskgen.training.parallel import ParallelModel
from maskgen.training.recipe import Recipe, SetName, StageConfig
from maskgen.training.sampler import Schedule

METRICS, LEDGER, RECORD = "metrics.jsonl", "ledger", "run.json"


@dataclass(frozen=True)
class TrainRequest:
    """One `maskgen train`. `data`: sets of shards by the name stages call them.

    `first`, `last`: the stages that are taken; 0 stands for the recipe's last one.
    """

    recipe: Recipe
    model: str
    data: dict[SetName, list[str]]
    out: str
    first: int = 1
    last: int = 0


def train(request: TrainRequest, world: World, say: Callable[[str], None]) -> Path:
    """Take the stages that are not done; returns the folder of the last one's model.

    With the recipe's last stage that is `out`/model; a run with stages to go has none of its own.

    Every process of the world calls it; the main one writes, prints and holds the lease.
    """
    if not world.is_main:
        return _train(request, world, say)
    refuse_other_kind(request.out, "a training")
    with Lease(request.out):
        return _train(request, world, say)


def stage_record(out: Path, stage: int) -> dict[str, Any] | None:
    """The record of a stage that has ended; None before that."""
    store = Store(str(out / f"stage-{stage}"))
    return dict(store.read_json("stage.json")) if store.exists("stage.json") else None


def _train(request: TrainRequest, world: World, say: Callable[[str], None]) -> Path:
    out, recipe = Path(request.out), request.recipe
    gradient_accumulation_steps(recipe, world)  # what cannot be shared out is said before anything is read
    kept = _start_run(request, world)
    if world.is_main:
        for masks in kept:
            say(masks.render())
    final = request.last or len(recipe.stages)
    for number in range(request.first, final + 1):
        if stage_record(out, number):
            continue
        _train_one_stage(request, world, number, say)
    last = out / f"stage-{final}" / "model"
    if final < len(recipe.stages):
        return last
    if world.is_main and not (out / "model").exists():
        _check_weights(out, final, _weights_digest(last))
        with new_folder(out / "model") as target:
            shutil.copytree(last, target, dirs_exist_ok=True)
    world.wait()
    return out / "model"


def _start_run(request: TrainRequest, world: World) -> list[KeptMasks]:
    """The run's identity, written at its start; MaskgenError if what is there was begun with another one.

    Returns what `data.where` leaves of each set that guides.
    """
    out = Path(request.out)
    stages = request.recipe.stages.values()
    config = model_folders.read_config(request.model, request.recipe)
    for stage in stages:
        cells_per_side(stage, config)  # what does not fit is said before anything is trained
    guided = {stage.data for stage in stages if "guidance" in stage.losses}
    sets = {
        name: ShardSamples(request.data[name], request.recipe.data.where if name in guided else "")
        for name in {stage.data: None for stage in stages}
    }
    identity = {
        "recipe": request.recipe.content(),
        "data": {name: samples.fingerprint() for name, samples in sets.items()},
        "model": _weights_digest(Path(request.model)),
        "first_stage": request.first,
    }
    if world.is_main:
        begun = _read_record(out)
        if begun:
            _refuse_mixing(begun["identity"], identity, request.out)
        else:
            record = {
                "identity": identity,
                "model": str(request.model),
                "data": request.data,
                "steps": {
                    number: stage.epochs * -(-len(sets[stage.data]) // request.recipe.batch)
                    for number, stage in request.recipe.stages.items()
                },
                "resources": request.recipe.resources.model_dump(mode="json"),
                "packages": packages(),
                "version": __version__,
            }
            Store(request.out).write_json(RECORD, json.loads(json.dumps(record)))
    world.wait()
    return [samples.kept for samples in sets.values() if samples.kept]


def _read_record(out: Path) -> dict[str, Any] | None:
    """What the run was begun with; None if there is none, or an empty one of a run that has made nothing."""
    store = Store(str(out))
    if not store.exists(RECORD):
        return None
    made = [*out.glob("stage-*"), *(out / "checkpoints").glob("stage-*")]
    if not made and not store.read_bytes(RECORD).strip(b"\0 \n"):
        return None  # the machine went down as it was written
    record = store.read_json(RECORD)
    if not isinstance(record, dict) or not isinstance(record.get("identity"), dict):
        raise MaskgenError(
            f"{store.where(RECORD)} does not say what the run was begun with. Restore it; or remove it, and "
            "what is trained there counts as trained with the settings that you give now."
        )
    return record


def _refuse_mixing(old: dict[str, Any], new: dict[str, Any], out: str) -> None:
    changed = differences(old, json.loads(json.dumps(new)))
    if changed:
        listed = "\n  ".join(changed)
        raise MaskgenError(
            f"{out} was begun with other settings:\n  {listed}\n"
            "Train with the settings it was begun with, or give another --out."
        )


def prepare_stage(request: TrainRequest, world: World, number: int, source: str | Path) -> StageRun:
    """Stage `number`, at its first step, from the model folder `source`."""
    recipe = request.recipe
    stage = recipe.stages[str(number)]
    accumulation_steps = gradient_accumulation_steps(recipe, world)
    model = model_folders.load(source, recipe, stage)
    peaks = peak_learning_rates(model, stage)
    if not peaks:
        raise MaskgenError(f"stages.{number}.train names no part that this model has.")
    freeze(model, peaks)
    model.to(world.device)
    samples, template = _dataset(request, stage.data, source, stage)
    epochs = [
        Schedule(
            n=len(samples),
            has_mask=samples.has_mask,
            shards=samples.shards,
            batch=recipe.batch,
            world_size=world.size,
            accumulation=accumulation_steps,
            seed=recipe.seed + epoch,
            stage=number,
            order=recipe.data.order,
        )
        for epoch in range(stage.epochs)
    ]
    steps = sum(epoch.steps for epoch in epochs)
    data = samples.fingerprint()
    flops = sample_flops(model.config, stage)  # before the model is sharded
    parallel_model = ParallelModel(model, recipe.resources, world, half=recipe.precision == "bf16")
    return StageRun(
        number=number,
        stage=stage,
        recipe=recipe,
        world=world,
        parallel_model=parallel_model,
        optimizer=build_optimizer(model, peaks, recipe.optimiser),
        batches=StepDataset(
            samples,
            epochs,
            world.rank,
            template.pad_id,
            accumulation_steps,
            length_multiple=64 if world.device.type == "cuda" else 1,
        ),
        steps=steps,
        sample_flops=flops,
        normalise=model_folders.normaliser(source),
        lineage={
            "parent": _weights_digest(Path(source)),
            "recipe": _digest(recipe.content()),
            "data": data,
            "plan": _digest([recipe.batch, recipe.seed, recipe.data.order, steps, data]),
        },
    )


def _train_one_stage(request: TrainRequest, world: World, number: int, say: Callable[[str], None]) -> None:
    out = Path(request.out)
    source = Path(request.model) if number == request.first else out / f"stage-{number - 1}" / "model"
    run = prepare_stage(request, world, number, source)
    if number != request.first:
        _check_weights(out, number - 1, run.lineage["parent"])
    model = run.parallel_model.module
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    before = digests(frozen_tensors(model, trained))
    checkpoints = Checkpoints(out, run.recipe.resources.keep, world)
    position = checkpoints.newest_whole(number, run.lineage, say) if world.is_main else None
    position = world.gather(position)[0]
    if position:
        checkpoints.restore(position, model, run.optimizer)
        run.parallel_model.update()
        say(f"going on in stage {number} at step {position.step} of {run.steps}")
    first = position.step if position else 0
    outputs = _open_outputs(out, run, first, checkpoints)
    began = time.monotonic()
    try:
        train_stage(run, first, outputs, _steps_before(out, number))
    finally:
        outputs.close()
    check_frozen_unchanged(before, digests(frozen_tensors(model, trained)), str(number))
    _publish_stage(out, run, source, trained, time.monotonic() - began)
    checkpoints.clear(number)
    world.wait()


def _check_weights(out: Path, stage: int, weights: str) -> None:
    """MaskgenError unless the model that the stage left has the hash that it ended with."""
    if (stage_record(out, stage) or {}).get("weights") != weights:
        folder = out / f"stage-{stage}"
        raise MaskgenError(
            f"{folder / 'model'} is damaged: its weights have another hash than stage {stage} ended with. "
            f"Restore it; or remove {folder}, and that stage is trained again."
        )


def _open_outputs(out: Path, run: StageRun, first: int, checkpoints: Checkpoints) -> Outputs:
    """The files of the run, cut back to where it goes on."""
    world = run.world
    if world.is_main:
        for path in [out / METRICS, *(out / LEDGER).glob("*.jsonl")]:
            truncate_lines(path, run.number, first)
    world.wait()
    ledger = JsonLines(out / LEDGER / f"rank-{world.rank:04d}.jsonl")
    if not world.is_main:
        return Outputs(checkpoints, ledger, None, None, None)
    tensorboard = TensorBoardWriter(out / "tensorboard") if run.recipe.resources.tensorboard else None
    return Outputs(
        checkpoints, ledger, JsonLines(out / METRICS), tensorboard, ProgressBar(run.number, run.steps, first)
    )


def _publish_stage(out: Path, run: StageRun, source: Path, trained: set[str], seconds: float) -> None:
    """Publish the stage: its model with lineage, and stage.json, which is the stage's commit."""
    model = run.parallel_model.module
    # Sharded weights are gathered: every process takes part.
    weights = {name: to_full_tensor(tensor) for name, tensor in model.state_dict().items()}
    if run.world.is_main:
        counts = {name: tensor.numel() for name, tensor in model.named_parameters()}
        with new_folder(out / f"stage-{run.number}") as target:
            (target / "model").mkdir()
            model_folders.save(model, weights, source, target / "model")
            lineage = {
                **run.lineage,
                "stage": run.number,
                "weights": _weights_digest(target / "model"),
            }
            (target / "model" / "lineage.json").write_text(json.dumps(lineage, indent=2) + "\n")
            record = {
                **lineage,
                "steps": run.steps,
                "seconds": round(seconds, 3),
                "trained": sum(counts[name] for name in trained),
                "frozen": sum(count for name, count in counts.items() if name not in trained),
                "frozen_unchanged": True,
            }
            (target / "stage.json").write_text(json.dumps(record, indent=2) + "\n")
    run.world.wait()


def _dataset(
    request: TrainRequest, name: SetName, source: str | Path, stage: StageConfig
) -> tuple[ShardDataset, ChatTemplate]:
    recipe = request.recipe
    template = ChatTemplate(model_folders.tokenizer(source), recipe.data.max_tokens)
    config = model_folders.read_config(source, recipe)
    frame = Frame(recipe.data.fit, stage.size, cells_per_side(stage, config))
    guided = "guidance" in stage.losses
    places, threshold = request.data[name], recipe.data.threshold
    where = recipe.data.where if guided else ""
    return ShardDataset(places, template, frame, guided, threshold=threshold, where=where), template


def _steps_before(out: Path, number: int) -> int:
    return sum((stage_record(out, stage) or {}).get("steps", 0) for stage in range(1, number))


def _digest(tree: Any) -> str:
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()


def _weights_digest(folder: Path) -> str:
    """One digest of a model folder's weights, tensor by tensor: however they are spread over files."""
    from safetensors import safe_open

    refuse_lfs_pointers(folder)
    values: dict[str, str] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118  # no mapping
                values |= digests({name: file.get_tensor(name)})
    if not values:
        raise MaskgenError(f"{folder} holds no .safetensors weights. Give a model folder with them.")
    return combined_digest(values)
