"""The steps of one stage: losses, gradients, metrics, checkpoints, and a clean stop on a signal."""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from maskgen.age_vlm.modeling import VlmOutput
from maskgen.errors import MaskgenError
from maskgen.runtime.stop_signals import stop_signals
from maskgen.training.checkpoint import Checkpoints, Position
from maskgen.training.collate import TrainBatch
from maskgen.training.cost import SampleFlops
from maskgen.training.data_loader import MicroBatch, StepDataset, StepLoader
from maskgen.training.distributed import World
from maskgen.training.host_values import HostValues
from maskgen.training.losses import LossCounts, LossSums, compute_losses
from maskgen.training.metrics import JsonLines, ProgressBar, StepTimer, TensorBoardWriter, peak_flops
from maskgen.training.optimizer import clip_gradients, lr_factor, set_learning_rates
from maskgen.training.parallel import ParallelModel
from maskgen.training.recipe import Recipe, StageConfig


class InterruptedRun(MaskgenError):
    """The user asked to stop; a checkpoint was written, and the same line goes on from it."""

    exit_code = 3


@dataclass
class StageRun:
    """Everything that a stage's steps need. `batches` is None where they are made up (`step_benchmark`)."""

    number: int
    stage: StageConfig
    recipe: Recipe
    world: World
    parallel_model: ParallelModel
    optimizer: torch.optim.Optimizer
    batches: StepDataset | None
    steps: int
    sample_flops: SampleFlops
    normalise: Callable[[torch.Tensor], torch.Tensor]
    lineage: dict[str, Any]


@dataclass(frozen=True)
class Outputs:
    """Where a stage writes while it trains. All but `checkpoints` and `ledger` belong to the main process."""

    checkpoints: Checkpoints
    ledger: JsonLines
    metrics: JsonLines | None
    tensorboard: TensorBoardWriter | None
    progress_bar: ProgressBar | None

    def sync(self) -> None:
        """Return once everything written so far is on the disk."""
        self.ledger.sync()
        if self.metrics:
            self.metrics.sync()

    def close(self) -> None:
        for one in (self.ledger, self.metrics, self.tensorboard, self.progress_bar):
            if one is not None:
                one.close()


@dataclass(frozen=True)
class TakenStep:
    """A step that the device is at or has done. `values`: its sums of lm, guidance and floor, the gradient's
    norm, and the mass of each layer.
    """

    number: int
    batches: list[MicroBatch]
    counts: LossCounts
    values: HostValues


def train_stage(run: StageRun, first: int, outputs: Outputs, steps_before: int = 0) -> None:
    """Take the steps `first` to `run.steps` - 1; `steps_before`, those of earlier stages, is for TensorBoard.

    On a GPU a step's figures are looked at when the next one has been asked for: it never stands still.

    Raises InterruptedRun, after a checkpoint, when SIGTERM or Ctrl-C arrives at any process.
    """
    assert run.batches is not None
    resources, timer = run.recipe.resources, StepTimer()
    loader = StepLoader(run.batches, first, resources.workers, run.world.device)

    def report(taken: TakenStep) -> None:
        line = finish_step(run, taken)
        seconds, wait_seconds = timer.lap(), loader.wait_seconds
        loader.wait_seconds = 0.0
        outputs.ledger.add({"stage": run.number, "step": taken.number, "keys": sample_keys(taken.batches)})
        if outputs.metrics and outputs.progress_bar:
            line |= _throughput(run, line, seconds, wait_seconds)
            outputs.metrics.add(line)
            outputs.progress_bar.update(line)
            if outputs.tensorboard:
                outputs.tensorboard.add(line, steps_before + taken.number)

    unreported: list[TakenStep] = []
    with stop_signals() as signals:
        for step, batches in enumerate(loader, start=first):
            counts, stop = global_counts(run, batches, bool(signals))
            if stop:
                _report_all(unreported, report)
                _save_checkpoint(run, step, outputs)
                raise InterruptedRun(
                    f"interrupted in stage {run.number} before step {step} of {run.steps}; a checkpoint is "
                    "written. Run the same line again to go on."
                )
            unreported.append(begin_step(run, step, batches, counts))
            saves = (step + 1) % resources.checkpoint_steps == 0 and step + 1 < run.steps
            _report_all(unreported, report, but=1 if run.world.device.type == "cuda" and not saves else 0)
            if saves:
                _save_checkpoint(run, step + 1, outputs)
        _report_all(unreported, report)
    outputs.sync()


def _report_all(unreported: list[TakenStep], report: Callable[[TakenStep], None], but: int = 0) -> None:
    """All steps but the last `but`."""
    while len(unreported) > but:
        report(unreported.pop(0))


def take_step(run: StageRun, step: int, batches: list[MicroBatch], counts: LossCounts) -> dict[str, Any]:
    """One optimizer step over the global batch, to its metrics. MaskgenError if the loss is not finite."""
    return finish_step(run, begin_step(run, step, batches, counts))


def begin_step(run: StageRun, step: int, batches: list[MicroBatch], counts: LossCounts) -> TakenStep:
    """Ask the device for a step. Of a gradient that is not finite nothing gets into the weights."""
    torch.manual_seed(step_seed(run.recipe.seed, run.number, step, run.world.rank))
    losses = accumulate(run, batches, counts)
    parameters = [parameter for group in run.optimizer.param_groups for parameter in group["params"]]
    norm = clip_gradients(parameters, run.recipe.optimiser.clip)
    masses = [one.mass for one in losses if one.mass.ndim]
    sums = [sum_of(losses, name) for name in ("lm", "guidance", "floor")]
    values = torch.cat([torch.stack([*sums, norm]), *([torch.stack(masses).sum(dim=0)] if masses else [])])
    taken = TakenStep(step, batches, counts, HostValues(values))
    if run.world.device.type == "cuda":
        # The fused optimizer leaves everything as it is where this says so: the host need not look.
        run.optimizer.found_inf = (~norm.isfinite()).float()  # type: ignore[attr-defined]
    else:
        _refuse_non_finite(run, taken)
    set_learning_rates(run.optimizer, lr_factor(step, run.steps, run.recipe.optimiser.warmup))
    run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)
    run.parallel_model.update()
    return taken


def finish_step(run: StageRun, taken: TakenStep) -> dict[str, Any]:
    """The step's metrics, waiting for it. MaskgenError if the loss or the gradient was not finite."""
    if run.world.device.type == "cuda":
        _refuse_non_finite(run, taken)
    return step_metrics(run, taken)


def sum_of(losses: list[LossSums], name: str) -> torch.Tensor:
    """One of the sums over all micro-batches."""
    return torch.stack([getattr(one, name) for one in losses]).sum()


def step_seed(seed: int, stage: int, step: int, rank: int) -> int:
    """The seed of one step in one process: resuming needs no random state."""
    digest = hashlib.blake2b(f"{seed} {stage} {step} {rank}".encode(), digest_size=8).digest()
    return int.from_bytes(digest)


def accumulate(run: StageRun, batches: list[MicroBatch], counts: LossCounts) -> list[LossSums]:
    """Gradients of the global batch's mean losses, whatever part of it each process and micro-batch holds.

    Each sum is divided by its count over all processes and micro-batches, so the parts add up to the mean.
    """
    sums = []
    for number, micro in enumerate(batches):
        with run.parallel_model.gradient_sync(last=number == len(batches) - 1):
            losses = forward(run, micro.batch)
            weighed_loss(run, losses, counts).backward()
        sums.append(
            LossSums(losses.lm.detach(), losses.guidance.detach(), losses.floor.detach(), losses.mass)
        )
    return sums


def weighed_loss(run: StageRun, losses: LossSums, counts: LossCounts) -> torch.Tensor:
    """What a micro-batch adds to the global batch's loss, a scalar for `backward`."""
    weights = run.stage.losses
    loss = weights["lm"] * losses.lm / max(1.0, counts.tokens)
    if weights.get("guidance") and losses.mass.ndim:
        loss = loss + weights["guidance"] * losses.guidance / max(1.0, counts.rows * len(losses.mass))
    # Gradients are averaged over processes; what is wanted is their sum.
    return loss * run.world.size


def forward(run: StageRun, batch: TrainBatch) -> LossSums:
    """Both losses of one micro-batch, summed."""
    return compute_losses(model_output(run, batch), batch, run.recipe.guidance.normalise)


def model_output(run: StageRun, batch: TrainBatch) -> VlmOutput:
    """The model's forward pass in the recipe's precision."""
    parallel = run.parallel_model
    with torch.autocast(run.world.device.type, torch.bfloat16, enabled=parallel.autocasts):
        output: VlmOutput = run.parallel_model.model(
            input_ids=batch.input_ids,
            # None is needed: rows are filled up at the right, and no token looks there.
            pixel_values=run.normalise(batch.pixels).to(parallel.dtype) if len(batch.pixels) else None,
            has_image=batch.image_rows,
            image_cells=batch.image_cells,
            query_selection=batch.selection if "guidance" in run.stage.losses else None,
            logits_at=batch.target_places,
            use_cache=False,
        )
    return output


def global_counts(run: StageRun, batches: list[MicroBatch], stop: bool) -> tuple[LossCounts, bool]:
    """The counts over the global batch, and whether any process was asked to stop."""
    own = count_losses(run.stage, batches)
    total, guided, stops = run.world.sum([own.tokens, own.rows, float(stop)])
    return LossCounts(total, guided), stops > 0


def count_losses(stage: StageConfig, batches: list[MicroBatch]) -> LossCounts:
    """What this process's losses are of."""
    rows = [row for micro in batches for row in micro.rows]
    guided = sum(row.guided for row in rows) if "guidance" in stage.losses else 0
    return LossCounts(float(sum(row.targets for row in rows)), float(guided))


def step_metrics(run: StageRun, taken: TakenStep) -> dict[str, Any]:
    """The step's figures over the global batch, in one exchange between the processes."""
    step, batches, counts = taken.number, taken.batches, taken.counts
    lm, guidance, floor, norm, *mass = taken.values.tolist()
    layers = len(mass)
    rows = [row for micro in batches for row in micro.rows]
    own = [
        lm,
        guidance,
        floor,
        float(sum(row.tokens for row in rows)),
        float(len(rows)),
        float(sum(micro.truncated for micro in batches)),
        float(sum(micro.unguided for micro in batches)),
        sum(run.sample_flops.of(row.tokens, row.has_image, row.query_tokens, row.targets) for row in rows),
    ]
    # A process whose rows hold no mask has seen no layer.
    layers = int(max(run.world.gather(layers)))
    own += mass or [0.0] * layers
    lm, guidance, floor, tokens, samples, truncated, empty, flops, *mass = run.world.sum(own)
    lm /= max(1.0, counts.tokens)
    pairs = counts.rows * layers
    weights = run.stage.losses
    loss = weights["lm"] * lm
    if pairs:
        loss += weights["guidance"] * guidance / pairs
    return {
        "stage": run.number,
        "step": step,
        "loss": loss,
        "lm": lm,
        "guidance": guidance / pairs if pairs else None,
        "guidance_above_floor": (guidance - floor) / pairs if pairs else None,
        "mass": [value / counts.rows for value in mass] if pairs else [],
        "guided": int(counts.rows),
        "empty_masks": int(empty),
        "cut_texts": int(truncated),
        "samples": int(samples),
        "tokens": int(tokens),
        "flops": flops,
        "rate": lr_factor(step, run.steps, run.recipe.optimiser.warmup),
        "grad_norm": norm,
    }


def _throughput(run: StageRun, line: dict[str, Any], seconds: float, wait_seconds: float) -> dict[str, Any]:
    """How fast the step was; MFU counts what frozen parts really cost, where the device's peak is known."""
    limit = peak_flops(run.world.device)
    flops = line["flops"] / seconds
    memory = torch.cuda.max_memory_allocated(run.world.device) if run.world.device.type == "cuda" else None
    return {
        "seconds": seconds,
        "samples_per_second": line["samples"] / seconds,
        "tokens_per_second": line["tokens"] / seconds,
        "flops_per_second": flops,
        "mfu": flops / (limit * run.world.size) if limit else None,
        "data_wait": min(1.0, wait_seconds / seconds),
        "memory": memory,
    }


def _refuse_non_finite(run: StageRun, taken: TakenStep) -> None:
    """MaskgenError, in every process, if the global batch's loss or its gradient is not finite."""
    lm, guidance, _, norm, *_ = taken.values.tolist()
    if not all(map(math.isfinite, run.world.sum([lm, guidance, norm]))):
        raise _non_finite_error(run, taken.number, taken.batches)


def _non_finite_error(run: StageRun, step: int, batches: list[MicroBatch]) -> MaskgenError:
    """Finds the samples whose own loss is not finite, so that they can be looked at.

    On a GPU the step after it may have been taken; none of both is in a checkpoint.
    """
    run.optimizer.zero_grad(set_to_none=True)
    own = []
    with torch.no_grad():
        for batch in run.batches.single_samples(step) if run.batches else ():
            losses = forward(run, batch.to(run.world.device))
            if not bool(torch.isfinite(losses.lm + losses.guidance)):
                own += batch.keys
    culprits = sorted(key for keys in run.world.gather(own) for key in keys)
    everyone = sorted(key for keys in run.world.gather(sample_keys(batches)) for key in keys)
    where = f"stage {run.number}, step {step}"
    if culprits:
        return MaskgenError(
            f"the loss is not finite in {where}, by the samples {', '.join(culprits)}. Look at them with "
            "maskgen show; the last checkpoint is as it was."
        )
    return MaskgenError(
        f"the loss or its gradient is not finite in {where}, though each sample's own loss is finite. The "
        f"step's samples: {', '.join(everyone)}. Try a lower lr or precision=fp32; the "
        "last checkpoint is as it was."
    )


def sample_keys(batches: list[MicroBatch]) -> list[str]:
    """The keys of the step's samples, without the rows that only fill up."""
    return [row.key for micro in batches for row in micro.rows]


def _save_checkpoint(run: StageRun, step: int, outputs: Outputs) -> None:
    outputs.sync()
    run.world.wait()
    outputs.checkpoints.save(
        Position(run.number, step), run.parallel_model.module, run.optimizer, run.lineage
    )
