"""`maskgen explain --measure`: real steps of every stage on this machine, with random weights and drawn-up
batches.
"""

import time
from dataclasses import asdict, dataclass
from typing import Any

import torch

from maskgen.age_vlm.registry import model_class
from maskgen.draw import text
from maskgen.runtime.device import choose_device, device_name
from maskgen.training import model_folders
from maskgen.training.collate import TrainBatch
from maskgen.training.cost import sample_flops
from maskgen.training.data_loader import MicroBatch
from maskgen.training.distributed import World
from maskgen.training.freezing import freeze, peak_learning_rates
from maskgen.training.loop import StageRun, take_step
from maskgen.training.losses import LossCounts, count_targets
from maskgen.training.metrics import peak_flops
from maskgen.training.optimizer import build_optimizer
from maskgen.training.parallel import ParallelModel
from maskgen.training.recipe import Recipe, StageConfig

WARM_STEPS = 3


@dataclass(frozen=True)
class Measured:
    """One stage at the micro-batch: medians of single steps. `mfu` and `memory` are None where they are
    not known.
    """

    stage: str
    samples_per_second: float
    flops_per_second: float
    mfu: float | None
    memory: int | None


def measure(recipe: Recipe, model: str, steps: int) -> list[Measured]:
    """Time `steps` steps of one micro-batch in each stage; a guided stage also without guidance, for its
    price.
    """
    config = model_folders.config_of(recipe, model)
    device = choose_device()
    found = []
    for number, stage in recipe.stages.items():
        found.append(_stage(recipe, f"{number}", stage, config, device, steps))
        if stage.losses.get("guidance"):
            plain = stage.model_copy(update={"losses": {"lm": 1.0}})
            found.append(_stage(recipe, f"{number} without guidance", plain, config, device, steps))
    return found


def render(found: list[Measured], recipe: Recipe) -> str:
    """The measurements as a table."""
    name = device_name(choose_device())
    rows = [("stage", "samples/s", "TFLOP/s", "MFU", "peak memory")]
    rows += [
        (
            one.stage,
            f"{one.samples_per_second:,.2f}",
            f"{one.flops_per_second / 1e12:,.3f}",
            "-" if one.mfu is None else f"{one.mfu:.1%}",
            "-" if one.memory is None else text.size(one.memory),
        )
        for one in found
    ]
    head = (
        f"{recipe.recipe} on {name}: random weights, {recipe.precision}, {recipe.resources.micro_batch} "
        f"samples with an image and {recipe.data.expected_tokens} text tokens each, one of them with a mask"
    )
    return "\n".join([head, *text.table(rows, right=frozenset({1, 2, 3, 4}))])


def to_dict(found: list[Measured]) -> list[dict[str, Any]]:
    """JSON values."""
    return [asdict(one) for one in found]


def _stage(
    recipe: Recipe, name: str, stage: StageConfig, config: Any, device: torch.device, steps: int
) -> Measured:
    config.image_size = stage.size
    torch.manual_seed(recipe.seed)
    with torch.device(device):
        model = model_class(recipe.architecture)(config)
    peaks = peak_learning_rates(model, stage)
    freeze(model, peaks)
    world = World(0, 1, device)
    run = StageRun(
        number=1,
        stage=stage,
        recipe=recipe,
        world=world,
        parallel_model=ParallelModel(model, recipe.resources, world),
        optimizer=build_optimizer(model, peaks, recipe.optimiser),
        batches=None,
        accumulation_steps=1,
        steps=WARM_STEPS + steps,
        sample_flops=sample_flops(config, stage),
        normalise=lambda pixels: pixels.permute(0, 3, 1, 2).float() / 255,
        lineage={},
    )
    micro = MicroBatch(_batch(recipe, stage, config).to(device), 0, 0)
    counts = LossCounts(count_targets(micro.batch), float(micro.batch.guided.sum()))
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    times, line = [], {}
    for step in range(run.steps):
        began = time.perf_counter()
        line = take_step(run, step, [micro], counts)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - began)
    seconds = sorted(times[WARM_STEPS:])[steps // 2]
    flops, limit = line["flops"] / seconds, peak_flops(device)
    return Measured(
        stage=name,
        samples_per_second=line["samples"] / seconds,
        flops_per_second=flops,
        mfu=flops / limit if limit else None,
        memory=torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
    )


def _batch(recipe: Recipe, stage: StageConfig, config: Any) -> TrainBatch:
    """A full micro-batch: every row has an image, the first one a mask, and a quarter of its text is the
    query.
    """
    rows, length = recipe.resources.micro_batch, recipe.data.expected_tokens
    cells = (stage.size // config.stride) ** 2
    generator = torch.Generator().manual_seed(recipe.seed)
    ids = torch.randint(3, config.text_config.vocab_size, (rows, length), generator=generator)
    query = torch.zeros(rows, length, dtype=torch.bool)
    query[:, 1 : 1 + length // 4] = True
    masks = torch.zeros(1, cells, dtype=torch.bool)
    masks[:, : max(1, cells // 5)] = True
    guided = torch.zeros(rows, dtype=torch.bool)
    guided[0] = "guidance" in stage.losses
    shape = (rows, stage.size, stage.size, 3)
    return TrainBatch(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        labels=ids.clone(),
        query_mask=query,
        pixels=torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8),
        has_image=torch.ones(rows, dtype=torch.bool),
        image_cells=None,
        guided=guided,
        masks=masks if guided[0] else masks[:0],
        weights=torch.ones(rows),
        keys=[f"{row:016x}" for row in range(rows)],
    )
