"""A set goes to a server that speaks the hub's protocol: whole, private, once, and on after a failure."""

import json
import re

import pytest
import yaml
from typer.testing import CliRunner

from helpers.pushed_hub import TOKEN, PushedHub, pushed_hub
from helpers.tiny_sets import make_set, record
from maskgen.cli import app
from maskgen.errors import MaskgenError
from maskgen.exporting import hub_push
from maskgen.exporting.hub_push import push, repository
from maskgen.outcome import Outcome
from maskgen.runtime.store import Store
from maskgen.sharding.verify import verify


@pytest.fixture
def hub(monkeypatch):
    with pushed_hub() as server:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


@pytest.fixture
def place(tmp_path) -> str:
    shards = [[record(3 * shard + n) for n in range(3)] for shard in range(4)]
    store = make_set(tmp_path / "set", [*shards, [record(20, Outcome.IMAGE_MISSING)]])
    run = store.read_json("run.json")
    store.write_json("run.json", {**run, "data": "/home/me/secret"})
    store.write_bytes("report.html", b"hosts and times")
    store.write_bytes("calibration.json", b"{}")
    (tmp_path / "set" / ".maskgen").mkdir(exist_ok=True)
    (tmp_path / "set" / ".maskgen" / "events.jsonl").write_text("{}")
    return str(tmp_path / "set")


def names(place: str) -> set[str]:
    store = Store(place)
    return {name for name in store.names() if not name.startswith(".") and name != "report.html"}


def test_everything_arrives_as_it_is_and_nothing_of_this_machine(hub, place):
    said: list[str] = []
    assert push(place, "hf://me/masks", True, said.append) == f"{hub.url}/datasets/me/masks"
    files = hub.repositories["me/masks"]
    assert hub.private == {"me/masks": True}
    assert set(files) == {name for name in names(place) if "/" not in name}
    for name, data in files.items():
        if name == "run.json":
            assert "data" not in json.loads(data) and b"secret" not in data
        else:
            assert data == Store(place).read_bytes(name)
    assert hub.commits[-1][-1] == "README.md", "the card comes last"
    assert yaml.safe_load(files["README.md"].decode().split("---")[1])["configs"]


def test_what_is_there_is_not_sent_again(hub, place):
    push(place, "hf://datasets/me/masks", False, lambda _: None)
    assert hub.private == {"me/masks": False}
    before = len(hub.commits)
    said: list[str] = []
    push(place, "hf://me/masks", True, said.append)
    assert len(hub.commits) == before and said[-1].startswith("0 files sent")
    Store(place).write_bytes("calibration.json", b'{"other": 1}')
    push(place, "hf://me/masks", True, lambda _: None)
    assert hub.commits[before:] == [["calibration.json"]] and hub.private == {"me/masks": False}


def test_the_same_line_goes_on_after_a_failure(hub, place, monkeypatch):
    monkeypatch.setattr(hub_push, "BATCH_FILES", 3)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    hub.fails_after = 2
    with pytest.raises(MaskgenError, match=r"the hub did not take me/masks: .*give the same line again"):
        push(place, "hf://me/masks", True, lambda _: None)
    assert len(hub.commits) == 2 and len(hub.stored) >= 4
    hub.fails_after = 10**6
    push(place, "hf://me/masks", True, lambda _: None)
    together = [name for commit in hub.commits for name in commit]
    assert len(together) == len(set(together)) == len(hub.repositories["me/masks"])
    for name in together:
        stem = re.fullmatch(r"(\d+)\.json", name)
        if stem and f"{stem[1]}.tar" in together:
            assert together.index(f"{stem[1]}.tar") < together.index(name)


def test_what_arrived_is_a_finished_set(hub, place, tmp_path):
    push(place, "hf://me/masks", True, lambda _: None)
    for name, data in hub.repositories["me/masks"].items():
        (tmp_path / "copy").mkdir(exist_ok=True)
        (tmp_path / "copy" / name).write_bytes(data)
    copied, own = verify(Store(str(tmp_path / "copy"))), verify(Store(place))
    assert [line.replace("copy", "set") for line in copied] == own


def test_without_a_token_or_a_connection_it_is_a_sentence(hub: PushedHub, place, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(MaskgenError, match="Log in with a token that may write"):
        push(place, "hf://me/masks", True, lambda _: None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(MaskgenError, match="the hub did not take"):
        push(place, "hf://me/masks", True, lambda _: None)


@pytest.mark.parametrize(
    "to", ["me/masks", "hf://masks", "s3://me/masks", "hf://models/me/masks", "hf://a/b/c", ""]
)
def test_what_is_no_name_is_a_sentence(to):
    with pytest.raises(MaskgenError, match="give hf://NAME/SET"):
        repository(to)


def test_an_unfinished_set_stays_here(hub, place, tmp_path):
    Store(place).remove("000001.json")
    with pytest.raises(MaskgenError, match="no finished set"):
        push(place, "hf://me/masks", True, lambda _: None)
    with pytest.raises(MaskgenError, match="no finished set"):
        push(str(tmp_path), "hf://me/masks", True, lambda _: None)
    assert not hub.repositories


def test_the_command_is_private_by_default(hub, place):
    ended = CliRunner().invoke(app, ["push", place, "--to", "hf://me/masks"])
    assert ended.exit_code == 0, ended.exception
    assert f"{hub.url}/datasets/me/masks" in ended.stdout and hub.private == {"me/masks": True}
    assert CliRunner().invoke(app, ["push", place, "--to", "hf://me/open", "--public"]).exit_code == 0
    assert hub.private["me/open"] is False
