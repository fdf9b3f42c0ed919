"""`benchmarks/card.sh --rehearse` from a fresh clone: every part, on a CPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from card.plan import PARTS
from card.record import FIGURE, LINES, PART, read

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(1900)
def test_every_part_runs_from_a_fresh_clone(tmp_path):
    """What is committed, that is. It takes some three minutes of a core."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is no checkout to be cloned")
    clone, out = tmp_path / "clone", tmp_path / "out"
    subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(clone)], check=True)
    environment = {**os.environ, "PYTHON": sys.executable}
    environment.pop("PYTHONPATH", None)
    command = [str(clone / "benchmarks" / "card.sh"), "--rehearse", "--out", str(out)]
    ended = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout[-4000:] + ended.stderr
    lines = read(out / LINES)
    assert {line["part"]: line["state"] for line in lines if line["kind"] == PART} == {
        part.name: "done" for part in PARTS
    }
    assert {line["part"] for line in lines if line["kind"] == FIGURE} == {part.name for part in PARTS}
    assert sum(path.stat().st_size for path in out.iterdir()) < 2**20  # a lent machine hands little back


def test_a_part_that_does_not_exist_is_a_sentence():
    ended = subprocess.run(
        [str(ROOT / "benchmarks" / "card.sh"), "--only", "ceilings,worke"],
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 2 and "no part worke" in ended.stderr
