"""`maskgen train --recipe demo`: AGE-VLM and its baseline, side by side on drawn scenes, on a CPU in
minutes.
"""

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from maskgen.age_vlm.generation import Answerer, ChatPrompt, GenerationOptions
from maskgen.age_vlm.loading import load
from maskgen.analysis.demo_attention import measure_demo_attention, render_table, save_comparison
from maskgen.draw import text
from maskgen.pipeline.grounded_scenes import ground_scenes
from maskgen.reproduce.demo_questions import demo_dialogue, first_questions, write_pope
from maskgen.reproduce.jobs import LoggedJob, run_jobs
from maskgen.runtime.device import choose_device
from maskgen.sample import Turn
from maskgen.scenes.drawing import FIRST_HELD_OUT_SEED, draw_scene
from maskgen.scenes.texts import SceneQuery
from maskgen.training.distributed import World
from maskgen.training.recipe import Recipe, SetName
from maskgen.training.small_start import initial_model
from maskgen.training.trainer import TrainRequest, train

HELD_OUT = 200
_FIRST = 600_000  # the first training scene's seed
_POPE = 100  # scenes of the held-out ones
_DIALOGUE = ("demo", demo_dialogue)

Say = Callable[[str], None]


def train_demo(recipe: Recipe, out: str, say: Say) -> str:
    """Make data and an initial model if they are missing, train both, and hold them against each other on
    scenes that neither has seen. Returns the text that the command prints.

    The stages before guidance sets in are trained once, for both.
    """
    folder = Path(out)
    count = recipe.data.expected["pretrain"]
    shards = ground_scenes(folder / "shards", folder / "scenes", count, _FIRST, say, dialogue=_DIALOGUE)
    held_out = range(FIRST_HELD_OUT_SEED, FIRST_HELD_OUT_SEED + HELD_OUT)
    scenes = folder / "held-out-scenes"
    known = ground_scenes(
        folder / "held-out", scenes, HELD_OUT, held_out.start, say, known=True, dialogue=_DIALOGUE
    )
    models = {"ca-baseline": without_guidance(recipe), "age-vlm": recipe}
    _train_both(models, folder, shards, say)
    say("measuring both on scenes that neither has seen")
    found = {name: measure_demo_attention(folder / name / "model", recipe, known) for name in models}
    picture = save_comparison(found, folder / "attention.png")
    pope = write_pope(folder / "benchmarks" / "pope", held_out[:_POPE])
    asked = first_questions(held_out)
    seed, query = asked[0]
    (image,) = (scenes / "images").glob(f"{seed:07d}.*")
    run = folder / "age-vlm"
    return "\n".join(
        [
            *render_table(found),
            f"where both look, picture by picture: {picture}",
            "",
            "five questions about scenes that neither has seen:",
            *(f"  {line}" for line in _answers(folder, list(models), asked)),
            "",
            "next:",
            f'  maskgen ask --model {run} {image} "{query.text}" --look look.png',
            f"  maskgen eval --model {run} --data {pope} --prompt dataset --out {folder}/answers --blind",
            f"  maskgen curves {folder}/ca-baseline {run}",
        ]
    )


def without_guidance(recipe: Recipe) -> Recipe:
    """The same recipe with guidance measured and not trained: the baseline."""
    stages = {
        name: stage.model_copy(
            update={"losses": {loss: 0.0 if loss == "guidance" else w for loss, w in stage.losses.items()}}
        )
        for name, stage in recipe.stages.items()
    }
    return recipe.model_copy(update={"stages": stages})


def _train_both(models: Mapping[str, Recipe], folder: Path, shards: str, say: Say) -> None:
    """The stages that the recipes have in common once, then each model's own, side by side."""
    recipe, baseline = models["age-vlm"], models["ca-baseline"]
    alike = [stage == baseline.stages[number] for number, stage in recipe.stages.items()]
    shared = alike.index(False) if False in alike else 0
    start = initial_model(folder / "start", recipe)
    if shared:
        say(f"training what both have in common: stages 1 to {shared}")
        start = _train(recipe, start, shards, folder / "shared", 1, shared, say=say)
    say(f"training {' and '.join(models)} from stage {shared + 1} on, side by side")
    jobs = [
        LoggedJob(
            partial(_train, chosen, start, shards, folder / name, shared + 1, 0),
            folder / f"{name}.log",
        )
        for name, chosen in models.items()
        if not (folder / name / "model").is_dir()
    ]
    cores = len(os.sched_getaffinity(0)) if choose_device().type == "cpu" else 1
    run_jobs(jobs, cores, {folder / name: recipe.steps(shared + 1) for name in models})


def _train(
    recipe: Recipe, start: Path, shards: str, out: Path, first: int, last: int, say: Say = print
) -> Path:
    sets: dict[SetName, list[str]] = {"pretrain": [shards], "finetune": [shards]}
    request = TrainRequest(recipe, str(start), sets, str(out), first, last)
    return train(request, World(0, 1, choose_device()), say)


def _answers(folder: Path, models: list[str], asked: list[tuple[int, SceneQuery]]) -> list[str]:
    """A line a question: the scene, what each model says and what is right."""
    prompts = [ChatPrompt([Turn("human", query.text)], draw_scene(seed).pixels) for seed, query in asked]
    said = {
        name: Answerer(*load(folder / name)).answer(prompts, GenerationOptions(max_new_tokens=16))
        for name in models
    }
    rows = [("scene", "question", *models, "right")]
    for number, (seed, query) in enumerate(asked):
        rows.append((str(seed), query.text, *(said[name][number].text for name in models), query.answer))
    return text.table(rows)
