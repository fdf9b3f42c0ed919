"""What a limit leaves of a benchmark: whole pictures, drawn by a seeded hash and stratified."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence

from maskgen.evaluation.question import Question


def sample(questions: Sequence[Question], limit: int, seed: int = 0) -> list[Question]:
    """The questions of whole clusters (in most benchmarks pictures), in their order.

    As many clusters as `limit` questions hold, and one at least. They are drawn at random by the seed, and
    strata (clusters with the same groups and, but for free texts, the same right answers) are represented as
    they are in all questions. A larger limit keeps what a smaller one drew, but for clusters that it passed
    over as too large.
    """
    clusters: dict[str, list[int]] = defaultdict(list)
    for place, question in enumerate(questions):
        clusters[question.cluster or f"\0{question.id}"].append(place)
    strata: dict[object, list[str]] = defaultdict(list)
    for name, members in clusters.items():
        strata[_kind([questions[place] for place in members])].append(name)
    turns: dict[str, float] = {}
    for names in strata.values():
        names.sort(key=lambda name: _hash(name, seed))
        # Evenly over the stratum; where in its interval, a hash says, or strata of one would come together.
        turns |= {name: (rank + _hash(f"{name}\0turn", seed)) / len(names) for rank, name in enumerate(names)}
    chosen: list[int] = []
    for name in sorted(turns, key=lambda name: turns[name]):
        if not chosen or len(chosen) + len(clusters[name]) <= limit:
            chosen += clusters[name]
    return [questions[place] for place in sorted(chosen)]


def _kind(members: Sequence[Question]) -> object:
    answers = {question.answers for question in members if question.kind != "text"}
    groups = {tuple(sorted(question.groups.items())) for question in members}
    return tuple(sorted(answers)), tuple(sorted(groups))


def _hash(text: str, seed: int) -> float:
    """Between 0 and 1, by the text and the seed."""
    digest = hashlib.sha256(f"{seed}\0{text}".encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64
