"""`maskgen resume OUT`, and commands that take the rest from OUT's run.json; refusals that change nothing."""

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from helpers.command import maskgen
from maskgen.cli import app
from maskgen.config import load
from maskgen.errors import MaskgenError
from maskgen.pipeline import run_record
from maskgen.pipeline.run import RunRequest, prepare, run
from maskgen.runtime.store import Store

PACKED = ["proposer={kind: none}", "refiner={kind: none}", "source.files=[rows.jsonl]", "select.count=null"]


@pytest.fixture
def data(tmp_path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    turns = [
        {
            "from": "human",
            "value": "<image>\nHow many dogs?\nAnswer the question using a single word or phrase.",
        },
        {"from": "gpt", "value": "Two."},
    ]
    rows = [{"id": n, "image": f"{n}.jpg", "source": "a.json", "conversations": turns} for n in range(6)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for n in range(4):
        Image.new("RGB", (8, 8)).save(folder / f"{n}.jpg")
    (folder / "4.jpg").write_bytes(b"no picture")
    return folder


def begun(data: Path, out: Path) -> None:
    prepare(
        RunRequest(load("pretrain", overrides=PACKED), str(data), str(out)), Store(str(out)), lambda _: None
    )


def test_the_record_gives_settings_and_data_back(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prepare(RunRequest(load("pretrain", overrides=PACKED), "data", "out"), Store("out"), lambda _: None)
    monkeypatch.chdir("/")
    settings, place = run_record.settings(str(tmp_path / "out"), "")
    assert (settings.source.files, place) == (["rows.jsonl"], str(data))
    settings, place = run_record.settings(str(tmp_path / "out"), "elsewhere", ["resources.threads=2"])
    assert (settings.resources.threads, place) == (2, "elsewhere")


def test_what_cannot_be_resumed_is_said(data, tmp_path):
    with pytest.raises(MaskgenError, match="no run was begun in"):
        run_record.settings(str(tmp_path / "out"), "")
    begun(data, tmp_path / "out")
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    del record["data"]
    (tmp_path / "out" / "run.json").write_text(json.dumps(record))
    with pytest.raises(MaskgenError, match=r"does not say where its data lies.*Give --data"):
        run_record.settings(str(tmp_path / "out"), "")


def test_a_refused_run_draws_and_writes_nothing(tmp_path):
    scenes, out = tmp_path / "scenes", tmp_path / "out"
    few = ["source.scenes.count=3"]
    request = RunRequest(load("demo", overrides=few), str(scenes), str(out))
    from maskgen.sources.data_root import ensure

    ensure(request.config, request.data, lambda _: None)
    prepare(request, Store(str(out)), lambda _: None)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    for other in ("source.scenes.count=4", "grid.fit=pad", "text.strip=[]"):
        with pytest.raises(MaskgenError, match=r"begun with other settings(?s:.)*maskgen resume"):
            run(RunRequest(load("demo", overrides=[*few, other]), str(scenes), str(out)), lambda _: None)
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_run_that_cannot_begin_leaves_no_folder(data, tmp_path):
    settings = load("pretrain", overrides=[*PACKED, "source.files=[none.jsonl]"])
    with pytest.raises(MaskgenError, match="no annotation file"):
        run(RunRequest(settings, str(data), str(tmp_path / "out")), lambda _: None)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("select.where=)(", "syntax error"),
        ("select.where=random() < 0.5", "says something else each time"),
        ("source.images=nowhere", "no image folder"),
        ("source.allow_links_to=[/no/where]", "is no folder"),
    ],
)
def test_what_is_wrong_without_a_look_at_rows_is_said_before_anything_is_written(
    data, tmp_path, setting, said
):
    settings = load("pretrain", overrides=[*PACKED, "source.files=[rows.jsonl]", setting])
    with pytest.raises(MaskgenError, match=said):
        run(RunRequest(settings, str(data), str(tmp_path / "out")), lambda _: None)
    assert not (tmp_path / "out").exists()


def test_a_condition_is_refused_before_scenes_are_drawn(tmp_path):
    settings = load("demo", overrides=["select.where=)("])
    with pytest.raises(MaskgenError, match="syntax error"):
        run(RunRequest(settings, str(tmp_path / "scenes"), str(tmp_path / "out")), lambda _: None)
    assert not list(tmp_path.iterdir())


def test_plan_opens_images_and_shows_what_would_be_asked(data):
    line = ["plan", "--split", "finetune", "--data", str(data), "--set", "source.files=[rows.jsonl]"]
    line += ["--set", "proposer.model=demo", "--set", "refiner={kind: none}"]
    told = CliRunner().invoke(app, [*line, "--show-texts", "2"]).output
    assert "planned images, of them 4 can be read" in told
    assert "image_corrupt: 4.jpg" in told
    assert "1  image_missing" in told
    assert told.count("How many dogs?") == 2 and "single word" not in told
    tree = json.loads(CliRunner().invoke(app, [*line, "--show-texts", "2", "--json"]).stdout)
    assert tree["opened"]["failures"] == {"image_corrupt": 1}
    assert [text["cut"] for text in tree["texts"]] == [51, 51]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_set_goes_on_and_heals_without_another_flag(data, tmp_path):
    out = tmp_path / "out"
    begun(data, out)
    first = maskgen("resume", out, "--set", "resources.actors=1")
    assert first.returncode == 2, first.stdout + first.stderr
    Image.new("RGB", (8, 8)).save(data / "4.jpg")
    Image.new("RGB", (8, 8)).save(data / "5.jpg")
    healed = maskgen("run", "--out", out, "--retry-failed")
    assert healed.returncode == 0, healed.stdout + healed.stderr
    assert "images found that were missing: 1" in healed.stderr
    assert maskgen("verify", out).returncode == 0
    assert maskgen("pack", "--out", out).returncode == 0
