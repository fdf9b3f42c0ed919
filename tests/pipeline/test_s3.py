"""Data and output on S3, by a real server in a process of its own: the bytes are those of a local run."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from helpers.command import finished_set, maskgen, start
from maskgen.scenes.scene_dataset import write_scenes

pytest.importorskip("s3fs", reason="pip install 'maskgen[s3]'")
pytest.importorskip("moto", reason="the S3 server of these tests is moto's")

from helpers.s3_server import BUCKET, S3Server, s3_server

OUTAGE_SECONDS = float(os.environ.get("MASKGEN_S3_OUTAGE", "5"))  # a minute takes a minute
SCENES = 60
NOBODY = {"MASKGEN_STORAGE_SECONDS": "0", "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
PLACE = f"s3://{BUCKET}"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as running:
        yield running


@pytest.fixture(scope="module")
def scenes(server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn scenes in a folder, and the same on S3 under data/."""
    folder = tmp_path_factory.mktemp("data")
    write_scenes(str(folder), SCENES, 1_000_000)
    server.put(folder, "data")
    return folder


def line(data: str | Path, out: str | Path) -> list[str]:
    """Rows packed without a model: the storage is what is tried."""
    settings = {
        "source.scenes": "null",
        "source.truth": "''",
        "source.files": "[scenes.jsonl]",
        "shards.size": 5,
        "resources.actors": 1,
        "proposer": "{kind: none}",
        "refiner": "{kind: none}",
    }
    pairs = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    return ["run", "--split", "demo", "--data", str(data), "--out", str(out), *pairs]


def kill(driver: "subprocess.Popen[str]") -> None:
    with suppress(ProcessLookupError):
        family = psutil.Process(driver.pid).children(recursive=True)
        for process in [*family, psutil.Process(driver.pid)]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
    driver.wait()


def wait_for_shards(server: S3Server, name: str, driver: "subprocess.Popen[str]", least: int) -> None:
    """Until so many of a set are finished."""
    deadline = time.monotonic() + 120
    while driver.poll() is None and time.monotonic() < deadline:
        done = [key for key in server.names(f"{name}/0") if key.endswith(".json")]
        if len(done) >= least:
            return
        time.sleep(0.05)


def test_kills_and_outages_leave_no_trace_in_the_set(server, scenes, tmp_path):
    done = maskgen(*line(scenes, tmp_path / "local"))
    assert done.returncode == 0, done.stderr

    on_bucket = line(f"{PLACE}/data", f"{PLACE}/out")
    for least in (1, 3):
        driver = start(*on_bucket, env=server.environment)
        wait_for_shards(server, "out", driver, least)
        kill(driver)
    server.line.cut()
    driver = start(*on_bucket, env=server.environment)
    assert driver.stdout
    said = [next(text for text in driver.stdout if "does not answer" in text)]
    time.sleep(OUTAGE_SECONDS)
    server.line.mend()
    wait_for_shards(server, "out", driver, 5)
    server.line.cut()  # now the workers are away from it, too
    time.sleep(OUTAGE_SECONDS)
    server.line.mend()
    said += driver.communicate(timeout=400)[0].splitlines()
    assert driver.returncode == 0, said
    assert "answers again" in "".join(said)
    assert sum("does not answer" in text for text in said) <= 2, "it is said once for each"

    local = finished_set(tmp_path / "local")
    remote = finished_set(server.fetch("out", tmp_path / "remote"))
    assert local.pop("run.json") != remote.pop("run.json"), "it says where the data lay"
    assert remote == local
    verified = maskgen("verify", f"{PLACE}/out", env=server.environment)
    assert verified.returncode == 0, verified.stdout + verified.stderr


@pytest.mark.parametrize(
    ("changed", "data", "out", "sentence"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "data", "wrong", "permission denied"),
        ({"AWS_ACCESS_KEY_ID": "wrong"}, "data", "wrong", "permission denied"),
        ({}, "../maskgen-tets/data", "new", "is no folder"),
        ({}, "data", "../maskgen-tets/out", "Check the bucket's name: none is made"),
        (
            {"MASKGEN_STORAGE_SECONDS": "0", "AWS_ENDPOINT_URL": "http://127.0.0.1:9"},
            "data",
            "x",
            "not answered",
        ),
    ],
    ids=["secret", "key", "bucket of data", "bucket of output", "endpoint"],
)
def test_what_is_wrong_is_one_sentence(server, scenes, changed, data, out, sentence):
    places = [os.path.normpath(f"{BUCKET}/{name}") for name in (data, out)]
    typed = line(*(f"s3://{place}" for place in places))
    done = maskgen(*typed, env={**server.environment, **changed})
    assert done.returncode in (1, 3)
    assert sentence in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert "This is a bug" not in done.stderr
    assert server.buckets() == [BUCKET], "a bucket was made"
