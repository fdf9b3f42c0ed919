"""Data and trainings of a reproduction: what is there is left as it is, so rerunning is resuming."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maskgen.age_vlm.start import start, write
from maskgen.demo import FIRST_WEIGHTS, checkpoint
from maskgen.demo.drawing import Scene
from maskgen.demo.grounded import ground
from maskgen.reproduce.plan import Place, recipe_of
from maskgen.reproduce.questions import described, talk
from maskgen.sample import Turn
from maskgen.training.recipe import Recipe, SetName
from maskgen.training.run import Request, train
from maskgen.training.world import World

SLOTS = (1, 4, 7)
"""Where the cross-attention layers stand in the small LLaMA: spread as the paper's four are over sixteen."""

FIRST_SEEDS: dict[SetName, int] = {"pretrain": 600_000, "finetune": 700_000}
QUESTIONS: dict[SetName, int] = {"pretrain": 4, "finetune": 6}

Say = Callable[[str], None]


def ground_sets(place: Place, recipe: Recipe, say: Say) -> None:
    """Draw the scenes of both sets, with descriptions for stages 1 to 3 and questions alone for stage 4, and
    ground each one's first question with the small Florence-2 and SAM.
    """
    talks: dict[SetName, Callable[[Scene], list[Turn]]] = {"pretrain": _described, "finetune": _asked}
    for name, turns in talks.items():
        count = recipe.data.expected[name]
        scenes = place.shards(name).with_name(f"{name}-scenes")
        ground(place.shards(name), scenes, count, FIRST_SEEDS[name], say=say, talk=(name, turns))


def train_family(place: Place, shared: Recipe, seed: int) -> None:
    """CA-baseline, AGE-VLM and AGE-VLM-LM of one seed.

    Table 1 has them alike up to where guidance sets in, so they share what they have in common: AGE-VLM goes
    on from the baseline's stage 2, and AGE-VLM-LM from AGE-VLM's stage 3.
    """
    first = _start(place, shared, seed, "age_vlm")
    baseline = _train(place, shared, seed, "ca-baseline", first, 1)
    age = _train(place, shared, seed, "age-vlm", baseline / "stage-2" / "model", 3)
    _train(place, shared, seed, "age-vlm-lm", age / "stage-3" / "model", 4)


def train_concat(place: Place, shared: Recipe, seed: int) -> None:
    """The comparison without cross-attention of one seed."""
    _train(place, shared, seed, "concat", _start(place, shared, seed, "concat_vlm"), 1)


def _train(place: Place, shared: Recipe, seed: int, model: str, first: Path, stage: int) -> Path:
    run = place.run(seed, model)
    if not (run / "model").is_dir():
        sets: dict[SetName, list[str]] = {name: [str(place.shards(name))] for name in FIRST_SEEDS}
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        request = Request(recipe_of(model, shared, seed), str(first), sets, str(run), stage)
        train(request, World(0, 1, device), lambda _: None)
    return run


def _start(place: Place, shared: Recipe, seed: int, architecture: str) -> Path:
    """The shipped small LLaMA and ConvNeXt made one, with new layers drawn by `seed`."""
    folder = place.start(seed, architecture)
    if not folder.is_dir():
        parts = str(checkpoint("llama")), str(checkpoint("convnext"))
        options: dict[str, Any] = {"slots": SLOTS} if architecture == "age_vlm" else {}
        options["initializer_range"] = FIRST_WEIGHTS
        size = shared.stages[str(len(shared.stages))].size
        made = start(*parts, architecture, seed, image_size=size, fit=shared.data.fit, **options)
        write(made, str(folder))
    return folder


def _described(scene: Scene) -> list[Turn]:
    return described(scene, np.random.default_rng((scene.seed, 11)), QUESTIONS["pretrain"])


def _asked(scene: Scene) -> list[Turn]:
    return talk(scene, np.random.default_rng((scene.seed, 12)), QUESTIONS["finetune"])
