"""The plan of a recipe is the paper's Table 1, in numbers that follow from the architecture."""

import json

import pytest
import torch
from typer.testing import CliRunner

from helpers.small_training import SIZE, model_folder, small
from maskgen.age_vlm.meta_model import meta_model
from maskgen.age_vlm.registry import paper_config
from maskgen.cli import app
from maskgen.errors import MaskgenError
from maskgen.training import explain as explaining
from maskgen.training import recipe, step_benchmark
from maskgen.training.cost import forward_backward_flops
from maskgen.training.explain import check_memory, explain, render
from maskgen.training.freezing import freeze, peak_learning_rates
from maskgen.training.model_folders import config_of, read_config
from maskgen.training.small_start import initial_model


@pytest.fixture(scope="module")
def plan():
    return explain(recipe.load("age-vlm"))


@pytest.mark.slow
def test_the_papers_sizes(plan):
    assert (plan.self_layers, plan.cross_layers) == (16, 4)
    millions = {module.name: round(module.parameters / 1e6, 1) for module in plan.stages[0].modules}
    assert millions["LLM (SA)"] == 1235.8
    assert millions["vision, last stage"] == 61.6
    assert round(millions["vision, first stages"] + millions["vision, last stage"], 1) == 196.2
    assert {stage.image_tokens for stage in plan.stages} == {576}


@pytest.mark.slow
def test_table_1_by_parameters(plan):
    trained = [{module.name for module in stage.modules if module.trained} for stage in plan.stages]
    new = {"adapter", "LLM (CA)"}
    last = new | {"vision, last stage"}
    assert trained == [new, last, last, last | {"vision, first stages", "LLM (SA)"}]
    whole = [module.trained in (0, module.parameters) for stage in plan.stages for module in stage.modules]
    assert all(whole)
    assert [stage.losses for stage in plan.stages] == [
        {"lm": 1},
        {"lm": 1},
        {"lm": 1, "guidance": 1},
        {"lm": 1},
    ]
    assert [stage.steps for stage in plan.stages[:3]] == [19_532] * 3


@pytest.mark.slow
def test_flops_know_what_is_frozen(plan):
    first, second, _, last = plan.stages
    assert first.forward == second.forward == last.forward
    assert last.backward == pytest.approx(2 * last.forward, rel=0.01)
    assert first.backward < second.backward < last.backward / 2
    vision = 808e9  # ConvNeXt-L at 768 x 768, forward
    saved = last.backward - first.backward
    assert saved > 2 * vision  # a frozen encoder under frozen pixels has no backward at all


def test_flops_of_a_linear_layer_by_hand():
    config = paper_config("age_vlm")
    config.vision_config.depths, config.text_config.num_hidden_layers, config.slots = [1, 1, 1, 1], 1, [1]
    model = meta_model(config)
    stage = recipe.load("age-vlm").stages["1"]
    freeze(model, peak_learning_rates(model, stage))
    few, many = forward_backward_flops(model, 64, 16)[0], forward_backward_flops(model, 64, 17)[0]
    width, mlp, words, keys = 2048, 8192, 128256, 512
    layer = 2 * (2 * width * width + 2 * width * keys + 3 * width * mlp)
    cross = 2 * (2 * width * width + 3 * width * mlp) + 4 * width * 4  # keys and values are the image's
    attention = 4 * width * (17**2 - 16**2)
    assert many - few == pytest.approx(layer + cross + 2 * width * words + attention, rel=1e-6)


@pytest.mark.parametrize("architecture", ["age_vlm", "concat_vlm"])
def test_a_small_recipes_own_model_is_the_one_that_its_training_starts_from(tmp_path, architecture):
    chosen = recipe.load("demo")
    if architecture == "concat_vlm":
        chosen = chosen.model_copy(
            update={"architecture": architecture, "stages": {"1": recipe.load("concat").stages["1"]}}
        )
    folder = initial_model(tmp_path / "start", chosen)
    own, started = config_of(chosen), config_of(chosen, folder)
    names = ("text_config", "vision_config", "image_size", "cells", "fit", "slots", "initializer_range")
    for name in names if architecture == "age_vlm" else names[:5]:
        one, other = getattr(own, name), getattr(started, name)
        assert (one.to_dict() if hasattr(one, "to_dict") else one) == (
            other.to_dict() if hasattr(other, "to_dict") else other
        ), name


@pytest.mark.parametrize("name", ["demo", "reproduce"])
def test_small_recipes_are_described_small(name):
    own = meta_model(config_of(recipe.load(name)))
    assert sum(parameter.numel() for parameter in own.parameters()) < 30e6
    assert "model" not in recipe.load(name).content(), "runs that were begun before know no such key"


@pytest.fixture
def free(monkeypatch):
    """Sets the free memory, in GB."""
    monkeypatch.setattr(explaining, "device_name", lambda where: f"a {where.type}")
    return lambda size: monkeypatch.setattr(explaining, "free_bytes", lambda where: size * 10**9)


@pytest.mark.slow
def test_measuring_says_what_it_takes_before_it_takes_it(plan, free):
    free(100)
    most = plan.stages[3].state_bytes + plan.stages[3].activation_bytes
    assert check_memory(plan, torch.device("cpu")) == (
        f"measuring takes about {most / 1e9:.1f} GB at most (stage 4, 16 samples at once), and 100 GB are "
        "free on a cpu"
    )


@pytest.mark.parametrize(
    ("size", "remedy"), [(60, "resources.micro_batch=8 fits"), (38, "micro_batch=2"), (20, "Not even one")]
)
@pytest.mark.slow
def test_what_is_more_than_free_is_refused(plan, free, size, remedy):
    free(size)
    with pytest.raises(MaskgenError, match=rf"--measure takes .* {size}.* GB are free on a cpu.*{remedy}"):
        check_memory(plan, torch.device("cpu"))


@pytest.mark.slow
def test_a_gpu_is_asked_as_long_as_the_weights_fit(plan, free):
    free(40)
    assert "measuring takes about" in check_memory(plan, torch.device("cuda"))
    free(20)
    with pytest.raises(MaskgenError, match="--measure takes about"):
        check_memory(plan, torch.device("cuda"))


@pytest.mark.slow
def test_the_command_refuses_before_it_measures(monkeypatch, free):
    free(0)
    monkeypatch.setattr(step_benchmark, "measure", lambda *_: pytest.fail("measured"))
    result = CliRunner().invoke(app, ["explain", "--recipe", "demo", "--measure", "1"])
    assert isinstance(result.exception, MaskgenError) and "--measure takes about" in str(result.exception)


def test_concat_has_no_cross_attention_and_a_plan():
    plan = explain(recipe.load("concat"))
    assert plan.cross_layers == 0
    assert {module.name for module in plan.stages[0].modules if module.trained} == {"adapter"}


@pytest.mark.slow
def test_the_plan_is_text_and_json(plan):
    said = render(plan)
    assert "16 self-attention and 4 cross-attention layers" in said
    assert "on one H100" in said and "not a measurement" in said
    assert json.loads(json.dumps(plan.to_dict()))["stages"][2]["stage"] == 3


@pytest.mark.slow
def test_measuring_takes_real_steps_and_prices_guidance(tmp_path, one_thread):
    folder = model_folder(tmp_path / "model")
    chosen = small("data.expected_tokens=16")
    found = step_benchmark.measure(chosen, str(folder), steps=1)
    assert [one.stage for one in found] == ["1", "2", "3", "3 without guidance", "4"]
    assert all(one.samples_per_second and one.mfu is None for one in found)
    assert [one.micro_batch for one in found] == [4] * 5
    assert "without guidance" in step_benchmark.render(found, chosen)
    assert read_config(folder, chosen).image_size == SIZE


@pytest.mark.parametrize(("fits", "said"), [(2, "resources.micro_batch=2 does"), (0, "not even one")])
@pytest.mark.slow
def test_a_stage_that_does_not_fit_costs_the_others_nothing(tmp_path, one_thread, monkeypatch, fits, said):
    """More than `fits` samples of stage 3 run out of memory, as a GPU's allocator says it."""
    chosen = small("data.expected_tokens=16")
    real = step_benchmark.take_step

    def small_memory(run, step, batches, counts):
        if run.stage.losses.get("guidance") and len(batches[0].batch.keys) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return real(run, step, batches, counts)

    monkeypatch.setattr(step_benchmark, "take_step", small_memory)
    lines: list[str] = []
    found = step_benchmark.measure(chosen, str(model_folder(tmp_path / "model")), 1, lines.append)
    assert [one.micro_batch for one in found] == [4, 4, fits, 4, 4]
    assert (found[2].samples_per_second is None) == (not fits)
    assert said in step_benchmark.render(found, chosen) and said in lines[2] and len(lines) == 5
    assert json.loads(json.dumps(step_benchmark.to_dict(found)))[2]["micro_batch"] == fits


@pytest.mark.slow
def test_what_is_no_lack_of_memory_is_raised(tmp_path, one_thread, monkeypatch):
    def broken(*_):
        raise RuntimeError("no kernel image is available")

    monkeypatch.setattr(step_benchmark, "take_step", broken)
    with pytest.raises(RuntimeError, match="no kernel"):
        step_benchmark.measure(small("data.expected_tokens=16"), str(model_folder(tmp_path / "model")), 1)
