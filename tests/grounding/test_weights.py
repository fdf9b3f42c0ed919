"""Which weights a configuration means."""

from pathlib import Path

import pytest

from maskgen import config
from maskgen.grounding import weights


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub's cache whose branch main can move: `hub("bbb")` moves it."""

    def folder(commit: str) -> Path:
        path = tmp_path / "snapshots" / commit
        path.mkdir(parents=True, exist_ok=True)
        return path

    main = ["aaa"]

    def download(settings: config.Florence2) -> Path:
        return folder(main[0] if settings.revision == "main" else settings.revision)

    monkeypatch.setattr(weights, "_from_hub", download)

    def move(commit: str) -> None:
        main[0] = commit

    return move


def test_a_hub_branch_is_pinned_to_its_commit_and_a_resume_keeps_it(hub):
    settings = config.load("pretrain", overrides=["refiner.kind=none"])
    begun = weights.pinned(settings, None)
    assert isinstance(begun.proposer, config.Florence2) and begun.proposer.revision == "aaa"
    recorded = weights.identify(begun, "")["proposer"]
    hub("bbb")
    resumed = weights.pinned(settings, recorded)
    assert weights.identify(resumed, "") == weights.identify(begun, "")


def test_a_folder_is_known_by_its_files(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    overrides = [f"proposer.model={tmp_path}", "refiner.kind=none"]
    settings = config.load("pretrain", overrides=overrides)
    before = weights.identify(settings, "")
    assert weights.pinned(settings, before["proposer"]) == settings
    (tmp_path / "config.json").write_text("[]")
    assert weights.identify(settings, "") != before
