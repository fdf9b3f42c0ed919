"""Trainings and measurements side by side, a process each with one thread of arithmetic."""

import json
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import torch
from tqdm import tqdm

from maskgen.reproduce.measure import Exam, measure_model
from maskgen.reproduce.runs import train_model
from maskgen.reproduce.scales import CONTINUES_FROM, MODELS, TRAINING_CHAINS, ReproductionFolder
from maskgen.training.recipe import Recipe
from maskgen.training.trainer import METRICS


def run_jobs(place: ReproductionFolder, shared: Recipe, seeds: int, exam: int, jobs: int) -> None:
    """Train and measure every model of every seed that is not done, `jobs` of them at a time.

    The first failure is raised; what the others have done by then is kept.
    """
    chains = [(models, seed) for seed in range(seeds) for models in TRAINING_CHAINS]
    chains = [(models, seed) for models, seed in chains if not _done(place, models, seed)]
    if not chains:
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(jobs, len(chains)), spawn, _use_one_thread) as pool:
        futures = [pool.submit(_run_chain, models, place, shared, seed, exam) for models, seed in chains]
        try:
            _show_progress(futures, place, shared, seeds)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()  # a training writes a checkpoint, and goes on from it
            raise


def _run_chain(
    models: Sequence[str], place: ReproductionFolder, shared: Recipe, seed: int, exam: int
) -> None:
    path = place.out / f"seed-{seed}-{models[0]}.log"
    with path.open("a", buffering=1) as log, redirect_stdout(log), redirect_stderr(log):
        exam_scenes = Exam(exam)
        for model in models:
            train_model(place, shared, seed, model)
            to = place.measurement(seed, model)
            if not to.is_file():
                found = measure_model(place.run(seed, model) / "model", exam_scenes, shared.data.threshold)
                partial = to.with_name(f".partial-{to.name}")
                partial.write_text(json.dumps(found))
                partial.replace(to)


def _show_progress(
    futures: list[Future[None]], place: ReproductionFolder, shared: Recipe, seeds: int
) -> None:
    """A bar over all steps of all trainings, until the last measurement is written."""
    runs = [(seed, model) for seed in range(seeds) for model in MODELS]
    steps = {model: _steps(shared, model) for _, model in runs}
    with tqdm(total=sum(steps[model] for _, model in runs), unit=" steps", desc="training") as bar:
        rest = set(futures)
        while rest:
            finished, rest = wait(rest, timeout=5, return_when=FIRST_EXCEPTION)
            for each in finished:
                each.result()
            steps_done = sum(
                min(steps[model], _lines(place.run(seed, model) / METRICS)) for seed, model in runs
            )
            bar.update(max(0, steps_done - bar.n))


def _steps(shared: Recipe, model: str) -> int:
    _, shared_stages = CONTINUES_FROM.get(model, ("", 0))
    stages = [stage for number, stage in shared.stages.items() if int(number) > shared_stages]
    return sum(stage.epochs * -(-shared.data.expected[stage.data] // shared.batch) for stage in stages)


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def _done(place: ReproductionFolder, models: Sequence[str], seed: int) -> bool:
    return all(place.measurement(seed, model).is_file() for model in models)


def _use_one_thread() -> None:
    """One thread each: two trainings on two cores are faster than each of them on both."""
    torch.set_num_threads(1)
