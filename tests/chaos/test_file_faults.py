"""Every file operation of a run and of a training fails, in three ways: a sentence, and the same in the end.

The suite takes some of them, drawn with a seed; `make chaos FAULTS=1000` more, `FAULTS=all` all: hours.
"""

import errno
import json
import os
import random
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file

from helpers.command import finished_page, finished_set
from helpers.faulty_files import ERRORS, FaultyFiles, faulty_files
from helpers.small_training import SIZE, model_folder, shards
from helpers.workers_here import WorkersHere
from maskgen import cli
from maskgen.pipeline import ray_cluster
from maskgen.training.metrics import read_lines

FAULTS = os.environ.get("MASKGEN_CHAOS_FAULTS", "")
SEED = int(os.environ.get("MASKGEN_CHAOS_SEED", "13"))
SOME_OF_A_RUN, SOME_OF_A_TRAINING = 20, 4

pytestmark = pytest.mark.usefixtures("one_thread")


class Command:
    """`maskgen ...` in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
        self._capsys, self._monkeypatch = capsys, monkeypatch

    def __call__(self, *arguments: object) -> tuple[int, str]:
        """Exit code, and what was said on stderr."""
        self._monkeypatch.setattr(sys, "argv", ["maskgen", *map(str, arguments)])
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        return int(end.value.code or 0), self._capsys.readouterr().err


@pytest.fixture
def command(capsys, monkeypatch) -> Command:
    return Command(capsys, monkeypatch)


@pytest.fixture
def files(tmp_path) -> Iterator[FaultyFiles]:
    place = tmp_path / "place"
    place.mkdir()
    with faulty_files(place) as watched:
        yield watched


def check_each(
    files: FaultyFiles,
    command: Command,
    line: list[object],
    out: Path,
    told: Callable[[Path], object],
    some: int,
) -> None:
    """Let each operation of `line` fail by each error: rerun, it must end in what `told` says undisturbed."""
    files.arm(-1, 0)
    assert command(*line)[0] == 0
    expected, count = told(out), len(files.operations)
    tried = [(number, error) for number in range(count) for error in ERRORS]
    if FAULTS != "all":
        tried = random.Random(SEED).sample(tried, min(len(tried), int(FAULTS or some)))
    codes: Counter[int] = Counter()
    wrong = []
    for number, error in tried:
        shutil.rmtree(out)
        files.arm(number, error)
        code, said = command(*line)
        failed, files.failed = files.failed, ""
        files.arm(-1, 0)
        codes[code] += 1
        # With its process a driver's claim ends; here the process goes on.
        (out / ".maskgen" / "lease.json").unlink(missing_ok=True)
        problems = check_sentence(code, said)
        # An image that could not be read is that sample's outcome, which trying again may cure.
        again = ["--retry-failed"] if line[0] == "run" and code in (0, 2) else []
        code, after = command(*line, *again)
        if code != 0:
            problems.append(f"the rerun ends with {code}: {after}")
        elif told(out) != expected:
            problems.append("the rerun ends in something else")
        wrong += [f"{failed}, {errno.errorcode[error]} (operation {number}): {one}" for one in problems]
    print(
        f"{count} operations, {len(tried)} faults: exit codes {dict(codes)}", file=sys.__stdout__, flush=True
    )
    assert not wrong, f"{len(wrong)} of {len(tried)}:\n" + "\n".join(wrong)


def check_sentence(code: int, said: str) -> list[str]:
    """What is wrong with how a command ended that met a fault."""
    if code in (0, 2):
        return []  # it did without, or the fault was one sample's
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    if code not in (1, 3) or len(errors) != 1 or "bug in maskgen" in said or "Traceback" in said:
        return [f"exit code {code}: {said}"]
    return []


def finished(out: Path) -> object:
    return {**finished_set(out), "report.html": finished_page(out)}


@pytest.mark.slow
@pytest.mark.timeout(36_000 if FAULTS else 900)
def test_every_file_operation_of_a_run(files, command, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_cluster, "RayCluster", WorkersHere)
    data, out = tmp_path / "place" / "data", tmp_path / "place" / "out"
    data.mkdir()
    rows, shapes = [], {}
    for number in range(5):
        Image.new("RGB", (24, 16), (40 * number, 90, 120)).save(data / f"{number}.png")
        turns = [
            {"from": "human", "value": f"<image>\nWhere is {number}?"},
            {"from": "gpt", "value": "Here."},
        ]
        rows.append({"id": number, "image": f"{number}.png", "conversations": turns})
        shapes[f"{number}.png"] = [{"label": "thing", "box": [2, 2, 15, 12]}]
    (data / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (data / "boxes.json").write_text(json.dumps(shapes))
    settings = (
        "source.files=[rows.jsonl]", "source.images=.", "text.query=question", "proposer.kind=recorded",
        "proposer.file=boxes.json", "refiner.kind=none", "shards.size=3", "resources.threads=1",
    )  # fmt: skip
    line: list[object] = ["run", "--split", "pretrain", "--data", data, "--out", out]
    line += [part for one in settings for part in ("--set", one)]
    check_each(files, command, line, out, finished, SOME_OF_A_RUN)


def trained(out: Path) -> object:
    """All that a training leaves, but for times."""
    weights = {
        str(path.relative_to(out)): {
            name: tensor.numpy().tobytes() for name, tensor in load_file(path).items()
        }
        for path in sorted(out.rglob("*.safetensors"))
    }
    lines = [[line["stage"], line["step"], line["loss"]] for line in read_lines(out / "metrics.jsonl")]
    others = sorted(str(path.relative_to(out)) for path in out.rglob("*") if ".maskgen" not in path.parts)
    return weights, lines, read_lines(out / "ledger" / "rank-0000.jsonl"), others


@pytest.mark.slow
@pytest.mark.timeout(36_000 if FAULTS else 900)
def test_every_file_operation_of_a_training(files, command, tmp_path):
    place = tmp_path / "place"
    model, data, out = model_folder(place / "model"), shards(place / "shards", 4, shard=2), place / "out"
    settings = [f"stages.{stage}.size={SIZE}" for stage in range(1, 5)]
    settings += ["stages.3.epochs=1", "batch=2", "precision=fp32", "resources.micro_batch=2"]
    settings += ["resources.workers=0", "resources.checkpoint_steps=1", "resources.keep=1"]
    line: list[object] = ["train", "--recipe", "demo", "--data", data, "--model", model, "--out", out]
    line += ["--first-stage", "3"]
    line += [part for one in settings for part in ("--set", one)]
    check_each(files, command, line, out, trained, SOME_OF_A_TRAINING)
