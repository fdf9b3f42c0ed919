"""Answers in batches are the answers alone, and depend on the picture."""

import numpy as np
import pytest

from helpers import benchmark_files as miniatures
from maskgen.age_vlm.generation import Answerer
from maskgen.age_vlm.loading import load
from maskgen.errors import MaskgenError
from maskgen.evaluation.inference import answer_all
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
def answerer(request, tmp_path_factory) -> Answerer:
    folder = miniatures.model_folder(tmp_path_factory.mktemp("model"), request.param)
    return Answerer(*load(folder, "cpu"))


@pytest.mark.slow
def test_a_batch_says_what_each_says_alone(answerer):
    alone = [answer_all(answerer, [question], look, max_new_tokens=12)[0] for question in QUESTIONS]
    for batch in (2, 4, 9):
        assert answer_all(answerer, QUESTIONS, look, batch=batch, max_new_tokens=12) == alone
    assert len(set(alone)) > 4


def test_the_answer_depends_on_the_picture(answerer):
    asked = [Question("a", TEXTS[0], "yes_no", ("yes",), image=str(at)) for at in range(6)]
    seeing = answer_all(answerer, asked, look, max_new_tokens=12)
    assert len(set(seeing)) > 1
    blind = answer_all(answerer, asked, None, max_new_tokens=12)
    assert len(set(blind)) == 1 and set(blind) != set(seeing)


def test_nothing_asked_nothing_answered(answerer):
    assert answer_all(answerer, [], look) == []


def test_a_broken_picture_ends_it(answerer):
    def broken(name: str) -> np.ndarray:
        raise MaskgenError(f"no {name}")

    with pytest.raises(MaskgenError, match="no 0"):
        answer_all(answerer, QUESTIONS, broken, max_new_tokens=2)
