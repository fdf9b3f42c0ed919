"""The three commands on tiny models: what they print and write, and what they refuse."""

import json

import pytest
from PIL import Image
from typer.testing import CliRunner

from helpers import peaked_attention as peaked
from helpers import small_training
from maskgen.cli import app
from maskgen.errors import MaskgenError


def run(*words: object) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    for kind in ("age_vlm", "concat_vlm"):
        peaked.model_folder(folder / kind / "model", kind)
    small_training.shards(folder / "set", 14)
    Image.new("RGB", (40, 20), "green").save(folder / "a.png")
    (folder / "pairs.jsonl").write_text('{"image": "a.png", "question": "Where?"}\n')
    return folder


def both(place):
    return "--model", place / "age_vlm", "--model", place / "concat_vlm"


@pytest.mark.slow
def test_ground(place, tmp_path):
    printed = run("ground", *both(place), "--data", place / "set", "--out", tmp_path / "new" / "g.json")
    assert "age_vlm, slot 3" in printed and "even attention" in printed
    written = json.loads((tmp_path / "new" / "g.json").read_text())
    assert [model["architecture"] for model in written["models"]] == ["age_vlm", "concat_vlm"]
    printed = json.loads(run("ground", *both(place), "--data", place / "set", "--json"))
    assert printed == written
    lower = json.loads(
        run("ground", *both(place)[:2], "--data", place / "set", "--json", "--threshold", 0.01)
    )
    mass = [one["models"][0]["figures"]["all"]["even attention"]["mass"]["value"] for one in (lower, written)]
    assert mass[0] > mass[1]  # a lower threshold makes larger masks


@pytest.mark.slow
def test_attend(place, tmp_path):
    for more in ([], ["--tokens"], ["--fit", "pad"]):
        to = tmp_path / "a.png"
        printed = run("attend", *both(place), place / "a.png", "red star", "--to", to, *more)
        assert "age_vlm answers: " in printed and "concat_vlm answers: " in printed
        assert "first self-attention" in printed and Image.open(to).width > 600
        assert ("on padding" in printed) == ("--fit" in more)
    to = tmp_path / "page.png"
    run("attend", *both(place), "--grid", place / "pairs.jsonl", "--to", to, "--layer", "mean")
    assert Image.open(to).width > 600 and "data:image/jpeg" in to.with_suffix(".html").read_text()


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["a.png"], "a picture and a question"),
        (["a.png", "Where?", "--layer", "last"], "--layer goes with --grid"),
        (["a.png", "Where?", "--grid", "pairs.jsonl"], "leave out the others"),
        (["none.png", "Where?"], "there is no picture none.png"),
        (["pairs.jsonl", "Where?"], "cannot read the image pairs.jsonl"),
        (["a.png", "Where?", "--to", "a.png/b.png"], "cannot write"),
        (["--grid", "pairs.jsonl", "--layer", "9"], "--layer 9"),
        (["a.png", "Where?", "--fit", "stretch"], "--fit stretch"),
    ],
)
def test_attend_refuses(place, monkeypatch, words, problem):
    monkeypatch.chdir(place)
    with pytest.raises(MaskgenError, match=problem):
        run("attend", "--model", "age_vlm", *words)


@pytest.mark.slow
def test_similarity(place, tmp_path):
    for text, pool in (("query", "mean"), ("answers", "pairs")):
        out = tmp_path / text
        printed = run(
            "similarity", *both(place), "--data", place / "set", "--out", out, "--text", text, "--pool", pool
        )
        assert "linear probe" in printed
        found = json.loads((out / "similarity.json").read_text())
        assert [model["pool"] for model in found["models"]] == [pool, pool]
        assert Image.open(out / "similarity.png").width == 2080
        assert (out / "similarity.svg").read_text().startswith("<svg")
    with pytest.raises(MaskgenError, match="--text words: give one of query, answers"):
        run("similarity", *both(place), "--data", place / "set", "--text", "words")
