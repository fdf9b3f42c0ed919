"""`maskgen ask` and `chat` on a tiny model: the library's answers, and where it looked."""

import pytest
from PIL import Image
from typer.testing import CliRunner

import maskgen
from helpers import peaked_attention as peaked
from maskgen.cli import app
from maskgen.errors import MaskgenError


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    peaked.model_folder(folder / "run" / "model")
    Image.new("RGB", (40, 20), "green").save(folder / "a.png")
    return folder


def run(*words: object, typed: str = "") -> str:
    line = [*map(str, words), "--max-new-tokens", "6", "--device", "cpu"]
    result = CliRunner().invoke(app, line, input=typed, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_ask_prints_the_librarys_answer_and_draws_where_it_looked(place, tmp_path):
    model = maskgen.load_model(place / "run", device="cpu")
    answer = model.answer(place / "a.png", "Where?", max_new_tokens=6)
    look = tmp_path / "new" / "look.png"
    printed = run("ask", "--model", place / "run", place / "a.png", "Where?", "--look", look)
    assert printed == f"{answer}\n" and Image.open(look).width > 600
    assert model.look(place / "a.png", "Where?").tobytes() == Image.open(look).tobytes()


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["a.png", " "], "the question is empty"),
        (["none.png", "Where?"], "no picture none.png"),
        (["a.png", "Where?", "--look", "a.png/b.png"], "cannot write"),
    ],
)
def test_what_cannot_be_asked_is_a_sentence(place, monkeypatch, words, problem):
    monkeypatch.chdir(place)
    with pytest.raises(MaskgenError, match=problem):
        run("ask", "--model", "run", *words)


def test_chat_remembers_what_was_said(place):
    model = maskgen.load_model(place / "run", device="cpu")
    first = model.answer(place / "a.png", "Where?", max_new_tokens=6)
    second = model.answer(place / "a.png", "Why?", max_new_tokens=6, history=[("Where?", first)])
    printed = run("chat", "--model", place / "run", place / "a.png", typed="Where?\nWhy?\n\n")
    assert first in printed and second in printed.split(first, 1)[1]
    assert run("chat", "--model", place / "run", place / "a.png", typed="").count("\n") <= 1
