"""Weights are brought from a server that speaks the hub's protocol: whole, once, and resumed after a cut."""

import hashlib
import json
import os

import pytest

from helpers.command import maskgen
from helpers.local_hub import COMMIT, LocalHub, local_hub
from maskgen import config
from maskgen.errors import MaskgenError
from maskgen.grounding import weights
from maskgen.grounding.fetch_weights import fetch_weights

MIB = 1 << 20
NAME = "florence-community/Florence-2-large"
NATIVE = {"model_type": "florence2", "text_config": {"model_type": "bart", "d_model": 1024}}
CUSTOM = {"model_type": "florence2", "text_config": {"model_type": "florence2_language", "d_model": 1024}}
FILES = {
    "config.json": json.dumps(NATIVE).encode(),
    "model.safetensors": os.urandom(MIB) * 12,
    "tokenizer.json": b"{}",
    "pytorch_model.bin": b"pickled",
    "modeling_florence2.py": b"raise SystemExit('run')",
}


@pytest.fixture
def hub():
    with local_hub() as server:
        server.repositories[NAME] = FILES
        yield server


@pytest.fixture
def sam(hub: LocalHub, monkeypatch) -> bytes:
    """The bytes of an official checkpoint that the server has."""
    data = os.urandom(500_000)
    hub.files["/sam_vit_b.pth"] = data
    official = weights.SamFile(f"{hub.url}/sam_vit_b.pth", len(data), hashlib.sha256(data).hexdigest())
    monkeypatch.setitem(weights.SAM_FILES, "vit_b", official)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    return data


SAM_ALONE = config.load("pretrain", "", ["proposer={kind: recorded, file: x}", "refiner.model=vit_b"])


def fetch(hub: LocalHub, to, *arguments: str, **environment: str):
    own = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "NO_PROXY": "*", **environment}
    return maskgen("fetch", "weights", "--set", "refiner.kind=none", "--to", to, *arguments, env=own)


@pytest.mark.slow
def test_florence2_as_the_hub_has_it_without_its_code_and_resumed(hub, tmp_path):
    path = f"/{NAME}/resolve/{COMMIT}/model.safetensors"
    hub.cut[path] = 11 * MIB  # huggingface_hub, which writes 10 MiB at a time, asks again from there
    done = fetch(hub, tmp_path / "w", "--split", "pretrain")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "w" / "Florence-2-large"
    names = {name.name for name in folder.iterdir() if name.is_file()}
    assert names == {"config.json", "model.safetensors", "tokenizer.json"}
    assert all((folder / name).read_bytes() == FILES[name] for name in names)
    ranges = [asked for file, asked in hub.asked if file == path]
    assert ranges[0] is None and ranges[1] == f"bytes={10 * MIB}-"
    assert f"{NAME} at {COMMIT}, hashes as on the hub" in done.stdout
    assert (
        f"maskgen run --split pretrain --set refiner.kind=none --set proposer.model={folder}" in done.stdout
    )

    before = len(hub.asked)
    (folder / "model.safetensors").write_bytes(bytes(12 * MIB))  # a disk that forgets
    again = fetch(hub, tmp_path / "w", "--split", "pretrain")
    assert again.returncode == 1 and "model.safetensors was not what the hub published" in again.stderr
    healed = fetch(hub, tmp_path / "w", "--split", "pretrain")
    assert (
        healed.returncode == 0 and (folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    )
    assert len(hub.asked) == before + 1  # nothing else came twice


def test_custom_code_is_refused_before_its_weights_arrive(hub, tmp_path):
    hub.repositories["microsoft/Florence-2-large"] = {**FILES, "config.json": json.dumps(CUSTOM).encode()}
    said = fetch(hub, tmp_path, "--split", "pretrain", "--set", "proposer.model=microsoft/Florence-2-large")
    assert said.returncode == 1 and f"--set proposer.model={NAME}" in said.stderr
    assert not any("safetensors" in file for file, _ in hub.asked)


@pytest.mark.parametrize(
    ("settings", "offline", "sentence"),
    [
        (["proposer.model=nobody/none"], False, "the hub does not give nobody/none at revision main"),
        (["proposer.revision=old"], False, "at revision old"),
        (["proposer.model=not/a/name"], False, "the hub does not give not/a/name"),
        ([], True, "HF_HUB_OFFLINE is set"),
    ],
)
def test_a_hub_that_does_not_give_is_a_sentence(hub, tmp_path, monkeypatch, settings, offline, sentence):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    with pytest.raises(MaskgenError, match=sentence):
        fetch_weights(config.load("pretrain", "", settings), tmp_path, print)


def test_a_hub_that_is_not_there_is_a_sentence(hub, tmp_path):
    said = fetch(hub, tmp_path / "w", "--split", "pretrain", HF_ENDPOINT="http://127.0.0.1:9")
    assert said.returncode == 1 and "Check address, network" in said.stderr


def test_sam_is_resumed_and_checked(hub, sam, tmp_path):
    (tmp_path / "sam_vit_b.pth.incomplete").write_bytes(sam[:200_000])
    said: list[str] = []
    [fetched] = fetch_weights(SAM_ALONE, tmp_path, said.append)
    assert hub.asked == [("/sam_vit_b.pth", "bytes=200000-")]
    assert fetched.path.read_bytes() == sam and fetched.key == "refiner.checkpoint"
    assert [path.name for path in tmp_path.iterdir()] == ["sam_vit_b.pth"]
    fetch_weights(SAM_ALONE, tmp_path, said.append)
    assert len(hub.asked) == 1 and "checking it" in said[-1]
    fetched.path.write_bytes(bytes(len(sam)))
    with pytest.raises(MaskgenError, match="is not what is published as sam_vit_b"):
        fetch_weights(SAM_ALONE, tmp_path, said.append)
    assert fetched.path.exists()  # it may be one of the user's own


@pytest.mark.parametrize("begun", [b"", bytes(1000), bytes(500_000), bytes(900_000)])
def test_a_file_that_is_not_the_published_one_does_not_stay(hub, sam, tmp_path, begun):
    """A wrong beginning, too long a one, or a server that gives something else."""
    if not begun:
        hub.lies["/sam_vit_b.pth"] = bytes(len(sam))
    (tmp_path / "sam_vit_b.pth.incomplete").write_bytes(begun)
    if len(begun) > len(sam):
        fetch_weights(SAM_ALONE, tmp_path, print)
        assert (tmp_path / "sam_vit_b.pth").read_bytes() == sam
        return
    with pytest.raises(MaskgenError, match="It is removed: run the same line again"):
        fetch_weights(SAM_ALONE, tmp_path, print)
    assert not list(tmp_path.iterdir())


def test_a_disk_that_is_too_small_is_said_before(hub, sam, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda place: type("Usage", (), {"free": 1 << 20}))
    with pytest.raises(MaskgenError, match="GB free, and"):
        fetch_weights(SAM_ALONE, tmp_path, print)
    assert not hub.asked


def test_nothing_to_fetch(tmp_path):
    assert fetch_weights(config.load("demo"), tmp_path / "w", print) == [] and not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    ("folder", "size", "native"),
    [
        ("Florence-2-large", 1024, "florence-community/Florence-2-large"),
        ("models--microsoft--Florence-2-base-ft/snapshots/abc", 768, "florence-community/Florence-2-base-ft"),
        ("mine", 768, "florence-community/Florence-2-base"),
    ],
)
def test_the_native_repository_of_custom_code(tmp_path, folder, size, native):
    place = tmp_path / folder
    place.mkdir(parents=True)
    language = {"model_type": "florence2_language", "d_model": size}
    (place / "config.json").write_text(json.dumps({"model_type": "florence2", "text_config": language}))
    assert weights.native_repository(place) == native
    (place / "config.json").write_text(json.dumps(NATIVE))
    assert weights.native_repository(place) == ""
    (place / "config.json").write_text("[]")
    assert weights.native_repository(place) == ""
