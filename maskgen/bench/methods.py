"""Four ways from image files to masks, over the same images and weights."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from maskgen.bench import script_baseline
from maskgen.bench.script_baseline import BenchAnswers
from maskgen.bench.workload import Workload
from maskgen.config import Config, settled
from maskgen.pipeline.worker import Job, ShardWorker, Task, chunk_size
from maskgen.pixels import decode
from maskgen.runtime.spans import span
from maskgen.runtime.store import Store
from maskgen.sharding.reader import read_shard
from maskgen.sources.images import ImageRoot

FINGERPRINT = "bench"


@dataclass(frozen=True)
class Way:
    """One way.

    `run`: all its `images`, for the clock alone; `answers`: what the last run found; `watch`: all of them
    once more, one thing after the other, for who records the spans; `bytes`: of its weights.
    """

    name: str
    what: str
    images: int
    run: Callable[[], None]
    answers: Callable[[], BenchAnswers]
    watch: Callable[[], None]
    bytes: int


class Pipeline:
    """maskgen's own worker over a plan of one shard: from the plan to the committed shard."""

    def __init__(self, settings: Config, workload: Workload, out: str, device: str):
        """`out`: the folder with the plan."""
        self._workload = workload
        self._config = settings
        self._store = Store(out)
        self.worker = ShardWorker(Job(settings, str(workload.data), out, FINGERPRINT), "bench", device)
        self.grounder: Any = self.worker.grounder
        self._images = ImageRoot(str(workload.data), settings.limits.image_bytes)

    def way(self, name: str, what: str) -> Way:
        """As one of the four."""
        images = len(self._workload.samples)
        return Way(name, what, images, self.run, self.answers, self.watch, self.weights())

    def run(self) -> None:
        """Make the shard."""
        self.worker.make(Task(0, {}))

    def answers(self) -> BenchAnswers:
        """What is in the shard; a sample that failed has an empty mask of one pixel."""
        found = {sample.key: sample for sample in read_shard(self._store, 0)}
        samples = [found.get(sample.key) for sample in self._workload.samples]
        return BenchAnswers(
            [one.mask_pixels() if one else np.zeros((1, 1), dtype=bool) for one in samples],
            [one.fields.tokens if one else 0 for one in samples],
            [len(one.polygons) if one else 0 for one in samples],
        )

    def watch(self) -> None:
        """The worker's batches, in one thread, written nowhere."""
        size = chunk_size(self.grounder.config)
        samples = self._workload.samples
        with _one_after_another(self.grounder.proposer), span("geometry"):
            for begin in range(0, len(samples), size):
                chunk = samples[begin : begin + size]
                with span("read", host=True):
                    pictures = [decode(self._images.read(sample), self._config.limits) for sample in chunk]
                self.grounder.ground(pictures, chunk)

    @property
    def beams(self) -> int:
        """Of Florence-2's search."""
        return int(self.grounder.proposer.generation.num_beams)

    @property
    def dtype(self) -> str:
        """Of Florence-2's weights; SAM's may be another."""
        return str(self.grounder.config.proposer.dtype)

    @property
    def slots(self) -> int:
        """Answers in flight."""
        return min(settled(self.grounder.config.proposer.slots), len(self._workload.samples))

    @property
    def florence(self) -> Any:
        """Florence-2's configuration."""
        return self.grounder.proposer.model.config

    @property
    def side(self) -> int:
        """Pixels a side of Florence-2's input."""
        return int(self.grounder.proposer.processor.image_processor.size["height"])

    @property
    def prompt(self) -> float:
        """Tokens of Florence-2's encoder, image tokens included, on average."""
        prompts = [self.grounder.proposer.prompt(one.query.text)[0] for one in self._workload.samples]
        return sum(map(len, prompts)) / len(prompts)

    def weights(self) -> int:
        """Bytes of both models' weights."""
        models = self.grounder.proposer.model, self.grounder.refiner.sam
        return sum(
            weight.numel() * weight.element_size() for model in models for weight in model.parameters()
        )


@contextmanager
def _one_after_another(proposer: Any) -> Iterator[None]:
    """Inside, a GPU does not encode while it decodes, so that no part's time is in another's too."""
    if proposer.generator is None:
        yield
        return
    before, proposer.generator.prefetch = proposer.generator.prefetch, 0
    try:
        yield
    finally:
        proposer.generator.prefetch = before


class Scripted:
    """A script over the first files, on the weights that a pipeline has loaded."""

    def __init__(self, pipeline: Pipeline, workload: Workload, images: int, batch: int):
        self._bytes = pipeline.weights()
        proposer: Any = pipeline.grounder.proposer
        samples = workload.samples[:images]
        self._paths = [workload.path(sample) for sample in samples]
        self._queries = [sample.query.text for sample in samples]
        self._script = script_baseline.ScriptBaseline(
            proposer.model,
            proposer.processor,
            proposer.generation,
            pipeline.grounder.refiner.sam,
            workload.config.grid.cells,
            batch,
        )
        self._found = BenchAnswers([], [], [])

    def way(self, name: str, what: str) -> Way:
        """As one of the four."""
        return Way(name, what, len(self._paths), self.run, lambda: self._found, self.watch, self._bytes)

    def run(self) -> None:
        """Ground all images."""
        self._found = self._script.ground(self._paths, self._queries)

    def watch(self) -> None:
        """The same, for its parts."""
        self.run()


def ways(
    workload: Workload, out: Callable[[str], str], device: str, scripted: tuple[int, int]
) -> tuple[list[Way], Pipeline]:
    """The four of them, and the engine's pipeline.

    `out`: a folder with the plan, by the engine's name. `scripted`: images that the scripts ground, and how
    many of them the second one gives to `generate` at a time.
    """
    plain, engine = (
        Pipeline(_with_engine(workload.config, name), workload, out(name), device)
        for name in ("reference", "fast")
    )
    images, batch = scripted
    alone, batches = Scripted(plain, workload, images, 1), Scripted(plain, workload, images, batch)
    return [
        alone.way("a script", "generate, then SamPredictor, an image at a time"),
        batches.way("b batches", f"generate {batch} at a time, SAM's encoder too"),
        plain.way("c reference", "maskgen with both engines reference, from plan to shard"),
        engine.way("d engine", "maskgen as it comes, from plan to shard"),
    ], engine


def _with_engine(settings: Config, engine: str) -> Config:
    parts = {"proposer": settings.proposer, "refiner": settings.refiner}
    return settings.model_copy(
        update={name: part.model_copy(update={"engine": engine}) for name, part in parts.items()}
    )
