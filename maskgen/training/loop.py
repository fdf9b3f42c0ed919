"""The training loop: stages one after the other, each resumable at every checkpoint. Launchers only start
it.
"""

import contextlib
import math
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from maskgen.errors import MaskgenError
from maskgen.training.checkpoint import Checkpoints, Position
from maskgen.training.cost import Cost
from maskgen.training.data_loader import Feed, Micro, MicroBatches
from maskgen.training.distributed import World
from maskgen.training.losses import Counts, Losses, measure, targets
from maskgen.training.metrics import Bar, Board, Lines, Stopwatch, peak
from maskgen.training.optimizer import clip, factor, set_rate
from maskgen.training.parallel import Wrapped
from maskgen.training.recipe import Recipe, Stage

if TYPE_CHECKING:
    from maskgen.training.collate import Batch


class InterruptedRun(MaskgenError):
    """The user asked to stop; a checkpoint was written, and the same line goes on from it."""

    exit_code = 3


@dataclass
class Leg:
    """One stage on its way: everything that its steps need."""

    number: int
    stage: Stage
    recipe: Recipe
    world: World
    wrapped: Wrapped
    optimiser: torch.optim.Optimizer
    batches: MicroBatches | None
    each: int
    steps: int
    cost: Cost
    normalise: Callable[[torch.Tensor], torch.Tensor]
    lineage: dict[str, Any]


@dataclass(frozen=True)
class Outputs:
    """Where a stage writes while it trains. `metrics`, `board` and `bar` belong to the main process."""

    checkpoints: Checkpoints
    ledger: Lines
    metrics: Lines | None
    board: Board | None
    bar: Bar | None

    def keep(self) -> None:
        """Everything told so far is on the disk."""
        self.ledger.keep()
        if self.metrics:
            self.metrics.keep()

    def close(self) -> None:
        for one in (self.ledger, self.metrics, self.board, self.bar):
            if one is not None:
                one.close()


def train_stage(leg: Leg, first: int, outputs: Outputs, steps_before: int = 0) -> None:
    """Take the steps `first` to `leg.steps` - 1. `steps_before`: those of earlier stages, for TensorBoard's
    axis.

    Raises InterruptedRun, after a checkpoint, when SIGTERM or Ctrl-C arrives at any process.
    """
    assert leg.batches is not None
    resources, watch = leg.recipe.resources, Stopwatch()
    feed = Feed(leg.batches, leg.each, first, resources.workers, leg.world.device)
    with _stop_signals() as asked:
        for step, batches in enumerate(feed, start=first):
            counts, stop = agree(leg, batches, bool(asked))
            if stop:
                _save(leg, step, outputs)
                raise InterruptedRun(
                    f"interrupted in stage {leg.number} before step {step} of {leg.steps}; a checkpoint is "
                    "written. "
                    "Run the same line again to go on."
                )
            line = take_step(leg, step, batches, counts)
            seconds, waited = watch.lap(), feed.waited
            feed.waited = 0.0
            outputs.ledger.add({"stage": leg.number, "step": step, "keys": sample_keys(batches)})
            if outputs.metrics and outputs.bar:
                line |= _speed(leg, line, seconds, waited)
                outputs.metrics.add(line)
                outputs.bar.show(line)
                if outputs.board:
                    outputs.board.add(line, steps_before + step)
            if (step + 1) % resources.checkpoint_steps == 0 and step + 1 < leg.steps:
                _save(leg, step + 1, outputs)
    outputs.keep()


def take_step(leg: Leg, step: int, batches: list[Micro], counts: Counts) -> dict[str, Any]:
    """One optimiser step over the global batch; returns its metrics. MaskgenError if the loss is not
    finite.
    """
    # Every step's randomness follows from its own number: resuming needs no random state.
    torch.manual_seed(hash((leg.recipe.seed, leg.number, step, leg.world.rank)) % 2**63)
    found = accumulate(leg, batches, counts)
    parameters = [one for group in leg.optimiser.param_groups for one in group["params"]]
    norm = float(clip(parameters, leg.recipe.optimiser.clip))
    line = means(leg, step, batches, found, counts) | {"grad_norm": norm}
    if not math.isfinite(line["loss"]) or not math.isfinite(norm):
        raise _not_finite(leg, step, batches)
    set_rate(leg.optimiser, factor(step, leg.steps, leg.recipe.optimiser.warmup))
    leg.optimiser.step()
    leg.optimiser.zero_grad(set_to_none=True)
    return line


def accumulate(leg: Leg, batches: list[Micro], counts: Counts) -> list[Losses]:
    """Gradients of the global batch's mean losses, whatever part of it each process and micro-batch holds.

    Each sum is divided by its count over all processes and micro-batches, so the parts add up to the mean.
    """
    weights = leg.stage.losses
    found = []
    for number, micro in enumerate(batches):
        with leg.wrapped.gathering(last=number == len(batches) - 1):
            losses = forward(leg, micro.batch)
            loss = weights["lm"] * losses.lm / max(1.0, counts.tokens)
            if weights.get("guidance") and losses.mass.ndim:
                loss = loss + weights["guidance"] * losses.guidance / max(1.0, counts.rows * len(losses.mass))
            # Gradients are averaged over processes; what is wanted is their sum.
            (loss * leg.world.size).backward()
        found.append(Losses(losses.lm.detach(), losses.guidance.detach(), losses.floor.detach(), losses.mass))
    return found


def forward(leg: Leg, batch: "Batch") -> Losses:
    """Both losses of one micro-batch, summed."""
    device = leg.world.device.type
    with torch.autocast(device, torch.bfloat16, enabled=leg.recipe.precision == "bf16"):
        output = leg.wrapped.model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            pixel_values=leg.normalise(batch.pixels) if len(batch.pixels) else None,
            has_image=batch.has_image,
            image_cells=batch.image_cells,
            query_mask=batch.query_mask,
            guided=batch.guided if "guidance" in leg.stage.losses else None,
            use_cache=False,
        )
    return measure(output, batch, leg.recipe.guidance.normalise)


def agree(leg: Leg, batches: list[Micro], stop: bool) -> tuple[Counts, bool]:
    """The counts over the global batch, and whether any process was asked to stop."""
    tokens = sum(targets(micro.batch) for micro in batches)
    rows = sum(int(micro.batch.guided.sum()) for micro in batches)
    if "guidance" not in leg.stage.losses:
        rows = 0
    total, guided, stops = leg.world.sum([float(tokens), float(rows), float(stop)])
    return Counts(total, guided), stops > 0


def means(leg: Leg, step: int, batches: list[Micro], found: list[Losses], counts: Counts) -> dict[str, Any]:
    """The step's figures over the global batch, in one exchange between the processes."""
    layers = max((len(losses.mass) for losses in found if losses.mass.ndim), default=0)
    masses = [losses.mass for losses in found if losses.mass.ndim]
    mass = torch.stack(masses).sum(dim=0).tolist() if masses else []
    own = [
        float(sum(losses.lm for losses in found)),
        float(sum(losses.guidance for losses in found)),
        float(sum(losses.floor for losses in found)),
        float(sum(int(micro.batch.attention_mask.sum()) for micro in batches)),
        float(len(sample_keys(batches))),
        float(sum(micro.cut for micro in batches)),
        float(sum(micro.unguided for micro in batches)),
        sum(_flops(leg.cost, micro.batch) for micro in batches),
    ]
    # A process whose rows hold no mask has no layers to tell of.
    most = int(max(leg.world.gather(layers)))
    own += mass or [0.0] * most
    lm, guidance, floor, tokens, samples, cut, empty, flops, *mass = leg.world.sum(own)
    lm /= max(1.0, counts.tokens)
    pairs = counts.rows * most
    weights = leg.stage.losses
    loss = weights["lm"] * lm
    if pairs:
        loss += weights["guidance"] * guidance / pairs
    return {
        "stage": leg.number,
        "step": step,
        "loss": loss,
        "lm": lm,
        "guidance": guidance / pairs if pairs else None,
        "guidance_above_floor": (guidance - floor) / pairs if pairs else None,
        "mass": [value / counts.rows for value in mass] if pairs else [],
        "guided": int(counts.rows),
        "empty_masks": int(empty),
        "cut_texts": int(cut),
        "samples": int(samples),
        "tokens": int(tokens),
        "flops": flops,
        "rate": factor(step, leg.steps, leg.recipe.optimiser.warmup),
    }


def _speed(leg: Leg, line: dict[str, Any], seconds: float, waited: float) -> dict[str, Any]:
    """How fast the step was; MFU counts what the frozen parts really cost, and only where the peak is
    known.
    """
    limit = peak(leg.world.device)
    flops = line["flops"] / seconds
    memory = torch.cuda.max_memory_allocated(leg.world.device) if leg.world.device.type == "cuda" else None
    return {
        "seconds": seconds,
        "samples_per_second": line["samples"] / seconds,
        "tokens_per_second": line["tokens"] / seconds,
        "flops_per_second": flops,
        "mfu": flops / (limit * leg.world.size) if limit else None,
        "data_wait": min(1.0, waited / seconds),
        "memory": memory,
    }


def _flops(cost: Cost, batch: "Batch") -> float:
    lengths = batch.attention_mask.sum(dim=1).tolist()
    asked = (batch.query_mask.sum(dim=1) * batch.guided).tolist()
    seen, weights = batch.has_image.tolist(), batch.weights.tolist()
    return sum(
        cost.of(int(length), bool(image), int(query))
        for length, image, query, weight in zip(lengths, seen, asked, weights, strict=True)
        if weight
    )


def _not_finite(leg: Leg, step: int, batches: list[Micro]) -> MaskgenError:
    """Finds the samples whose own loss is not finite, so that they can be looked at."""
    leg.optimiser.zero_grad(set_to_none=True)
    own = []
    with torch.no_grad():
        for batch in leg.batches.alone(step) if leg.batches else ():
            losses = forward(leg, batch.to(leg.world.device))
            if not bool(torch.isfinite(losses.lm + losses.guidance)):
                own += batch.keys
    culprits = sorted(key for keys in leg.world.gather(own) for key in keys)
    everyone = sorted(key for keys in leg.world.gather(sample_keys(batches)) for key in keys)
    where = f"stage {leg.number}, step {step}"
    if culprits:
        return MaskgenError(
            f"the loss is not finite in {where}, by the samples {', '.join(culprits)}. Look at them with "
            "maskgen show; "
            "the last checkpoint is as it was."
        )
    return MaskgenError(
        f"the loss or its gradient is not finite in {where}, though each sample's own loss is finite. The "
        "step's "
        f"samples: {', '.join(everyone)}. Try a lower lr or precision=fp32; the last checkpoint is as it was."
    )


def sample_keys(batches: list[Micro]) -> list[str]:
    """The samples in hand; rows that only fill up have no weight."""
    return [
        key
        for micro in batches
        for key, weight in zip(micro.batch.keys, micro.batch.weights.tolist(), strict=True)
        if weight
    ]


def _save(leg: Leg, step: int, outputs: Outputs) -> None:
    outputs.keep()
    leg.world.wait()
    outputs.checkpoints.save(Position(leg.number, step), leg.wrapped.bare, leg.optimiser, leg.lineage)


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM; the first asks to stop, a second Ctrl-C stops at once."""
    asked: list[int] = []

    def ask(number: int, _: Any) -> None:
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.append(number)

    before: dict[int, Any] = {}
    with contextlib.suppress(ValueError):  # not the main thread: whoever started it stops it
        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
