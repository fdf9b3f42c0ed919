"""What a reproduction is made of: scales, the four models, and where everything lies."""

from dataclasses import dataclass
from pathlib import Path

from maskgen.errors import MaskgenError, did_you_mean
from maskgen.training import recipe as recipes
from maskgen.training.recipe import Recipe, StageConfig

MODELS = ("concat", "ca-baseline", "age-vlm", "age-vlm-lm")
"""The paper's comparison without cross-attention, its baseline without guidance, and its two models."""

CONTINUES_FROM = {"age-vlm": ("ca-baseline", 2), "age-vlm-lm": ("age-vlm", 3)}
"""Whose stage a model goes on from. Table 1 has the three alike up to where guidance sets in, so they share
what they have in common.
"""

TRAINING_CHAINS = (("ca-baseline", "age-vlm", "age-vlm-lm"), ("concat",))
"""Models that train one after the other."""

RECIPE = "reproduce"


@dataclass(frozen=True)
class Scale:
    """How large a reproduction is: `seeds` trainings of each model, an exam of so many scenes, and what is
    laid over the recipe `reproduce`. `verdicts`: whether it is large enough to say which claims hold.
    """

    seeds: int
    exam: int
    overrides: tuple[str, ...] = ()
    verdicts: bool = True


SCALES = {
    "demo": Scale(seeds=3, exam=150),
    "tiny": Scale(
        seeds=2,
        exam=12,
        verdicts=False,
        overrides=("batch=4", "resources.micro_batch=4", "data.expected={pretrain: 12, finetune: 12}"),
    ),
}


def get_scale(name: str) -> Scale:
    """The scale of that name. MaskgenError if there is none."""
    if name not in SCALES:
        raise MaskgenError(f"--scale {name}.{did_you_mean(name, SCALES)} Give one of {', '.join(SCALES)}.")
    return SCALES[name]


def shared_recipe(size: Scale) -> Recipe:
    """The recipe that all four models share."""
    return recipes.load(RECIPE, list(size.overrides))


def model_recipe(model: str, shared: Recipe, seed: int) -> Recipe:
    """The recipe of one of `MODELS`: the same stages, data and rates; only what the model is about differs.

    `shared` guides stage 3 as Table 1 has it for AGE-VLM; AGE-VLM-LM is guided in stage 4 as well, and the
    other two nowhere.
    """
    stages = {number: _model_stage(model, number, stage) for number, stage in shared.stages.items()}
    architecture = "concat_vlm" if model == "concat" else "age_vlm"
    changed = {"seed": seed, "stages": stages, "architecture": architecture}
    return Recipe.model_validate(shared.model_copy(update=changed).model_dump())


def _model_stage(model: str, number: str, stage: StageConfig) -> StageConfig:
    guided = {"age-vlm": ("3",), "age-vlm-lm": ("3", "4")}.get(model, ())
    losses = {"lm": 1.0, "guidance": 1.0} if number in guided else {"lm": 1.0}
    parts = [part for part in stage.train if model != "concat" or part != "cross_attention"]
    rates = {part: rate for part, rate in stage.lr_of.items() if part in parts}
    return stage.model_copy(update={"losses": losses, "train": parts, "lr_of": rates})


@dataclass(frozen=True)
class ReproductionFolder:
    """The folder of a reproduction."""

    out: Path

    def shards(self, name: str) -> Path:
        """The set of shards "pretrain" or "finetune"."""
        return self.out / "data" / name

    def start(self, seed: int, architecture: str) -> Path:
        """The untrained model that a seed begins with."""
        return self.out / f"seed-{seed}" / "start" / architecture

    def run(self, seed: int, model: str) -> Path:
        """The training run of a model."""
        return self.out / f"seed-{seed}" / model

    @property
    def exam(self) -> Path:
        """The questions, in the order in which they are answered."""
        return self.out / "exam.json"

    def measurement(self, seed: int, model: str) -> Path:
        """What was measured of a model."""
        return self.out / f"seed-{seed}" / f"{model}.json"
