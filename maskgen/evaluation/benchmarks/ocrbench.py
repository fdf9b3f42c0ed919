"""OCRBench: reading text in images. A point a question.

OCRBench.json with dataset_name, type, question, answers and image_path, or the Parquet files of its copies
with dataset, question_type, question, answer and image.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from maskgen.evaluation import lmms_eval_rules, reading
from maskgen.evaluation import weighted_scores as count
from maskgen.evaluation.benchmarks.benchmark import Benchmark, as_published, ending
from maskgen.evaluation.published_files import Row
from maskgen.evaluation.question import Question, Reading

# What the authors add up, by their names of types; types that recognise text are one figure.
_FIGURES = {
    "Scene Text-centric VQA": "scene text-centric VQA",
    "Key Information Extraction": "key information extraction",
    "Doc-oriented VQA": "doc-oriented VQA",
    "Handwritten Mathematical Expression Recognition": "handwritten formulas",
}
_RECOGNITION = "text recognition"
_RECOGNITION_TYPES = {
    f"{kind} Recognition"
    for kind in (
        "Regular Text",
        "Irregular Text",
        "Artistic Text",
        "Handwriting",
        "Digit String",
        "Non-Semantic Text",
    )
}
_FORMULAS = "HME100k"


def read(rows: Iterable[Row]) -> list[Question]:
    """In the files' order, by which they are named: OCRBench numbers nothing."""
    return [_question(row, number) for number, row in enumerate(rows)]


def _question(row: Row, number: int) -> Question:
    kind = row.text("type", "question_type")
    if kind not in _FIGURES and kind not in _RECOGNITION_TYPES:
        raise row.wrong(f'"type" is {kind!r}, which OCRBench does not have')
    groups = {"figure": _FIGURES.get(kind, _RECOGNITION)}
    if _FORMULAS in (row.maybe("dataset_name"), row.maybe("dataset")):
        groups["formula"] = "yes"
    image = row.picture("image_path", "image")
    return Question(
        id=str(number),
        text=row.text("question"),
        kind="text",
        answers=row.texts("answers", "answer"),
        image=image,
        groups=groups,
        cluster=image,
    )


def figures(questions: Sequence[Question], readings: Sequence[Reading]) -> count.Measure:
    """Points, a right answer being one; `total` of at most 1,000."""
    right = count.rights(readings)
    figure = count.column(questions, "figure")
    counts = Counter(figure)
    masks = {name: figure == name for name in [*_FIGURES.values(), _RECOGNITION] if name in counts}

    def measure(weights: np.ndarray) -> dict[str, float]:
        # A mean times the count: a resample may hold more questions of one type, but not more points.
        found = {name: counts[name] * count.mean(right, weights, mask) for name, mask in masks.items()}
        return found | {"total": len(right) * count.mean(right, weights)}

    return measure


BENCHMARK = Benchmark(
    name="ocrbench",
    read=read,
    protocols={
        "paper": reading.contains,
        "official": reading.contains,
        "vlmevalkit": reading.contains,
        "lmms-eval": lmms_eval_rules.contained,
        "strict": reading.equals,
    },
    figures=figures,
    prompts={
        "paper": as_published,
        "dataset": as_published,
        "cambrian": ending("\nGive the short answer directly."),
        "lmms-eval": as_published,
    },
    columns={
        "Scene Centric": _FIGURES["Scene Text-centric VQA"],
        "Key Info. Extract.": "key information extraction",
    },
    files=("OCRBench.json", "*.json", "*.parquet"),
    folders=(".", "OCRBench_Images", "images"),
    fields=(("question_type",), ("type", "answers")),
    size=1_000,
)
