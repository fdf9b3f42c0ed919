"""Batches through a model that may run out of memory, and in which one sample may spoil the others."""

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from maskgen.errors import SampleError
from maskgen.grounding.adaptive_size import AdaptiveSize
from maskgen.grounding.faults import alike, as_failure, free_memory, signature, unfit_machine
from maskgen.outcome import Outcome
from maskgen.sample import Picture

Thing = TypeVar("Thing")
Result = TypeVar("Result")


class Batches(Generic[Thing, Result]):
    """Calls `model(pictures, things)`, which gives one result a pair, with at most `size` pairs at once.

    A batch that fails is halved until the culprit fails alone. If it then turns out that no sample is to
    blame, `size` shrinks to what went well, and grows again later. If a sample fails alone by an unexpected
    error, and a harmless one fails in the same way, it is the machine's fault: MaskgenError.
    """

    def __init__(
        self,
        model: Callable[[list[Picture], list[Thing]], list[Result]],
        size: int,
        name: str = "the model",
        harmless: tuple[Picture, Thing] | None = None,
    ):
        """`name`: of the model, for messages; `harmless`: a pair that no working model fails on."""
        self._model = model
        self._limit = AdaptiveSize(size)
        self._name = name
        self._harmless = harmless

    @property
    def size(self) -> int:
        """Pairs at once, at present."""
        return self._limit.size

    def run(self, pictures: Sequence[Picture], things: Sequence[Thing]) -> list[Result | SampleError]:
        """A result or the failure of each pair, in order.

        Raises what a lost device raises: the process is of no more use.
        """
        pairs = list(zip(pictures, things, strict=True))
        results: list[Result | SampleError] = []
        while len(results) < len(pairs):
            batch = pairs[len(results) : len(results) + self.size]
            results += self._attempt(batch)
            if len(batch) == self.size:
                self._limit.fitted()
        return results

    def _attempt(self, pairs: list[tuple[Picture, Thing]]) -> list[Result | SampleError]:
        try:
            return list(self._call(pairs))
        except Exception as error:
            failure, said = as_failure(error), signature(error)
        # Outside the handler: the traceback would keep the failed call's tensors alive.
        if failure.outcome is Outcome.OOM:
            free_memory()
        if len(pairs) > 1:
            return self._halve(pairs, failure.outcome)
        if failure.outcome is Outcome.ERROR and self._fails_always(said):
            raise unfit_machine(self._name, said)
        return [failure]

    def _call(self, pairs: list[tuple[Picture, Thing]]) -> list[Result]:
        results = self._model([picture for picture, _ in pairs], [thing for _, thing in pairs])
        if len(results) != len(pairs):
            raise ValueError("a model must give one result a sample")
        return results

    def _halve(self, pairs: list[tuple[Picture, Thing]], outcome: Outcome) -> list[Result | SampleError]:
        half = (len(pairs) + 1) // 2
        results = self._attempt(pairs[:half])
        while len(results) < len(pairs):
            results += self._attempt(pairs[len(results) : len(results) + min(half, self.size)])
        if not any(isinstance(result, SampleError) and result.outcome is outcome for result in results):
            self._limit.shrink(half)
        return results

    def _fails_always(self, said: str) -> bool:
        """Whether the harmless pair too fails with this error."""
        if self._harmless is None:
            return False
        try:
            self._call([self._harmless])
        except Exception as error:
            return as_failure(error).outcome is Outcome.ERROR and alike(signature(error), said)
        return False
