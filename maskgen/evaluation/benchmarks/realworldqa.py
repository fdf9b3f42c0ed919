"""RealWorldQA: photographs from cars and streets, with answers that are a letter, a word or a number.

Parquet files with image, question and answer. Options, where there are some, stand in the question, a line
each.
"""

import re
from collections.abc import Iterable

from maskgen.evaluation import (
    cambrian_rules,
    lmms_eval_rules,
    option_matching,
    reading,
    vlmevalkit_rules,
)
from maskgen.evaluation.benchmarks.benchmark import Benchmark, as_published
from maskgen.evaluation.published_files import Row
from maskgen.evaluation.question import Kind, Question
from maskgen.evaluation.reading import Reader
from maskgen.evaluation.weighted_scores import accuracy

_OPTION = re.compile(r"^\s*([A-Z])[.)]\s+(.+?)\s*$", re.MULTILINE)


def read(rows: Iterable[Row]) -> list[Question]:
    """In the files' order, by which they are named: RealWorldQA numbers nothing."""
    return [_question(row, number) for number, row in enumerate(rows)]


def _question(row: Row, number: int) -> Question:
    text, answer = row.text("question"), row.text("answer")
    choices = _choices(text)
    kind: Kind = "text"
    if choices and len(answer) == 1 and answer.isalpha():
        kind, answer = "choice", answer.upper()
        if ord(answer) - ord("A") >= len(choices):
            raise row.wrong(f'"answer" is {answer}, but the question has {len(choices)} options')
    elif answer.lower() in ("yes", "no"):
        kind, answer = "yes_no", answer.lower()
    image = row.picture("image_path", "image")
    return Question(
        id=str(number),
        text=text,
        kind=kind,
        answers=(answer,),
        image=image,
        choices=choices if kind == "choice" else (),
        groups={"kind": {"choice": "letter", "yes_no": "yes or no", "text": "word or number"}[kind]},
        cluster=row.maybe("image_path") or image,
    )


def _choices(text: str) -> tuple[str, ...]:
    """The options' texts, if their letters run from A on."""
    found = _OPTION.findall(text)
    in_order = [letter for letter, _ in found] == [chr(ord("A") + place) for place in range(len(found))]
    return tuple(text for _, text in found) if in_order else ()


def _kinds(choice: Reader, yes_no: Reader, text: Reader) -> Reader:
    return reading.by_kind({"choice": choice, "yes_no": yes_no, "text": text})


BENCHMARK = Benchmark(
    name="realworldqa",
    read=read,
    protocols={
        "paper": _kinds(option_matching.matched, reading.one_of_two, reading.phrase),
        "vlmevalkit": _kinds(vlmevalkit_rules.option, vlmevalkit_rules.yes_or_no, reading.phrase),
        "lmms-eval": lmms_eval_rules.letter_or_word,
        "cambrian": cambrian_rules.word,
        "strict": _kinds(option_matching.letter_alone, reading.nothing_else, reading.equals),
    },
    figures=accuracy("kind"),
    prompts={
        "paper": as_published,
        "dataset": as_published,
        "cambrian": as_published,
        "lmms-eval": as_published,
    },
    columns={"RWQA": "accuracy"},
    files=("*.parquet", "*.jsonl", "*.json"),
    folders=(".", "images"),
    fields=(("question", "answer"),),
    size=765,
)
