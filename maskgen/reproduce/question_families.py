"""Questions about drawn scenes by family: what the small models learn to answer, and are examined on."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import product

import numpy as np

from maskgen.sample import Turn
from maskgen.scenes.drawing import Scene
from maskgen.scenes.scene_dataset import scene_query
from maskgen.scenes.shapes import COLOURS, SHAPES
from maskgen.scenes.texts import (
    DESCRIBE,
    RELATIONS,
    Phrase,
    Query,
    attribute,
    caption,
    count,
    fitting,
    names,
    query,
    related,
)

SPLITS = ("random", "popular", "adversarial")
"""POPE's three ways to choose what is not in the picture."""

Ask = Callable[[Scene, np.random.Generator], Query | None]

_TRIES = 40


def presence(
    scene: Scene, split: str, there: bool, rng: np.random.Generator, popular: Sequence[Phrase] = ()
) -> Query | None:
    """ "Is there a red star?" of a colour and a shape, as POPE asks for an object.

    What is not there is chosen as POPE chooses it: `random`, any; `popular`, the first of `popular` that the
    scene lacks; `adversarial`, a colour and a shape that the scene does have, on different things.
    """
    if there:
        thing = scene.things[rng.integers(len(scene.things))]
        pool = [Phrase("", thing.colour, thing.shape)]
    elif split == "popular":
        pool = list(popular)
    elif split == "adversarial":
        kinds = {(a.colour, b.shape) for a in scene.things for b in scene.things}
        pool = _shuffled([Phrase("", *kind) for kind in sorted(kinds)], rng)
    else:
        pool = _shuffled(OBJECTS, rng)
    for phrase in pool:
        fit = fitting(scene, phrase)
        if bool(fit) == there:
            return Query(f"presence/{split}", f"Is there a {phrase}?", "Yes" if there else "No", fit)
    return None


def relation(scene: Scene, rng: np.random.Generator) -> Query | None:
    """ "Is the star left of the blue square?", of two things that their names single out."""
    for _ in range(_TRIES):
        one, other = (int(index) for index in rng.permutation(len(scene.things))[:2])
        first, second = names(scene, one), names(scene, other)
        if not first or not second:
            continue
        asked = RELATIONS[rng.integers(len(RELATIONS))]
        opposite = RELATIONS[RELATIONS.index(asked) ^ 1]
        true, false = (
            related(scene, scene.things[one], each, scene.things[other]) for each in (asked, opposite)
        )
        if true == false:
            continue
        text = f"Is the {_any(first, rng)} {asked} the {_any(second, rng)}?"
        return Query("relation", text, "Yes" if true else "No", (one, other))
    return None


def talk(scene: Scene, rng: np.random.Generator, questions: int) -> list[Turn]:
    """`questions` different questions of all families with their answers; the first can be grounded."""
    first = scene_query(scene)
    asked = {first.text: first}
    for _ in range(_TRIES * questions):
        if len(asked) == questions:
            break
        chosen = _LEARNT[int(rng.choice(len(_LEARNT), p=_SHARES))](scene, rng)
        if chosen is not None:
            asked.setdefault(chosen.text, chosen)
    return [turn for each in asked.values() for turn in (Turn("human", each.text), Turn("gpt", each.answer))]


def described(scene: Scene, rng: np.random.Generator, questions: int) -> list[Turn]:
    """A `talk` with the scene's description after its first question."""
    turns = talk(scene, rng, questions)
    return [*turns[:2], Turn("human", DESCRIBE), Turn("gpt", caption(scene, rng)), *turns[2:]]


def exam(scene: Scene, rng: np.random.Generator, popular: Sequence[Phrase]) -> list[Query]:
    """What the scene is examined on: for each of POPE's splits an object that is there and one that is not,
    a count, a relation, two attributes; fewer where the scene has nothing to ask.
    """
    asked: list[Query | None] = []
    for split in SPLITS:
        both = [presence(scene, split, there, rng, popular) for there in (True, False)]
        asked += both if all(both) else []
    asked += [count(scene, rng), relation(scene, rng), attribute(scene, rng), attribute(scene, rng)]
    return [each for each in asked if each is not None]


def by_frequency(scenes: Iterable[Scene]) -> list[Phrase]:
    """Every colour and shape, those of most things first: POPE's popular objects."""
    seen = Counter((thing.colour, thing.shape) for scene in scenes for thing in scene.things)
    return sorted(OBJECTS, key=lambda phrase: -seen[phrase.colour, phrase.shape])


def _present(scene: Scene, rng: np.random.Generator) -> Query | None:
    split = ("random", "adversarial")[rng.integers(2)]
    return presence(scene, split, bool(rng.integers(2)), rng)


def _loosely(scene: Scene, rng: np.random.Generator) -> Query | None:
    """Presence by colour or by shape alone, which is the easier half of the whole."""
    there = bool(rng.integers(2))
    for _ in range(_TRIES):
        whole = OBJECTS[rng.integers(len(OBJECTS))]
        phrase = Phrase("", whole.colour, "") if rng.integers(2) else Phrase("", "", whole.shape)
        fit = fitting(scene, phrase)
        if bool(fit) == there:
            return Query("presence", f"Is there a {phrase}?", "Yes" if there else "No", fit)
    return None


def _any(phrases: Sequence[Phrase], rng: np.random.Generator) -> Phrase:
    return phrases[int(rng.integers(len(phrases)))]


def _shuffled(phrases: Sequence[Phrase], rng: np.random.Generator) -> list[Phrase]:
    return [phrases[index] for index in rng.permutation(len(phrases))]


OBJECTS = [Phrase("", colour, shape) for colour, shape in product(COLOURS, SHAPES)]

_LEARNT: tuple[Ask, ...] = (_present, _loosely, attribute, count, relation, query)
_SHARES = (0.3, 0.1, 0.24, 0.1, 0.16, 0.1)
