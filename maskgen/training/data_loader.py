"""From samples to a step's micro-batches, decoded ahead by worker processes; any step can be the first."""

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from maskgen.age_vlm.configuration import VisionLanguageConfig
from maskgen.errors import MaskgenError
from maskgen.runtime.place_errors import translate
from maskgen.training.collate import TrainBatch, collate
from maskgen.training.dataset import Example, ShardDataset
from maskgen.training.distributed import World
from maskgen.training.recipe import Recipe, StageConfig
from maskgen.training.sampler import Schedule


@dataclass(frozen=True)
class RowCounts:
    """What there is to count in one sample: known before its batch is on a device, which need not be asked.

    `targets`: tokens to be learnt; `query_tokens`: those that are guided.
    """

    key: str
    tokens: int
    targets: int
    query_tokens: int
    has_image: bool
    guided: bool


WAIT_SECONDS = 1800.0
"""How long a loader's worker may take for a step's samples before it ends itself. Not DataLoader's `timeout`:
while that runs, nobody looks whether the worker is still there."""


@dataclass(frozen=True)
class MicroBatch:
    """A micro-batch, what there is to count in it, and what was left out of it.

    `rows`: without those that only fill up. `truncated`: texts that lost their end; `unguided`: rows whose
    mask is empty, or whose query has no token, which can guide nothing.
    """

    batch: TrainBatch
    rows: list[RowCounts]
    truncated: int = 0
    unguided: int = 0

    @classmethod
    def of(cls, batch: TrainBatch, truncated: int = 0, unguided: int = 0) -> "MicroBatch":
        """A batch that is on the CPU, counted."""
        columns = (
            batch.weights.bool(),
            batch.attention_mask.sum(dim=1),
            (batch.labels[:, 1:] != -100).sum(dim=1),
            batch.query_mask.sum(dim=1) * batch.guided,
            batch.has_image,
            batch.guided,
        )
        counted = zip(batch.keys, *(column.tolist() for column in columns), strict=True)
        rows = [RowCounts(key, *row) for key, weighs, *row in counted if weighs]
        return cls(batch, rows, truncated, unguided)

    def map(self, move: Callable[[torch.Tensor], torch.Tensor]) -> "MicroBatch":
        """The same with every tensor moved."""
        return replace(self, batch=self.batch.map(move))

    def pin_memory(self) -> "MicroBatch":
        """In memory that a GPU copies from by itself; DataLoader asks for it by this name."""
        return self.map(torch.Tensor.pin_memory)


class StepDataset(Dataset[Any]):
    """Item n is this process's part of step n of the stage, as micro-batches: a pure function of the schedule
    and of the samples.

    Its samples are sorted by length before they are cut into micro-batches, so that little is filled up; the
    longest come first, and later ones fit into the memory that they leave.
    """

    def __init__(
        self,
        samples: ShardDataset,
        epochs: Sequence[Schedule],
        rank: int,
        pad_id: int,
        accumulation_steps: int,
        length_multiple: int = 1,
    ):
        """`epochs`: a schedule for each; `accumulation_steps`: micro-batches a step; `length_multiple`: rows
        are filled up to a whole number of so many tokens, so that few lengths occur.
        """
        self._samples = samples
        self._epochs = list(epochs)
        self._rank = rank
        self._pad_id = pad_id
        self._accumulation_steps = accumulation_steps
        self._length_multiple = length_multiple

    def __len__(self) -> int:
        return len(self._epochs) * int(self._epochs[0].steps)

    def __getitem__(self, step: int) -> list[MicroBatch]:
        # The tail of an epoch is filled up with rows that weigh nothing.
        examples = [self._samples[row] if row >= 0 else None for row in self._rows(step)]
        examples.sort(key=lambda example: -len(example.input_ids) if example else 0)
        size = len(examples) // self._accumulation_steps
        return [self._micro_batch(examples[at : at + size]) for at in range(0, len(examples), size)]

    def single_samples(self, step: int) -> Iterator[TrainBatch]:
        """This process's samples of a step, one at a time."""
        for row in self._rows(step):
            if row >= 0:
                yield collate([_without_unusable_mask(self._samples[row])], self._pad_id)

    def _micro_batch(self, examples: list[Example | None]) -> MicroBatch:
        usable = [_without_unusable_mask(example) for example in examples]
        return MicroBatch.of(
            collate(usable, self._pad_id, self._length_multiple),
            truncated=sum(example.truncated for example in examples if example),
            unguided=sum(
                before.mask is not None and after.mask is None
                for before, after in zip(examples, usable, strict=True)
                if before and after
            ),
        )

    def _rows(self, step: int) -> list[int]:
        epoch, step = divmod(step, int(self._epochs[0].steps))
        parts = (self._epochs[epoch].batch(step, self._rank, n) for n in range(self._accumulation_steps))
        return [row for part in parts for row in part]


class StepLoader:
    """The steps of a stage from `first` on, each as its micro-batches on the device.

    To a GPU they are copied from pinned memory in a stream of their own, beside the step before.
    `wait_seconds`: how long they had to be waited for.
    """

    def __init__(self, steps: StepDataset, first: int, workers: int, device: torch.device):
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.wait_seconds = 0.0
        self._loader: DataLoader[Any] = DataLoader(
            _ErrorsAsItems(steps, WAIT_SECONDS),
            batch_size=None,
            sampler=range(first, len(steps)),
            num_workers=workers,
            prefetch_factor=2 if workers else None,
            worker_init_fn=_init_worker if workers else None,
            collate_fn=_share_memory if workers else None,
            pin_memory=device.type == "cuda",
            # Not a plain fork: the parent may hold threads' locks.
            multiprocessing_context="forkserver" if workers else None,
        )

    def __iter__(self) -> Iterator[list[MicroBatch]]:
        steps = map(_raised, self._loader)
        while True:
            began = time.monotonic()
            step = next(steps, None)
            if step is None:
                return
            moved = [micro.map(self._moved) for micro in step]
            if self._stream is not None:
                torch.cuda.current_stream(self._device).wait_stream(self._stream)
            self.wait_seconds += time.monotonic() - began
            yield moved

    def _moved(self, tensor: torch.Tensor) -> torch.Tensor:
        if self._stream is None:
            return tensor.to(self._device)
        with torch.cuda.stream(self._stream):
            moved = tensor.to(self._device, non_blocking=True)
        # Its memory belongs to the stream it was copied in, and is read in the other one.
        moved.record_stream(torch.cuda.current_stream(self._device))
        return moved


class _ErrorsAsItems(Dataset[Any]):
    """The same items, and in place of one that cannot be made the MaskgenError that says why.

    Raised in a worker, DataLoader would hand it on as its whole traceback, and lose an OSError's number.
    """

    def __init__(self, items: Dataset[Any], seconds: float):
        """`seconds`: a worker that takes longer for an item ends."""
        self._items = items
        self._seconds = seconds

    def __getitem__(self, number: int) -> Any:
        try:
            if get_worker_info() is not None:
                signal.setitimer(signal.ITIMER_REAL, self._seconds)
            return self._items[number]
        except Exception as error:
            said = translate(error)
            if said is None:
                raise
            return said
        finally:
            if get_worker_info() is not None:
                signal.setitimer(signal.ITIMER_REAL, 0)


def _raised(item: Any) -> Any:
    if isinstance(item, MaskgenError):
        raise item
    return item


def gradient_accumulation_steps(recipe: Recipe, world: World) -> int:
    """Micro-batches a step and process. MaskgenError if the batch cannot be shared out evenly."""
    together = recipe.resources.micro_batch * world.size
    if recipe.batch % together:
        raise MaskgenError(
            f"a batch of {recipe.batch} cannot be cut into micro-batches of {recipe.resources.micro_batch} "
            f"on {world.size} processes. Choose resources.micro_batch so that the product divides batch: "
            f"--set resources.micro_batch={_largest_micro_batch(recipe.batch, world.size)}."
        )
    return recipe.batch // together


def cells_per_side(stage: StageConfig, config: VisionLanguageConfig) -> int:
    """Image tokens a side at the stage's size. MaskgenError if that is no multiple of a token's pixels."""
    if stage.size % config.stride:
        raise MaskgenError(
            f"stages.*.size is {stage.size}, but an image token of this model is {config.stride} pixels a "
            f"side. Give a multiple of {config.stride}."
        )
    return int(stage.size // config.stride)


def _without_unusable_mask(example: Example | None) -> Example | None:
    """Without its mask if nothing can be guided by it."""
    if example is None or example.mask is None or (example.mask.any() and any(example.query_mask)):
        return example
    return replace(example, mask=None)


def _largest_micro_batch(batch: int, processes: int) -> int:
    share = max(1, batch // processes)
    return max((size for size in range(1, min(16, share) + 1) if share % size == 0), default=1)


def _share_memory(step: Any) -> Any:  # as DataLoader types it; a list of MicroBatch, or what it failed for
    """Moved to shared memory by the worker itself, where a fault is raised to the trainer.

    The thread that does it otherwise prints the fault, loses the micro-batch, and the trainer waits for ever.
    """
    if isinstance(step, MaskgenError):
        return step
    return [micro.map(torch.Tensor.share_memory_) for micro in step]


def _init_worker(_: int) -> None:
    """Ctrl-C reaches every process of a terminal, but when to stop is for the trainer to decide."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    torch.set_num_threads(1)
