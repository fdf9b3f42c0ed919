"""Every shell command of the README and of the docs, typed in a fresh clone: in a pipe and on a
pseudo-terminal, at 60 and 120 columns. No traceback, no line wider than the terminal, and the documented
exit codes.

One demo set, tiny models and miniatures of the published files stand for OUT, RUN, DATA and the like. What
cannot be typed here is in `LEFT_OUT` with the reason; a new line of the docs is typed unless it is put there.
"""

import itertools
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from helpers import benchmark_files, small_training
from helpers.typist import Typist
from maskgen.runtime.terminal import shown_width
from maskgen.training.distributed import World
from maskgen.training.trainer import TrainRequest, train

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600), pytest.mark.usefixtures("one_thread")]

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "shards/README.md"]
PAGES += sorted((ROOT / "docs").glob("*.md"))
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
TYPED = re.compile(r"(maskgen|make|pip|python|pytest|export|hf|ray|torchrun|docker|git) |benchmarks/|HF_")
WAYS = [(columns, terminal) for columns in (60, 120) for terminal in (True, False)]

LEFT_OUT = {
    r"(make|pip|pytest|export|docker|git) |benchmarks/card": "no command of maskgen's",
    r"(HF_HOME=\S+ )?hf ": "the hub's own command",
    r"ray |torchrun": "the launchers' own, with several machines or GPUs",
    r"python -m maskgen\.pretraining": "pretraining takes an hour",
    r"python (benchmarks/|-m lmms_eval)": "benchmarks take minutes; lmms-eval is an extra",
    r"maskgen .*(\.\.\.|…)": "shortened in the docs",
    r"maskgen (train|reproduce)": "minutes to hours of training",
    r"maskgen bench": "minutes of measuring",
    r"maskgen run .*source\.scenes\.count=500": "minutes of grounding",
    r"maskgen explain": "20 s of counting, in tests/training/test_explain.py; --measure needs 15 GB",
    r"maskgen chat": "a dialogue",
    r"maskgen (eval --model|score)": "minutes; tests/evaluation/test_evaluate_page.py types them",
    r"maskgen paper|maskgen similarity --model mtgv": "needs the peers' weights",
    r"maskgen calibrate OUT --(decisions|truth)": "needs a person's decisions",
}
"""Beginnings of lines that are not typed, and why."""

REFUSED = {
    r"maskgen run --split pretrain": "no weights here, or OUT is another set",
    r"maskgen plan .*--pilot": "no weights here",
    r"maskgen (init-model|fetch|push) ": "no network here",
    r"maskgen export OUT --to yolo": "OUT is not calibrated",
    r"maskgen doctor --split pretrain": "it finds that weights are missing",
}
"""Those that end with exit code 1, and a sentence, where there is no network and no GPU."""

EVERY_WAY = r"maskgen (status|report|curves|plan(?!.*--pilot))"
"""Lines that cost little are typed in all four ways, the others in one, each in the next."""


def commands() -> list[str]:
    """The lines of all shell blocks, joined where they go on, without comments."""
    found = []
    for page in PAGES:
        for language, block in BLOCK.findall(page.read_text()):
            if language in ("", "sh", "bash", "shell"):
                lines = block.replace("\\\n", " ").splitlines()
                found += [" ".join(re.sub(r"\s#.*", "", line).split()) for line in lines if TYPED.match(line)]
    return list(dict.fromkeys(found))


def typed() -> list[str]:
    """Those that are typed here."""
    return [line for line in commands() if not any(re.match(pattern, line) for pattern in LEFT_OUT)]


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """A fresh clone, with what the docs' names stand for."""
    place = tmp_path_factory.mktemp("clone")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("no git checkout: there is nothing to clone")
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, place / name)
    for name in ("DIR/ca-baseline/model", "DIR/age-vlm/model", "START", "shards/first-run/age-vlm/model"):
        benchmark_files.model_folder(place / name)
    _train(place / "RUN", small_training.shards(place / "few", 8, shard=4))
    benchmark_files.everything(place / "DATA")
    for name in ("shards/first-run", "DIR"):
        benchmark_files.pope(place / name / "benchmarks/pope")
    (place / "BENCHMARKS").symlink_to("DATA")
    Image.new("RGB", (40, 20), "green").save(place / "image.png")
    (place / "IMAGE").symlink_to("image.png")
    _write_cambrian(place / "CAMBRIAN")
    return place


def _train(out: Path, data: str) -> None:
    model = str(small_training.model_folder(out.with_name("tiny")))
    sets = {"pretrain": [data], "finetune": [data]}
    request = TrainRequest(small_training.small("batch=8"), model, sets, str(out))  # type: ignore[arg-type]
    train(request, World(0, 1, torch.device("cpu")), lambda _: None)
    shutil.rmtree(out / "model")  # one whose answers end
    benchmark_files.model_folder(out / "model")


def _write_cambrian(folder: Path) -> None:
    """Both splits in the published layout, with a picture each."""
    for name, file in (("alignment_2.5m", "jsons"), ("Cambrian10M", "jsons")):
        turns = [
            {"from": "human", "value": "<image>\nWhat is it?"},
            {"from": "gpt", "value": "A green square."},
        ]
        rows = [{"id": f"{n}", "image": f"{n}.png", "conversations": turns} for n in range(3)]
        (folder / file).mkdir(parents=True, exist_ok=True)
        (folder / file / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for n in range(3):
        Image.new("RGB", (40 + n, 20), "green").save(folder / f"{n}.png")


@pytest.fixture(scope="module")
def typist(clone) -> Iterator[Typist]:
    """With the demo set made, which is all the sets that the docs speak of."""
    typing = Typist({"PYTHONPATH": str(clone), "HF_HUB_OFFLINE": "1", "TERM": "xterm", "COLUMNS": ""})
    few = ["--set", "source.scenes.count=24", "--set", "shards.size=8", "--set", "resources.actors=1"]
    code, out, err = typing.type(["maskgen", "run", "--split", "demo", *few, "--out", "shards/demo"], clone)
    assert code == 0, err
    assert re.search(r"24 images \(100 %\)|24 of 24", out + err), "a pipe is told, too"
    for name in ("SHARDS", "SET", "OUT", "HELD-OUT", "DIR/held-out", "shards/pretrain", "shards/finetune"):
        shutil.copytree(clone / "shards/demo", clone / name)
    yield typing
    typing.close()


def test_every_line_of_the_docs_ends_as_documented(clone, typist):
    """Typed one after the other, as somebody would who works through the pages."""
    ways = itertools.cycle(WAYS)
    wrong: list[str] = []
    lines = typed()
    assert len(lines) > 30, "the docs have that many at least"
    for line in lines:
        for columns, terminal in WAYS if re.match(EVERY_WAY, line) else [next(ways)]:
            code, out, err = typist.type(shlex.split(line), clone, columns if terminal else 0)
            expected = int(any(re.match(pattern, line) for pattern in REFUSED))
            shown = out + err
            if code != expected:
                wrong.append(f"{line}\n  exit code {code}, not {expected}: {shown[-600:]}")
            if "Traceback" in shown or "bug in maskgen" in shown:
                wrong.append(f"{line}\n  {shown[-2000:]}")
            if terminal:
                wrong += [f"{line}\n  wider than {columns}: {each!r}" for each in too_wide(out, columns)]
    assert not wrong, "\n".join(wrong)


def too_wide(shown: str, columns: int) -> list[str]:
    """Lines that the terminal had to break, unless they are one long word, as a path is."""
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    lines = [part for line in plain.split("\n") for part in line.rstrip("\r").split("\r")]
    return [line for line in lines if shown_width(line.rstrip()) > columns and len(line.split()) > 1]


def test_every_pattern_is_of_use():
    """What is left out or refused is in the docs, or its reason is one of the past."""
    lines = commands()
    for pattern in [*LEFT_OUT, *REFUSED]:
        assert any(re.match(pattern, line) for line in lines), f"{pattern} matches no line of the docs"


def test_a_dumb_terminal_is_not_drawn_on(clone, typist):
    """NO_COLOR has nothing to take away, and TERM=dumb gets no carriage returns."""
    dumb = Typist({"PYTHONPATH": str(clone), "TERM": "dumb", "NO_COLOR": "1"})
    code, out, _ = dumb.type(["maskgen", "verify", "shards/demo"], clone, 60)
    dumb.close()
    assert code == 0 and "\x1b" not in out and "\r" not in out.replace("\r\n", "\n")
