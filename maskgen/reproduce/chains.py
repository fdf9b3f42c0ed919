"""Chains of a reproduction: models trained one after the other, each measured when it is done."""

import json
from collections.abc import Sequence
from functools import partial

from maskgen.reproduce.jobs import LoggedJob, run_jobs
from maskgen.reproduce.measure import Exam, measure_model
from maskgen.reproduce.runs import train_model
from maskgen.reproduce.scales import CONTINUES_FROM, MODELS, TRAINING_CHAINS, ReproductionFolder
from maskgen.training.recipe import Recipe


def run_chains(place: ReproductionFolder, shared: Recipe, seeds: int, exam: int, jobs: int) -> None:
    """Train and measure every model of every seed that is not done, `jobs` chains of them at a time."""
    chains = [(models, seed) for seed in range(seeds) for models in TRAINING_CHAINS]
    steps = {place.run(seed, model): _steps(shared, model) for seed in range(seeds) for model in MODELS}
    missing = [
        LoggedJob(
            partial(_run_chain, models, place, shared, seed, exam),
            place.out / f"seed-{seed}-{models[0]}.log",
        )
        for models, seed in chains
        if not all(place.measurement(seed, model).is_file() for model in models)
    ]
    run_jobs(missing, jobs, steps)


def _run_chain(
    models: Sequence[str], place: ReproductionFolder, shared: Recipe, seed: int, exam: int
) -> None:
    exam_scenes = Exam(exam)
    for model in models:
        train_model(place, shared, seed, model)
        to = place.measurement(seed, model)
        if not to.is_file():
            found = measure_model(place.run(seed, model) / "model", exam_scenes, shared.data.threshold)
            partial_file = to.with_name(f".partial-{to.name}")
            partial_file.write_text(json.dumps(found))
            partial_file.replace(to)


def _steps(shared: Recipe, model: str) -> int:
    _, stages_before = CONTINUES_FROM.get(model, ("", 0))
    return shared.steps(first=stages_before + 1)
