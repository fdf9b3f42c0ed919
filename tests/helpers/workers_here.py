"""A run's workers in this very process, one call after the other: no Ray."""

from collections.abc import Sequence

from maskgen.pipeline.worker import Job, ShardWorker, Task
from maskgen.pipeline.worker_calls import Call, CallResult


class WorkersHere:
    """Stands in for `RayCluster`: one worker, whose calls are made when they are waited for."""

    size, gpus, device = 1, 0, "1 CPU core(s)"

    def __init__(self, address: str, wanted: int | None):
        self._workers: dict[str, ShardWorker | None] = {}
        self._jobs: dict[str, Job] = {}
        self._calls: list[tuple[Call, Sequence[str]]] = []

    def __enter__(self) -> "WorkersHere":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def start(self, job: Job) -> str:
        name = f"{len(self._jobs):03d}"
        self._jobs[name], self._workers[name] = job, None
        self._calls.append((Call(name, "load"), ()))
        return name

    def names(self) -> list[str]:
        return list(self._workers)

    def idle(self) -> list[str]:
        busy = {call.worker for call, _ in self._calls}
        return [name for name in self._workers if name not in busy]

    def calls(self) -> list[Call]:
        return [call for call, _ in self._calls]

    def make(self, worker: str, task: Task) -> None:
        self._calls.append((Call(worker, "make", task), ()))

    def probe(self, worker: str, task: Task, keys: Sequence[str]) -> None:
        self._calls.append((Call(worker, "probe", task), keys))

    def wait(self, seconds: float) -> list[CallResult]:
        if not self._calls:
            return []
        call, keys = self._calls.pop(0)
        try:
            return [CallResult(call, value=self._do(call, keys))]
        except Exception as error:
            return [CallResult(call, error=error)]

    def kill(self, worker: str) -> None:
        self._workers.pop(worker, None)

    def _do(self, call: Call, keys: Sequence[str]) -> object:
        if call.kind == "load":
            worker = self._workers[call.worker] = ShardWorker(self._jobs[call.worker], call.worker, "cpu")
            return worker.describe()
        held, task = self._workers[call.worker], call.task
        assert held is not None and task is not None
        if call.kind == "make":
            return held.make(task)
        held.probe(task, keys)
        return None
