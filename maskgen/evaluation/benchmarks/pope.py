"""POPE: is this thing in the image? Half of the things are; what is absent is drawn in three ways.

The splits differ in the absent things: any (random), frequent ones (popular), ones that go together with what
is there (adversarial). One JSON lines file each, with question_id, image, text and label.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from maskgen.evaluation import reading
from maskgen.evaluation import weighted_scores as count
from maskgen.evaluation.benchmarks.benchmark import Benchmark
from maskgen.evaluation.published_files import Row
from maskgen.evaluation.question import Question, Reading

SPLITS = ("random", "popular", "adversarial")
ASK = "Please answer yes or no."  # Table 3


def read(rows: Iterable[Row]) -> list[Question]:
    """The split is in the file's name, or in the field category."""
    return [_question(row) for row in rows]


def _question(row: Row) -> Question:
    split = next((name for name in SPLITS if name in row.file.stem.lower()), row.maybe("category").lower())
    if split not in SPLITS:
        raise row.wrong(
            f'neither the file\'s name nor "category" says which split it is: {", ".join(SPLITS)}'
        )
    label = row.text("label", "answer").lower()
    if label not in ("yes", "no"):
        raise row.wrong(f'"label" is {label!r}, not yes or no')
    image = row.image or row.text("image", "image_source")
    return Question(
        id=f"{split}/{row.text('question_id')}",
        text=f"{row.text('text', 'question')} {ASK}",
        kind="yes_no",
        answers=(label,),
        image=image,
        groups={"split": split},
        cluster=row.maybe("image_source") or image,
    )


def figures(questions: Sequence[Question], readings: Sequence[Reading]) -> count.Measure:
    """Percent: of all questions together, and of each split.

    Positive is "yes". What could not be read is wrong, and counts as no "yes".
    """
    yes = np.array([reading.read == "yes" for reading in readings], bool)
    true = np.array(["yes" in question.answers for question in questions], bool)
    right = count.rights(readings)
    split = count.column(questions, "split")
    masks = {"": np.ones(len(right), bool)}
    masks |= {f" {name}": split == name for name in SPLITS if (split == name).any()}

    def measure(weights: np.ndarray) -> dict[str, float]:
        found: dict[str, float] = {}
        for name, mask in masks.items():
            hit, called, there = (weights[mask & chosen].sum() for chosen in (yes & true, yes, true))
            found |= {
                f"F1{name}": 200 * count.ratio(hit, called + there),
                f"accuracy{name}": 100 * count.mean(right, weights, mask),
                f"precision{name}": 100 * (count.ratio(hit, called) if called else 0.0),
                f"recall{name}": 100 * count.ratio(hit, there),
                f"yes ratio{name}": 100 * count.mean(yes, weights, mask),
            }
        return found

    return measure


BENCHMARK = Benchmark(
    name="pope",
    read=read,
    protocols={
        "paper": reading.one_of_two,
        "official": reading.first_sentence,
        "vlmevalkit": reading.one_of_two,
        "lmms-eval": reading.nothing_else,
        "cambrian": reading.first_word,
    },
    figures=figures,
    columns={"POPE": "F1"},
    files=("*pope*random*.json*,*pope*popular*.json*,*pope*adversarial*.json*", "*.json*", "*.parquet"),
    folders=(".", "val2014", "images"),
    size=9_000,
)
