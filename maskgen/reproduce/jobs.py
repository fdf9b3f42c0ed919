"""Trainings and measurements side by side, a process each with one thread of arithmetic."""

import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from contextlib import closing, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import torch

from maskgen.runtime.progress_reporter import ProgressReporter
from maskgen.training.trainer import METRICS


@dataclass(frozen=True)
class LoggedJob:
    """`work` is done in a process of its own, so it can be pickled; what it prints is added to `log`."""

    work: Callable[[], object]
    log: Path


def run_jobs(jobs: Sequence[LoggedJob], at_a_time: int, steps: Mapping[Path, int]) -> None:
    """Do all jobs, `at_a_time` of them at once. `steps`: for the bar, how many each training run takes.

    The first failure is raised; what the others have done by then is kept.
    """
    if not jobs:
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(at_a_time, len(jobs)), spawn, _use_one_thread) as pool:
        futures = [pool.submit(_run, job) for job in jobs]
        try:
            _show_progress(futures, steps)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()  # a training writes a checkpoint, and goes on from it
            raise


def _run(job: LoggedJob) -> None:
    with job.log.open("a", buffering=1) as log, redirect_stdout(log), redirect_stderr(log):
        job.work()


def _show_progress(futures: list[Future[None]], steps: Mapping[Path, int]) -> None:
    """How many steps of all trainings are taken, until the last job is done."""
    with closing(ProgressReporter("training", "steps", sum(steps.values()))) as reporter:
        rest, most = set(futures), 0
        while rest:
            finished, rest = wait(rest, timeout=5, return_when=FIRST_EXCEPTION)
            for each in finished:
                each.result()
            most = max(most, sum(min(count, _lines(run / METRICS)) for run, count in steps.items()))
            reporter.update(most)


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def _use_one_thread() -> None:
    """One thread each: two trainings on two cores are faster than each of them on both."""
    torch.set_num_threads(1)
