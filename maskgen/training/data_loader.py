"""From samples to a step's micro-batches, decoded ahead by worker processes; any step can be the first."""

import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader, Dataset

from maskgen.errors import MaskgenError
from maskgen.training.collate import collate
from maskgen.training.distributed import World
from maskgen.training.recipe import Recipe, Stage

if TYPE_CHECKING:
    from maskgen.training.collate import Batch
    from maskgen.training.dataset import Example, ShardDataset
    from maskgen.training.sampler import Schedule


@dataclass(frozen=True)
class Micro:
    """A micro-batch, and what was left out of it. `cut`: texts that lost their end; `unguided`: rows whose
    mask
    is empty, or whose query has no token, which can guide nothing."""

    batch: "Batch"
    cut: int
    unguided: int


class MicroBatches(Dataset[Any]):
    """Item n is this process's micro-batch n of the stage: a pure function of the schedule, so resuming is
    seeking.
    """

    def __init__(
        self, samples: "ShardDataset", epochs: "Sequence[Schedule]", rank: int, pad_id: int, each: int
    ):
        """`epochs`: a schedule for each; `each`: micro-batches a step."""
        self._samples = samples
        self._epochs = list(epochs)
        self._rank = rank
        self._pad_id = pad_id
        self._each = each

    def __len__(self) -> int:
        return len(self._epochs) * int(self._epochs[0].steps) * self._each

    def __getitem__(self, number: int) -> Micro:
        rows = self._rows(number)
        # The tail of an epoch is filled up with rows that weigh nothing.
        examples = [self._samples[row] if row >= 0 else None for row in rows]
        guiding = [_guiding(example) for example in examples]
        return Micro(
            batch=collate(guiding, self._pad_id),
            cut=sum(example.cut for example in examples if example),
            unguided=sum(
                before.mask is not None and after.mask is None
                for before, after in zip(examples, guiding, strict=True)
                if before and after
            ),
        )

    def alone(self, step: int) -> Iterator["Batch"]:
        """This process's samples of a step, one at a time."""
        for number in range(step * self._each, (step + 1) * self._each):
            for row in self._rows(number):
                if row >= 0:
                    yield collate([_guiding(self._samples[row])], self._pad_id)

    def _rows(self, number: int) -> list[int]:
        step, micro = divmod(number, self._each)
        epoch, step = divmod(step, int(self._epochs[0].steps))
        return list(self._epochs[epoch].batch(step, self._rank, micro))


class Feed:
    """The steps of a stage from `first` on; `waited` is the time in seconds that the device stood idle for
    data.
    """

    def __init__(self, batches: MicroBatches, each: int, first: int, workers: int, device: torch.device):
        self._each = each
        self._device = device
        self.waited = 0.0
        self._loader: DataLoader[Any] = DataLoader(
            batches,
            batch_size=None,
            sampler=range(first * each, len(batches)),
            num_workers=workers,
            prefetch_factor=2 * each if workers else None,
            worker_init_fn=_quiet if workers else None,
            pin_memory=device.type == "cuda",
            # Not a plain fork: the parent may hold threads' locks.
            multiprocessing_context="forkserver" if workers else None,
        )

    def __iter__(self) -> Iterator[list[Micro]]:
        batches = iter(self._loader)
        while True:
            began = time.monotonic()
            step = [
                replace(micro, batch=micro.batch.to(self._device))
                for _, micro in zip(range(self._each), batches, strict=False)
            ]
            self.waited += time.monotonic() - began
            if not step:
                return
            yield step


def accumulation(recipe: Recipe, world: World) -> int:
    """Micro-batches a step and process. MaskgenError if the batch cannot be shared out evenly."""
    together = recipe.resources.micro_batch * world.size
    if recipe.batch % together:
        raise MaskgenError(
            f"a batch of {recipe.batch} cannot be cut into micro-batches of {recipe.resources.micro_batch} "
            "on "
            f"{world.size} processes. Choose resources.micro_batch so that the product divides batch: "
            f"--set resources.micro_batch={_fitting(recipe.batch, world.size)}."
        )
    return recipe.batch // together


def cells(stage: Stage, config: Any) -> int:
    """Image tokens a side at the stage's size. MaskgenError if the size is no multiple of a token's
    pixels.
    """
    if stage.size % config.stride:
        raise MaskgenError(
            f"stages.*.size is {stage.size}, but an image token of this model is {config.stride} pixels a "
            "side. "
            f"Give a multiple of {config.stride}."
        )
    return int(stage.size // config.stride)


def _guiding(example: "Example | None") -> "Example | None":
    """Without its mask if nothing can be guided by it."""
    if example is None or example.mask is None or (example.mask.any() and any(example.query_mask)):
        return example
    return replace(example, mask=None)


def _fitting(batch: int, processes: int) -> int:
    share = max(1, batch // processes)
    return max((size for size in range(1, min(16, share) + 1) if share % size == 0), default=1)


def _quiet(_: int) -> None:
    """Ctrl-C reaches every process of a terminal; when to stop is the trainer's to say, not a worker's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
