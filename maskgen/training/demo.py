"""`maskgen train --recipe demo`: AGE-VLM and its baseline, side by side on drawn scenes, on a CPU in
minutes.
"""

from collections.abc import Callable
from pathlib import Path

import torch

from maskgen import config as pipelines
from maskgen.age_vlm.start import start, write
from maskgen.analysis.looking import Looking, look_at, picture, render
from maskgen.demo import checkpoint
from maskgen.running.lease import Lease
from maskgen.running.run import Request as GroundingRequest
from maskgen.running.run import prepare as plan
from maskgen.running.source import ensure
from maskgen.running.worker import ShardWorker, Task
from maskgen.sharding.commit import read_commit
from maskgen.sharding.index import finish
from maskgen.store import Store
from maskgen.training.recipe import Recipe
from maskgen.training.run import Request, train
from maskgen.training.world import World

HELD_OUT = 200
_SEEDS = {"scenes": 600_000, "held-out": 1_000_000}
SLOTS = (1, 4, 7)


def demo(recipe: Recipe, out: str, say: Callable[[str], None]) -> str:
    """Make data and a first model if they are missing, train both, and say where each looks on held-out
    scenes.
    """
    folder = Path(out)
    shards = _ground(folder / "shards", folder / "scenes", "scenes", recipe, say)
    held_out = _ground(folder / "held-out", folder / "held-out-scenes", "held-out", recipe, say)
    first = first_model(folder / "start", recipe)
    found: dict[str, Looking] = {}
    for name, chosen in (("ca-baseline", unguided(recipe)), ("age-vlm", recipe)):
        say(f"training {name}")
        run = folder / name
        train(
            Request(chosen, str(first), {"pretrain": [shards], "finetune": [shards]}, str(run)),
            World(0, 1, torch.device("cuda" if torch.cuda.is_available() else "cpu")),
            say,
        )
        found[name] = look_at(run / "model", recipe, held_out)
    drawn = picture(found, folder / "attention.png")
    return "\n".join([*render(found), f"maps over the same images: {drawn}"])


def unguided(recipe: Recipe) -> Recipe:
    """The same recipe with guidance measured and not trained: the baseline."""
    stages = {
        name: stage.model_copy(
            update={"losses": {loss: 0.0 if loss == "guidance" else w for loss, w in stage.losses.items()}}
        )
        for name, stage in recipe.stages.items()
    }
    return recipe.model_copy(update={"stages": stages})


def _ground(out: Path, scenes: Path, which: str, recipe: Recipe, say: Callable[[str], None]) -> str:
    """A finished set of drawn scenes: for training grounded by the small models, held out with the known
    masks.
    """
    count = recipe.data.expected["pretrain"] if which == "scenes" else HELD_OUT
    overrides = [f"source.scenes={{count: {count}, seed: {_SEEDS[which]}}}", "shards.size=100"]
    if which == "held-out":
        overrides += ["proposer={kind: recorded, file: truth.json}", "refiner={kind: none}"]
    config = pipelines.load("demo", overrides=overrides)
    ensure(config, str(scenes), lambda _: None)
    store = Store(str(out))
    with Lease(str(out)):
        job, rows = plan(GroundingRequest(config, str(scenes), str(out)), store, lambda _: None)
        missing = [shard for shard in range(len(rows)) if read_commit(store, shard) is None]
        if missing:
            say(f"grounding {sum(rows[shard] for shard in missing)} scenes into {out}")
            worker = ShardWorker(job, "demo", "cpu")
            for shard in missing:
                worker.make(Task(shard, {}, rows[shard]))
            finish(store, job.fingerprint)
    return str(out)


def first_model(folder: Path, recipe: Recipe) -> Path:
    """The shipped small LLaMA and ConvNeXt made one; left as it is if it is there."""
    if folder.is_dir():
        return folder
    last = recipe.stages[str(len(recipe.stages))]
    parts = str(checkpoint("llama")), str(checkpoint("convnext"))
    write(
        start(*parts, seed=recipe.seed, slots=SLOTS, image_size=last.size, fit=recipe.data.fit), str(folder)
    )
    return folder
