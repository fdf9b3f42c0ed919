"""Data and trainings of a reproduction: what is there is left as it is, so rerunning is resuming."""

from collections.abc import Callable

import numpy as np

from maskgen.pipeline.grounded_scenes import ground_scenes
from maskgen.reproduce.question_families import dialogue, dialogue_with_description
from maskgen.reproduce.scales import CONTINUES_FROM, ReproductionFolder, model_recipe
from maskgen.runtime.device import choose_device
from maskgen.sample import Turn
from maskgen.scenes.drawing import Scene
from maskgen.training.distributed import World
from maskgen.training.recipe import Recipe, SetName
from maskgen.training.small_start import initial_model
from maskgen.training.trainer import TrainRequest, train

FIRST_SEEDS: dict[SetName, int] = {"pretrain": 600_000, "finetune": 700_000}
QUESTIONS: dict[SetName, int] = {"pretrain": 4, "finetune": 6}

Say = Callable[[str], None]


def ground_sets(place: ReproductionFolder, recipe: Recipe, say: Say) -> None:
    """Draw the scenes of both sets, with descriptions for stages 1 to 3 and questions alone for stage 4, and
    ground each one's first question with the small Florence-2 and SAM.
    """
    dialogues: dict[SetName, Callable[[Scene], list[Turn]]] = {
        "pretrain": _pretrain_dialogue,
        "finetune": _finetune_dialogue,
    }
    for name, turns in dialogues.items():
        count = recipe.data.expected[name]
        scenes = place.shards(name).with_name(f"{name}-scenes")
        ground_scenes(place.shards(name), scenes, count, FIRST_SEEDS[name], say=say, dialogue=(name, turns))


def train_model(place: ReproductionFolder, shared: Recipe, seed: int, model: str) -> None:
    """Train one model, from its start or from the stage that it goes on from, which must be there."""
    run, recipe = place.run(seed, model), model_recipe(model, shared, seed)
    if (run / "model").is_dir():
        return
    if model in CONTINUES_FROM:
        parent, stage = CONTINUES_FROM[model]
        first = place.run(seed, parent) / f"stage-{stage}" / "model"
    else:
        first, stage = initial_model(place.start(seed, recipe.architecture), recipe), 0
    sets: dict[SetName, list[str]] = {name: [str(place.shards(name))] for name in FIRST_SEEDS}
    train(
        TrainRequest(recipe, str(first), sets, str(run), stage + 1),
        World(0, 1, choose_device()),
        lambda _: None,
    )


def _pretrain_dialogue(scene: Scene) -> list[Turn]:
    return dialogue_with_description(scene, np.random.default_rng((scene.seed, 11)), QUESTIONS["pretrain"])


def _finetune_dialogue(scene: Scene) -> list[Turn]:
    return dialogue(scene, np.random.default_rng((scene.seed, 12)), QUESTIONS["finetune"])
