"""What answering without looking scores: a figure means little until it is read beside these."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from maskgen.evaluation.benchmarks.benchmark import PAPER, Benchmark
from maskgen.evaluation.question import Kind, Question, Reading

DRAWS = 50


def baselines(
    benchmark: Benchmark, questions: Sequence[Question], seed: int = 0
) -> dict[str, dict[str, float]]:
    """Figures by baseline: "always yes", "always no", "random", "majority"; those that make sense.

    Always yes or no: as the answer to every yes-or-no question, of which there must be some. Random: evenly
    among a question's possible answers, the mean of 50 seeded draws. Majority: the commonest right answer
    among questions of the same kind. A word or number can be what is right for any question that asks for
    one.
    """
    pools = {kind: _pool(kind, questions) for kind in {question.kind for question in questions}}
    found = {}
    if "yes_no" in pools:
        for word in ("yes", "no"):
            guesses = [word if question.kind == "yes_no" else "" for question in questions]
            found[f"always {word}"] = _figures(benchmark, questions, guesses)
    random = np.random.default_rng(seed)
    draws = [_figures(benchmark, questions, _random(questions, pools, random)) for _ in range(DRAWS)]
    found["random"] = {name: float(np.mean([draw[name] for draw in draws])) for name in draws[0]}
    common = {kind: pool.most_common(1)[0][0] for kind, pool in pools.items()}
    found["majority"] = _figures(benchmark, questions, [common[question.kind] for question in questions])
    return found


def _pool(kind: Kind, questions: Sequence[Question]) -> Counter[str]:
    return Counter(answer for each in questions if each.kind == kind for answer in each.answers[:1])


def _random(
    questions: Sequence[Question], pools: dict[Kind, Counter[str]], random: np.random.Generator
) -> list[str]:
    words = {"yes_no": ("yes", "no"), "text": tuple(pools.get("text", ()))}
    guesses = []
    for question, share in zip(questions, random.random(len(questions)), strict=True):
        possible = words.get(question.kind) or question.letters
        guesses.append(possible[int(share * len(possible))])
    return guesses


def _figures(benchmark: Benchmark, questions: Sequence[Question], guesses: Sequence[str]) -> dict[str, float]:
    """The figures of guesses, which need no protocol to be read but where they are words."""
    read = benchmark.reader(PAPER)
    readings = [
        read(guess, question) if question.kind == "text" else Reading(guess, guess in question.answers)
        for guess, question in zip(guesses, questions, strict=True)
    ]
    return benchmark.figures(questions, readings)(np.ones(len(questions)))
