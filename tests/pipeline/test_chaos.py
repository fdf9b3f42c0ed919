"""Killed processes: the finished set must not show that anything happened."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from helpers.command import finished_set, maskgen, start
from maskgen.runtime.journal import Journal
from maskgen.scenes.scene_dataset import write_scenes

KILLS = 20
SCENES = 160

pytestmark = pytest.mark.slow


def settings(shard_size: int, files: str = "scenes.jsonl") -> list[str]:
    pairs = {
        "source.scenes": "null",
        "source.truth": '""',
        "source.files": f"[{files}]",
        "shards.size": shard_size,
        "resources.actors": 1,
        "proposer.batch": 4,
        "refiner.batch": 4,
        "proposer.num_beams": 1,
        "proposer.max_new_tokens": 24,
    }
    return [part for key, value in pairs.items() for part in ("--set", f"{key}={value}")]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(str(folder), SCENES, 1_000_000)
    return folder


def kill_something(driver: subprocess.Popen[str], out: Path, chance: random.Random) -> str:
    """SIGKILL the driver, its worker, or the whole tree of processes."""
    victim = chance.choice(["driver", "actor", "actor", "everything"])
    if victim == "actor":
        for heartbeat in Journal(str(out)).heartbeats().values():
            if psutil.pid_exists(heartbeat.pid):
                os.kill(heartbeat.pid, signal.SIGKILL)
                return victim
        return ""
    family = psutil.Process(driver.pid).children(recursive=True) if victim == "everything" else []
    for process in [*family, psutil.Process(driver.pid)]:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    driver.wait()
    return victim


@pytest.mark.timeout(1500)
def test_sigkill_at_random_moments_leaves_no_trace_in_the_set(scenes, tmp_path):
    calm, stormy = tmp_path / "calm", tmp_path / "stormy"
    line = ["run", "--split", "demo", "--data", scenes, *settings(shard_size=4)]
    done = maskgen(*line, "--out", calm)
    assert done.returncode == 0, done.stderr
    a_shard = seconds_a_shard(calm)

    chance = random.Random(20261123)
    kills: list[str] = []
    deadline = time.monotonic() + 1300
    driver = start(*line, "--out", stormy)
    while time.monotonic() < deadline:
        if len(kills) < KILLS:
            # Twice as many shards as kills, and each comes within a shard's time on average: however fast
            # the machine, the run is not over before the last of them.
            _wait_for_work(driver, stormy, chance.uniform(0.0, 2.0) * a_shard)
            if driver.poll() is None:
                kills += filter(None, [kill_something(driver, stormy, chance)])
        if driver.poll() is None and len(kills) >= KILLS:
            driver.wait(timeout=600)
        if driver.poll() == 0:
            break
        if driver.poll() is not None:
            driver = start(*line, "--out", stormy)
    assert driver.poll() == 0, driver.communicate()[0]
    assert len(kills) >= KILLS, f"the run was over after {kills}"
    assert finished_set(stormy) == finished_set(calm)


def seconds_a_shard(out: Path) -> float:
    """Between one commit and the next, on this machine, now."""
    times = sorted(path.stat().st_mtime for path in out.glob("[0-9]*.json"))
    return (times[-1] - times[0]) / (len(times) - 1)


def _wait_for_work(driver: subprocess.Popen[str], out: Path, further: float) -> None:
    """Until a worker has been at it for `further` seconds more; on a stuck start, at any moment."""
    until = time.monotonic() + 40
    while time.monotonic() < until and driver.poll() is None:
        if any(psutil.pid_exists(heartbeat.pid) for heartbeat in Journal(str(out)).heartbeats().values()):
            break
        time.sleep(0.05)
    time.sleep(further)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "deed", ["os.kill(os.getpid(), signal.SIGKILL)", "time.sleep(3600)"], ids=["kills", "hangs"]
)
def test_a_sample_that_kills_or_hangs_its_process_is_quarantined_alone(scenes, tmp_path, deed):
    """The process that decodes a certain image is really killed, or really hangs."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, time\n"
        "import maskgen.pixels as pixels\n"
        "decode = pixels.decode\n"
        "def deadly(data, limits):\n"
        "    if data.endswith(b'DEADLY'):\n"
        f"        {deed}\n"
        "    return decode(data, limits)\n"
        "pixels.decode = deadly\n"
    )
    data, out = tmp_path / "data", tmp_path / "out"
    write_scenes(str(data), 40, 1_000_000)
    victim = sorted((data / "images").iterdir())[17]
    victim.write_bytes(victim.read_bytes() + b"DEADLY")

    line = ["run", "--split", "demo", "--data", data, "--out", out, *settings(shard_size=20)]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    done = maskgen(*line, "--set", "resources.stall_seconds=20", env=environment, timeout=800)
    rows = pq.read_table(out / "index.parquet").to_pylist()
    left_out = {row["image"]: row["outcome"] for row in rows if row["offset"] < 0}
    assert set(left_out.items()) == {(f"images/{victim.name}", "quarantined")}, done.stderr
    assert done.returncode in (0, 2)
    assert maskgen("verify", out).returncode == 0

    # Once what was wrong is mended, it is one retry away from a set that never knew of it.
    mended = maskgen(*line, "--retry-failed", "--where", "outcome=quarantined")
    assert mended.returncode == 0, mended.stderr
    assert not [row for row in pq.read_table(out / "index.parquet").to_pylist() if row["offset"] < 0]
