"""`maskgen eval` and `score`: ask what has not been asked, and score all that has been answered."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from maskgen.errors import MaskgenError
from maskgen.evaluation import predictions
from maskgen.evaluation.benchmarks import BENCHMARKS, PAPER, Benchmark
from maskgen.evaluation.locations import BenchmarkSource
from maskgen.evaluation.predictions import TESTS, Answers, AnswerSetKey
from maskgen.evaluation.question import Question
from maskgen.evaluation.scoring import Disagreement, Judge, Score, disagreements, score
from maskgen.runtime.folder_kind import refuse_other_kind

_PART, _SECONDS = 256, 30.0  # what a kill may cost at most: so many answers, so much time
_SEED = 0

Count = Callable[[int, int], None]


@dataclass(frozen=True)
class Request:
    """One model asked about benchmarks. `tests`: "plain", and of "blind" and "shuffled" those wanted.

    `prompts`: the name of each benchmark's, for the record; the questions are put so already.
    """

    model: str
    sources: Mapping[str, BenchmarkSource]
    out: str
    tests: Sequence[str] = ("plain",)
    batch: int = 8
    device: str = ""
    max_new_tokens: int = 128
    prompts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Scored:
    """What one folder of answers holds: a run, one benchmark, its score, and where protocols disagree.

    `prompt`: how the questions were put.
    """

    run: str
    score: Score
    disagreements: list[Disagreement]
    prompt: str = PAPER


def ask(request: Request, say: Callable[[str], None], count: Count) -> None:
    """Write the answers that are missing in `request.out`. MaskgenError if something else lies there."""
    from maskgen.evaluation.answerers import answerer, identity_of
    from maskgen.evaluation.inference import answers as ask_model
    from maskgen.runtime.lease import Lease

    refuse_other_kind(request.out, "answers")
    identity = identity_of(request.model)
    settings = {"max_new_tokens": request.max_new_tokens}
    with Lease(request.out):
        todo = []
        for name, source in request.sources.items():
            pictures = source.pictures() if set(request.tests) - {"blind"} else None
            for test in request.tests:
                questions = _as_tested(source.questions, test)
                place = Answers(Path(request.out) / name / test)
                digest = predictions.digest_of(questions)
                prompt = request.prompts.get(name, PAPER)
                place.open(AnswerSetKey(name, test, request.model, identity, digest, settings, prompt))
                done = {question.id for question in place.read()[0]}
                left = [question for question in questions if question.id not in done]
                if done and left:
                    say(f"{name}, {test}: {len(done):,} are answered, {len(left):,} are left")
                todo.append((place, left, pictures))
        total = sum(len(left) for _, left, _ in todo)
        if not total:
            say("every question is answered already")
            return
        model, answered = answerer(request.model, request.device, say), 0
        for place, left, pictures in todo:
            options = {"batch": request.batch, "max_new_tokens": request.max_new_tokens}
            with _written(place, left) as write:
                for text in ask_model(model, left, pictures, **options):
                    write(text)
                    answered += 1
                    count(answered, total)


@contextmanager
def _written(place: Answers, questions: Sequence[Question]) -> Iterator[Callable[[str], None]]:
    """What takes the answers to `questions` in their order, and writes a part now and then, and at the end,
    whatever ends it.
    """
    first, texts, since = 0, list[str](), time.monotonic()

    def flush() -> None:
        nonlocal first, since
        if texts:
            place.add(questions[first : first + len(texts)], texts)
        first, since = first + len(texts), time.monotonic()
        texts.clear()

    def write(text: str) -> None:
        texts.append(text)
        if len(texts) >= _PART or time.monotonic() - since > _SECONDS:
            flush()

    try:
        yield write
    finally:
        flush()


def results(
    places: Sequence[str],
    protocols: Mapping[str, str],
    judge: Judge | None = None,
    compare: bool = False,
    wanted: Sequence[str] = (),
) -> list[Scored]:
    """Score what lies in `places`, folders that `ask` filled. `protocols`: names by benchmark, "" for others.

    `wanted`: benchmarks, all by default. MaskgenError where there is nothing, or an answer is missing.
    """
    found = []
    for place in places:
        there = [name for name in BENCHMARKS if (Path(place) / name / "plain").is_dir()]
        if not there:
            raise MaskgenError(f"{place} holds no answers. Give a folder that maskgen eval --out wrote.")
        for name in there:
            if not wanted or name in wanted:
                found.append(_result(Path(place), BENCHMARKS[name], protocols, judge, compare))
    return found


def _result(
    place: Path, benchmark: Benchmark, protocols: Mapping[str, str], judge: Judge | None, compare: bool
) -> Scored:
    plain = Answers(place / benchmark.name / "plain")
    questions, answers = plain.read()
    _check_complete(plain, questions)
    tests = {}
    for test in TESTS[1:]:
        others = Answers(place / benchmark.name / test)
        if others.folder.is_dir():
            asked, texts = others.read()
            _check_complete(others, asked)
            by_id = dict(zip((question.id for question in asked), texts, strict=True))
            tests[test] = [by_id[question.id] for question in questions]
    protocol = protocols.get(benchmark.name) or protocols.get("") or PAPER
    scored = score(benchmark, questions, answers, protocol, judge=judge, tests=tests)
    found = disagreements(benchmark, questions, answers) if compare else []
    return Scored(str(place), scored, found, plain.asked().prompt)


def _check_complete(answers: Answers, questions: Sequence[Question]) -> None:
    if predictions.digest_of(questions) != answers.asked().questions:
        raise MaskgenError(
            f"{answers.folder} is not complete: {len(questions):,} questions are answered. Run its line of "
            "maskgen eval again: it goes on where it stopped."
        )


def _as_tested(questions: Sequence[Question], test: str) -> list[Question]:
    """The same questions without their pictures (blind), or each with another's (shuffled)."""
    if test == "blind":
        return [replace(question, image=None) for question in questions]
    if test == "shuffled":
        return shuffled(questions)
    return list(questions)


def shuffled(questions: Sequence[Question], seed: int = _SEED) -> list[Question]:
    """The questions of every cluster put to the pictures of another one, seeded.

    By cluster, since it holds the copies of a picture. MaskgenError if there is but one.
    """
    albums: dict[str, list[str]] = {}
    for question in questions:
        album = albums.setdefault(question.cluster or question.id, [])
        if question.image and question.image not in album:
            album.append(question.image)
    names = sorted(name for name, album in albums.items() if album)
    if len(names) < 2:
        raise MaskgenError("--shuffled needs questions about two pictures at least. Raise --limit.")
    order = [names[at] for at in np.random.default_rng(seed).permutation(len(names))]
    other = dict(zip(order, [*order[1:], order[0]], strict=True))

    def strange(question: Question) -> Question:
        own, place = question.cluster or question.id, question.image
        if not place:
            return question
        album = albums[other[own]]
        return replace(question, image=album[albums[own].index(place) % len(album)])

    return [strange(question) for question in questions]
