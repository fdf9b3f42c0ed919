"""`maskgen explain --measure`: real steps of every stage on this machine, with random weights and drawn-up
batches.
"""

import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any

import torch

from maskgen.age_vlm.cross_attention import QuerySelection
from maskgen.age_vlm.registry import model_class
from maskgen.draw import text
from maskgen.grounding.faults import is_out_of_memory
from maskgen.runtime.clock import waiter
from maskgen.runtime.device import choose_device, device_name
from maskgen.training import model_folders
from maskgen.training.collate import TrainBatch, target_places
from maskgen.training.cost import SampleFlops, sample_flops
from maskgen.training.data_loader import MicroBatch
from maskgen.training.distributed import World
from maskgen.training.freezing import freeze, peak_learning_rates
from maskgen.training.loop import StageRun, count_losses, take_step
from maskgen.training.metrics import peak_flops
from maskgen.training.optimizer import build_optimizer
from maskgen.training.parallel import ParallelModel
from maskgen.training.recipe import Recipe, StageConfig

WARM_STEPS = 3


@dataclass(frozen=True)
class Measured:
    """One stage at `micro_batch` samples: the asked ones, or the most that fit, by halves.

    With 0 not even one fits, and nothing else is known. Medians of single steps; `mfu` and `memory` (bytes at
    most) are None where they are not known.
    """

    stage: str
    micro_batch: int
    samples_per_second: float | None = None
    flops_per_second: float | None = None
    mfu: float | None = None
    memory: int | None = None


def measure(
    recipe: Recipe, model: str, steps: int, say: Callable[[str], None] = lambda _: None
) -> list[Measured]:
    """Time `steps` steps of one micro-batch in each stage; a guided stage also without guidance, for its
    price. What does not fit is tried with half as many samples. `say` gets each line when it is known.
    """
    config = model_folders.config_of(recipe, model)
    device = choose_device()
    found = []
    for name, stage in stages(recipe):
        found.append(fitting(recipe, name, stage, config, device, steps))
        say(f"stage {name}: {_said(found[-1], recipe)}")
    return found


def stages(recipe: Recipe) -> Iterator[tuple[str, StageConfig]]:
    """Each stage by what it is called; after a guided one, the same without guidance."""
    for number, stage in recipe.stages.items():
        yield number, stage
        if stage.losses.get("guidance"):
            yield f"{number} without guidance", stage.model_copy(update={"losses": {"lm": 1.0}})


def fitting(
    recipe: Recipe, name: str, stage: StageConfig, config: Any, device: torch.device, steps: int
) -> Measured:
    """The stage at the recipe's micro-batch, or at the half, the quarter, ... that fits."""
    samples = recipe.resources.micro_batch
    while samples:
        measured = attempt(recipe, name, stage, config, device, steps, samples)
        if measured:
            return measured
        samples //= 2
    return Measured(name, 0)


def attempt(
    recipe: Recipe, name: str, stage: StageConfig, config: Any, device: torch.device, steps: int, samples: int
) -> Measured | None:
    """The stage at so many samples a micro-batch; None if they do not fit in memory."""
    try:
        return _stage(recipe, name, stage, config, device, steps, samples)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    # Outside the handler: the traceback would keep the failed step's tensors alive.
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return None


def render(found: list[Measured], recipe: Recipe) -> str:
    """The measurements as a table."""
    name = device_name(choose_device())
    rows = [("stage", "micro-batch", "samples/s", "TFLOP/s", "MFU", "peak memory")]
    rows += [
        (
            one.stage,
            str(one.micro_batch or "none fits"),
            _or_dash(one.samples_per_second, "{:,.2f}".format),
            _or_dash(one.flops_per_second, lambda flops: f"{flops / 1e12:,.3f}"),
            _or_dash(one.mfu, "{:.1%}".format),
            _or_dash(one.memory, text.size),
        )
        for one in found
    ]
    head = (
        f"{recipe.recipe} on {name}: random weights, {recipe.precision}, samples with an image and "
        f"{recipe.data.expected_tokens} text tokens each, one of a micro-batch with a mask"
    )
    asked = recipe.resources.micro_batch
    less = [f"stage {one.stage}: {_said(one, recipe)}" for one in found if one.micro_batch < asked]
    return "\n".join([head, *text.table(rows, right=frozenset({1, 2, 3, 4, 5})), *less])


def to_dict(found: list[Measured]) -> list[dict[str, Any]]:
    """JSON values."""
    return [asdict(one) for one in found]


def _or_dash(value: Any, written: Callable[[Any], str]) -> str:
    return "-" if value is None else written(value)


def _said(one: Measured, recipe: Recipe) -> str:
    """What there is to know of a stage, in a line."""
    asked = recipe.resources.micro_batch
    if not one.micro_batch:
        return "not even one sample fits in memory: set resources.checkpoint_activations=true"
    speed = f"{one.samples_per_second:,.2f} samples/s with {one.micro_batch} at once"
    if one.micro_batch == asked:
        return speed
    return f"{asked} samples do not fit in memory, resources.micro_batch={one.micro_batch} does: {speed}"


def _stage(
    recipe: Recipe, name: str, stage: StageConfig, config: Any, device: torch.device, steps: int, samples: int
) -> Measured:
    config.image_size = stage.size
    torch.manual_seed(recipe.seed)
    with torch.device(device):
        model = model_class(recipe.architecture)(config)
    run = stage_run(recipe, stage, model, device, WARM_STEPS + steps)
    micro = MicroBatch.of(drawn(recipe, stage, config, samples))
    counts = count_losses(stage, [micro])
    micro = replace(micro, batch=micro.batch.to(device))
    wait = waiter(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    times, line = [], {}
    for step in range(run.steps):
        began = time.perf_counter()
        line = take_step(run, step, [micro], counts)
        wait()
        times.append(time.perf_counter() - began)
    typical = median(times[WARM_STEPS:])
    flops, limit = line["flops"] / typical, peak_flops(device)
    return Measured(
        stage=name,
        micro_batch=samples,
        samples_per_second=line["samples"] / typical,
        flops_per_second=flops,
        mfu=flops / limit if limit else None,
        memory=torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
    )


def stage_run(
    recipe: Recipe,
    stage: StageConfig,
    model: Any,
    device: torch.device,
    steps: int,
    flops: SampleFlops | None = None,
) -> StageRun:
    """The stage on this model, which is on the device already: what `take_step` wants, without data.

    `flops`: what a sample costs; counted if left out.
    """
    peaks = peak_learning_rates(model, stage)
    freeze(model, peaks)
    world = World(0, 1, device)
    return StageRun(
        number=1,
        stage=stage,
        recipe=recipe,
        world=world,
        parallel_model=ParallelModel(model, recipe.resources, world, half=recipe.precision == "bf16"),
        optimizer=build_optimizer(model, peaks, recipe.optimiser),
        batches=None,
        steps=steps,
        sample_flops=flops or sample_flops(model.config, stage),
        normalise=lambda pixels: pixels.permute(0, 3, 1, 2).float() / 255,
        lineage={},
    )


def drawn(recipe: Recipe, stage: StageConfig, config: Any, rows: int) -> TrainBatch:
    """A micro-batch at random: every row has an image, the first one a mask; a quarter of a text is the
    query, its second half the answer.
    """
    length = recipe.data.expected_tokens
    cells = (stage.size // config.stride) ** 2
    generator = torch.Generator().manual_seed(recipe.seed)
    ids = torch.randint(3, config.text_config.vocab_size, (rows, length), generator=generator)
    labels = ids.clone()
    labels[:, : length // 2] = -100
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
        labels=labels,
        query_mask=query,
        pixels=torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8),
        has_image=torch.ones(rows, dtype=torch.bool),
        image_cells=None,
        guided=guided,
        masks=masks if guided[0] else masks[:0],
        weights=torch.ones(rows),
        keys=[f"{row:016x}" for row in range(rows)],
        selection=QuerySelection(query, guided),
        target_places=target_places(labels),
    )
