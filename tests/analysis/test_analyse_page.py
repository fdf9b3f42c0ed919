"""The examples of docs/analyse.md, as they stand there, on tiny models."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from helpers import peaked_attention as peaked
from helpers import small_training
from maskgen.cli import app

PAGE = (Path(__file__).parents[2] / "docs" / "analyse.md").read_text()


@pytest.fixture
def place(tmp_path, monkeypatch):
    for number, name in enumerate(("ca-baseline", "age-vlm")):
        peaked.model_folder(tmp_path / "DIR" / name / "model", seed=number)
    small_training.shards(tmp_path / "DIR" / "held-out", 14)
    Image.new("RGB", (40, 20), "green").save(tmp_path / "image.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_commands_run(place):
    lines = [
        line for line in PAGE.splitlines() if re.match(r"maskgen (ground|attend|similarity) .*DIR", line)
    ]
    assert [shlex.split(line)[1] for line in lines] == ["ground", "attend", "similarity"]
    for line in lines:
        result = CliRunner().invoke(app, shlex.split(line)[1:], catch_exceptions=False)
        assert result.exit_code == 0, result.output
    for made in ("ground.json", "attend.png", "similarity/similarity.svg"):
        assert (place / made).is_file()


def test_the_python_runs(place, capsys):
    (place / "DIR" / "age-vlm").rename(place / "RUN")
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    random = np.random.default_rng(0)
    (place / "PICTURES").mkdir()
    for number in range(8):
        pixels = random.integers(0, 255, (20, 30, 3), np.uint8)
        Image.fromarray(pixels).save(place / "PICTURES" / f"{number}.png")
    exec(compile(code, "analyse.md", "exec"), {})
    pointing, auroc = map(float, capsys.readouterr().out.split())
    assert 0 <= pointing <= 1 and 0 <= auroc <= 1
