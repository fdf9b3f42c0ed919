"""Questions about drawn scenes by family, for the training dialogues and for the exam."""

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
    SceneQuery,
    attribute_query,
    caption,
    count_query,
    holds_relation,
    matching_things,
    random_query,
    unique_phrases,
)

SPLITS = ("random", "popular", "adversarial")
"""POPE's three ways to choose what is not in the picture."""

QuestionMaker = Callable[[Scene, np.random.Generator], SceneQuery | None]

_TRIES = 40


def presence_question(
    scene: Scene, split: str, there: bool, rng: np.random.Generator, popular: Sequence[Phrase] = ()
) -> SceneQuery | None:
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
        fit = matching_things(scene, phrase)
        if bool(fit) == there:
            return SceneQuery(f"presence/{split}", f"Is there a {phrase}?", "Yes" if there else "No", fit)
    return None


def relation_question(scene: Scene, rng: np.random.Generator) -> SceneQuery | None:
    """ "Is the star left of the blue square?", of two things that their names single out."""
    for _ in range(_TRIES):
        one, other = (int(index) for index in rng.permutation(len(scene.things))[:2])
        first, second = unique_phrases(scene, one), unique_phrases(scene, other)
        if not first or not second:
            continue
        relation = RELATIONS[rng.integers(len(RELATIONS))]
        opposite = RELATIONS[RELATIONS.index(relation) ^ 1]
        true, false = (
            holds_relation(scene, scene.things[one], each, scene.things[other])
            for each in (relation, opposite)
        )
        if true == false:
            continue
        text = f"Is the {_pick(first, rng)} {relation} the {_pick(second, rng)}?"
        return SceneQuery("relation", text, "Yes" if true else "No", (one, other))
    return None


def dialogue(scene: Scene, rng: np.random.Generator, questions: int) -> list[Turn]:
    """`questions` different questions of all families with their answers; the first can be grounded."""
    first = scene_query(scene)
    chosen = {first.text: first}
    for _ in range(_TRIES * questions):
        if len(chosen) == questions:
            break
        query = _TRAINED_QUESTIONS[int(rng.choice(len(_TRAINED_QUESTIONS), p=_SHARES))](scene, rng)
        if query is not None:
            chosen.setdefault(query.text, query)
    return [turn for each in chosen.values() for turn in (Turn("human", each.text), Turn("gpt", each.answer))]


def dialogue_with_description(scene: Scene, rng: np.random.Generator, questions: int) -> list[Turn]:
    """A `dialogue` with the scene's description after its first question."""
    turns = dialogue(scene, rng, questions)
    return [*turns[:2], Turn("human", DESCRIBE), Turn("gpt", caption(scene, rng)), *turns[2:]]


def exam_questions(scene: Scene, rng: np.random.Generator, popular: Sequence[Phrase]) -> list[SceneQuery]:
    """What the scene is examined on: for each of POPE's splits an object that is there and one that is not,
    a count, a relation, two attributes; fewer where the scene has nothing to ask.
    """
    queries: list[SceneQuery | None] = []
    for split in SPLITS:
        both = [presence_question(scene, split, there, rng, popular) for there in (True, False)]
        queries += both if all(both) else []
    queries += [
        count_query(scene, rng),
        relation_question(scene, rng),
        attribute_query(scene, rng),
        attribute_query(scene, rng),
    ]
    return [each for each in queries if each is not None]


def objects_by_frequency(scenes: Iterable[Scene]) -> list[Phrase]:
    """Every colour and shape, those of most things first: POPE's popular objects."""
    counts = Counter((thing.colour, thing.shape) for scene in scenes for thing in scene.things)
    return sorted(OBJECTS, key=lambda phrase: -counts[phrase.colour, phrase.shape])


def _any_presence(scene: Scene, rng: np.random.Generator) -> SceneQuery | None:
    split = ("random", "adversarial")[rng.integers(2)]
    return presence_question(scene, split, bool(rng.integers(2)), rng)


def _partial_presence(scene: Scene, rng: np.random.Generator) -> SceneQuery | None:
    """Presence by colour or by shape alone, which is the easier half of the whole."""
    there = bool(rng.integers(2))
    for _ in range(_TRIES):
        whole = OBJECTS[rng.integers(len(OBJECTS))]
        phrase = Phrase("", whole.colour, "") if rng.integers(2) else Phrase("", "", whole.shape)
        fit = matching_things(scene, phrase)
        if bool(fit) == there:
            return SceneQuery("presence", f"Is there a {phrase}?", "Yes" if there else "No", fit)
    return None


def _pick(phrases: Sequence[Phrase], rng: np.random.Generator) -> Phrase:
    return phrases[int(rng.integers(len(phrases)))]


def _shuffled(phrases: Sequence[Phrase], rng: np.random.Generator) -> list[Phrase]:
    return [phrases[index] for index in rng.permutation(len(phrases))]


OBJECTS = [Phrase("", colour, shape) for colour, shape in product(COLOURS, SHAPES)]

_TRAINED_QUESTIONS: tuple[QuestionMaker, ...] = (
    _any_presence,
    _partial_presence,
    attribute_query,
    count_query,
    relation_question,
    random_query,
)
_SHARES = (0.3, 0.1, 0.24, 0.1, 0.16, 0.1)
