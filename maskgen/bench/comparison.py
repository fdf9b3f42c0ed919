"""`maskgen bench` from the request to the report."""

import resource
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median

import numpy as np
import torch

from maskgen.bench import ceilings, random_checkpoints, workload
from maskgen.bench.answer_lengths import Lengths
from maskgen.bench.bench_report import Agreement, Overhead, Report, WayReport
from maskgen.bench.methods import Pipeline, Way, ways
from maskgen.bench.part_times import FORWARDS, Stopwatch, clocks, waiter
from maskgen.bench.script_baseline import Answers
from maskgen.bench.workload import Workload

Say = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """What to measure.

    `large`: full size with random weights, whose answers are `tokens` long on average; otherwise the models
    that `overrides` of the demo's pipeline name. `scripted`: images that the scripts ground, the first ones;
    `batch`: of the script that batches. `flops`, `bandwidth`: of the device, where they are known. 0 stands
    for all images, and for measuring.
    """

    images: int = 64
    rounds: int = 3
    device: str = "cpu"
    dtype: str = "float32"
    scripted: int = 0
    batch: int = 16
    large: bool = False
    tokens: int = 150
    overrides: list[str] = field(default_factory=list)
    flops: float = 0.0
    bandwidth: float = 0.0


def run(request: Request, say: Say) -> Report:
    """Draw, load, measure. MaskgenError where a model cannot be loaded."""
    with tempfile.TemporaryDirectory(prefix="maskgen-bench-") as name:
        prepared = _prepare(request, Path(name), say)
        say("loading the models")
        scripted = request.scripted or request.images, request.batch
        four, engine = ways(prepared, _planned(prepared, Path(name)), request.device, scripted)
        return _measure(request, prepared, four, engine, say)


def _prepare(request: Request, folder: Path, say: Say) -> Workload:
    """Scenes, weights and plan."""
    say(f"drawing {request.images} scenes")
    lengths = Lengths(request.tokens) if request.large else None
    workload.draw(folder / "data", request.images, request.large, lengths)
    overrides = [f"proposer.dtype={request.dtype}", f"refiner.dtype={request.dtype}", *request.overrides]
    if lengths:
        say("making random weights of full size")
        texts = workload.questions(folder / "data")
        overrides += random_checkpoints.write(
            folder / "models", getattr(torch, request.dtype), lengths, texts
        )
    return workload.plan(workload.pipeline(overrides, request.images), folder / "data", folder / "plan")


def _planned(prepared: Workload, folder: Path) -> Callable[[str], str]:
    def planned(engine: str) -> str:
        workload.plan(prepared.config, prepared.data, folder / engine)
        return str(folder / engine)

    return planned


def _measure(request: Request, prepared: Workload, four: list[Way], engine: Pipeline, say: Say) -> Report:
    device = torch.device(request.device)
    seconds: dict[str, list[float]] = {way.name: [] for way in four}
    processor: dict[str, list[float]] = {way.name: [] for way in four}
    memory = dict.fromkeys(seconds, 0)
    parts, answers = {}, {}
    for way in four:  # also warms everything up
        say(f"{way.name}: {way.what}")
        way.run()
        answers[way.name] = way.answers()
        parts[way.name] = _watched(way, device)
    forwards, forwards_processor = [], []
    for number in range(request.rounds):
        say(f"round {number + 1} of {request.rounds}")
        for way in four:
            took, used, peak = _timed(way, device)
            seconds[way.name].append(took)
            processor[way.name].append(used)
            memory[way.name] = max(memory[way.name], peak)
        last = _watched(four[-1], device)
        forwards.append(sum(last.seconds[part] for part in FORWARDS))
        forwards_processor.append(sum(last.processor[part] for part in FORWARDS))
    reference = answers[four[-2].name]
    tokens = mean(reference.tokens)
    bound = _limit(request, prepared, engine, tokens, mean(reference.polygons))
    return Report(
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        threads=torch.get_num_threads(),
        dtype=request.dtype,
        images=request.images,
        rounds=request.rounds,
        weights="random, at full size" if request.large else "as the checkpoints have them",
        lengths=str(Lengths(request.tokens)) if request.large else "",
        beams=engine.beams,
        slots=engine.slots,
        machine=bound[1],
        work=bound[0],
        limit=ceilings.limit(*bound, tokens, engine.slots, mean(reference.polygons)),
        ways=[
            WayReport(
                name=way.name,
                what=way.what,
                seconds=seconds[way.name],
                processor_seconds=processor[way.name],
                images=way.images,
                tokens=mean(answers[way.name].tokens),
                memory=memory[way.name] if device.type == "cuda" else None,
                parts=parts[way.name].seconds,
                processor_parts=parts[way.name].processor,
                agreement=agreement(answers[way.name], reference),
            )
            for way in four
        ],
        overhead=Overhead(
            median(seconds[four[-1].name]),
            median(forwards),
            median(processor[four[-1].name]),
            median(forwards_processor),
        ),
        process_memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )


def _watched(way: Way, device: torch.device) -> Stopwatch:
    watch = Stopwatch(waiter(device))
    way.watch(watch)
    return watch


def _timed(way: Way, device: torch.device) -> tuple[float, float, int]:
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
    request: Request, prepared: Workload, engine: Pipeline, tokens: float, prompts: float
) -> tuple[ceilings.Work, ceilings.Machine]:
    device, dtype = torch.device(request.device), getattr(torch, request.dtype)
    found = ceilings.machine(device, dtype)
    shape = engine.side, round(engine.prompt), round(tokens)
    assert prepared.config.refiner.kind == "sam"
    work = ceilings.work(engine.florence, prepared.config.refiner, dtype, shape, engine.beams)
    return work, ceilings.Machine(request.flops or found.flops, request.bandwidth or found.bandwidth)


def agreement(found: Answers, reference: Answers) -> Agreement:
    """How far masks are those of the reference's first images; two empty ones are the same."""
    ious, same = [], 0
    for one, other in zip(found.masks, reference.masks, strict=False):
        alike = one.shape == other.shape
        same += alike and bool(np.array_equal(one, other))
        union = np.count_nonzero(one | other) if alike else 1
        ious.append(np.count_nonzero(one & other) / union if union and alike else float(alike))
    return Agreement(mean(ious), min(ious), same)
