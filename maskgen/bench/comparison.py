"""`maskgen bench` from the request to the report."""

import resource
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median

import numpy as np
import torch

from maskgen.bench import ceilings, random_checkpoints, workload
from maskgen.bench.answer_lengths import Lengths
from maskgen.bench.bench_report import Agreement, BenchReport, Overhead, WayReport
from maskgen.bench.device_peaks import Machine, measure_machine
from maskgen.bench.methods import Pipeline, Way, ways
from maskgen.bench.part_times import FORWARDS, PartTimes, part_times
from maskgen.bench.script_baseline import BenchAnswers
from maskgen.bench.workload import Workload
from maskgen.config import Florence2
from maskgen.errors import MaskgenError
from maskgen.grounding.auto_settings import in_words, resolve
from maskgen.runtime.clock import clocks, waiter
from maskgen.runtime.device import device_name

INTERRUPTED = "interrupted"

Say = Callable[[str], None]


@dataclass(frozen=True)
class BenchRequest:
    """What to measure.

    `large`: full size with random weights, whose answers are `tokens` long on average; otherwise the models
    that `overrides` of the demo's pipeline name. `scripted`: images that the scripts ground, the first ones;
    `batch`: of the script that batches. `flops`, `bandwidth`: of the device, where they are known.
    `seconds`: after which no more is measured. 0 stands for all images, for measuring, and for no such limit.
    """

    images: int = 64
    rounds: int = 3
    device: str = "cpu"
    scripted: int = 0
    batch: int = 16
    large: bool = False
    tokens: int = 150
    overrides: list[str] = field(default_factory=list)
    flops: float = 0.0
    bandwidth: float = 0.0
    seconds: float = 0.0


@dataclass
class WayTimes:
    """What is known of a way so far. `seconds`, `processor`: of its rounds; `memory`: bytes at most; the
    others: from the pass that warms up.
    """

    way: Way
    answers: BenchAnswers | None = None
    parts: PartTimes | None = None
    seconds: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    memory: int = 0


@dataclass
class ForwardTimes:
    """Of the models' forward passes alone, a round: seconds by the clock, and of processor time."""

    seconds: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)


def run_benchmark(request: BenchRequest, say: Say) -> BenchReport:
    """Draw, load, measure. Ctrl-C or the end of `request.seconds` ends the measuring, not the report.

    MaskgenError where a model cannot be loaded, and where the time is over before there is anything to say.
    """
    with tempfile.TemporaryDirectory(prefix="maskgen-bench-") as name:
        prepared = _prepare(request, Path(name), say)
        say("loading the models")
        scripted = request.scripted or request.images, request.batch
        compared, engine = ways(prepared, _planner(prepared, Path(name)), request.device, scripted)
        return _measure(request, prepared, compared, engine, say)


def _prepare(request: BenchRequest, folder: Path, say: Say) -> Workload:
    """Scenes, weights and plan."""
    say(f"drawing {request.images} scenes")
    lengths = Lengths(request.tokens) if request.large else None
    workload.write_data(folder / "data", request.images, request.large, lengths)
    overrides = request.overrides
    if lengths:
        say("making random weights of full size")
        # The shipped defaults: the demo's pipeline has settings for its small models.
        overrides = ["proposer={kind: florence2}", "refiner={kind: sam}", *overrides]
        settings = resolve(workload.pipeline_config(overrides, request.images), request.device)
        assert isinstance(settings.proposer, Florence2)
        dtype, texts = getattr(torch, settings.proposer.dtype), workload.questions(folder / "data")
        overrides += random_checkpoints.write_checkpoints(folder / "models", dtype, lengths, texts)
    return workload.plan_workload(
        workload.pipeline_config(overrides, request.images), folder / "data", folder / "plan"
    )


def _planner(prepared: Workload, folder: Path) -> Callable[[str], str]:
    def planned(engine: str) -> str:
        workload.plan_workload(prepared.config, prepared.data, folder / engine)
        return str(folder / engine)

    return planned


def _measure(
    request: BenchRequest, prepared: Workload, compared: list[Way], engine: Pipeline, say: Say
) -> BenchReport:
    """Everything in turn; what is worth most comes first, for whoever stops it."""
    measured, forwards, cut = [WayTimes(way) for way in compared], ForwardTimes(), ""
    try:
        with _time_limit(request.seconds):
            _measure_ways(request, measured[::-1], forwards, say)
    except _TimeIsOver:
        cut = f"{request.seconds:g} seconds were over"
    except KeyboardInterrupt:
        cut = INTERRUPTED
    if not any(one.answers for one in measured[-2:]):
        raise MaskgenError(f"{cut} before maskgen's own way was through once. Ask for fewer --images.")
    return _report(request, prepared, engine, measured, forwards, cut)


def _measure_ways(request: BenchRequest, measured: list[WayTimes], forwards: ForwardTimes, say: Say) -> None:
    """Fill in `measured` and `forwards`, whose ways are measured in this order; the first is the engine's."""
    device = torch.device(request.device)
    for one in measured:  # also warms everything up
        say(f"{one.way.name}: {one.way.what}")
        one.way.run()
        one.parts = time_parts(one.way, device)
        one.answers = one.way.answers()
    for number in range(request.rounds):
        say(f"round {number + 1} of {request.rounds}")
        for one in measured:
            took, used, peak = time_run(one.way, device)
            one.seconds.append(took)
            one.processor.append(used)
            one.memory = max(one.memory, peak)
            say(f"  {one.way.name}: {one.way.images / took:,.2f} images/s")
        last = time_parts(measured[0].way, device)
        forwards.seconds.append(sum(last.seconds[part] for part in FORWARDS))
        forwards.processor.append(sum(last.processor[part] for part in FORWARDS))


class _TimeIsOver(KeyboardInterrupt):
    """The time is over. Like Ctrl-C, nothing that handles a sample's failure catches it."""


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raises `_TimeIsOver` inside when the seconds are over; 0: never."""

    def expire(*_: object) -> None:
        raise _TimeIsOver

    previous = signal.signal(signal.SIGALRM, expire) if seconds else None
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        if seconds:
            signal.signal(signal.SIGALRM, previous)


def _report(
    request: BenchRequest,
    prepared: Workload,
    engine: Pipeline,
    measured: list[WayTimes],
    forwards: ForwardTimes,
    cut: str,
) -> BenchReport:
    device = torch.device(request.device)
    reference, own = (one.answers for one in measured[-2:])
    known = reference or own
    assert known is not None
    tokens, prompts = mean(known.tokens), mean(known.polygons)
    bound = _limit(request, prepared, engine, tokens, prompts)
    last = measured[-1]
    return BenchReport(
        device=device_name(device),
        threads=torch.get_num_threads(),
        dtype=engine.dtype,
        settings=in_words(engine.grounder.config),
        images=request.images,
        rounds=request.rounds,
        cut=cut,
        weights="random, at full size" if request.large else "as the checkpoints have them",
        lengths=str(Lengths(request.tokens)) if request.large else "",
        beams=engine.beams,
        slots=engine.slots,
        machine=bound[1],
        work=bound[0],
        limit=ceilings.compute_limit(*bound, tokens, engine.slots, prompts),
        ways=[
            WayReport(
                name=one.way.name,
                what=one.way.what,
                seconds=one.seconds,
                processor_seconds=one.processor,
                images=one.way.images,
                tokens=mean(one.answers.tokens),
                memory=one.memory if device.type == "cuda" else None,
                parts=one.parts.seconds,
                processor_parts=one.parts.processor,
                agreement=agreement(one.answers, reference) if reference else None,
            )
            for one in measured
            if one.answers and one.parts
        ],
        overhead=Overhead(
            median(last.seconds),
            median(forwards.seconds),
            median(last.processor),
            median(forwards.processor),
        )
        if forwards.seconds
        else None,
        process_memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )


def time_parts(way: Way, device: torch.device) -> PartTimes:
    """Seconds of each part in a pass of its own."""
    return part_times(way.watch, device)


def time_run(way: Way, device: torch.device) -> tuple[float, float, int]:
    """Seconds of a run by the clock and of processor time, and on a GPU the bytes that it had at most, its
    weights included."""
    wait = waiter(device)
    others = 0
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        others = torch.cuda.memory_allocated(device) - way.bytes
    wait()
    began, idle = clocks()
    way.run()
    wait()
    ended, used = clocks()
    peak = torch.cuda.max_memory_allocated(device) - others if device.type == "cuda" else 0
    return ended - began, used - idle, peak


def _limit(
    request: BenchRequest, prepared: Workload, engine: Pipeline, tokens: float, prompts: float
) -> tuple[ceilings.ImageCost, Machine]:
    device, dtype = torch.device(request.device), getattr(torch, engine.dtype)
    found = measure_machine(device, dtype)
    shape = engine.side, round(engine.prompt), round(tokens)
    assert prepared.config.refiner.kind == "sam"
    work = ceilings.count_cost(engine.florence, prepared.config.refiner, dtype, shape, engine.beams)
    return work, Machine(request.flops or found.flops, request.bandwidth or found.bandwidth)


def agreement(found: BenchAnswers, reference: BenchAnswers) -> Agreement:
    """How far masks are those of the reference's first images; two empty ones are the same."""
    ious, same = [], 0
    for one, other in zip(found.masks, reference.masks, strict=False):
        alike = one.shape == other.shape
        same += alike and bool(np.array_equal(one, other))
        union = np.count_nonzero(one | other) if alike else 1
        ious.append(np.count_nonzero(one & other) / union if union and alike else float(alike))
    return Agreement(mean(ious), min(ious), same)
