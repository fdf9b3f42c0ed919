"""Batches through a model that may run out of memory, and in which one sample may spoil the others."""

import gc
import sys
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from maskgen.errors import MaskgenError, SampleError
from maskgen.outcome import Outcome
from maskgen.sample import Picture

Thing = TypeVar("Thing")
Result = TypeVar("Result")

_OUT_OF_MEMORY = ("out of memory", "not enough memory", "allocate memory", "alloc_failed")
_DEVICE_LOST = (
    *("cuda error", "cudnn error", "cublas_status", "hip error", "cuda kernel errors"),
    *("device-side assert", "illegal memory access", "unspecified launch failure"),
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether less work at once may help: the device's or the host's memory ran out."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and _says(error, _OUT_OF_MEMORY)


def is_device_lost(error: BaseException) -> bool:
    """Whether the device's context is spoilt, so that every later call in this process fails too."""
    return isinstance(error, RuntimeError) and not is_out_of_memory(error) and _says(error, _DEVICE_LOST)


class Batches(Generic[Thing, Result]):
    """Calls `model(pictures, things)`, which gives one result a pair, with at most `size` pairs at once.

    A batch that does not fit is halved, and `size` shrinks to what fits, unless a single sample was to
    blame. A batch that fails otherwise is repeated one by one, so that the culprit fails alone.
    """

    def __init__(self, model: Callable[[list[Picture], list[Thing]], list[Result]], size: int):
        self._model = model
        self.size = size

    def run(self, pictures: Sequence[Picture], things: Sequence[Thing]) -> list[Result | SampleError]:
        """A result or the failure of each pair, in order.

        Raises what a lost device raises: the process is of no more use.
        """
        pairs = list(zip(pictures, things, strict=True))
        results: list[Result | SampleError] = []
        while len(results) < len(pairs):
            results += self._attempt(pairs[len(results) : len(results) + self.size])
        return results

    def _attempt(self, pairs: list[tuple[Picture, Thing]]) -> list[Result | SampleError]:
        try:
            results = self._model([picture for picture, _ in pairs], [thing for _, thing in pairs])
            if len(results) != len(pairs):
                raise ValueError("a model must give one result a sample")
            return list(results)
        except Exception as error:
            failure = as_failure(error)
        # Outside the handler: the traceback would keep the failed call's tensors alive.
        if len(pairs) == 1:
            _free_memory()
            return [failure]
        if not _ran_out(failure):
            return [result for pair in pairs for result in self._attempt([pair])]
        _free_memory()
        return self._halve(pairs)

    def _halve(self, pairs: list[tuple[Picture, Thing]]) -> list[Result | SampleError]:
        half = (len(pairs) + 1) // 2
        results = self._attempt(pairs[:half])
        while len(results) < len(pairs):
            results += self._attempt(pairs[len(results) : len(results) + min(half, self.size)])
        if not any(_ran_out(result) for result in results):
            self.size = min(self.size, half)
        return results


def as_failure(error: Exception) -> SampleError:
    """The failure of the one sample that `error` came from; raises it again if it is not one sample's."""
    if isinstance(error, SampleError):
        return error.bare()
    if is_device_lost(error) or isinstance(error, MaskgenError):
        raise error
    if is_out_of_memory(error):
        return SampleError(Outcome.OOM, "the sample alone does not fit in memory")
    return SampleError(Outcome.ERROR, f"unexpected {type(error).__name__}")


def _ran_out(result: object) -> bool:
    return isinstance(result, SampleError) and result.outcome is Outcome.OOM


def _says(error: BaseException, phrases: tuple[str, ...]) -> bool:
    message = str(error).lower()
    return any(phrase in message for phrase in phrases)


def _free_memory() -> None:
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
