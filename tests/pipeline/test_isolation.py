"""Who is blamed for a death, and when."""

from hypothesis import given
from hypothesis import strategies as st

from maskgen.pipeline.isolation import DEATHS_BEFORE_GIVING_UP, ShardFailures


def shard_with_killers(
    keys: list[str], killers: set[str], batch: int, lonely: bool = True
) -> tuple[set[str], bool]:
    """Play the driver's part against a shard whose `killers` kill alone (`lonely`) or only with others.

    Returns the quarantined keys and whether the shard was finished.
    """
    failures, quarantined = ShardFailures(), set[str]()

    def killed(hand: list[str]) -> bool:
        inside = killers.intersection(hand) - quarantined
        return bool(inside) and (lonely or len(hand) > 1)

    for _ in range(10_000):
        step = failures.next_step()
        if step == "give up":
            return quarantined, False
        if step == "probe":
            hands = [[key] for key in failures.suspects]
        else:
            size = 1 if step == "alone" else batch
            left = [key for key in keys if key not in quarantined]
            hands = [left[start : start + size] for start in range(0, len(left), size)]
        fatal = next((hand for hand in hands if killed(hand)), None)
        if fatal is not None:
            culprit = failures.record_death(tuple(fatal), alone=step in ("probe", "alone"))
            if culprit:
                quarantined.add(culprit)
        elif step == "probe":
            failures.clear_suspects()
        else:
            return quarantined, True
    raise AssertionError("the driver would go on for ever")


@given(st.data(), st.integers(1, 40), st.integers(1, 16))
def test_exactly_the_killers_are_quarantined(data, count, batch):
    keys = [f"k{number}" for number in range(count)]
    killers = data.draw(st.sets(st.sampled_from(keys), max_size=4))
    assert shard_with_killers(keys, killers, batch) == (killers, True)


def test_samples_that_kill_only_together_are_made_one_by_one():
    keys = [f"k{number}" for number in range(20)]
    assert shard_with_killers(keys, {"k3", "k4"}, batch=8, lonely=False) == (set(), True)


def test_a_single_death_blames_nobody():
    failures = ShardFailures()
    assert failures.record_death(("a", "b"), alone=False) is None
    assert failures.next_step() == "make"


def test_the_last_sample_of_a_shard_is_no_culprit_for_being_the_last():
    failures = ShardFailures()
    assert failures.record_death(("z",), alone=False) is None
    assert failures.record_death(("z",), alone=False) is None
    assert failures.next_step() == "probe"
    failures.clear_suspects()
    assert failures.next_step() == "make"


def test_one_death_in_a_probe_may_be_chance():
    failures = ShardFailures()
    assert failures.record_death(("a",), alone=True) is None
    assert failures.next_step() == "probe"
    assert failures.record_death(("a",), alone=True) == "a"


def test_deaths_without_a_suspect_end_in_giving_up():
    failures = ShardFailures()
    for _ in range(DEATHS_BEFORE_GIVING_UP):
        assert failures.next_step() != "give up"
        assert failures.record_death((), alone=False) is None
    assert failures.next_step() == "give up"
