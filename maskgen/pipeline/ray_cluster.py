"""The only module that imports Ray: actors, their calls, and how a call ended."""

import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import ray
from ray._private import ray_constants
from ray._private.node import Node
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from maskgen.errors import MaskgenError
from maskgen.pipeline.ray_session import RaySession
from maskgen.pipeline.worker import Job, ShardWorker, Task
from maskgen.pipeline.worker_calls import Call, CallResult
from maskgen.runtime.device import choose_device, describe_device
from maskgen.runtime.ray_address import HeadWatch, check
from maskgen.sharding.commit import Commit

# Nobody asked to be reported on; and the workers are the job itself, not a background task.
_ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
ASK_SECONDS = 300.0
ANSWER_SECONDS = 60.0  # for what has ended already, and only has to be handed over
_OBJECT_STORE_BYTES = 128 << 20  # only plans of work travel through it, never pixels


class _Actor:
    """The worker inside its process. Thin on purpose: what it does is ShardWorker's."""

    def load(self, job: Job, name: str, threads: int) -> dict[str, object]:
        """Load the models; a call of its own, so that what goes wrong comes back as it was said."""
        import torch

        torch.set_num_threads(threads)
        self._worker = ShardWorker(job, name, str(choose_device()))
        return self._worker.describe()

    def make(self, task: Task) -> Commit:
        return self._worker.make(task)

    def probe(self, task: Task, keys: Sequence[str]) -> None:
        self._worker.probe(task, keys)


class RayCluster:
    """Starts actors on a Ray of its own or on the one at `address`; a context manager."""

    def __init__(self, address: str, wanted: int | None, actor: type = _Actor):
        self._session: RaySession | None = None
        self._head: HeadWatch | None = None
        if address:
            self._head = HeadWatch(check(address))
            self.gpus, cpus = _connect(address)
        else:
            self._session, self.gpus, cpus = _start_own()
        self._actors: dict[str, Any] = {}
        self._calls: dict[Any, Call] = {}
        places, kind = (self.gpus, "GPU") if self.gpus else (cpus, "CPU core")
        if wanted and wanted > places:
            self.__exit__()
            raise MaskgenError(
                f"resources.actors is {wanted}, but Ray has {places} {kind}(s), one for each actor at most."
            )
        self.size = wanted or self.gpus or max(1, cpus // 2)
        self.device = f"{self.gpus} GPU(s)" if self.gpus else f"{cpus} CPU core(s)"
        self._threads = max(1, cpus // self.size)
        self._options = _place(self.gpus)
        self._actor = actor
        self._born = 0

    def __enter__(self) -> "RayCluster":
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self._actors):
            self.kill(name)
        ray.shutdown()
        if watch := self._session or self._head:
            watch.close()

    def start(self, job: Job) -> str:
        """Start one actor, begin loading its models, and return its name."""
        name = f"{self._born:03d}"
        self._born += 1
        # Restarting is the driver's decision, so that each death leaves a trace: hence no max_restarts.
        actor = ray.remote(self._actor).options(max_restarts=0, max_task_retries=0, **self._options).remote()
        self._actors[name] = actor
        self._calls[actor.load.remote(job, name, self._threads)] = Call(name, "load")
        return name

    def names(self) -> list[str]:
        return list(self._actors)

    def idle(self) -> list[str]:
        busy = {call.worker for call in self._calls.values()}
        return [name for name in self._actors if name not in busy]

    def calls(self) -> list[Call]:
        return list(self._calls.values())

    def make(self, worker: str, task: Task) -> None:
        self._calls[self._actors[worker].make.remote(task)] = Call(worker, "make", task)

    def probe(self, worker: str, task: Task, keys: Sequence[str]) -> None:
        self._calls[self._actors[worker].probe.remote(task, list(keys))] = Call(worker, "probe", task)

    def wait(self, seconds: float) -> list[CallResult]:
        """Calls that ended within `seconds`; returns at the first, with those that ended meanwhile."""
        if watch := self._session or self._head:
            watch.check()
        if not self._calls:
            return []
        done, rest = ray.wait(list(self._calls), num_returns=1, timeout=seconds)
        if done and rest:
            done += ray.wait(rest, num_returns=len(rest), timeout=0)[0]
        return [self._end(reference) for reference in done]

    def kill(self, worker: str) -> None:
        """End the actor's process; its call, if any, then ends as died."""
        actor = self._actors.pop(worker, None)
        if actor is not None:
            ray.kill(actor, no_restart=True)

    def _end(self, reference: Any) -> CallResult:
        call = self._calls.pop(reference)
        try:
            return CallResult(call, value=ray.get(reference, timeout=ANSWER_SECONDS))
        except RayTaskError as error:
            return CallResult(call, error=_as_said(error))
        except RayError as error:
            self.kill(call.worker)
            return CallResult(call, died=_cause_of_death(error))


def ask_device(address: str) -> dict[str, str]:
    """Name and usual dtype of the device that some worker of the cluster at `address` gets.

    MaskgenError if none is free to answer for `ASK_SECONDS`.
    """
    gpus, _ = _connect(address)
    try:
        asked = ray.remote(describe_device).options(**_place(gpus), max_retries=0).remote()
        told: dict[str, str] = ray.get(asked, timeout=ASK_SECONDS)
        return told
    except GetTimeoutError as error:
        raise MaskgenError(
            f"no worker of {address} was free within {ASK_SECONDS / 60:.0f} minutes to say what it computes "
            "on. "
            "Is every GPU taken? `ray status` shows it. --set proposer.dtype=bfloat16 --set refiner.dtype="
            "bfloat16 goes without asking."
        ) from error
    except RayTaskError as error:
        raise _as_said(error) from error
    except RayError as error:
        raise MaskgenError(
            f"a worker of {address} could not say what it computes on ({_cause_of_death(error)}). Is this "
            "maskgen installed on every node?"
        ) from error
    finally:
        ray.shutdown()


def _start_own() -> tuple[RaySession, int, int]:
    """A Ray of our own, its GPUs and CPU cores. Should it not start, once more: one of its processes may have
    died, or the machine was too busy for Ray's own limits."""
    for last in (False, True):
        session = RaySession()
        try:
            gpus, cpus = _connect("", session)
            session.watch()
            return session, gpus, cpus
        except MaskgenError:
            ray.shutdown()
            session.close()
            if last:
                raise
    raise AssertionError


def _connect(address: str, session: RaySession | None = None) -> tuple[int, int]:
    """Join the Ray at `address`, or start one in `session`; returns its GPUs and CPU cores."""
    if address:
        check(address)
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if not address:
        _bring_a_token()
    try:
        with nullcontext() if address else _by_itself():
            ray.init(**_init_arguments(address), _temp_dir=str(session.path) if session else None)
    except Exception as error:  # Ray raises plain ones, too
        raise MaskgenError(_refused(address, _first_line(error))) from error
    resources = ray.cluster_resources()
    return int(resources.get("GPU", 0)), int(resources.get("CPU", 1))


@contextmanager
def _by_itself() -> Iterator[None]:
    """A Ray that starts meanwhile listens on the loopback alone and asks nobody outside where it runs.

    Ray itself has the former as the way of Windows and macOS. The latter is done by its API server, even if
    there is no dashboard and usage statistics are off; nothing else needs that server, so it is not started.
    """
    server, clusters = Node.start_api_server, ray_constants.ENABLE_RAY_CLUSTER
    before = os.environ.get(ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR)
    Node.start_api_server = lambda *_, **__: None
    ray_constants.ENABLE_RAY_CLUSTER = False
    os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = "0"  # for Ray's own processes
    try:
        yield
    finally:
        Node.start_api_server, ray_constants.ENABLE_RAY_CLUSTER = server, clusters
        del os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR]
        if before is not None:
            os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = before


def _bring_a_token() -> None:
    """A key of this process's own for its own Ray, which would put one into the user's home: that may not be
    writable. It stays for the process, since Ray reads it once."""
    if not os.environ.keys() & {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"}:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def _place(gpus: int) -> dict[str, Any]:
    """What one worker takes of a cluster with so many GPUs."""
    return {"num_gpus": 1 if gpus else 0, "num_cpus": 1}


def _refused(address: str, why: str) -> str:
    if not address:
        return f"Ray cannot be started on this machine ({why}). maskgen doctor shows memory and disk."
    return (
        f"Ray at {address} answers, but does not let us in ({why}). Is it of this Ray version? If it asks "
        "for a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN, or use --address auto on its own machine."
    )


def _init_arguments(address: str) -> dict[str, Any]:
    quiet = {"log_to_driver": False, "logging_level": "error"}
    if address:
        return {"address": address, **quiet}
    # "local", or a RAY_ADDRESS in the environment would be joined.
    return {
        "address": "local",
        "include_dashboard": False,
        "object_store_memory": _OBJECT_STORE_BYTES,
        **quiet,
    }


def _as_said(error: RayTaskError) -> Exception:
    """The worker's own exception, without Ray's wrapping."""
    cause = error.cause
    return cause if isinstance(cause, Exception) else error


def _cause_of_death(error: RayError) -> str:
    """Ray's own finding, without its advice: "Worker unexpectedly exits with a connection error"..."""
    _, found, detail = str(error).partition("Worker exit detail: ")
    return detail.split(". ")[0].strip() if found else _first_line(error)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
