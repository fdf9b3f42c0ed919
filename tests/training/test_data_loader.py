"""The data loader's workers when the place fails them."""

from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from maskgen.age_vlm.cross_attention import QuerySelection
from maskgen.runtime.place_errors import translate
from maskgen.training import data_loader
from maskgen.training.collate import TrainBatch
from maskgen.training.data_loader import MicroBatch, StepLoader


class Failing(Dataset[Any]):
    """Items whose tensors do not get into shared memory, or that end their process."""

    def __init__(self, dies: bool):
        self.dies = dies

    def __len__(self) -> int:
        return 4

    def __getitem__(self, number: int) -> list[MicroBatch]:
        if self.dies:
            import os
            import signal

            os.kill(os.getpid(), signal.SIGBUS)

        def refuse(_: torch.Tensor) -> None:
            raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1_2>: No space (28)")

        torch.Tensor.share_memory_ = refuse  # type: ignore[method-assign]
        make: Any = TrainBatch
        flags = torch.zeros(1, 1, dtype=torch.bool)
        return [MicroBatch(make(*[torch.zeros(1)] * 10, ["key"], QuerySelection(flags, flags[0]), flags), [])]


@pytest.mark.parametrize("dies", [False, True])
def test_shared_memory_that_is_too_small_ends_training_with_the_remedy(dies):
    loader = StepLoader(Failing(dies), 0, 1, torch.device("cpu"))  # type: ignore[arg-type]
    with pytest.raises(RuntimeError) as error:
        next(iter(loader))
    said = str(translate(error.value))
    assert "/dev/shm" in said and "--shm-size" in said


class Hanging(Dataset[Any]):
    """Items that never come, as from a network file system that is away."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, number: int) -> MicroBatch:
        import time

        time.sleep(600)
        raise AssertionError


@pytest.mark.slow
def test_a_storage_that_never_answers_ends_training_in_a_sentence(monkeypatch):
    monkeypatch.setattr(data_loader, "WAIT_SECONDS", 3.0)
    loader = StepLoader(Hanging(), 0, 1, torch.device("cpu"))  # type: ignore[arg-type]
    with pytest.raises(RuntimeError) as error:
        next(iter(loader))
    assert "storage gave no answer" in str(translate(error.value))
