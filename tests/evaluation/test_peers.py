"""Protocols against the very functions whose names they have, where those tools are installed.

`pip install lmms-eval==0.7.3` (the extra `peers`). VLMEvalKit and Cambrian-1 are no packages of PyPI: what is
on the path as `vlmeval` is compared, and Cambrian's scripts where CAMBRIAN_EVAL names their folder.
"""

import importlib
import json
import os
import random
import runpy
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pytest

from helpers.made_answers import made
from maskgen.evaluation.benchmarks import BENCHMARKS
from maskgen.evaluation.question import Kind, Question

MANY = 10_000
COUNTS, PLACES, THINGS = ("0", "3", "1", "12"), ("above", "below"), ("chair", "table lamp")


def protocol(benchmark: str, name: str):
    return BENCHMARKS[benchmark].reader(name)


def lmms(task: str):
    """The module of a task of lmms-eval, of the version that the protocols are named after."""
    try:
        held = version("lmms-eval")
    except PackageNotFoundError:
        pytest.skip("lmms-eval is not installed")
    if held != "0.7.3":
        pytest.skip(f"lmms-eval {held} is installed; the protocols are those of 0.7.3")
    return importlib.import_module(f"lmms_eval.tasks.{task}.utils")


def choosing(choices: tuple[str, ...], right: str, source: str = "COCO") -> Question:
    return Question("1", "?", "choice", (right,), choices=choices, groups={"source": source})


def differing(answers, ours, theirs) -> list[str]:
    return [answer for answer in answers if ours(answer) != theirs(answer)]


@pytest.mark.parametrize("right", ["yes", "no"])
def test_lmms_eval_pope(right):
    peer = lmms("pope")
    question = Question("1", "?", "yes_no", (right,))
    answers = made(["yes", "no", "Yes", "No", "not", "cup"], MANY, 1)
    doc = {"question_id": "1", "answer": right}
    read = protocol("pope", "lmms-eval")
    assert not differing(
        answers,
        lambda answer: read(answer, question).right,
        lambda answer: peer.pope_process_results(doc, [answer])["pope_accuracy"]["score"] == 1,
    )


@pytest.mark.parametrize("choices", [COUNTS, PLACES, THINGS])
def test_lmms_eval_cv_bench(choices):
    peer = lmms("cv_bench")
    read = protocol("cvbench", "lmms-eval")
    for right in "ABCD"[: len(choices)]:
        doc = {"answer": f"({right})", "idx": 1, "type": "2D", "task": "Count", "source": "COCO"}
        assert not differing(
            made([*"ABCDEabc", *choices], MANY // 4, ord(right)),
            lambda answer, right=right: read(answer, choosing(choices, right)).right,
            lambda answer, doc=doc: peer.cv_bench_process_results(doc, [answer])["cv_bench_acc"][
                "is_correct"
            ],
        )


@pytest.mark.parametrize("right", ["A", "B", "C", "D", "E", "3", "No", "Left", "a stop sign"])
def test_lmms_eval_realworldqa(right):
    peer = lmms("realworldqa")
    kind: Kind = "choice" if len(right) == 1 and right.isalpha() else "yes_no" if right == "No" else "text"
    choices = ("One.", "Two.", "Three.", "Four.", "None.") if kind == "choice" else ()
    question = Question("1", "?", kind, (right.lower() if kind == "yes_no" else right,), choices=choices)
    answers = made([*"ABCDEabcd", "3", "three", "No", "yes", "Left", "stop sign"], MANY, ord(right[0]))
    read = protocol("realworldqa", "lmms-eval")
    assert not differing(
        answers,
        lambda answer: read(answer, question).right,
        lambda answer: peer.realworldqa_process_results({"answer": right}, [answer])["exact_match"] == 1,
    )


@pytest.mark.parametrize("formula", ["", "yes"])
def test_lmms_eval_ocrbench(formula):
    peer = lmms("ocrbench")
    rights = ("CENTRE", "1 + \\frac { a } { b }", "\uff21\uff22 \uff11", "two\nlines")
    question = Question("1", "?", "text", rights, groups={"formula": formula} if formula else {})
    doc = {"answer": list(rights), "dataset": "HME100k" if formula else "IIIT5K", "question_type": "x"}
    answers = made(
        ["centre", "CENTRE", "1+\\frac{a}{b}", "ab 1", "\uff21\uff22\u3000\uff11", "two lines", "cent"],
        MANY,
        5,
    )
    read = protocol("ocrbench", "lmms-eval")
    assert not differing(
        answers,
        lambda answer: read(answer, question).right,
        lambda answer: peer.ocrbench_process_results(doc, [answer])["ocrbench_accuracy"]["score"] == 1,
    )


def test_lmms_evals_f1_of_pope():
    peer = lmms("pope")
    lot = random.Random(0)
    labels = [lot.choice(["yes", "no"]) for _ in range(600)]
    questions = [Question(str(n), "?", "yes_no", (label,)) for n, label in enumerate(labels)]
    answers = made(["yes", "no"], 600, 6)
    readings = [protocol("pope", "lmms-eval")(a, q) for a, q in zip(answers, questions, strict=True)]
    rows = [
        peer.pope_process_results({"question_id": "1", "answer": label}, [answer])["pope_f1_score"]
        for label, answer in zip(labels, answers, strict=True)
    ]
    found = BENCHMARKS["pope"].figures(questions, readings)(np.ones(600))
    assert found["F1 by lmms-eval"] == pytest.approx(100 * peer.pope_aggregate_f1_score(rows))
    assert found["F1 by lmms-eval"] != pytest.approx(found["F1"])  # unread answers to "yes" questions


@pytest.mark.parametrize("choices", [COUNTS, PLACES, THINGS])
def test_vlmevalkits_options(choices):
    peer = pytest.importorskip("vlmeval.utils.matching_util")
    letters = "ABCD"[: len(choices)]
    if peer.can_infer("B", dict(zip(letters, choices, strict=True))) != "B":
        pytest.skip("a VLMEvalKit from before #1552: there a letter alone cannot be read")
    read = protocol("cvbench", "vlmevalkit")

    def theirs(answer: str) -> str:
        found = peer.can_infer(answer, dict(zip(letters, choices, strict=True)))
        return found if found and found in letters else ""

    question = choosing(choices, "A")
    answers = made([*"ABCDEZab", *choices], MANY, 7)
    assert not differing(answers, lambda answer: read(answer, question).read, theirs)


@pytest.mark.parametrize("benchmark", ["pope", "hallusionbench"])
def test_vlmevalkits_yes_and_no(benchmark):
    peer = pytest.importorskip("vlmeval.dataset.utils.yorn")
    question = Question("1", "?", "yes_no", ("yes",))
    read = protocol(benchmark, "vlmevalkit")
    answers = made(["yes", "no", "yes-or-no", "yes.no", "not", "cup", "1,000", "no's", "yes_"], MANY, 8)
    assert not differing(
        answers,
        lambda answer: read(answer, question).read,
        lambda answer: {"Yes": "yes", "No": "no"}.get(peer.YOrN_Extraction(answer), ""),
    )


@pytest.mark.parametrize(("script", "source"), [("coco", "COCO"), ("coco", "ADE20K"), ("omni", "Omni3D")])
@pytest.mark.parametrize("choices", [COUNTS, PLACES, THINGS, ("a", "B", "c")])
def test_cambrians_cv_bench(script, source, choices, tmp_path):
    peer = cambrian(script)
    answers = made([*"ABCDabc", *choices], MANY // 4, 9)
    read = protocol("cvbench", "official")
    for right in "ABCD"[: len(choices)]:
        rows = [
            {"answer": answer, "gt_answer": f"({right})", "category": "x", "options": list(choices), "n": n}
            for n, answer in enumerate(answers)
        ]
        question = choosing(choices, right, source)
        assert wrong_by(peer, rows, tmp_path) == [
            row["n"] for row in rows if not read(row["answer"], question).right
        ]


@pytest.mark.parametrize(("script", "benchmark", "right"), [
    ("pope", "pope", "yes"), ("pope", "pope", "no"),
    ("realworldqa", "realworldqa", "Left"), ("realworldqa", "realworldqa", "B"),
])  # fmt: skip
def test_cambrians_words(script, benchmark, right, tmp_path):
    peer = cambrian(script)
    answers = [a for a in made(["yes", "no", "left", "B", "b"], MANY, 10) if peer_can_read(a)]
    rows = [{"answer": answer, "gt_answer": right, "n": n} for n, answer in enumerate(answers)]
    question = Question("1", "?", "yes_no" if benchmark == "pope" else "text", (right,))
    read = protocol(benchmark, "cambrian")
    assert wrong_by(peer, rows, tmp_path) == [
        row["n"] for row in rows if not read(row["answer"], question).right
    ]


def peer_can_read(answer: str) -> bool:
    """Cambrian's scripts end in an IndexError where nothing is left of an answer; here it is wrong."""
    left = answer.lower().strip()
    for word in ("answer is", "answer is:", "answer:"):
        left = left.split(word)[-1]
    return bool(left.strip().rstrip(".").split())


def cambrian(script: str):
    folder = os.environ.get("CAMBRIAN_EVAL", "")
    if not folder:
        pytest.skip("CAMBRIAN_EVAL does not name the folder eval/eval of Cambrian-1")
    return runpy.run_path(str(Path(folder) / script / f"{script}_test.py"))["compute_metrics"]


def wrong_by(compute_metrics, rows, folder: Path) -> list[int]:
    """The rows that the script writes down as wrong."""
    given, wrong = folder / "answers.jsonl", folder / "wrong" / "wrong.jsonl"
    given.write_text("".join(json.dumps(row) + "\n" for row in rows))
    compute_metrics(str(given), str(wrong), str(folder / "scores.csv"))
    return [json.loads(line)["n"] for line in wrong.read_text().splitlines()]
