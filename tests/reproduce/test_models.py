"""The four models differ in what they are about and in nothing else."""

import pytest

from maskgen.reproduce.scales import MODELS, SCALES, model_recipe, shared_recipe


def content(model, scale="demo"):
    return model_recipe(model, shared_recipe(SCALES[scale]), seed=7).content()


def guided(model):
    return [number for number, stage in content(model)["stages"].items() if stage["losses"].get("guidance")]


def test_guidance_is_where_table_1_has_it():
    assert {model: guided(model) for model in MODELS} == {
        "concat": [],
        "ca-baseline": [],
        "age-vlm": ["3"],
        "age-vlm-lm": ["3", "4"],
    }


@pytest.mark.parametrize("model", MODELS)
def test_everything_else_is_alike(model):
    ours, theirs = content(model), content("age-vlm")
    for tree in (ours, theirs):
        tree.pop("architecture")
        for stage in tree["stages"].values():
            stage.pop("losses")
            stage["train"] = [part for part in stage["train"] if part != "cross_attention"]
    assert ours == theirs


def test_the_base_is_age_vlm():
    for scale in SCALES.values():
        shared = shared_recipe(scale)
        assert model_recipe("age-vlm", shared, shared.seed) == shared
