"""Answers in batches are the answers alone, and depend on the picture."""

import miniatures
import numpy as np
import pytest

from maskgen.errors import MaskgenError
from maskgen.evaluation.answering import answer_all
from maskgen.evaluation.model import Speaker, find, identity, load
from maskgen.evaluation.question import Question

pytestmark = pytest.mark.usefixtures("one_thread")

TEXTS = [
    "Is it red?",
    "Where is the star, and what is left of it?",
    "Count.",
    "What colour has the big square?",
]
QUESTIONS = [
    Question(str(at), TEXTS[at % 4], "yes_no", ("yes",), image=None if at % 3 == 2 else str(at % 2))
    for at in range(9)
]


def look(name: str) -> np.ndarray:
    return np.random.default_rng(int(name)).integers(0, 255, (24, 30, 3), np.uint8)


@pytest.fixture(scope="module", params=["age_vlm", "concat_vlm"])
def speaker(request, tmp_path_factory) -> Speaker:
    return load(miniatures.model_folder(tmp_path_factory.mktemp("model"), request.param), "cpu")


def test_a_batch_says_what_each_says_alone(speaker):
    alone = [answer_all(speaker, [question], look, max_new_tokens=12)[0] for question in QUESTIONS]
    for batch in (2, 4, 9):
        assert answer_all(speaker, QUESTIONS, look, batch=batch, max_new_tokens=12) == alone
    assert len(set(alone)) > 4


def test_the_answer_depends_on_the_picture(speaker):
    asked = [Question("a", TEXTS[0], "yes_no", ("yes",), image=str(at)) for at in range(6)]
    seeing = answer_all(speaker, asked, look, max_new_tokens=12)
    assert len(set(seeing)) > 1
    blind = answer_all(speaker, asked, None, max_new_tokens=12)
    assert len(set(blind)) == 1 and set(blind) != set(seeing)


def test_nothing_asked_nothing_answered(speaker):
    assert answer_all(speaker, [], look) == []


def test_a_broken_picture_ends_it(speaker):
    def broken(name: str) -> np.ndarray:
        raise MaskgenError(f"no {name}")

    with pytest.raises(MaskgenError, match="no 0"):
        answer_all(speaker, QUESTIONS, broken, max_new_tokens=2)


def test_a_runs_model_is_its_last(tmp_path):
    with pytest.raises(MaskgenError, match="there is no model in it"):
        find(str(tmp_path))
    for place in ("stage-2/model", "stage-10/model"):
        miniatures.model_folder(tmp_path / place)
    assert find(str(tmp_path)) == tmp_path / "stage-10" / "model"
    assert find(str(tmp_path / "stage-2" / "model")) == tmp_path / "stage-2" / "model"
    miniatures.model_folder(tmp_path / "model", seed=1)
    assert find(str(tmp_path)) == tmp_path / "model"
    assert identity(tmp_path / "model") != identity(tmp_path / "stage-10" / "model")
    assert identity(tmp_path / "stage-2" / "model") == identity(tmp_path / "stage-10" / "model")


def test_a_folder_that_cannot_be_loaded_is_a_sentence(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "age_vlm"}')
    with pytest.raises(MaskgenError, match="cannot be loaded"):
        load(tmp_path, "cpu")
