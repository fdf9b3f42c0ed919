"""Halving when memory runs out, and one bad sample among good ones."""

import numpy as np
import pytest
import torch

from maskgen.errors import MaskgenError, SampleError
from maskgen.grounding.batching import Batches, is_device_lost, is_out_of_memory
from maskgen.outcome import Outcome
from maskgen.sample import Picture

PICTURE = Picture(b"", "png", np.zeros((2, 2, 3), np.uint8))


class Model:
    """Doubles numbers; runs out of memory above `room` at once, and fails at `bad` as told."""

    def __init__(self, room=1000, bad=None):
        self.room = room
        self.bad = bad or {}
        self.sizes = []

    def __call__(self, pictures, numbers):
        self.sizes.append(len(numbers))
        for number in numbers:
            if number in self.bad:
                raise self.bad[number]
        if len(numbers) > self.room:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return [2 * number for number in numbers]


def run(batches, count):
    return batches.run([PICTURE] * count, range(count))


def test_batches_are_full_but_the_last():
    model = Model()
    assert run(Batches(model, 4), 10) == [2 * i for i in range(10)]
    assert model.sizes == [4, 4, 2]
    assert run(Batches(model, 4), 0) == []


@pytest.mark.parametrize("room", [1, 3, 4, 7])
def test_a_batch_that_does_not_fit_is_halved_and_the_size_kept(room):
    model = Model(room)
    batches = Batches(model, 16)
    assert run(batches, 20) == [2 * i for i in range(20)]
    assert room / 2 < batches.size <= room
    model.sizes.clear()
    assert run(batches, 20) == [2 * i for i in range(20)]
    assert max(model.sizes) == batches.size  # nothing is tried again that did not fit


def test_one_huge_sample_does_not_shrink_the_batch():
    model = Model(bad={5: MemoryError()})
    batches = Batches(model, 8)
    results = run(batches, 20)
    assert [i for i, result in enumerate(results) if isinstance(result, SampleError)] == [5]
    assert results[5].outcome is Outcome.OOM
    assert batches.size == 8


@pytest.mark.parametrize(
    ("error", "outcome", "reason"),
    [
        (ValueError("at 0x7f00 in /tmp/x"), Outcome.ERROR, "unexpected ValueError"),
        (SampleError(Outcome.DEGENERATE_POLYGON, "flat"), Outcome.DEGENERATE_POLYGON, "flat"),
        (RuntimeError("not enough memory: you tried to allocate 9 bytes"), Outcome.OOM, None),
        (torch.OutOfMemoryError("CUDA out of memory"), Outcome.OOM, None),
    ],
)
def test_the_culprit_fails_alone(error, outcome, reason):
    results = run(Batches(Model(bad={3: error}), 4), 6)
    assert [results[i] for i in (0, 1, 2, 4, 5)] == [0, 2, 4, 8, 10]
    assert results[3].outcome is outcome
    assert reason is None or results[3].reason == reason


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling cublasGemmEx"),
        MaskgenError("the answers' file changed while it was read"),
        KeyboardInterrupt(),
    ],
)
def test_what_is_not_one_samples_fault_is_raised(error):
    with pytest.raises(type(error)):
        run(Batches(Model(bad={3: error}), 4), 6)


def test_a_model_must_answer_every_sample():
    def silent(pictures: list[Picture], numbers: list[int]) -> list[int]:
        return []

    results = Batches(silent, 4).run([PICTURE] * 2, [1, 2])
    assert all(isinstance(result, SampleError) and result.outcome is Outcome.ERROR for result in results)


def test_kinds_of_error():
    for error in [
        MemoryError(),
        torch.cuda.OutOfMemoryError("x"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
    ]:
        assert is_out_of_memory(error) and not is_device_lost(error)
    assert not is_out_of_memory(RuntimeError("shapes differ"))
    assert not is_out_of_memory(ValueError("out of memory"))
    assert not is_device_lost(RuntimeError("shapes differ"))


def test_real_allocation_failure_is_recognised():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
