"""The pages for people: what holds of all of them."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "shards/README.md",
    *(ROOT / "docs").glob("*.md"),
]


def test_no_example_uses_a_name_that_it_does_not_define(tmp_path):
    """Each block of Python by itself, as a reader copies it."""
    for page in PAGES:
        for number, code in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)):
            (tmp_path / f"{page.parent.name}-{page.stem}-{number}.py").write_text(code)
    blocks = sorted(tmp_path.glob("*.py"))
    assert len(blocks) > 8
    ruff = [sys.executable, "-m", "ruff", "check", "--isolated", "--no-cache", "--select", "F821"]
    done = subprocess.run([*ruff, *blocks], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
