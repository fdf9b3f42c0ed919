"""docs/evaluate.md: its commands and its Python, as they stand there."""

import re
import sys
from pathlib import Path

import pytest

from helpers import benchmark_files as miniatures
from maskgen import cli
from maskgen.evaluation.benchmarks import BENCHMARKS

pytestmark = pytest.mark.usefixtures("one_thread")

PAGE = (Path(__file__).parents[2] / "docs" / "evaluate.md").read_text()


@pytest.fixture
def there(tmp_path, monkeypatch) -> Path:
    """Where RUN and DATA lie."""
    miniatures.everything(tmp_path / "DATA")
    miniatures.model_folder(tmp_path / "RUN" / "model")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_the_pages_commands_run(there, monkeypatch, capsys):
    block, *_ = re.findall(r"```\n(.*?)```", PAGE, re.DOTALL)
    lines = [line.split("#")[0].split() for line in block.splitlines()]
    assert len(lines) == 5
    for line in lines:
        monkeypatch.setattr(sys, "argv", line)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        assert not ended.value.code, said.err


def test_the_pages_python_runs(there, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(code, "evaluate.md", "exec"), {})
    assert "BootstrapEstimate(value=" in capsys.readouterr().out


def test_the_page_names_every_benchmark_and_protocol():
    for name, benchmark in BENCHMARKS.items():
        assert PAGE.count(f"| `{name}` |") == 2
        assert all(f"| `{protocol}`" in PAGE for protocol in benchmark.protocols)
