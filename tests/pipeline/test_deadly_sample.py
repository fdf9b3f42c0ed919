"""A sample that takes its process with it: found, and quarantined alone."""

import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from helpers.command import maskgen
from maskgen.scenes.scene_dataset import write_scenes

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


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "deed", ["os.kill(os.getpid(), signal.SIGKILL)", "time.sleep(3600)"], ids=["kills", "hangs"]
)
def test_a_sample_that_kills_or_hangs_its_process_is_quarantined_alone(tmp_path: Path, deed: str):
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

    line: list[str | Path] = [
        "run",
        "--split",
        "demo",
        "--data",
        data,
        "--out",
        out,
        *settings(shard_size=20),
    ]
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
