"""Halving when memory runs out, and one bad sample among good ones."""

import itertools

import numpy as np
import pytest
import torch

from maskgen.errors import MaskgenError, SampleError
from maskgen.grounding.adaptive_size import LONGEST, PATIENCE, AdaptiveSize
from maskgen.grounding.batching import Batches
from maskgen.grounding.faults import is_device_lost, is_out_of_memory
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
@pytest.mark.slow
def test_a_batch_that_does_not_fit_is_halved_and_the_size_kept(room):
    model = Model(room)
    batches = Batches(model, 16)
    assert run(batches, 20) == [2 * i for i in range(20)]
    assert room / 2 < batches.size <= room
    model.sizes.clear()
    assert run(batches, 20) == [2 * i for i in range(20)]
    assert max(model.sizes) == batches.size  # nothing is tried again that did not fit


@pytest.mark.slow
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
@pytest.mark.slow
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


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("cuDNN Frontend error: [cudnn_frontend] Error: No valid execution plans built."),
        RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED"),
        RuntimeError("No available kernel. Aborting execution."),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling cublasLtMatmul"),
        KeyError("head"),
    ],
)
def test_what_a_harmless_sample_fails_with_too_is_the_machines_fault(size, error):
    model = Model(bad=dict.fromkeys(range(-1, 100), error))
    with pytest.raises(MaskgenError, match=r"the refiner: .*Every sample would fail") as raised:
        run(Batches(model, size, "the refiner", (PICTURE, -1)), 6)
    assert str(error) in str(raised.value)
    assert len(model.sizes) <= 5, "it is known at the first sample"


@pytest.mark.parametrize("size", [1, 2, 8])
@pytest.mark.parametrize(
    "harmless", [None, ValueError("other"), SampleError(Outcome.ERROR, "x"), torch.OutOfMemoryError("x")]
)
def test_bad_samples_are_not_taken_for_a_fault_of_the_machine(size, harmless):
    """However many there are, and all alike."""
    bad = {number: RuntimeError(f"shape {number} differs") for number in range(0, 8, 1 if size == 2 else 2)}
    if harmless:
        bad[-1] = harmless
    results = run(Batches(Model(bad=bad), size, harmless=(PICTURE, -1)), 8)
    for number, result in enumerate(results):
        if number in bad:
            assert result.outcome is Outcome.ERROR
        else:
            assert result == 2 * number


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: no kernel image is available for execution on the device"),
        RuntimeError("CUDA error: the provided PTX was compiled with an unsupported toolchain."),
        RuntimeError("The NVIDIA driver on your system is too old. CUDA driver version is insufficient"),
        ImportError("libcudnn_graph.so.9: cannot open shared object file: No such file or directory"),
        OSError("libnvrtc.so.13: cannot open shared object file: No such file or directory"),
        AssertionError("Torch not compiled with CUDA enabled"),
        ModuleNotFoundError("No module named 'triton'"),
    ],
)
def test_an_unfit_machine_is_told_at_once(error):
    assert not is_device_lost(error)
    with pytest.raises(MaskgenError, match="maskgen doctor"):
        run(Batches(Model(bad={3: error}), 4), 6)


def test_a_batch_that_fails_while_its_samples_do_not_shrinks_and_grows_again():
    class Fussy(Model):
        def __call__(self, pictures, numbers):
            if len(numbers) == 4 and self.room < 4:
                self.sizes.append(4)
                raise RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED")
            return super().__call__(pictures, numbers)

    model = Fussy(room=2)
    batches = Batches(model, 4, harmless=(PICTURE, -1))
    assert run(batches, 8) == [2 * i for i in range(8)]
    assert model.sizes == [4, 2, 2, 2, 2] and batches.size == 2
    model.room = 4
    run(batches, 2 * PATIENCE)
    model.sizes.clear()
    run(batches, 8)
    assert model.sizes == [4, 4]


@pytest.mark.slow
def test_a_batch_halved_by_short_memory_grows_again():
    model = Model(room=3)
    batches = Batches(model, 16)
    run(batches, 16)
    assert batches.size == 2
    model.room = 1000
    model.sizes.clear()
    for _ in range(3 * PATIENCE):
        assert run(batches, 16) == [2 * i for i in range(16)]
    assert batches.size == 16 and sorted(set(model.sizes)) == [2, 4, 8, 16]


def test_a_size_that_never_fits_is_tried_less_and_less():
    size, tries = AdaptiveSize(8), []
    for call in range(PATIENCE * 4 * LONGEST):
        if size.size > 4:
            tries.append(call)
            size.shrink(4)
        else:
            size.fitted()
    gaps = [after - before for before, after in itertools.pairwise(tries[1:])]
    assert gaps[0] > PATIENCE and gaps == sorted(gaps)
    assert gaps[-1] <= LONGEST * PATIENCE + 1 and len(tries) <= 12


def test_sizes_stay_between_one_and_the_most():
    size = AdaptiveSize(5)
    assert size.shrink(2) and size.size == 2
    assert not size.shrink(3) and size.size == 2
    assert size.shrink(0) and size.size == 1
    assert not size.shrink(0)
    for _ in range(4 * PATIENCE):
        size.fitted()
    assert size.size == 5


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
