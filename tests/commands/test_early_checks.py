"""Mistyped places are refused before torch is imported, and no command writes over another's work."""

import subprocess
import sys

import pytest

from helpers import peaked_attention, small_training
from helpers.tiny_sets import make_set, record
from maskgen import config
from maskgen.errors import MaskgenError
from maskgen.pipeline.run import RunRequest, run
from maskgen.runtime.folder_kind import folder_kind, refuse_other_kind
from maskgen.runtime.store import Store

TYPED = [
    "explain --recipe dmo",
    "train --recipe age-vlm --data nosuch --model START --out RUN",
    "train --recipe age-vlm --data SET --model nosuch --out RUN",
    "train --recipe demo --out SET",
    "audit --data nosuch --model START",
    "audit --data SET --model nosuch",
    "eval --model nosuch --data . --out ANSWERS",
    "eval --model START --data . --out SET",
    "ground --model nosuch --data SET",
    "ground --model START --data nosuch",
    "attend --model nosuch a.png What?",
    "attend --model START nosuch.png What?",
    "attend --model START --grid nosuch.jsonl",
    "similarity --model START --data nosuch",
    "curves nosuch",
    "paper --model nosuch --shards SET --out PAPER",
    "paper --model START --shards SET --out SET",
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    make_set(folder / "SET", [[record(1)]])
    peaked_attention.model_folder(folder / "START")
    (folder / "a.png").touch()
    return folder


def test_a_mistyped_place_costs_no_import_of_torch(place):
    """All of them in one process: none may have imported torch when it is refused."""
    script = (
        "import sys\nfrom maskgen.cli import app\nfrom maskgen.errors import MaskgenError\n"
        f"for line in {TYPED!r}:\n"
        "    try:\n"
        "        app(line.split(), standalone_mode=False)\n"
        "    except MaskgenError as error:\n"
        "        assert any(word in str(error) for word in ('nosuch', 'dmo', 'SET')), (line, error)\n"
        "    else:\n"
        "        sys.exit(f'{line}: not refused')\n"
        "    assert 'torch' not in sys.modules, line\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=place, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_folder_is_what_its_files_say(place, tmp_path):
    assert folder_kind(str(place / "SET")) == "a set of shards"
    assert folder_kind(str(place / "START")) == "a model"
    assert folder_kind(str(tmp_path)) is None and folder_kind(str(tmp_path / "none")) is None
    Store(str(tmp_path / "run")).write_json("run.json", {"identity": {"first_stage": 1}})
    assert folder_kind(str(tmp_path / "run")) == "a training"
    Store(str(tmp_path / "tars")).write_bytes("000000.tar", b"")  # copied without its run.json
    assert folder_kind(str(tmp_path / "tars")) == "a set of shards"
    Store(str(tmp_path / "answers/pope/plain")).write_bytes("asked.json", b"{}")
    assert folder_kind(str(tmp_path / "answers")) == "answers"
    refuse_other_kind(str(tmp_path / "run"), "a training")
    for other in ("run", "tars", "answers"):
        with pytest.raises(MaskgenError, match=r"holds a.* a folder of its own"):
            refuse_other_kind(str(tmp_path / other), "a reproduction")


def test_a_training_is_no_place_for_shards(place, tmp_path):
    """It ended in a KeyError."""
    data = small_training.shards(tmp_path / "data", 4)
    Store(str(tmp_path / "run")).write_json("run.json", {"identity": {"first_stage": 1}})
    request = RunRequest(config.load("demo"), data, str(tmp_path / "run"))
    with pytest.raises(MaskgenError, match="holds a training"):
        run(request, lambda _: None)
