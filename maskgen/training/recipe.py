"""A training recipe as typed models: the only place that knows the shape of `recipe:` files."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from maskgen.config import Section, lay_over, pipelines_folder, read_tree, shipped, validated
from maskgen.errors import MaskgenError, did_you_mean

Part = Literal["vision", "vision.last_stage", "vision.last_block", "adapter", "cross_attention", "language"]
Loss = Literal["lm", "guidance"]
SetName = Literal["pretrain", "finetune"]
DEMO = "demo-train"


def _number(value: Any) -> Any:
    """YAML 1.1 reads 1e-5, which has no dot, as a word."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


Number = Annotated[float, BeforeValidator(_number)]
Positive = Annotated[Number, Field(gt=0)]
Weight = Annotated[Number, Field(ge=0)]


class StageConfig(Section):
    """One row of Table 1: what trains, on which losses and data."""

    train: list[Part] = Field(min_length=1, description="parts that train; all others are frozen")
    losses: dict[Loss, Weight] = Field(
        {"lm": 1.0}, description="weights (equal in the paper); guidance 0: measured and logged, not trained"
    )
    data: SetName = Field(description="pretrain: --data; finetune: --finetune-data")
    lr: Positive = Field(1e-5, description="peak learning rate of every part without one of its own")
    lr_of: dict[Part, Positive] = Field({}, description="a part's own peak learning rate")
    size: int = Field(768, ge=32, description="pixels a side")
    epochs: int = Field(1, ge=1, description="passes over the data")

    @model_validator(mode="after")
    def _consistent(self) -> "StageConfig":
        if foreign := sorted(set(self.lr_of) - set(self.train)):
            raise ValueError(f"lr_of names {', '.join(foreign)}, which train does not list")
        if not self.losses.get("lm"):
            raise ValueError("losses needs lm with a weight above 0: every stage of Table 1 trains on it")
        return self

    def rate(self, part: Part) -> float:
        """The peak learning rate of a part that trains."""
        return self.lr_of.get(part, self.lr)


class DataConfig(Section):
    """How samples become batches."""

    order: Literal["stratified", "random"] = Field(
        "stratified", description="stratified: every step gets its share of the samples with a mask"
    )
    fit: Literal["squash", "pad", "crop"] = Field("squash", description="how an image fills the square")
    threshold: Annotated[Number, Field(gt=0, le=1)] = Field(
        0.5, description="share of a cell under the mask from which M' has it; the best cell is always on"
    )
    where: str = Field(
        "",
        description="which masks guide, in SQL over the index: quality >= 0.8 AND coverage < 0.9; empty: all",
    )
    max_tokens: int = Field(2048, ge=16, description="longer texts are cut at the end, and counted")
    expected_tokens: int = Field(256, ge=1, description="text tokens a sample, for maskgen explain alone")
    expected: dict[SetName, int] = Field(
        {"pretrain": 2_500_000, "finetune": 10_000_000},
        description="samples that maskgen explain reckons with when it is given no data",
    )


class GuidanceConfig(Section):
    """Equation 3."""

    normalise: Literal["sum", "max", "minmax"] = Field("sum", description="how attention becomes P")


class OptimizerConfig(Section):
    """AdamW with a linear warm-up and a cosine to zero, anew in each stage (Appendix B)."""

    betas: list[Annotated[Number, Field(ge=0, lt=1)]] = Field([0.9, 0.95], min_length=2, max_length=2)
    weight_decay: Weight = Field(0.1, description="none on norms, biases and other vectors")
    warmup: Annotated[Number, Field(ge=0, lt=1)] = Field(0.03, description="share of the steps")
    clip: Positive = Field(1.0, description="largest norm of the whole gradient")


class TrainResources(Section):
    """What a run may use: speed, not content. A resume may change these."""

    micro_batch: int = Field(16, ge=1, description="samples a device takes at once; the rest accumulates")
    workers: int = Field(4, ge=0, description="processes a device that decode ahead; 0: none")
    parallel: Literal["ddp", "fsdp"] = Field("ddp", description="with several devices: copies, or shards")
    checkpoint_activations: bool = Field(False, description="recompute layers in the backward; less memory")
    compile: bool = Field(False, description="torch.compile each layer")
    checkpoint_steps: int = Field(500, ge=1, description="steps between two checkpoints")
    keep: int = Field(2, ge=1, description="checkpoints that stay")
    tensorboard: bool = Field(False, description="also write TensorBoard events (needs tensorboard)")


class Recipe(Section):
    """One training run, all stages."""

    recipe: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    architecture: Literal["age_vlm", "concat_vlm"] = Field(
        "age_vlm", description="concat_vlm: image tokens before the text instead of cross-attention"
    )
    model: Literal["paper", "small"] = Field(
        "paper", description="what maskgen explain describes without --model: full size, or the package's own"
    )
    seed: int = Field(0, ge=0)
    precision: Literal["bf16", "fp32"] = Field("bf16", description="of the arithmetic; weights are fp32")
    batch: int = Field(128, ge=1, description="samples a step, over all devices")
    data: DataConfig = DataConfig()
    guidance: GuidanceConfig = GuidanceConfig()
    optimiser: OptimizerConfig = OptimizerConfig()
    resources: TrainResources = TrainResources()
    stages: dict[str, StageConfig] = Field(
        min_length=1, description="1, 2, ...: each starts from the one before"
    )

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        wanted = [str(number) for number in range(1, len(self.stages) + 1)]
        if list(self.stages) != wanted:
            raise ValueError(f"stages are numbered 1, 2, ... in order (here {', '.join(self.stages)})")
        if self.architecture == "concat_vlm":
            for name, stage in self.stages.items():
                if "cross_attention" in stage.train or stage.losses.get("guidance"):
                    raise ValueError(
                        f"stages.{name} trains cross_attention or guidance, which concat_vlm does not have"
                    )
        return self

    def steps(self, first: int = 1) -> int:
        """Steps from stage `first` to the last, over the sets that the recipe expects."""
        stages = [stage for number, stage in self.stages.items() if int(number) >= first]
        return sum(stage.epochs * -(-self.data.expected[stage.data] // self.batch) for stage in stages)

    def content(self) -> dict[str, Any]:
        """What the trained weights follow from, as JSON values; a resume must not change it."""
        told = self.model_dump(
            mode="json",
            exclude={"resources": True, "model": True, "data": {"expected", "expected_tokens"}},
        )
        if not self.data.where:
            del told["data"]["where"]  # runs that were begun before there was a choice go on
        return told


def names() -> list[str]:
    """What --recipe accepts."""
    return ["demo" if name == DEMO else name for name in shipped("recipe")]


def load(name: str, overrides: list[str] | None = None) -> Recipe:
    """The shipped recipe `name` or a file, with `overrides` ("stages.3.lr=2e-5") laid over it."""
    path = Path(name) if name.endswith((".yaml", ".yml", ".json")) else _shipped(name)
    if not path.is_file():
        near, known = did_you_mean(name, names()), ", ".join(names())
        raise MaskgenError(f"there is no recipe {name}.{near} Give --recipe one of {known}, or a YAML file.")
    tree = read_tree(path, "maskgen config --recipe age-vlm")
    if "split" in tree and "recipe" not in tree:
        raise MaskgenError(f"{path} is a split, not a training recipe. Give it to maskgen run as --split.")
    if isinstance(tree.get("stages"), dict):
        tree["stages"] = {str(key): stage for key, stage in tree["stages"].items()}
    for override in overrides or []:
        lay_over(tree, override)
    return validated(Recipe, tree, str(path), overrides)


def _shipped(name: str) -> Path:
    return pipelines_folder() / f"{DEMO if name == 'demo' else name}.yaml"
