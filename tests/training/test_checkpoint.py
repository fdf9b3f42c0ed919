"""Checkpoints prove that they are what was written."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from maskgen.errors import MaskgenError
from maskgen.training.checkpoint import Checkpoints, Position
from maskgen.training.distributed import World

ALONE = World(0, 1, torch.device("cpu"))
LINEAGE = {"plan": "0" * 64, "parent": "1" * 64}


@pytest.fixture
def checkpoints(tmp_path) -> Checkpoints:
    """Those of stage 1, at steps 4 and 8."""
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    kept = Checkpoints(tmp_path, 2, ALONE)
    for step in (4, 8):
        kept.save(Position(1, step), model, optimizer, LINEAGE)
    return kept


def rewritten(**changes: object) -> Callable[[Path], None]:
    def rewrite(path: Path) -> None:
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return rewrite


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def zeroed(path: Path) -> None:
    """As a crash leaves a file whose size was written before its blocks."""
    path.write_bytes(bytes(path.stat().st_size))


DAMAGE = [
    *(
        (name, deed)
        for name in ("model.safetensors", "optimiser.safetensors")
        for deed in (emptied, cut, zeroed)
    ),
    *((name, Path.unlink) for name in ("model.safetensors", "optimiser.safetensors", "state.json")),
    *(("state.json", deed) for deed in (emptied, cut, zeroed)),
    ("state.json", rewritten(step=4)),
    ("state.json", rewritten(lineage={**LINEAGE, "plan": "2" * 64})),
    ("state.json", rewritten(sha256="")),
    ("state.json", rewritten(files={})),
]


@pytest.mark.parametrize(("name", "damage"), DAMAGE)
def test_damage_is_said_and_the_one_before_is_used(checkpoints, tmp_path, name, damage):
    damage(tmp_path / "checkpoints" / "stage-1-step-0000008" / name)
    said: list[str] = []
    assert checkpoints.newest_whole(1, LINEAGE, said.append) == Position(1, 4)
    assert len(said) == 1 and "stage-1-step-0000008 is damaged" in said[0] and name in said[0]
    assert checkpoints.newest_whole(1, LINEAGE, said.append) == Position(1, 4) and len(said) == 1
    checkpoints.clear(1)
    assert not list((tmp_path / "checkpoints").iterdir())


def test_any_bit_counts(checkpoints, tmp_path):
    folder = tmp_path / "checkpoints" / "stage-1-step-0000008"
    aside = folder.with_name(f"damaged-{folder.name}")
    for path in sorted(folder.iterdir()):
        whole = path.read_bytes()
        for place in range(0, len(whole), 23):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << place % 8)]) + whole[place + 1 :])
            assert checkpoints.newest_whole(1, LINEAGE, lambda _: None) == Position(1, 4), (path, place)
            aside.rename(folder)
        path.write_bytes(whole)


def test_one_of_another_run_is_refused_and_stays(checkpoints, tmp_path):
    with pytest.raises(MaskgenError, match=r"another plan.*remove the checkpoint"):
        checkpoints.newest_whole(1, {**LINEAGE, "plan": "2" * 64}, lambda _: None)
    assert (tmp_path / "checkpoints" / "stage-1-step-0000008").is_dir()


def test_one_without_hashes_is_used_and_said(checkpoints, tmp_path):
    path = tmp_path / "checkpoints" / "stage-1-step-0000008" / "state.json"
    state = json.loads(path.read_text())
    path.write_text(json.dumps({name: state[name] for name in ("stage", "step", "lineage")}))
    said: list[str] = []
    assert checkpoints.newest_whole(1, LINEAGE, said.append) == Position(1, 8)
    assert "no hashes" in said[0]


@pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_no_damage(checkpoints, tmp_path):
    path = tmp_path / "checkpoints" / "stage-1-step-0000008" / "model.safetensors"
    path.chmod(0)
    with pytest.raises(PermissionError):
        checkpoints.newest_whole(1, LINEAGE, lambda _: None)
    path.chmod(0o600)


def test_a_checkpoint_saved_beside_a_damaged_later_one_survives(checkpoints, tmp_path):
    """Rotation keeps the newest by step; one that was set aside must not push out what is written now."""
    shutil.rmtree(tmp_path / "checkpoints" / "stage-1-step-0000004")
    emptied(tmp_path / "checkpoints" / "stage-1-step-0000008" / "state.json")
    assert checkpoints.newest_whole(1, LINEAGE, lambda _: None) is None
    model = torch.nn.Linear(3, 2)
    once = Checkpoints(tmp_path, 1, ALONE)
    once.save(Position(1, 2), model, torch.optim.AdamW(model.parameters()), LINEAGE)
    assert once.newest_whole(1, LINEAGE, lambda _: None) == Position(1, 2)
