"""CV-Bench: counting, relations, depth and distance, as multiple choice.

test_2d.jsonl and test_3d.jsonl with idx, type, task, question, choices, answer, prompt, filename and source,
or the Parquet files of the same names, which hold the images.
"""

import math
import re
from collections.abc import Iterable, Sequence

import numpy as np

from maskgen.evaluation import cambrian_rules, lmms_eval_rules, option_matching, vlmevalkit_rules
from maskgen.evaluation import weighted_scores as count
from maskgen.evaluation.benchmarks.benchmark import Benchmark, as_published, ending
from maskgen.evaluation.published_files import Row
from maskgen.evaluation.question import Question, Reading

SOURCES = ("ADE20K", "COCO", "Omni3D")


def read(rows: Iterable[Row]) -> list[Question]:
    """Rows of both files."""
    return [_question(row) for row in rows]


def _question(row: Row) -> Question:
    choices = row.texts("choices")
    answer = re.fullmatch(r"\(?([A-Z])\)?", row.text("answer"))
    source = row.text("source")
    if source not in SOURCES:
        raise row.wrong(f'"source" is {source!r}, none of {", ".join(SOURCES)}')
    image = row.picture("filename")
    question = Question(
        id=f"{row.text('type')}/{row.text('idx')}",
        text=row.text("prompt"),
        kind="choice",
        answers=(answer[1] if answer else "",),
        image=image,
        choices=choices,
        groups={"source": source, "task": row.text("task")},
        cluster=row.maybe("filename") or image,
    )
    if question.answers[0] not in question.letters or not answer:
        raise row.wrong(f'"answer" is {row.text("answer")!r}, the letter of none of {len(choices)} choices')
    return question


def _with_letters_first(question: Question) -> str:
    """As lmms-eval 0.7.3 asks."""
    letters = ", ".join(question.letters)
    note = f"Note: You only need to respond with {letters} without providing any additional information."
    return f"{note}\n\n{question.text}"


def figures(questions: Sequence[Question], readings: Sequence[Reading]) -> count.Measure:
    """0-1. 2D is the mean of the accuracies on ADE20K and COCO, 3D the accuracy on Omni3D."""
    right = count.rights(readings)
    source, task = count.column(questions, "source"), count.column(questions, "task")
    masks = {name: source == name for name in SOURCES}
    masks |= {name: task == name for name in sorted(set(task))}
    masks = {name: mask for name, mask in masks.items() if mask.any()}

    def measure(weights: np.ndarray) -> dict[str, float]:
        found = {name: count.mean(right, weights, mask) for name, mask in masks.items()}
        flat = [found[name] for name in SOURCES[:2] if name in found]
        two, three = (sum(flat) / len(flat) if flat else math.nan), found.get("Omni3D", math.nan)
        return {"2D": two, "3D": three, "2D and 3D": (two + three) / 2} | found

    return measure


BENCHMARK = Benchmark(
    name="cvbench",
    read=read,
    protocols={
        "paper": option_matching.matched,
        "official": cambrian_rules.option,
        "vlmevalkit": vlmevalkit_rules.option,
        "lmms-eval": lmms_eval_rules.option,
        "strict": option_matching.letter_alone,
    },
    figures=figures,
    prompts={
        "paper": as_published,  # Fig. 1
        "dataset": as_published,
        "cambrian": ending("\nAnswer with the option's letter from the given choices directly."),
        "lmms-eval": _with_letters_first,
    },
    columns={"2D": "2D", "3D": "3D"},
    files=(
        "test_2d.jsonl,test_3d.jsonl",
        "test_2d*.parquet,test_3d*.parquet",
        "2D/*.parquet,3D/*.parquet",
        "*.jsonl",
        "*.parquet",
    ),
    folders=(".", "images"),
    fields=(("choices", "source", "task"),),
    size=2_638,
)
