"""HallusionBench: the same questions about a figure and about its edited copies.

HallusionBench.json, or the Parquet files of its copies, with category, subcategory, visual_input, set_id,
figure_id, question_id, question, gt_answer and filename. The 951 questions that have an image are asked;
Table 2's figures fit them, not the 1,129 that Appendix D names.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from maskgen.evaluation import cambrian_rules, reading, vlmevalkit_rules
from maskgen.evaluation import weighted_scores as count
from maskgen.evaluation.benchmarks.benchmark import Benchmark, as_published, ending
from maskgen.evaluation.published_files import Row
from maskgen.evaluation.question import Question, Reading

_ANSWERS = {"0": "no", "1": "yes"}


def read(rows: Iterable[Row]) -> list[Question]:
    """Those with an image (visual_input is not 0)."""
    return [_question(row) for row in rows if row.text("visual_input") != "0"]


def _question(row: Row) -> Question:
    topic = f"{row.text('category')}/{row.text('subcategory')}"
    collection, figure, number = (row.text(name) for name in ("set_id", "figure_id", "question_id"))
    answer = row.text("gt_answer")
    if answer not in _ANSWERS:
        raise row.wrong(f'"gt_answer" is {answer!r}, neither 0 (no) nor 1 (yes)')
    return Question(
        id=f"{topic}/{collection}/{figure}/{number}",
        text=row.text("question"),
        kind="yes_no",
        answers=(_ANSWERS[answer],),
        image=row.picture("filename"),
        groups={
            "category": row.text("category"),
            "figure": f"{topic}/{collection}/{figure}",
            "question": f"{topic}/{collection}/{number}",
        },
        cluster=f"{topic}/{collection}",  # whose figures share questions, so no part of it stands alone
    )


def figures(questions: Sequence[Question], readings: Sequence[Reading]) -> count.Measure:
    """Percent. aAcc: of questions; fAcc: of figures all of whose questions are right; qAcc: of questions that
    are right about every figure they are asked about.
    """
    right = count.rights(readings)
    figure = count.all_of(right, [question.groups["figure"] for question in questions])
    question = count.all_of(right, [question.groups["question"] for question in questions])
    category = count.column(questions, "category")
    yes = np.array([reading.read == "yes" for reading in readings], bool)

    def measure(weights: np.ndarray) -> dict[str, float]:
        found = {
            "aAcc": count.mean(right, weights),
            "fAcc": figure(weights),
            "qAcc": question(weights),
            "yes ratio": count.mean(yes, weights),
        }
        found |= {
            f"aAcc {name}": count.mean(right, weights, category == name) for name in sorted(set(category))
        }
        return {name: 100 * value for name, value in found.items()}

    return measure


BENCHMARK = Benchmark(
    name="hallusionbench",
    read=read,
    protocols={
        "paper": reading.one_of_two,
        "vlmevalkit": vlmevalkit_rules.yes_or_no,
        "first-sentence": reading.first_sentence,
        "first-word": cambrian_rules.yes_or_no,
        "strict": reading.nothing_else,
    },
    figures=figures,
    prompts={
        "paper": ending(" Please answer yes or no."),  # Table 3
        "dataset": as_published,
        "lmms-eval": as_published,
    },
    columns={"aAcc": "aAcc", "fAcc": "fAcc", "qAcc": "qAcc"},
    files=("HallusionBench.json", "*allusion*.json*", "image-*.parquet", "*.parquet", "*.json"),
    folders=(".", "hallusion_bench", "images"),
    fields=(("gt_answer",),),
    size=951,
)
