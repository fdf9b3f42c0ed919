"""A limit leaves a benchmark as it is, only smaller."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskgen.evaluation.question import Question
from maskgen.evaluation.question_sample import sample

SPLITS = ("random", "popular", "adversarial")


def pope(images: int = 500) -> list[Question]:
    """As published: in each split six questions an image, "yes" and "no" in turn."""
    return [
        Question(
            f"{split}/{number}",
            "?",
            "yes_no",
            ("yes" if number % 2 else "no",),
            groups={"split": split},
            cluster=f"{number // 6}.jpg",
        )
        for split in SPLITS
        for number in range(6 * images)
    ]


@pytest.mark.parametrize("limit", [100, 300, 500, 1000, 4500, 8999])
def test_always_yes_scores_half_on_a_part_of_pope(limit):
    chosen = sample(pope(), limit)
    assert limit - 18 < len(chosen) <= limit
    assert Counter(question.answers for question in chosen) == {
        ("yes",): len(chosen) / 2,
        ("no",): len(chosen) / 2,
    }
    assert set(Counter(question.groups["split"] for question in chosen).values()) == {len(chosen) / 3}
    assert set(Counter(question.cluster for question in chosen).values()) == {18}


def test_strata_keep_their_proportions():
    """Letters of choices are not alike often, and one group is rare; nothing shares a picture."""
    letters = ["A" if at % 10 < 7 else "B" for at in range(1000)]
    tasks = ["far" if at % 100 > 89 else "count" for at in range(1000)]
    questions = [
        Question(str(at), "?", "choice", (letter,), groups={"task": task})
        for at, (letter, task) in enumerate(zip(letters, tasks, strict=True))
    ]
    chosen = sample(questions, 100)
    assert len(chosen) == 100
    assert Counter(question.answers[0] for question in chosen)["A"] == pytest.approx(70, abs=2)
    assert Counter(question.groups["task"] for question in chosen)["far"] == pytest.approx(10, abs=2)


ROWS = st.lists(st.tuples(st.sampled_from(["", *"01234567"]), st.sampled_from("ab")), min_size=1)


@given(ROWS, st.integers(1, 60))
def test_clusters_stay_whole_and_in_order(rows, limit):
    questions = [
        Question(str(at), "?", "text", (str(at),), groups={"task": task}, cluster=cluster)
        for at, (cluster, task) in enumerate(rows)
    ]
    chosen = sample(questions, limit)
    assert [int(question.id) for question in chosen] == sorted(int(question.id) for question in chosen)
    clusters = Counter(question.cluster for question in questions)
    found = Counter(question.cluster for question in chosen)
    assert all(found[cluster] == clusters[cluster] for cluster in found if cluster)
    assert len(chosen) <= limit or len(set(found)) == 1
    assert chosen == sample(questions, limit) and chosen


def test_another_seed_draws_others():
    assert sample(pope(), 100) != sample(pope(), 100, seed=1)
