"""From answers to a score: what was read, the figures, their intervals, and what they are worth."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from maskgen.bootstrap import DRAWS, BootstrapEstimate
from maskgen.errors import MaskgenError
from maskgen.evaluation.baselines import baselines
from maskgen.evaluation.benchmarks.benchmark import PAPER, Benchmark
from maskgen.evaluation.cluster_bootstrap import draw
from maskgen.evaluation.question import Question, Reading

Judge = Callable[[Sequence[Question], Sequence[str]], list[str]]
"""From questions with options, and answers to them that no rule could read, to letters ("" for none)."""


@dataclass(frozen=True)
class Score:
    """`unread`: answers that no rule could read, which are wrong. `judged`: those that a judge has read.

    `baselines`: figures of answering without looking. `tests`: for "blind" and "shuffled" the figures there;
    `looking`: how much higher they are with the picture, paired.
    """

    benchmark: str
    protocol: str
    questions: int
    unread: int
    judged: int
    figures: dict[str, BootstrapEstimate]
    baselines: dict[str, dict[str, float]]
    tests: dict[str, dict[str, BootstrapEstimate]] = field(default_factory=dict)
    looking: dict[str, dict[str, BootstrapEstimate]] = field(default_factory=dict)


def read_all(
    benchmark: Benchmark,
    questions: Sequence[Question],
    answers: Sequence[str],
    protocol: str = PAPER,
    judge: Judge | None = None,
) -> list[Reading]:
    """What each answer was taken to say. `judge` is asked about options that the protocol cannot make out."""
    read = benchmark.reader(protocol)
    readings = [read(answer, question) for question, answer in zip(questions, answers, strict=True)]
    if judge:
        dark = unread_options(questions, readings)
        letters = judge([questions[at] for at in dark], [answers[at] for at in dark])
        for at, letter in zip(dark, letters, strict=True):
            readings[at] = Reading(letter, letter in questions[at].answers)
    return readings


def score(
    benchmark: Benchmark,
    questions: Sequence[Question],
    answers: Sequence[str],
    protocol: str = PAPER,
    *,
    judge: Judge | None = None,
    tests: Mapping[str, Sequence[str]] | None = None,
    resamples: int = DRAWS,
    seed: int = 0,
) -> Score:
    """Score `answers` to `questions`, an answer each.

    `tests`: answers to the same questions with the pictures removed or shuffled, by the test's name.
    MaskgenError for an unknown protocol, or without questions.
    """
    if not questions:
        raise MaskgenError(f"{benchmark.name}: there are no questions to score.")
    unjudged = read_all(benchmark, questions, answers, protocol)
    readings = read_all(benchmark, questions, answers, protocol, judge) if judge else unjudged
    read = {
        name: read_all(benchmark, questions, said, protocol, judge) for name, said in (tests or {}).items()
    }
    measures = {"": benchmark.figures(questions, readings)}
    measures |= {name: benchmark.figures(questions, others) for name, others in read.items()}
    drawn = draw(questions, measures, resamples, seed)
    seeing = drawn.pop("")
    return Score(
        benchmark=benchmark.name,
        protocol=protocol,
        questions=len(questions),
        unread=sum(not reading.read for reading in readings),
        judged=len(unread_options(questions, unjudged)) if judge else 0,
        figures={key: one.figure() for key, one in seeing.items()},
        baselines=baselines(benchmark, questions, seed),
        tests={name: {key: one.figure() for key, one in blind.items()} for name, blind in drawn.items()},
        looking={
            name: {key: (seeing[key] - one).figure() for key, one in blind.items()}
            for name, blind in drawn.items()
        },
    )


def unread_options(questions: Sequence[Question], readings: Sequence[Reading]) -> list[int]:
    """Where an option could not be made out."""
    pairs = enumerate(zip(questions, readings, strict=True))
    return [at for at, (question, reading) in pairs if question.kind == "choice" and not reading.read]


@dataclass(frozen=True)
class Disagreement:
    """An answer that protocols do not agree on, and what each took it to say."""

    question: Question
    answer: str
    readings: dict[str, Reading]


def disagreements(
    benchmark: Benchmark, questions: Sequence[Question], answers: Sequence[str]
) -> list[Disagreement]:
    """The answers that are right by one protocol of the benchmark and wrong by another."""
    found = []
    for question, answer in zip(questions, answers, strict=True):
        readings = {name: read(answer, question) for name, read in benchmark.protocols.items()}
        if len({reading.right for reading in readings.values()}) > 1:
            found.append(Disagreement(question, answer, readings))
    return found
