"""SIGKILL at random moments: whatever dies, the same line ends in the same bytes, and nothing keeps running.

`make chaos N=200` kills as often as it is asked to; the suite a few times.
"""

import os
import random
import re
import secrets
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from helpers.command import MASKGEN, finished_set

KILLS = int(os.environ.get("MASKGEN_CHAOS_KILLS", "3"))
SEED = int(os.environ.get("MASKGEN_CHAOS_SEED", "20261123"))
PATIENCE = float(os.environ.get("MASKGEN_CHAOS_SECONDS", "90"))
"""Seconds after which a run that says, writes and commits nothing hangs."""

SETTINGS = {
    "source.scenes.count": 24,
    "shards.size": 4,
    "resources.actors": 2 if (os.cpu_count() or 1) > 1 else 1,
    "proposer.batch": 4,
    "refiner.batch": 4,
    "proposer.num_beams": 1,
    "proposer.max_new_tokens": 24,
}
VICTIMS = ["driver", "worker", "worker", "raylet", "gcs_server", "raylet and worker", "everything"]
EXIT_CODES = {0, 3, -signal.SIGKILL}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200 + 120 * KILLS)]


class Run:
    """`maskgen run` in a process of its own, with all that it starts known by a mark in the environment."""

    def __init__(self, data: Path, out: Path, log: Path):
        self.out, self.log = out, log
        self._mark = f"MASKGEN_CHAOS={secrets.token_hex(8)}"
        line = [MASKGEN, "run", "--split", "demo", "--data", str(data), "--out", str(out)]
        line += [part for name, value in SETTINGS.items() for part in ("--set", f"{name}={value}")]
        environment = {**os.environ, **dict([self._mark.split("=")]), "OMP_NUM_THREADS": "1"}
        with log.open("w") as file:
            self.driver = subprocess.Popen(
                line, stdout=file, stderr=subprocess.STDOUT, env=environment, start_new_session=True
            )
        self.began = self._moved = time.monotonic()
        self._seen: object = None

    def family(self) -> list[psutil.Process]:
        """All of its processes that still run."""
        found = []
        for process in psutil.process_iter():
            try:
                told = Path(f"/proc/{process.pid}/environ").read_bytes()
                if self._mark.encode() in told.split(b"\0") and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (OSError, psutil.Error):
                continue
        return found

    def kill(self, victim: str) -> bool:
        """SIGKILL it; False if there is no such process at this moment."""
        wanted = []
        for process in self.family():
            try:
                name = process.name()
            except psutil.Error:
                continue
            kind = (
                "driver"
                if process.pid == self.driver.pid
                else "worker"
                if name.startswith("ray::_Actor")
                else name
            )
            if victim == "everything" or kind in victim.split(" and "):
                wanted.append((kind, process))
        if victim != "everything" and {kind for kind, _ in wanted} != set(victim.split(" and ")):
            return False
        if victim == "worker":
            wanted = wanted[:1]
        for _, process in wanted:
            process.kill()
        return True

    def check_moving(self) -> None:
        """Fail if nothing was said, written or committed for too long."""
        seen = (
            self.log.stat().st_size,
            sorted((path.name, path.stat().st_mtime_ns) for path in self.out.rglob("*") if path.is_file()),
        )
        if seen != self._seen:
            self._seen, self._moved = seen, time.monotonic()
        assert time.monotonic() - self._moved < PATIENCE, f"it hangs:\n{self.log.read_text()}"

    def check_gone(self) -> None:
        """Fail if something is still running a while after the driver has ended."""
        until = time.monotonic() + PATIENCE
        while left := self.family():
            assert time.monotonic() < until, [process.cmdline()[:3] for process in left]
            time.sleep(0.5)


def finished(out: Path) -> dict[str, str]:
    """All files of the set by content; of the page, what is no time."""
    page = (out / "report.html").read_text()
    page = re.sub(r"<h2>Throughput</h2>.*?(?=<section)", "", page, flags=re.DOTALL)
    page = re.sub(r'<div class="tile"><b>[^<]*</b><span>images a second[^<]*</span></div>', "", page)
    return {**finished_set(out), "report.html": page}


def test_sigkill_at_random_moments_leaves_no_trace(tmp_path):
    data = tmp_path / "data"
    calm = Run(data, tmp_path / "calm", tmp_path / "calm.log")
    assert calm.driver.wait(900) == 0, calm.log.read_text()
    expected, seconds = finished(calm.out), time.monotonic() - calm.began
    calm.check_gone()

    chance, killed, rounds = random.Random(SEED), Counter[str](), 0
    while killed.total() < KILLS:
        out = tmp_path / f"stormy-{rounds}"
        runs = 0
        while True:
            run = Run(data, out, tmp_path / f"stormy-{rounds}-{runs}.log")
            said = _storm(run, chance, killed, seconds)
            print(f"round {rounds}, run {runs}: {said}, exit code {run.driver.returncode}", flush=True)
            assert run.driver.returncode in EXIT_CODES, run.log.read_text()
            run.check_gone()
            runs += 1
            if run.driver.returncode == 0:
                break
        assert finished(out) == expected
        rounds += 1
    print(f"{dict(killed)} in {rounds} finished sets", flush=True)


def _storm(run: Run, chance: random.Random, killed: Counter[str], seconds: float) -> str:
    """Kill until the run is over or enough was killed; returns what."""
    said = []
    after = time.monotonic() + chance.uniform(0, seconds)
    while run.driver.poll() is None:
        run.check_moving()
        if killed.total() < KILLS and time.monotonic() > after:
            victim = chance.choice(VICTIMS)
            if run.kill(victim):
                said.append(f"{victim} after {time.monotonic() - run.began:.0f} s")
                killed[victim] += 1
                after = time.monotonic() + chance.uniform(0, seconds)
        time.sleep(0.25)
    return ", ".join(said) or "nothing killed"
