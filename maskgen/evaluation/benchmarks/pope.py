"""POPE: is this thing in the image? Half of the things are; what is absent is drawn in three ways.

The splits differ in the absent things: any (random), frequent ones (popular), ones that go together with what
is there (adversarial). One JSON lines file each, with question_id, image, text and label.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from maskgen.evaluation import cambrian_rules, reading, vlmevalkit_rules
from maskgen.evaluation import weighted_scores as count
from maskgen.evaluation.benchmarks.benchmark import Benchmark, as_published, ending
from maskgen.evaluation.published_files import Row
from maskgen.evaluation.question import Question, Reading

SPLITS = ("random", "popular", "adversarial")


def read(rows: Iterable[Row]) -> list[Question]:
    """The split is in the field category, or in the name of the file or its folder."""
    return [_question(row) for row in rows]


def _question(row: Row) -> Question:
    named = f"{row.file.parent.name}/{row.file.stem}".lower()
    category = row.maybe("category").lower()
    split = category if category in SPLITS else next((name for name in SPLITS if name in named), "")
    if split not in SPLITS:
        raise row.wrong(f'neither the file nor "category" says which split it is: {", ".join(SPLITS)}')
    label = row.text("label", "answer").lower()
    if label not in ("yes", "no"):
        raise row.wrong(f'"label" is {label!r}, not yes or no')
    image = row.image or row.text("image", "image_source")
    return Question(
        id=f"{split}/{row.text('question_id')}",
        text=row.text("text", "question"),
        kind="yes_no",
        answers=(label,),
        image=image,
        groups={"split": split},
        cluster=row.maybe("image_source") or image,
    )


def figures(questions: Sequence[Question], readings: Sequence[Reading]) -> count.Measure:
    """Percent: of all questions together, of each split, and the mean of the splits.

    Positive is "yes", but for "F1 of no". What could not be read is wrong, and counts as no "yes".
    "F1 by lmms-eval" leaves it out where the right answer is "yes", as lmms-eval 0.7.3 does.
    """
    yes, no = (np.array([reading.read == word for reading in readings], bool) for word in ("yes", "no"))
    true = np.array(["yes" in question.answers for question in questions], bool)
    right = count.rights(readings)
    split = count.column(questions, "split")
    masks = {name: split == name for name in SPLITS if (split == name).any()}

    def measure(weights: np.ndarray) -> dict[str, float]:
        def total(mask: np.ndarray) -> float:
            return float(weights[mask].sum())

        def f1(hits: np.ndarray, called: np.ndarray, there: np.ndarray) -> float:
            return 200 * count.ratio(total(hits), total(called) + total(there))

        def of(mask: np.ndarray) -> dict[str, float]:
            hits, called, there = mask & yes & true, mask & yes, mask & true
            return {
                "F1": f1(hits, called, there),
                "accuracy": 100 * count.mean(right, weights, mask),
                "precision": 100 * (count.ratio(total(hits), total(called)) if total(called) else 0.0),
                "recall": 100 * count.ratio(total(hits), total(there)),
                "yes ratio": 100 * count.mean(yes, weights, mask),
            }

        found = of(np.ones(len(right), bool))
        found["F1 of no"] = f1(no & ~true, no, ~true)
        found["F1 by lmms-eval"] = f1(yes & true, yes, true & (yes | no))
        splits = {name: of(mask) for name, mask in masks.items()}
        for figure in ("F1", "accuracy"):
            found[f"{figure}, mean of splits"] = count.ratio(
                sum(each[figure] for each in splits.values()), len(splits)
            )
        return found | {
            f"{key} {name}": value for name, each in splits.items() for key, value in each.items()
        }

    return measure


BENCHMARK = Benchmark(
    name="pope",
    read=read,
    protocols={
        "paper": reading.one_of_two,
        "official": reading.first_sentence,
        "vlmevalkit": vlmevalkit_rules.yes_or_no,
        "lmms-eval": reading.nothing_else,
        "cambrian": cambrian_rules.yes_or_no,
    },
    figures=figures,
    prompts={
        "paper": ending(" Please answer yes or no."),  # Table 3
        "dataset": as_published,
        "cambrian": ending("\nAnswer the question using a single word or phrase."),
        "lmms-eval": ending("\nAnswer the question using a single word or phrase."),
    },
    columns={"POPE": "F1"},
    files=(
        "*pope*random*.json*,*pope*popular*.json*,*pope*adversarial*.json*",
        "Full/*.parquet",  # the hub's copy has all questions there, and again in data/
        "data/*.parquet",
        "*.json*",
        "*.parquet",
    ),
    folders=(".", "val2014", "images"),
    fields=(("text", "label"), ("image_source", "category")),
    size=9_000,
    note="The paper does not say which figure its column POPE holds: most likely F1. Positive is yes.",
)
