"""The whole command on real input: real Ray, real files, tiny models in the real formats."""

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
import webdataset
from datasets import Features, load_dataset

from helpers.command import MASKGEN, finished_set, maskgen, start
from helpers.tiny_florence2 import drawing_florence2
from maskgen.runtime.ray_address import unreachable
from maskgen.small_models import small_sam

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options for tiny, untrained checkpoints whose answers are polygons, however senseless."""
    folder = tmp_path_factory.mktemp("models")
    drawing_florence2(folder / "florence2", ["a red circle", "where is the man"], seed=3)
    small_sam.build(folder / "sam", small_sam.TINY, seed=3)
    pairs = {
        "proposer.model": folder / "florence2",
        "proposer.dtype": "float32",
        "proposer.max_new_tokens": 40,
        "refiner.model": "demo",
        "refiner.checkpoint": folder / "sam",
        "refiner.dtype": "float32",
        "resources.actors": 1,
    }
    return [part for key, value in pairs.items() for part in ("--set", f"{key}={value}")]


@pytest.mark.parametrize(("split", "rows"), [("pretrain", 12), ("finetune", 14)])
def test_every_photograph_ends_in_the_parquet_and_readers_read_the_shards(
    photos, models, tmp_path, split, rows
):
    out = tmp_path / "out"
    line = ["run", "--split", split, "--data", photos, "--out", out, *models, "--set", "shards.size=5"]
    done = maskgen(*line)
    assert done.returncode in (0, 2), done.stderr
    index = pq.read_table(out / "index.parquet").to_pylist()
    assert len(index) == rows
    fates = Counter(row["outcome"] for row in index)
    if split == "finetune":
        assert (fates["no_image"], fates["image_missing"]) == (1, 1)
    inside = [row for row in index if row["offset"] >= 0]
    assert len(inside) == 12
    assert {row["outcome"] for row in inside} <= {
        *("ok", "sam_disagrees", "no_grounding", "degenerate_polygon", "truncated_answer")
    }
    assert maskgen("verify", out).returncode == 0

    tars = sorted(map(str, out.glob("*.tar")))
    keys = [row["key"] for row in inside]
    by_webdataset = list(webdataset.WebDataset(tars, shardshuffle=False))
    assert [sample["__key__"] for sample in by_webdataset] == keys
    features = Features.from_dict(json.loads((out / "features.json").read_text()))
    by_datasets = load_dataset(
        "webdataset", data_files=tars, split="train", features=features, cache_dir=str(tmp_path / "cache")
    )
    assert list(by_datasets["__key__"]) == keys

    before = {path: path.stat().st_mtime_ns for path in out.iterdir() if path.is_file()}
    assert maskgen(*line).returncode == done.returncode
    after = {path: path.stat().st_mtime_ns for path in out.iterdir() if path.is_file()}
    assert after == before, "a finished set was touched"


def test_other_settings_are_refused_with_the_difference(photos, tmp_path):
    line = ["run", "--split", "pretrain", "--data", photos, "--out", tmp_path / "out", *recorded()]
    assert maskgen(*line).returncode == 0
    before = finished_set(tmp_path / "out")
    other = maskgen(*line, "--set", "grid.fit=pad", "--set", "resources.threads=2")
    assert other.returncode == 1
    assert "grid.fit: squash → pad" in other.stderr
    assert "threads" not in other.stderr
    assert finished_set(tmp_path / "out") == before


def test_failed_samples_are_retried_alone(photos, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(photos, data, copy_function=shutil.copyfile)
    hidden = tmp_path / "hidden.jpg"
    lost = data / "images" / "dog.jpg"
    lost.rename(hidden)
    line = ["run", "--split", "pretrain", "--data", data, "--out", tmp_path / "out", *recorded()]
    line += ["--set", "shards.size=4", "--set", "resources.failure_budget=0.01"]
    first = maskgen(*line)
    assert first.returncode == 2
    assert "1 sample failed (image_missing)" in first.stdout
    before = finished_set(tmp_path / "out")
    hidden.rename(lost)

    assert maskgen(*line, "--retry-failed", "--where", "outcome=image_corrupt").returncode == 2
    assert finished_set(tmp_path / "out") == before
    assert maskgen(*line, "--retry-failed", "--where", "outcome=image_missing").returncode == 0
    after = finished_set(tmp_path / "out")
    touched = {name.split(".")[0] for name in after if after[name] != before.get(name)}
    assert len({name for name in touched if name.isdigit()}) == 1
    assert maskgen("verify", tmp_path / "out").returncode == 0

    fresh = maskgen(*[str(part).replace("/out", "/fresh") for part in line])
    assert fresh.returncode == 0
    assert finished_set(tmp_path / "fresh") == after, "healed is as good as never ill"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_stop_it_stops_cleanly_and_resumes(models, photos, tmp_path, number):
    out = tmp_path / "out"
    line = ["run", "--split", "pretrain", "--data", photos, "--out", out, *models, "--set", "shards.size=2"]
    running = start(*line)
    _wait_until(lambda: any(out.glob("00000*.json")), running)
    os.kill(running.pid, number)
    said = running.communicate(timeout=60)[0]
    assert running.returncode == 3, said
    assert "run the same line again" in said
    assert "Traceback" not in said
    assert maskgen(*line).returncode in (0, 2)
    assert maskgen("verify", out).returncode == 0


@pytest.fixture
def short() -> Iterator[str]:
    """A folder with a short path: Ray's sockets lie in it, and a socket's path has 107 characters at most."""
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        yield folder


def test_it_joins_a_ray_that_is_running_and_leaves_it_running(photos, tmp_path, short):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a" * 64}
    options = [f"--port={port}", "--num-cpus=1", "--include-dashboard=false", "--block"]
    head = subprocess.Popen(
        [str(Path(MASKGEN).with_name("ray")), "start", "--head", *options, f"--temp-dir={short}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )
    try:
        _wait_until(lambda: not unreachable("127.0.0.1", port), head)
        line = ["run", "--split", "pretrain", "--data", photos, *recorded(), "--address", f"127.0.0.1:{port}"]
        for out in ("one", "two"):
            done = maskgen(*line, "--out", tmp_path / out, env=environment)
            assert done.returncode == 0, done.stderr
        assert finished_set(tmp_path / "one") == finished_set(tmp_path / "two")
        assert head.poll() is None
    finally:
        family = psutil.Process(head.pid).children(recursive=True) if head.poll() is None else []
        for process in family:
            process.kill()
        head.kill()
        head.wait()


def test_a_second_driver_is_refused(models, photos, tmp_path):
    out = tmp_path / "out"
    line = ["run", "--split", "pretrain", "--data", photos, "--out", out, *models]
    first = start(*line)
    _wait_until(lambda: (out / ".maskgen" / "lease.json").exists(), first)
    second = maskgen(*line)
    first.communicate(timeout=200)
    assert second.returncode == 1
    assert f"in use by process {first.pid}" in second.stderr
    assert first.returncode in (0, 2)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--set", "proposer.model=/no/such/folder"], "there is no folder /no/such/folder"),
        (["--set", "refiner.checkpoint=/no/sam"], "there is no folder /no/sam"),
        (["--set", "refiner.model=vit_b", "--set", "refiner.checkpoint=/no.pth"], "download https://"),
        (["--address", "127.0.0.1:1"], "127.0.0.1:1 cannot be reached"),
        (["--set", "source.files=[nothing.json]"], "no annotation file"),
    ],
)
def test_what_is_missing_is_one_sentence(photos, models, tmp_path, options, said):
    # Later options win, so what is wrong comes last.
    done = maskgen(
        "run", "--split", "pretrain", "--data", photos, "--out", tmp_path / "out", *models, *options
    )
    assert done.returncode == 1, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_checkpoint_of_another_kind_is_one_sentence(photos, models, tmp_path):
    folder = Path(next(part for part in models if part.startswith("proposer.model=")).partition("=")[2])
    wrong = tmp_path / "wrong"
    shutil.copytree(folder, wrong)
    (wrong / "model.safetensors").write_bytes(b"\0" * 100)
    done = maskgen(
        *("run", "--split", "pretrain", "--data", photos, "--out", tmp_path / "out", *models),
        *("--set", f"proposer.model={wrong}"),
    )
    assert done.returncode == 1
    assert "cannot be loaded" in done.stderr
    assert "Traceback" not in done.stderr


def recorded() -> list[str]:
    pairs = {
        "proposer.kind": "recorded",
        "proposer.file": "polygons.json",
        "refiner.kind": "none",
        "resources.actors": 1,
    }
    return [part for key, value in pairs.items() for part in ("--set", f"{key}={value}")]


def _wait_until(happened, running) -> None:
    deadline = time.monotonic() + 120
    while not happened() and running.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert happened(), running.communicate()[0] if running.poll() is not None else "nothing happened in 120 s"
