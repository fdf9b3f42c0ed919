"""Runs the real command in a process of its own, and compares what it left behind."""

import hashlib
import re
import subprocess
import sys
from pathlib import Path

MASKGEN = str(Path(sys.executable).with_name("maskgen"))


def maskgen(
    *arguments: str | Path, timeout: float = 300, **options: object
) -> subprocess.CompletedProcess[str]:
    """Run `maskgen ARGUMENTS` to its end; stdout and stderr are kept apart."""
    command = [MASKGEN, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, **options)  # type: ignore[call-overload]


def start(*arguments: str | Path, **options: object) -> "subprocess.Popen[str]":
    """Start `maskgen ARGUMENTS` in a session of its own, so that all of it can be killed at once."""
    return subprocess.Popen(  # type: ignore[call-overload]
        [MASKGEN, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        **options,
    )


def finished_set(out: Path) -> dict[str, str]:
    """sha256 by name of every file of the set; the notebook and the page for people are not part of it."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.iterdir())
        if path.is_file() and path.name != "report.html"
    }


def finished_page(out: Path) -> str:
    """The set's report.html without what is time."""
    page = (out / "report.html").read_text()
    page = re.sub(r"<section><h2>Throughput</h2>.*?</section>", "", page, flags=re.DOTALL)
    return re.sub(r'<div class="tile"><b>[^<]*</b><span>images a second[^<]*</span></div>', "", page)
