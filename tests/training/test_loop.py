"""One step of the loop: what is averaged over what, and what stops it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from helpers.small_training import model_folder, shards, small
from maskgen.age_vlm.guidance import guidance_loss
from maskgen.errors import MaskgenError
from maskgen.training import loop, losses, model_folders
from maskgen.training.data_loader import StepLoader
from maskgen.training.distributed import World
from maskgen.training.losses import cross_entropy_sum
from maskgen.training.metrics import read_lines
from maskgen.training.optimizer import lr_factor
from maskgen.training.recipe import SetName
from maskgen.training.trainer import TrainRequest, prepare_stage, train

pytestmark = pytest.mark.usefixtures("one_thread")
ALONE = World(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("training")
    return str(model_folder(folder / "model")), shards(folder / "shards")


def request_for(world: tuple[str, str], out: Path, *overrides: str) -> TrainRequest:
    model, data = world
    return TrainRequest(small(*overrides), model, {"pretrain": [data], "finetune": [data]}, str(out))


def stage_run_of(world: tuple[str, str], out: Path, stage: int, *overrides: str) -> loop.StageRun:
    return prepare_stage(request_for(world, out, *overrides), ALONE, stage, world[0])


def step_of(run: loop.StageRun, number: int = 0) -> list:
    assert run.batches is not None
    return next(iter(StepLoader(run.batches, number, 0, torch.device("cpu"))))


def single_samples(run: loop.StageRun, number: int = 0) -> list:
    assert run.batches is not None
    return list(run.batches.single_samples(number))


def gradients(run: loop.StageRun) -> dict[str, torch.Tensor]:
    step = step_of(run)
    counts, _ = loop.global_counts(run, step, False)
    loop.accumulate(run, step, counts)
    return {
        name: parameter.grad.clone()
        for name, parameter in run.parallel_model.module.named_parameters()
        if parameter.grad is not None
    }


def named_request(folder: Path, data: str, name: str) -> TrainRequest:
    """A shipped recipe by its name, on a model of its architecture in `folder`, one micro-batch a step."""
    recipe = small("resources.micro_batch=8", name=name)
    start = model_folder(folder / "start", recipe.architecture)
    return TrainRequest(recipe, str(start), {"pretrain": [data], "finetune": [data]}, str(folder / "run"))


def gradients_of(run: loop.StageRun, micro) -> dict[str, torch.Tensor]:
    module = run.parallel_model.module
    module.zero_grad(set_to_none=True)
    loop.accumulate(run, [micro], loop.count_losses(run.stage, [micro]))
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


@pytest.mark.slow
def test_losses_are_means_over_the_global_batch(world, tmp_path):
    """An oracle that sees the whole batch at once, row by row."""
    run = stage_run_of(world, tmp_path, 3, "resources.micro_batch=2", "stages.3.losses.guidance=0.5")
    step = step_of(run)
    counts, _ = loop.global_counts(run, step, False)
    lm, pairs = [], []
    for batch in single_samples(run):
        with torch.no_grad():
            out = run.parallel_model.module(
                input_ids=batch.input_ids,
                pixel_values=run.normalise(batch.pixels),
                query_mask=batch.query_mask,
                guided=batch.guided,
            )
        wanted = batch.labels[0, 1:]
        entropy = F.cross_entropy(out.logits[0, :-1], wanted, reduction="none", ignore_index=-100)
        lm += entropy[wanted != -100].tolist()
        if batch.guided[0]:
            pairs += guidance_loss(out.guidance_maps, batch.masks).loss.flatten().tolist()
    line = loop.take_step(run, 0, step, counts)
    assert len(pairs) == 2 * line["guided"] > 2
    assert line["lm"] == pytest.approx(sum(lm) / len(lm), rel=1e-5)
    assert line["guidance"] == pytest.approx(sum(pairs) / len(pairs), rel=1e-5)
    assert line["loss"] == pytest.approx(line["lm"] + 0.5 * line["guidance"], rel=1e-6)
    assert 0 < line["guidance_above_floor"] < line["guidance"]
    assert len(line["mass"]) == 2 and all(0 < mass < 1 for mass in line["mass"])


@pytest.mark.slow
def test_accumulation_gives_the_gradients_of_one_big_batch(world, tmp_path):
    big = gradients(stage_run_of(world, tmp_path, 4, "stages.4.losses.guidance=1", "resources.micro_batch=8"))
    small_ones = gradients(
        stage_run_of(world, tmp_path, 4, "stages.4.losses.guidance=1", "resources.micro_batch=2")
    )
    assert big.keys() == small_ones.keys()
    for name, value in big.items():
        torch.testing.assert_close(small_ones[name], value, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("name", ["age-vlm", "concat"])
def test_padding_at_the_right_needs_no_mask(world, tmp_path, monkeypatch, name):
    """The gradients are those with a mask, of rows of several lengths and of rows that only fill up."""
    run = prepare_stage(named_request(tmp_path, world[1], name), ALONE, 4, tmp_path / "start")
    (micro,) = step_of(run, 2)  # the tail, with rows that only fill up, and have no image
    assert len(set(micro.batch.attention_mask.sum(dim=1).tolist())) > 2
    found = gradients_of(run, micro)
    plain = run.parallel_model.model.forward

    def masked(**given):
        return plain(attention_mask=micro.batch.attention_mask, **given)

    monkeypatch.setattr(run.parallel_model.model, "forward", masked)
    expected = gradients_of(run, micro)
    assert found.keys() == expected.keys()
    for weight, value in expected.items():
        torch.testing.assert_close(found[weight], value, rtol=1e-4, atol=1e-6, msg=weight)


def test_micro_batches_hold_rows_of_like_length(world, tmp_path):
    """The step's own samples, each once, the longest first; rows are filled up to whole multiples."""
    run = stage_run_of(world, tmp_path, 3, "resources.micro_batch=2")
    assert run.batches is not None
    for number in range(len(run.batches)):
        micros = run.batches[number]
        rows = [row for micro in micros for row in micro.rows]
        assert sorted(row.key for row in rows) == sorted(b.keys[0] for b in single_samples(run, number))
        lengths = [row.tokens for row in rows]
        assert lengths == sorted(lengths, reverse=True) and len(micros) == 4
        for micro in micros:
            longest = max((row.tokens for row in micro.rows), default=1)
            assert micro.batch.input_ids.shape[1] == longest
    run.batches._length_multiple = 64  # noqa: SLF001  # as on a GPU
    assert {micro.batch.labels.shape[1] for micro in run.batches[0]} == {64}


def test_bfloat16_has_float32_master_weights(world, tmp_path):
    """Gradients within bfloat16's error of float32's, added up in float32; the copy follows the weights,
    which take steps that bfloat16 could not tell apart."""
    exact = gradients(stage_run_of(world, tmp_path, 4, "resources.micro_batch=2"))
    run = stage_run_of(world, tmp_path, 4, "resources.micro_batch=2", "precision=bf16")
    module, called = run.parallel_model.module, run.parallel_model.model
    half = gradients(run)
    ours, theirs = (torch.cat([each[name].flatten() for name in exact]) for each in (half, exact))
    assert ours.dtype == torch.float32 and (ours - theirs).norm() < 0.05 * theirs.norm()
    assert {p.dtype for p in called.parameters()} == {torch.bfloat16}
    assert {b.dtype for b in called.buffers()} == {b.dtype for b in module.buffers()}
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    step = step_of(run)
    loop.take_step(run, 0, step, loop.global_counts(run, step, False)[0])
    moved = [name for name, p in module.named_parameters() if not torch.equal(p, before[name])]
    assert len(moved) > len(exact) // 2  # a few vectors move by less than float32 can hold
    assert any(
        torch.equal(p.bfloat16(), before[name].bfloat16()) and not torch.equal(p, before[name])
        for name, p in module.named_parameters()
    )
    for own, copied in zip(module.parameters(), called.parameters(), strict=True):
        assert torch.equal(own.bfloat16(), copied)


def test_guidance_of_weight_zero_is_measured_and_changes_no_gradient(world, tmp_path):
    measured = stage_run_of(world, tmp_path, 2)
    plain = stage_run_of(world, tmp_path, 2, "stages.2.losses={lm: 1}")
    step = step_of(measured)
    counts, _ = loop.global_counts(measured, step, False)
    before = gradients(measured)
    measured.optimizer.zero_grad()
    assert loop.take_step(measured, 0, step, counts)["guidance"] > 0
    for name, value in gradients(plain).items():
        assert torch.equal(before[name], value), name


@pytest.mark.slow
def test_rows_that_fill_up_the_tail_count_for_nothing(world, tmp_path):
    run = stage_run_of(world, tmp_path, 3, "resources.micro_batch=8")
    tail = step_of(run, 2)
    keys = loop.sample_keys(tail)
    assert (len(keys), len(tail[0].batch.keys)) == (5, 8)
    counts, _ = loop.global_counts(run, tail, False)
    assert counts.tokens == sum(int((one.labels[:, 1:] != -100).sum()) for one in single_samples(run, 2))


def test_a_loss_that_is_not_finite_stops_with_the_samples_keys(world, tmp_path, monkeypatch):
    run = stage_run_of(world, tmp_path, 1)
    step = step_of(run)
    culprit = step[1].batch.keys[2]
    weight = run.parallel_model.module.lm_head.weight.detach().clone()
    plain = run.parallel_model.model.forward

    def poisoned(*args, pixel_values, **kwargs):
        out = plain(*args, pixel_values=pixel_values, **kwargs)
        bad = (pixel_values == target).flatten(1).all(dim=1)
        row = kwargs["logits_at"] // kwargs["input_ids"].shape[1]
        out.logits = out.logits + torch.where(bad, float("nan"), 0.0)[row, None]
        return out

    target = run.normalise(step[1].batch.pixels)[2]
    monkeypatch.setattr(run.parallel_model.model, "forward", poisoned)
    counts, _ = loop.global_counts(run, step, False)
    with pytest.raises(MaskgenError, match=f"by the samples {culprit}\\."):
        loop.take_step(run, 0, step, counts)
    assert torch.equal(weight, run.parallel_model.module.lm_head.weight)


def test_the_sum_of_the_cross_entropy_in_pieces(monkeypatch):
    monkeypatch.setattr(losses, "_TOKENS", 4)
    torch.manual_seed(0)
    logits, targets = torch.randn(35, 11, requires_grad=True), torch.randint(0, 11, (35,))
    targets[::3] = -100
    whole = F.cross_entropy(logits, targets, reduction="sum")
    torch.testing.assert_close(cross_entropy_sum(logits, targets), whole)
    (ours,) = torch.autograd.grad(cross_entropy_sum(logits, targets), logits)
    (theirs,) = torch.autograd.grad(whole, logits)
    torch.testing.assert_close(ours, theirs)


def test_logits_are_made_where_something_is_to_be_learnt(world, tmp_path):
    """The loss of the whole text's logits, and its gradients, from those of the answers."""
    run = stage_run_of(world, tmp_path, 4, "resources.micro_batch=8")
    (micro,) = step_of(run)
    batch = micro.batch
    assert 0 < len(batch.target_places) < batch.labels.numel() / 2
    found = loop.forward(run, batch).lm
    ours = torch.autograd.grad(found, run.optimizer.param_groups[0]["params"], allow_unused=True)
    out = run.parallel_model.module(input_ids=batch.input_ids, pixel_values=run.normalise(batch.pixels))
    wanted = batch.labels[:, 1:].flatten()
    whole = F.cross_entropy(out.logits[:, :-1].flatten(0, 1), wanted, ignore_index=-100, reduction="sum")
    torch.testing.assert_close(found, whole)
    theirs = torch.autograd.grad(whole, run.optimizer.param_groups[0]["params"], allow_unused=True)
    for own, expected in zip(ours, theirs, strict=True):
        assert (own is None) == (expected is None)
        if own is not None:
            torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-5)


def test_the_rate_rises_and_falls():
    course = [lr_factor(step, 100, 0.03) for step in range(100)]
    assert course[:3] == pytest.approx([1 / 3, 2 / 3, 1])
    assert course[3] == 1 and course[51] == pytest.approx(0.5, abs=0.01) and 0 < course[99] < 0.001
    assert course[3:] == sorted(course[3:], reverse=True)


def test_decay_and_rates_by_parameter(world, tmp_path):
    run = stage_run_of(world, tmp_path, 2, "stages.2.lr=1e-3", "stages.2.lr_of={adapter: 1e-2}")
    names = {parameter: name for name, parameter in run.parallel_model.module.named_parameters()}
    trained = set()
    for group in run.optimizer.param_groups:
        for parameter in group["params"]:
            name = names[parameter]
            trained.add(name)
            assert group["weight_decay"] == (0.1 if parameter.ndim > 1 else 0.0), name
            assert group["lr"] == (1e-2 if "adapter" in name else 1e-3), name
    starts = ("model.vision.encoder.stages.3.", "model.adapter.", "model.cross.")
    assert trained == {name for name in names.values() if name.startswith(starts)}
    assert isinstance(run.optimizer, torch.optim.AdamW) and run.optimizer.defaults["betas"] == (0.9, 0.95)


@pytest.mark.parametrize("name", ["age-vlm", "age-vlm-lm", "ca-baseline", "concat"])
@pytest.mark.slow
def test_every_shipped_recipe_trains_and_its_model_answers(world, tmp_path, name):
    chosen = small(name=name)
    start = model_folder(tmp_path / "start", chosen.architecture)
    data: dict[SetName, list[str]] = {"pretrain": [world[1]], "finetune": [world[1]]}
    done = train(TrainRequest(chosen, str(start), data, str(tmp_path / "run")), ALONE, lambda _: None)
    lines = read_lines(tmp_path / "run" / "metrics.jsonl")
    guided = {line["stage"] for line in lines if line["guidance"] is not None}
    assert guided == {"age-vlm": {3}, "age-vlm-lm": {3, 4}, "ca-baseline": set(), "concat": set()}[name]
    model = AutoModelForImageTextToText.from_pretrained(done)
    processor = AutoProcessor.from_pretrained(done)
    picture = Image.new("RGB", (40, 30), "red")
    inputs = processor(images=picture, text="<s>User: where is thing 3\nAssistant:")
    assert model.generate(**inputs, max_new_tokens=3).shape[1] > inputs["input_ids"].shape[1]


@pytest.mark.slow
def test_a_run_trains_what_its_stages_say_and_nothing_else(world, tmp_path):
    request = request_for(world, tmp_path / "run")
    train(request, ALONE, lambda _: None)
    folders = [Path(world[0]), *(tmp_path / "run" / f"stage-{n}" / "model" for n in range(1, 5))]
    states = [model_folders.load(f, request.recipe, request.recipe.stages["1"]).state_dict() for f in folders]
    parts = model_folders.load(folders[0], request.recipe, request.recipe.stages["1"]).parts()
    table = [(), ("adapter", "cross_attention"), ("vision.last_stage", "adapter", "cross_attention")]
    table += [table[2], ("vision", "adapter", "cross_attention", "language")]
    for stage in range(1, 5):
        trains = {name for part in table[stage] for name in parts[part]}
        for name, before in states[stage - 1].items():
            if name == "lm_head.weight" or name.startswith("model.vision.layernorm"):
                continue  # tied to the embeddings; a norm after pooling, which nobody calls
            same = torch.equal(before, states[stage][name])
            assert same == (name not in trains), (stage, name)
    records = [json.loads((f.parent / "stage.json").read_text()) for f in folders[1:]]
    assert [record["parent"] for record in records[1:]] == [record["weights"] for record in records[:-1]]
    lines = read_lines(tmp_path / "run" / "metrics.jsonl")
    assert [(line["stage"], line["step"]) for line in lines] == [
        (s, n) for s in range(1, 5) for n in range(3)
    ]
    ledger = read_lines(tmp_path / "run" / "ledger" / "rank-0000.jsonl")
    for stage in range(1, 5):
        keys = [key for line in ledger if line["stage"] == stage for key in line["keys"]]
        assert sorted(keys) == [f"{number:016x}" for number in range(21)]


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_processes_and_accumulation_give_the_same_gradients(world, tmp_path, parallel):
    """1 process x 4 micro-batches = 2 x 2 = 4 x 1 in the first step's gradients, by gloo."""
    model, data = world
    worker = Path(__file__).parents[1] / "helpers" / "gradient_worker.py"
    found = {}
    for processes, micro in ((1, 2), (2, 2), (4, 2)):
        to = tmp_path / f"{processes}.pt"
        line = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nproc-per-node",
            str(processes),
            "--master-port",
        ]
        line += [str(29_600 + processes + (10 if parallel == "fsdp" else 0)), str(worker)]
        line += [model, data, str(to), str(micro), parallel]
        subprocess.run(line, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=170)
        found[processes] = torch.load(to, weights_only=True)
    assert found[1].keys() == found[2].keys() == found[4].keys()
    for processes in (2, 4):
        for name, value in found[1].items():
            torch.testing.assert_close(found[processes][name], value, rtol=1e-4, atol=1e-6, msg=name)
