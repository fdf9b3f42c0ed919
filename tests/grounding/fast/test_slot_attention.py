"""The decoder's kernel, by Triton's interpreter on a CPU, against the attention that reads every key."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HELPER = Path(__file__).parents[2] / "helpers" / "interpreted_kernel.py"


def interpreted(*arguments):
    """What the helper prints; it must not fail."""
    pytest.importorskip("triton")
    paths = ":".join(filter(None, sys.path))
    setting = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    ended = subprocess.run(
        [sys.executable, str(HELPER), *arguments], env=setting, capture_output=True, text=True, timeout=800
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    return ended.stdout


@pytest.mark.slow
def test_every_slot_attends_to_its_own_keys():
    """Lengths of 1 to 1,024, with keys that are no numbers beyond them."""
    interpreted("lengths")


@pytest.mark.slow
def test_answers_by_the_kernel_are_generates(tmp_path):
    interpreted("answers", str(tmp_path))


@pytest.mark.slow
def test_a_kernel_that_does_not_work_is_not_used():
    said = interpreted("broken")
    assert "no PTX for this card" in said and "off by" in said
