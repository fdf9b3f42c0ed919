"""Two processes on a Ray cluster train what one process trains alone."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from helpers.small_training import SIZE, model_folder, shards
from maskgen.runtime.ray_address import unreachable

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
BIN = Path(sys.executable).parent
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": "a" * 64,
}


@pytest.fixture
def cluster() -> Iterator[str]:
    """The address of a Ray of two CPUs; its folder has a short path, for its sockets lie there."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        options = [f"--port={port}", "--num-cpus=3", "--include-dashboard=false", "--block"]
        head = subprocess.Popen(
            [str(BIN / "ray"), "start", "--head", *options, f"--temp-dir={folder}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=ENVIRONMENT,
        )
        try:
            while unreachable("127.0.0.1", port):
                assert head.poll() is None
                time.sleep(0.2)
            yield f"127.0.0.1:{port}"
        finally:
            for process in psutil.Process(head.pid).children(recursive=True) if head.poll() is None else []:
                process.kill()
            head.kill()
            head.wait()


def test_ray_trains_the_same_weights(tmp_path, cluster):
    model, data = model_folder(tmp_path / "model"), shards(tmp_path / "shards")
    settings = [f"stages.{stage}.size={SIZE}" for stage in range(1, 5)]
    settings += ["batch=8", "resources.micro_batch=4", "resources.workers=0"]
    line = [str(BIN / "maskgen"), "train", "--recipe", "demo", "--data", data, "--model", str(model)]
    line += [part for setting in settings for part in ("--set", setting)]
    for out, more in (("alone", []), ("ray", ["--address", cluster, "--processes", "2"])):
        done = subprocess.run(
            [*line, "--out", str(tmp_path / out), *more], capture_output=True, text=True, env=ENVIRONMENT
        )
        assert done.returncode == 0, done.stderr
    alone, ray = (load_file(tmp_path / out / "model" / "model.safetensors") for out in ("alone", "ray"))
    for name, value in alone.items():
        torch.testing.assert_close(ray[name], value, rtol=1e-3, atol=1e-4, msg=name)
    wrong = [*line, "--out", str(tmp_path / "ray"), "--address", cluster, "--set", "seed=5"]
    done = subprocess.run(wrong, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 1
    assert "recipe.seed: 0 → 5\nTrain with the settings it was begun with" in done.stderr
