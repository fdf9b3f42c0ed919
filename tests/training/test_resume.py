"""Killed, stopped, or changed in between: what a run does when the same line is run again."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from helpers.small_training import SIZE, model_folder, shards, small
from maskgen.errors import MaskgenError
from maskgen.runtime.model_place import model_folder as model_folder_of
from maskgen.training import trainer as runs
from maskgen.training.checkpoint import Checkpoints
from maskgen.training.distributed import World
from maskgen.training.loop import InterruptedRun
from maskgen.training.metrics import read_lines
from maskgen.training.trainer import TrainRequest, _start_run, train
from maskgen.views.folder_status import folder_status

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]
ALONE = World(0, 1, torch.device("cpu"))
MASKGEN = str(Path(sys.executable).with_name("maskgen"))
SAMPLES, BATCH, EVERY = 120, 4, 4


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("resuming")
    return str(model_folder(folder / "model")), shards(folder / "shards", SAMPLES, shard=40)


def request_for(world: tuple[str, str], out: Path, *overrides: str) -> TrainRequest:
    model, data = world
    options = [f"batch={BATCH}", f"resources.checkpoint_steps={EVERY}", *overrides]
    return TrainRequest(small(*options), model, {"pretrain": [data], "finetune": [data]}, str(out))


def weights(run: Path, stage: int = 4) -> dict[str, torch.Tensor]:
    return load_file(run / f"stage-{stage}" / "model" / "model.safetensors")


def identical(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def whole_ledger(run: Path) -> None:
    """Every stage took each sample once, in 30 steps that are told once each."""
    lines = read_lines(run / "ledger" / "rank-0000.jsonl")
    for stage in range(1, 5):
        mine = [line for line in lines if line["stage"] == stage]
        assert [line["step"] for line in mine] == list(range(SAMPLES // BATCH))
        assert sorted(key for line in mine for key in line["keys"]) == [f"{n:016x}" for n in range(SAMPLES)]
    told = [(line["stage"], line["step"]) for line in read_lines(run / "metrics.jsonl")]
    assert told == [(stage, step) for stage in range(1, 5) for step in range(SAMPLES // BATCH)]


@pytest.fixture(scope="module")
def uninterrupted(world, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "whole"
    train(request_for(world, out), ALONE, lambda _: None)
    return out


def checkpoint_steps(run: Path, stage: int) -> list[int]:
    """The steps that the checkpoints of a stage go on at."""
    return sorted(int(path.name[-7:]) for path in (run / "checkpoints").glob(f"stage-{stage}-step-*"))


def line_for(world: tuple[str, str], out: Path) -> list[str]:
    settings = [f"stages.{stage}.size={SIZE}" for stage in range(1, 5)]
    settings += [
        "stages.3.epochs=1",
        f"batch={BATCH}",
        "precision=fp32",
        "resources.micro_batch=4",
        "resources.workers=0",
    ]
    settings += [f"resources.checkpoint_steps={EVERY}"]
    options = [part for setting in settings for part in ("--set", setting)]
    model, data = world
    return [
        MASKGEN,
        "train",
        "--recipe",
        "demo",
        "--data",
        data,
        "--model",
        model,
        "--out",
        str(out),
        *options,
    ]


def started(line: list[str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        line, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )


def wait_for(run: Path, process: "subprocess.Popen[str]", stage: int, step: int) -> None:
    """Until that step is told of; it must not have ended before."""
    path = run / "metrics.jsonl"
    while process.poll() is None:
        last = read_lines(path)[-1:] if path.is_file() else []
        if last and (last[0]["stage"], last[0]["step"]) >= (stage, step):
            return
        time.sleep(0.005)
    raise AssertionError(process.communicate()[1])


@pytest.mark.timeout(300)
def test_killed_in_the_middle_of_each_stage_it_ends_with_the_same_weights(world, uninterrupted, tmp_path):
    out = tmp_path / "killed"
    for stage in range(1, 5):
        process = started(line_for(world, out))
        wait_for(out, process, stage, 9)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert runs.stage_record(out, stage) is None
        told = read_lines(out / "metrics.jsonl")[-1]["step"]
        assert all(step <= told + 1 for step in checkpoint_steps(out, stage))
    process = started(line_for(world, out))
    assert process.communicate()[1] and process.returncode == 0
    for stage in range(1, 5):
        assert identical(weights(out, stage), weights(uninterrupted, stage))
    whole_ledger(out)
    assert not list((out / "checkpoints").iterdir())


def test_sigterm_writes_a_checkpoint_and_exits_with_3(world, uninterrupted, tmp_path):
    out = tmp_path / "stopped"
    process = started(line_for(world, out))
    wait_for(out, process, 2, 5)
    process.send_signal(signal.SIGTERM)
    said = process.communicate()[1]
    assert process.returncode == 3, said
    assert "a checkpoint is written" in said
    told = read_lines(out / "metrics.jsonl")[-1]
    assert checkpoint_steps(out, 2)[-1] == told["step"] + 1
    assert started(line_for(world, out)).wait() == 0
    assert identical(weights(out), weights(uninterrupted))
    whole_ledger(out)


@contextmanager
def stopped_after(stage: int, step: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """SIGTERM arrives once that step is told of."""
    plain = runs.train_stage

    def stopping(run, first, outputs, before=0):
        take = outputs.metrics.add

        def add(line):
            take(line)
            if (line["stage"], line["step"]) == (stage, step):
                signal.raise_signal(signal.SIGTERM)

        outputs.metrics.add = add
        plain(run, first, outputs, before)

    with monkeypatch.context() as patched:
        patched.setattr(runs, "train_stage", stopping)
        with pytest.raises(InterruptedRun, match=f"stage {stage} before step {step + 1} of 30"):
            yield


def test_stopped_and_resumed_in_one_process(world, uninterrupted, tmp_path, monkeypatch):
    """As the slow tests, without their processes: stop after a few steps, go on, compare."""
    out = tmp_path / "run"
    request = request_for(world, out)
    with stopped_after(3, 6, monkeypatch):
        train(request, ALONE, lambda _: None)
    said: list[str] = []
    train(request, ALONE, said.append)
    assert said == ["going on in stage 3 at step 7 of 30"]
    assert identical(weights(out), weights(uninterrupted))
    whole_ledger(out)


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    world, uninterrupted, tmp_path, monkeypatch
):
    out = tmp_path / "run"
    request = request_for(world, out)
    with stopped_after(1, 9, monkeypatch):
        train(request, ALONE, lambda _: None)
    assert checkpoint_steps(out, 1) == [8, 10]
    spoil(out / "checkpoints" / "stage-1-step-0000010" / "model.safetensors")
    said: list[str] = []
    with stopped_after(1, 10, monkeypatch):
        train(request, ALONE, said.append)
    assert "stage-1-step-0000010 is damaged (model.safetensors has another hash" in said[0]
    assert said[1:] == ["going on in stage 1 at step 8 of 30"]
    assert checkpoint_steps(out, 1) == [8, 11]
    for folder in (out / "checkpoints").glob("stage-1-*"):  # none is left whole: the stage begins anew
        spoil(folder / "optimiser.safetensors")
    said.clear()
    with stopped_after(2, 0, monkeypatch):
        train(request, ALONE, said.append)
    assert [line.partition(" is damaged")[0][-7:] for line in said] == ["0000011", "0000008"]
    assert identical(weights(out, 1), weights(uninterrupted, 1))
    assert [path.name[:8] for path in (out / "checkpoints").iterdir()] == ["stage-2-"]


def spoil(path: Path) -> None:
    """Turn one bit in the middle of the file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_damaged_model_of_an_earlier_stage_is_not_trained_on(world, uninterrupted, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(uninterrupted, out)
    shutil.rmtree(out / "stage-4")
    shutil.rmtree(out / "model")
    path = out / "stage-3" / "model" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1  # among the values
    path.write_bytes(data)
    with pytest.raises(MaskgenError, match=r"stage-3/model is damaged.*remove .*stage-3, and that stage"):
        train(request_for(world, out), ALONE, lambda _: None)


def test_another_recipe_or_data_is_refused_with_the_difference(world, uninterrupted, tmp_path):
    changed = request_for(world, uninterrupted, "stages.3.lr=1e-4", "seed=7")
    with pytest.raises(MaskgenError) as error:
        train(changed, ALONE, lambda _: None)
    assert "recipe.stages.3.lr: 0.001 → 0.0001" in str(error.value)
    assert "recipe.seed: 0 → 7" in str(error.value)
    model, _ = world
    other = shards(tmp_path / "other", 12)
    request = request_for((model, other), uninterrupted)
    with pytest.raises(MaskgenError, match=r"data\.pretrain: "):
        train(request, ALONE, lambda _: None)
    another = model_folder(tmp_path / "another", seed=1)
    with pytest.raises(MaskgenError, match="model: "):
        train(request_for((str(another), world[1]), uninterrupted), ALONE, lambda _: None)


def test_what_is_only_speed_may_change(world, uninterrupted):
    said: list[str] = []
    train(request_for(world, uninterrupted, "resources.micro_batch=2"), ALONE, said.append)
    assert said == []


def test_checkpoints_rotate_and_half_written_ones_do_not_count(world, tmp_path, monkeypatch):
    out = tmp_path / "run"
    seen: list[list[str]] = []
    plain = Checkpoints.save

    def save(self, position, *rest):
        plain(self, position, *rest)
        seen.append(sorted(path.name for path in (out / "checkpoints").iterdir()))

    monkeypatch.setattr(Checkpoints, "save", save)
    train(request_for(world, out, "resources.checkpoint_steps=8"), ALONE, lambda _: None)
    assert seen[2] == ["stage-1-step-0000016", "stage-1-step-0000024"]
    (out / "checkpoints" / ".partial-stage-1-step-0000028").mkdir(parents=True)
    assert Checkpoints(out, 2, ALONE).newest_whole(1, {}, lambda _: None) is None


def test_stages_can_be_shared_between_runs(world, uninterrupted, tmp_path):
    """--first-stage: two recipes that differ in stage 4 need the first three once."""
    source = uninterrupted / "stage-3" / "model"
    request = request_for((str(source), world[1]), tmp_path / "fourth")
    request = TrainRequest(request.recipe, request.model, request.data, request.out, first=4)
    train(request, ALONE, lambda _: None)
    assert identical(weights(tmp_path / "fourth"), weights(uninterrupted))
    assert not (tmp_path / "fourth" / "stage-1").exists()


def test_a_run_may_end_before_the_last_stage(world, uninterrupted, tmp_path):
    request = replace(request_for(world, tmp_path / "run"), last=1)
    assert train(request, ALONE, lambda _: None) == tmp_path / "run" / "stage-1" / "model"
    assert identical(weights(tmp_path / "run", 1), weights(uninterrupted, 1))
    with pytest.raises(MaskgenError, match=r"stages to go.*stage-1"):
        model_folder_of(tmp_path / "run")


def test_two_trainers_do_not_share_a_run(world, uninterrupted):
    from maskgen.runtime.lease import Lease

    errors: list[BaseException] = []

    def second() -> None:
        try:
            train(request_for(world, uninterrupted), ALONE, lambda _: None)
        except MaskgenError as error:
            errors.append(error)

    with Lease(str(uninterrupted)):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert "is in use by process" in str(errors[0])


def test_the_record_says_what_the_run_was_made_from(uninterrupted):
    record = json.loads((uninterrupted / "run.json").read_text())
    assert set(record["identity"]) == {"recipe", "data", "model", "first_stage"}
    lineage = json.loads((uninterrupted / "model" / "lineage.json").read_text())
    assert set(lineage) == {"stage", "parent", "weights", "recipe", "data", "plan"}


def test_its_status_is_told_from_its_files(uninterrupted):
    told = folder_status(str(uninterrupted)).to_dict()
    assert all(one["finished"] and one["step"] == one["steps"] for one in told["stages"])
    steps = json.loads((uninterrupted / "run.json").read_text())["steps"]
    assert steps == {str(one["stage"]): one["steps"] for one in told["stages"]}
    assert set(told["losses"]) >= {"loss", "lm"} and told["eta"] == 0


@pytest.mark.parametrize("left", [b"", b"\0" * 300, b"\n"])
def test_a_record_that_a_crash_left_empty_costs_nothing_if_nothing_was_made(tmp_path, world, left):
    request = request_for(world, tmp_path / "run")
    request_out = Path(request.out)
    request_out.mkdir()
    (request_out / "run.json").write_bytes(left)
    _start_run(request, ALONE)
    assert json.loads((request_out / "run.json").read_text())["identity"]["first_stage"] == 1


@pytest.mark.parametrize("left", ["", '{"identity": {"rec', "[]", "{}"])
def test_a_damaged_record_of_a_run_with_checkpoints_is_named(tmp_path, world, left):
    request = request_for(world, tmp_path / "run")
    (Path(request.out) / "checkpoints" / "stage-1-step-0000004").mkdir(parents=True)
    (Path(request.out) / "run.json").write_text(left)
    with pytest.raises(MaskgenError, match=r"run\.json.*[Rr]estore"):
        _start_run(request, ALONE)


def test_lines_that_a_crash_spoilt_are_no_lines(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n' + b"\0" * 40 + b'\n{"st\n\xff\xfe\n3\n' + b'{"step": 2}\n{"step": 3')
    assert read_lines(path) == [{"step": 1}, {"step": 2}]
