"""`maskgen train --recipe demo`: AGE-VLM and its baseline, side by side on drawn scenes, on a CPU in
minutes.
"""

from collections.abc import Callable
from pathlib import Path

from maskgen.analysis.demo_attention import (
    DemoAttention,
    measure_demo_attention,
    render_table,
    save_comparison,
)
from maskgen.pipeline.grounded_scenes import ground_scenes
from maskgen.runtime.device import choose_device
from maskgen.scenes.drawing import FIRST_HELD_OUT_SEED
from maskgen.training.distributed import World
from maskgen.training.recipe import Recipe
from maskgen.training.small_start import initial_model
from maskgen.training.trainer import TrainRequest, train

HELD_OUT = 200
_FIRST = 600_000  # the first training scene's seed


def train_demo(recipe: Recipe, out: str, say: Callable[[str], None]) -> str:
    """Make data and an initial model if they are missing, train both, and compare their attention on held-out
    scenes. Returns the text that the command prints.
    """
    folder = Path(out)
    count = recipe.data.expected["pretrain"]
    shards = ground_scenes(folder / "shards", folder / "scenes", count, _FIRST, say)
    held_out = ground_scenes(
        folder / "held-out", folder / "held-out-scenes", HELD_OUT, FIRST_HELD_OUT_SEED, say, known=True
    )
    first = initial_model(folder / "start", recipe)
    found: dict[str, DemoAttention] = {}
    for name, chosen in (("ca-baseline", without_guidance(recipe)), ("age-vlm", recipe)):
        say(f"training {name}")
        run = folder / name
        train(
            TrainRequest(chosen, str(first), {"pretrain": [shards], "finetune": [shards]}, str(run)),
            World(0, 1, choose_device()),
            say,
        )
        found[name] = measure_demo_attention(run / "model", recipe, held_out)
    drawn = save_comparison(found, folder / "attention.png")
    return "\n".join([*render_table(found), f"maps over the same images: {drawn}"])


def without_guidance(recipe: Recipe) -> Recipe:
    """The same recipe with guidance measured and not trained: the baseline."""
    stages = {
        name: stage.model_copy(
            update={"losses": {loss: 0.0 if loss == "guidance" else w for loss, w in stage.losses.items()}}
        )
        for name, stage in recipe.stages.items()
    }
    return recipe.model_copy(update={"stages": stages})
