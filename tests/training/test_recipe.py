"""Recipes: the paper's table, typed, overridable, and wrong ones explained."""

import pytest
import yaml

from maskgen import config
from maskgen.errors import MaskgenError
from maskgen.training import recipe

EARLY = ["adapter", "cross_attention"]
MIDDLE = ["vision.last_stage", "adapter", "cross_attention"]
ALL = ["vision", "adapter", "cross_attention", "language"]


@pytest.mark.parametrize("name", recipe.names())
def test_a_shipped_recipe_survives_its_own_dump_and_has_four_stages(name):
    loaded = recipe.load(name)
    assert recipe.Recipe.model_validate(yaml.safe_load(config.dump(loaded))) == loaded
    assert list(loaded.stages) == ["1", "2", "3", "4"]


@pytest.mark.parametrize(
    ("name", "guided"), [("age-vlm", {"3"}), ("age-vlm-lm", {"3", "4"}), ("ca-baseline", set())]
)
def test_table_1(name, guided):
    stages = recipe.load(name).stages
    assert [stage.train for stage in stages.values()] == [EARLY, MIDDLE, MIDDLE, ALL]
    assert {number for number, stage in stages.items() if stage.losses.get("guidance")} == guided
    assert all(stage.losses["lm"] == 1 for stage in stages.values())
    assert [stage.data for stage in stages.values()] == ["pretrain"] * 3 + ["finetune"]


def test_appendix_b():
    loaded = recipe.load("age-vlm")
    chosen = loaded.optimiser
    assert (chosen.betas, chosen.weight_decay, chosen.warmup, chosen.clip) == ([0.9, 0.95], 0.1, 0.03, 1.0)
    assert {stage.lr for stage in loaded.stages.values()} == {1e-5}
    assert {stage.size for stage in loaded.stages.values()} == {768}
    assert {stage.epochs for stage in loaded.stages.values()} == {1}
    assert (loaded.batch, loaded.precision) == (128, "bf16")


def test_splits_and_recipes_are_told_apart():
    assert config.shipped() == ["demo", "finetune", "pretrain"]
    assert set(recipe.names()) == {"age-vlm", "age-vlm-lm", "ca-baseline", "concat", "demo", "reproduce"}
    with pytest.raises(MaskgenError, match="training recipe"):
        config.load("age-vlm")
    with pytest.raises(MaskgenError, match="is a split"):
        recipe.load("pretrain")


def test_overrides_reach_a_stage_and_numbers_need_no_dot():
    loaded = recipe.load("age-vlm", ["stages.3.lr=2e-5", "stages.3.lr_of.adapter=1e-4", "batch=64"])
    assert loaded.stages["3"].rate("adapter") == 1e-4
    assert loaded.stages["3"].rate("vision.last_stage") == 2e-5
    assert loaded.batch == 64


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("stages.3.rl=1", ["stages.3.rl", "no such key"]),
        ("stages.3.train=[eyes]", ["stages.3.train.0", "'eyes'"]),
        ("stages.3.lr=0", ["stages.3.lr", "greater than 0"]),
        ("stages.3.losses={guidance: 1}", ["stages.3", "lm"]),
        ("stages.1.lr_of.language=1", ["stages.1", "language", "train does not list"]),
        ("stages.7.data=pretrain", ["stages.7.train", "required"]),
        ("guidance.normalise=softmax", ["guidance.normalise"]),
        ("architecture=concat_vlm", ["cross_attention", "concat_vlm does not have"]),
    ],
)
def test_what_is_wrong_is_said_with_override_key_and_remedy(override, said):
    with pytest.raises(MaskgenError) as error:
        recipe.load("age-vlm", [override])
    for part in [f"--set {override}: ", *said]:
        assert part in str(error.value)


def test_an_unknown_recipe_names_the_known_ones():
    with pytest.raises(MaskgenError, match=r"age-vlm-lm, .*ca-baseline"):
        recipe.load("llava")


def test_what_is_only_speed_is_no_content():
    plain, fast = (
        recipe.load("age-vlm"),
        recipe.load("age-vlm", ["resources.micro_batch=8", "data.expected.pretrain=1"]),
    )
    assert plain.content() == fast.content()
    assert plain.content() != recipe.load("age-vlm", ["seed=1"]).content()
