"""Figures against oracles written anew from the authors' scripts, on answers that cover their branches."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import benchmark_files as miniatures
from maskgen.errors import MaskgenError
from maskgen.evaluation.baselines import baselines
from maskgen.evaluation.benchmarks import BENCHMARKS
from maskgen.evaluation.cluster_bootstrap import draw
from maskgen.evaluation.locations import find
from maskgen.evaluation.question import Question
from maskgen.evaluation.scoring import disagreements, read_all, score
from maskgen.evaluation.weighted_scores import accuracy

POPE, HALLUSION = BENCHMARKS["pope"], BENCHMARKS["hallusionbench"]
SAID = [
    "yes", "Yes.", "Yes, there is a dog in the image. It is not small.", "no", "No", "No, there is no dog.",
    "There is not a dog", "There is no dog. Yes", "It is a dog", "", "NO", "nothing", "no,", "not. yes",
]  # fmt: skip


def pope_oracle(labels: list[str], answers: list[str]) -> dict[str, float]:
    """POPE's evaluate.py: answers to 0 and 1, four counts, and what follows from them."""
    predicted = []
    for answer in answers:
        sentence = answer[: answer.index(".")] if "." in answer else answer
        tokens = sentence.replace(",", "").split(" ")
        negative = any(token in ("No", "not", "no") for token in tokens)
        predicted.append(0 if negative else 1)
    truth = [0 if label == "no" else 1 for label in labels]
    pairs = list(zip(predicted, truth, strict=True))
    tp, fp, tn, fn = (pairs.count(pair) for pair in ((1, 1), (1, 0), (0, 0), (0, 1)))
    precision, recall = (tp / (tp + fp) if tp + fp else 0.0), tp / (tp + fn)
    return {
        "accuracy": (tp + tn) / (tp + tn + fp + fn),
        "precision": precision,
        "recall": recall,
        "F1": 2 * precision * recall / (precision + recall) if precision + recall else 0.0,
        "yes ratio": predicted.count(1) / len(predicted),
    }


@given(st.lists(st.tuples(st.sampled_from(SAID), st.sampled_from(["yes", "no"])), min_size=1, max_size=30))
def test_pope_is_the_authors_script(pairs):
    answers, labels = [answer for answer, _ in pairs] + ["yes"], [label for _, label in pairs] + ["yes"]
    questions = [
        Question(str(at), "?", "yes_no", (label,), groups={"split": "popular"})
        for at, label in enumerate(labels)
    ]
    readings = read_all(POPE, questions, answers, "official")
    figures = POPE.figures(questions, readings)(np.ones(len(questions)))
    for name, expected in pope_oracle(labels, answers).items():
        assert figures[name] == pytest.approx(100 * expected)
        assert figures[f"{name} popular"] == pytest.approx(100 * expected)
        assert f"{name} random" not in figures


def hallusion_oracle(rows: list[dict], right: list[bool]) -> dict[str, float]:
    """HallusionBench's utils.py, over the rows that have an image: sums and counts by name, equal or not."""
    figures: dict[str, list[int]] = {}
    pairs: dict[str, list[int]] = {}
    for row, correct in zip(rows, right, strict=True):
        place = [row["category"], row["subcategory"], str(row["set_id"])]
        for counts, last in ((figures, row["figure_id"]), (pairs, row["question_id"])):
            entry = counts.setdefault("_".join([*place, str(last)]), [0, 0])
            entry[0] += int(correct)
            entry[1] += 1
    return {
        "aAcc": 100 * sum(right) / len(right),
        "fAcc": 100 * sum(got == of for got, of in figures.values()) / len(figures),
        "qAcc": 100 * sum(got == of for got, of in pairs.values()) / len(pairs),
    }


@pytest.mark.parametrize("seed", range(8))
def test_hallusionbench_is_the_authors_script(seed, tmp_path):
    random = np.random.default_rng(seed)
    rows = [
        {
            "category": category,
            "subcategory": "ocr",
            "visual_input": str(visual),
            "set_id": str(collection),
            "figure_id": str(figure),
            "question_id": str(number),
            "question": "?",
            "gt_answer": str(random.integers(2)),
            "filename": f"./{category}/ocr/{collection}_{figure}.png",
        }
        for category in ("VD", "VS")  # the same topic in both: their sets are different ones
        for collection in range(3)
        for figure in range(3)
        for visual in [0 if category == "VS" and figure == 0 else 1 + figure % 2]
        for number in range(random.integers(1, 4))
    ]
    (tmp_path / "HallusionBench.json").write_text(json.dumps(rows))
    questions = find(HALLUSION, str(tmp_path)).questions
    asked = [row for row in rows if row["visual_input"] != "0"]
    assert len(questions) == len(asked) < len(rows)
    wrong = random.random(len(asked)) < 0.3
    words = [{"0": "No", "1": "Yes"}[row["gt_answer"]] for row in asked]
    answers = [
        {"Yes": "No", "No": "I cannot tell"}[word] if miss else f"{word}, it is."
        for word, miss in zip(words, wrong, strict=True)
    ]
    figures = score(HALLUSION, questions, answers, resamples=0).figures
    for name, expected in hallusion_oracle(asked, list(~wrong)).items():
        assert figures[name].value == pytest.approx(expected)


def test_always_no_on_the_real_hallusionbench():
    path = os.environ.get("MASKGEN_HALLUSIONBENCH", "")
    if not Path(path).is_file():
        pytest.skip("set MASKGEN_HALLUSIONBENCH to the authors' HallusionBench.json")
    questions = find(HALLUSION, annotations=[path]).questions
    assert len(questions) == 951
    assert len({question.groups["figure"] for question in questions}) == 346
    assert len({question.groups["question"] for question in questions}) == 455
    assert round(baselines(HALLUSION, questions)["always no"]["aAcc"], 1) == 57.8


def test_ocrbench_counts_points(tmp_path):
    questions = find(BENCHMARKS["ocrbench"], str(miniatures.ocrbench(tmp_path / "ocr"))).questions
    answers = ["Centre", "it says dakota digital", "1/8/92", "the total is 20.00", "1+\\frac{a}{b}"]
    figures = score(BENCHMARKS["ocrbench"], questions, answers).figures
    assert {name: figure.value for name, figure in figures.items()} == {
        "scene text-centric VQA": 1,
        "key information extraction": 1,
        "doc-oriented VQA": 0,
        "handwritten formulas": 1,
        "text recognition": 1,
        "total": 4,
    }
    assert all(figure.high <= 1 for name, figure in figures.items() if name != "total")


def test_cvbench_is_a_mean_of_means(tmp_path):
    questions = find(BENCHMARKS["cvbench"], str(miniatures.cvbench(tmp_path / "cv"))).questions
    assert [question.groups["source"] for question in questions] == ["ADE20K"] * 2 + ["COCO"] * 2 + [
        "Omni3D"
    ] * 2
    answers = ["(C) 1", "table lamp", "(A)", "chair", "(B)", "(A)"]
    figures = score(BENCHMARKS["cvbench"], questions, answers, resamples=0).figures
    assert (figures["ADE20K"].value, figures["COCO"].value, figures["Omni3D"].value) == (1.0, 0.0, 0.5)
    assert (figures["2D"].value, figures["3D"].value) == (0.5, 0.5)
    assert figures["Count"].value == 0.5


def test_realworldqa_reads_each_kind_in_its_way(tmp_path):
    questions = find(BENCHMARKS["realworldqa"], str(miniatures.realworldqa(tmp_path / "rw"))).questions
    asked = {question.answers[0]: question for question in questions}
    assert asked["B"].choices == ("One lane.", "Two lanes.", "Three lanes.")
    assert {answer: question.kind for answer, question in asked.items()} == {
        "B": "choice", "no": "yes_no", "3": "text", "Left": "text",
    }  # fmt: skip
    said = {"B": "Two lanes.", "no": "No, it is red.", "3": "three cars", "Left": "to the left"}
    answers = [said[question.answers[0]] for question in questions]
    assert score(BENCHMARKS["realworldqa"], questions, answers, resamples=0).figures["accuracy"].value == 1.0
    exact = score(BENCHMARKS["realworldqa"], questions, answers, "lmms-eval", resamples=0)
    assert exact.figures["accuracy"].value == 0.0


def yes_no(labels: list[str], **more) -> list[Question]:
    return [
        Question(str(at), "?", "yes_no", (label,), groups={"split": "random"}, **more)
        for at, label in enumerate(labels)
    ]


def test_what_needs_no_eyes():
    questions = yes_no(["yes"] * 30 + ["no"] * 70)
    found = baselines(POPE, questions)
    assert found["always yes"]["accuracy"] == 30 and found["always no"]["accuracy"] == 70
    assert found["majority"] == found["always no"]
    assert 45 < found["random"]["accuracy"] < 55 and found["random"] == baselines(POPE, questions)["random"]
    cv = BENCHMARKS["cvbench"]
    three = [
        Question(str(at), "?", "choice", ("AB"[at % 2],), choices=("0", "1", "2"), groups={"source": "COCO"})
        for at in range(600)
    ]
    guessed = baselines(cv, three)
    assert "always yes" not in guessed
    assert abs(guessed["random"]["2D"] - 1 / 3) < 0.02 and guessed["majority"]["2D"] == 0.5
    assert math.isnan(guessed["random"]["3D"])


def test_an_interval_covers_the_truth_as_often_as_it_says():
    random, covered = np.random.default_rng(0), 0
    for trial in range(60):
        questions = yes_no(["yes"] * 200)
        answers = ["yes" if hit else "no" for hit in random.random(200) < 0.8]
        measure = accuracy()(questions, read_all(POPE, questions, answers))
        figure = draw(questions, {"": measure}, resamples=200, seed=trial)[""]["accuracy"].figure()
        assert figure.low <= figure.value <= figure.high
        covered += figure.low <= 0.8 <= figure.high
    assert covered >= 51


def test_questions_about_one_picture_are_drawn_together():
    hits = [at < 20 for at in range(40)]
    alone = yes_no(["yes"] * 40)
    shared = [
        Question(str(at), "?", "yes_no", ("yes",), groups={"split": "random"}, cluster=str(at // 10))
        for at in range(40)
    ]
    answers = ["yes" if hit else "no" for hit in hits]
    narrow, wide = (score(POPE, questions, answers).figures["accuracy"] for questions in (alone, shared))
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)
    assert score(POPE, shared, answers).figures["accuracy"] == wide


def test_looking_is_what_a_paired_difference_says():
    questions = yes_no(["yes", "no"] * 50)
    seeing = ["yes", "no"] * 50
    blind = ["yes"] * 100
    scored = score(POPE, questions, seeing, tests={"blind": blind, "shuffled": seeing})
    assert scored.tests["blind"]["accuracy"].value == 50
    gain = scored.looking["blind"]["accuracy"]
    assert gain.value == 50 and 35 < gain.low < 50 < gain.high < 65
    none = scored.looking["shuffled"]["accuracy"]
    assert (none.value, none.low, none.high) == (0, 0, 0)


def test_protocols_disagree_where_they_are_known_to():
    laptop = "Yes, there is a laptop in the image. It is partially visible in the background."
    questions = yes_no(["yes", "yes"])
    (one,) = disagreements(POPE, questions, [laptop, "yes"])
    assert one.answer == laptop
    assert one.readings["official"].right and one.readings["paper"].right
    assert not one.readings["lmms-eval"].right
    organs = Question(
        "7", "How many organs?", "choice", ("B",), choices=("0", "1"), groups={"source": "COCO"}
    )
    (other,) = disagreements(BENCHMARKS["cvbench"], [organs], ["The correct answer is (B) 1."])
    assert other.readings["lmms-eval"].read == "T" and not other.readings["lmms-eval"].right
    assert other.readings["paper"].read == other.readings["official"].read == "B"


def test_a_judge_is_asked_about_options_that_no_rule_makes_out():
    cv = BENCHMARKS["cvbench"]
    questions = [
        Question(str(at), "?", "choice", ("B",), choices=("chair", "lamp"), groups={"source": "COCO"})
        for at in range(3)
    ]
    heard = []

    def judge(asked, answers):
        heard.extend(answers)
        return ["B" if "light" in answer else "" for answer in answers]

    answers = ["the lamp", "what gives light", "neither"]
    assert score(cv, questions, answers, resamples=0).figures["2D"].value == pytest.approx(1 / 3)
    judged = score(cv, questions, answers, judge=judge, resamples=0)
    assert judged.figures["2D"].value == pytest.approx(2 / 3)
    assert heard == ["what gives light", "neither"]
    assert (judged.judged, judged.unread) == (2, 1)


def test_an_unknown_protocol_is_a_sentence():
    with pytest.raises(
        MaskgenError, match=r"hallusionbench has no protocol official\. It has paper, vlmevalkit"
    ):
        score(HALLUSION, yes_no(["yes"]), ["yes"], "official")
    with pytest.raises(MaskgenError, match="no questions"):
        score(POPE, [], [])


def test_intervals_without_resamples_say_nothing():
    questions = yes_no(["yes"])
    figure = draw(questions, {"": lambda weights: {"sum": float(weights.sum())}}, 0)[""]["sum"].figure()
    assert figure.value == 1 and math.isnan(figure.low) and math.isnan(figure.high)
