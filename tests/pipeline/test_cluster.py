"""docs/cluster.md on one machine: a head and two nodes with homes of their own; one dies, one comes, the head
dies."""

import os
import re
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from helpers.command import MASKGEN, finished_set, maskgen, start
from maskgen.runtime.journal import Journal
from maskgen.runtime.ray_address import unreachable
from maskgen.scenes.scene_dataset import write_scenes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

RAY = str(Path(MASKGEN).with_name("ray"))
PAGE = Path(__file__).parents[2] / "docs" / "cluster.md"
SETTINGS = {
    "source.scenes": "null",
    "source.truth": "''",
    "source.files": "[scenes.jsonl]",
    "shards.size": 2,
    "proposer": "{kind: none}",
    "refiner": "{kind: none}",
}
LINE = ["run", "--split", "demo", *(part for key in SETTINGS for part in ("--set", f"{key}={SETTINGS[key]}"))]


class Cluster:
    """Processes of `ray start` on this machine, each as if on a machine of its own."""

    def __init__(self, folder: Path, environment: dict[str, str]):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.folder = folder
        self.environment = environment
        self.nodes: list[subprocess.Popen[bytes]] = []

    def start(self, *options: str) -> "subprocess.Popen[bytes]":
        """Another node, by the page's line."""
        home = self.folder / f"home-{len(self.nodes)}"
        home.mkdir(exist_ok=True)
        log = self._log(len(self.nodes)).open("wb")
        command = [RAY, "start", *options, "--block"]
        environment = {**self.environment, "HOME": str(home)}
        node = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        self.nodes.append(node)
        return node

    def start_head(self) -> "subprocess.Popen[bytes]":
        options = [f"--port={self.port}", "--num-cpus=0", "--include-dashboard=false"]
        head = self.start("--head", *options, f"--temp-dir={self.folder}/ray")
        wait_until(lambda: not unreachable("127.0.0.1", self.port), lambda: head.poll() is None, self._log(0))
        return head

    def join(self) -> "subprocess.Popen[bytes]":
        """A node that is part of the cluster. Ray gives one 30 seconds to start: on a busy machine, again."""
        for _ in range(5):
            log = self._log(len(self.nodes))
            node = self.start(f"--address=127.0.0.1:{self.port}", "--num-cpus=1")
            while node.poll() is None:
                if "Ray runtime started" in log.read_text():
                    return node
                time.sleep(0.1)
            self.kill(node)
        raise AssertionError(log.read_text())

    def _log(self, number: int) -> Path:
        return self.folder / f"node-{number}.log"

    def kill(self, node: "subprocess.Popen[bytes]") -> None:
        """All of a machine's processes at once."""
        with suppress(psutil.NoSuchProcess):
            for each in [*psutil.Process(node.pid).children(recursive=True), psutil.Process(node.pid)]:
                with suppress(psutil.NoSuchProcess):
                    each.kill()
        node.wait()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """With a token that every node has, and images that take a while."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, time\nimport maskgen.pixels as pixels\ndecode = pixels.decode\n"
        "def slow(data, limits):\n    time.sleep(float(os.environ.get('SLOW', 0)))\n"
        "    return decode(data, limits)\npixels.decode = slow\n"
    )
    with tempfile.TemporaryDirectory(prefix="c-", dir="/tmp", ignore_cleanup_errors=True) as short:
        folder = Path(short)
        path = f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        environment = {**os.environ, "PYTHONPATH": path, "HOME": short}
        for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_ADDRESS"):
            environment.pop(name, None)
        token = subprocess.run(
            [RAY, "get-auth-token", "--generate"], env=environment, capture_output=True, text=True, check=True
        )
        (folder / "token").write_text(token.stdout)
        environment |= {"SLOW": "1.5", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": f"{short}/token"}
        started = Cluster(folder, environment)
        try:
            yield started
        finally:
            for node in started.nodes:
                started.kill(node)


def wait_until(happened: Callable[[], bool], going_on: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + 180
    while not happened():
        assert going_on() and time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


def test_a_node_dies_one_comes_and_the_head_dies(cluster, tmp_path):
    data, out = tmp_path / "data", tmp_path / "out"
    write_scenes(str(data), 300, 1_000_000)
    calm = maskgen(*LINE, "--data", data, "--out", tmp_path / "calm", "--set", "resources.actors=1")
    assert calm.returncode == 0, calm.stderr

    def shards() -> int:
        return len(list(out.glob("[0-9]*.json")))

    def ready() -> int:
        return sum(event["event"] == "worker_ready" for event in Journal(str(out)).events())

    head = cluster.start_head()
    first, _ = cluster.join(), cluster.join()
    line = [*LINE, "--data", data, "--out", out, "--address", f"127.0.0.1:{cluster.port}"]
    said = (tmp_path / "said").open("w")
    driver = subprocess.Popen(
        [MASKGEN, *map(str, line), "--set", "resources.actors=2"],
        env=cluster.environment, stdout=said, stderr=said, start_new_session=True,
    )  # fmt: skip

    def goes_on() -> bool:
        return driver.poll() is None

    wait_until(lambda: ready() == 2 and shards() >= 2, goes_on, tmp_path / "said")
    cluster.kill(first)
    cluster.join()
    wait_until(lambda: ready() == 3, goes_on, tmp_path / "said")
    more = shards() + 2
    wait_until(lambda: shards() >= more, goes_on, tmp_path / "said")
    cluster.kill(head)
    driver.wait(timeout=90)
    text = (tmp_path / "said").read_text()
    assert driver.returncode == 3, text
    assert "another takes over" in text and "run the same" in text and "This is a bug" not in text

    for node in cluster.nodes:
        cluster.kill(node)
    cluster.environment["SLOW"] = "0"
    cluster.start_head()
    cluster.join()
    again = start(*line, env=cluster.environment)
    assert again.communicate(timeout=300)[0] and again.returncode == 0
    stormy, quiet = finished_set(out), finished_set(tmp_path / "calm")
    assert stormy.pop("run.json") != quiet.pop("run.json"), "it says how many workers were asked for"
    assert stormy == quiet


def test_the_page_has_the_lines_that_were_typed_here():
    page = PAGE.read_text()
    for words in (
        "ray get-auth-token --generate",
        "RAY_AUTH_TOKEN_PATH",
        "ray start --head",
        "ray start --address",
    ):
        assert words in page
    assert re.search(r"RAY_AUTH_MODE=token", page)
