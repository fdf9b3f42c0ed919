"""Texts about a scene: captions, referring expressions and questions, each with the things it names."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

from maskgen.scenes.drawing import Scene, Thing
from maskgen.scenes.shapes import COLOURS, SHAPES, SIZES

KINDS = {"refer": 0.36, "relation": 0.18, "attribute": 0.2, "count": 0.06, "presence": 0.1, "nothing": 0.1}
"""How often each kind of query is asked."""

DESCRIBE = "What is in the picture?"
"""What a `caption` answers."""

RELATIONS = ("left of", "right of", "above", "below")

_MIN_OFFSET = 0.1  # of the image's side: two centres closer than this are beside each other in no direction


@dataclass(frozen=True)
class SceneQuery:
    """A text about a scene; `targets` are the indices of the things it names, none if it names nothing."""

    kind: str
    text: str
    answer: str
    targets: tuple[int, ...]


@dataclass(frozen=True)
class Phrase:
    """A description by any of size, colour and shape; an empty string leaves that open."""

    size: str = ""
    colour: str = ""
    shape: str = ""

    def fits(self, thing: Thing) -> bool:
        """Whether `thing` is one of what the phrase describes."""
        return (
            self.size in ("", thing.size)
            and self.colour in ("", thing.colour)
            and self.shape in ("", thing.shape)
        )

    def __str__(self) -> str:
        return " ".join(word for word in (self.size, self.colour, self.shape or "thing") if word)

    @property
    def plural(self) -> str:
        return f"{self}s" if not str(self).endswith("s") else f"{self}es"


def random_query(scene: Scene, rng: np.random.Generator, kinds: dict[str, float] | None = None) -> SceneQuery:
    """A query of a random kind; where the scene has nothing to ask of that kind, a plain reference.

    `kinds` replaces KINDS; the shares need not add up to one.
    """
    kinds = kinds or KINDS
    shares = np.array(list(kinds.values()))
    query = _QUERY_MAKERS[str(rng.choice(list(kinds), p=shares / shares.sum()))](scene, rng)
    return query or _reference_query(scene, rng)


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """One sentence that names two to three things and where they are."""
    chosen = rng.permutation(len(scene.things))[: rng.integers(2, 4)]
    parts = [f"a {_full_phrase(scene.things[i])} {_place(scene, scene.things[i])}" for i in chosen]
    return ", ".join(parts[:-1]).capitalize() + f" and {parts[-1]}."


def holds_relation(scene: Scene, thing: Thing, relation: str, other: Thing) -> bool:
    """Whether `thing` is clearly left of, right of, above or below `other`, by their centres."""
    height, width = scene.pixels.shape[:2]
    across, down = (thing.x - other.x) / width, (thing.y - other.y) / height
    return {"left of": -across, "right of": across, "above": -down, "below": down}[relation] > _MIN_OFFSET


def vocabulary() -> Iterator[str]:
    """Sentences that hold every word which a query or its answer can use."""
    for size, colour, shape in product(SIZES, COLOURS, (*SHAPES, "thing")):
        yield from _reference_texts(Phrase(size, colour, shape))
    for shape in (*SHAPES, "thing"):
        yield f"How many {Phrase('', 'red', shape).plural} are there? Is there a thing? One two three"
        yield f"What colour is the {shape}? What shape is the thing? How big is it?"
        yield from (f"the {shape} {relation} the thing" for relation in RELATIONS)


def _reference_query(scene: Scene, rng: np.random.Generator) -> SceneQuery:
    """ "Where is the small red star?": the shortest phrases and longer ones, of one thing."""
    target = int(rng.integers(len(scene.things)))
    phrase = _pick(rng, unique_phrases(scene, target))
    if phrase is None:
        phrase, target = _any_unique_phrase(scene, rng)
    if phrase is None:
        return _absent_query(scene, rng)
    return _place_query(scene, rng, "refer", str(phrase), target)


def relation_query(scene: Scene, rng: np.random.Generator) -> SceneQuery | None:
    """ "the star left of the blue square", where neither half alone need be enough for the whole."""
    found = []
    for anchor, other in enumerate(scene.things):
        anchors = unique_phrases(scene, anchor)
        if not anchors:
            continue
        for relation in RELATIONS:
            for phrase in {p for thing in scene.things for p in _phrases(thing)}:
                alike = [i for i, t in enumerate(scene.things) if i != anchor and phrase.fits(t)]
                related = [i for i in alike if holds_relation(scene, scene.things[i], relation, other)]
                opposite = RELATIONS[RELATIONS.index(relation) ^ 1]
                unambiguous = all(
                    holds_relation(scene, scene.things[i], opposite, other) for i in alike if i not in related
                )
                if len(related) == 1 and unambiguous:
                    found.append((phrase, relation, anchors, related[0], len(alike) > 1))
    needed = [entry for entry in found if entry[4]]
    pool = needed if needed and rng.random() < 0.8 else found
    if not pool:
        return None
    phrase, relation, anchors, target, _ = sorted(pool, key=str)[rng.integers(len(pool))]
    anchor_name = _pick(rng, anchors)
    return _place_query(scene, rng, "relation", f"{phrase} {relation} the {anchor_name}", target)


def attribute_query(scene: Scene, rng: np.random.Generator) -> SceneQuery | None:
    """ "What colour is the large star?": a question about the one thing it describes."""
    attribute = str(rng.choice(["colour", "shape", "size"]))
    target = int(rng.integers(len(scene.things)))
    phrase = _pick(rng, [p for p in unique_phrases(scene, target) if not getattr(p, attribute)])
    if phrase is None:
        return None
    text = {
        "colour": f"What colour is the {phrase}?",
        "shape": f"What shape is the {phrase}?",
        "size": f"How big is the {phrase}?",
    }[attribute]
    return SceneQuery("attribute", text, getattr(scene.things[target], attribute).capitalize(), (target,))


def count_query(scene: Scene, rng: np.random.Generator) -> SceneQuery | None:
    """ "How many red stars are there?": one to three things."""
    phrases = {p for thing in scene.things for p in _phrases(thing) if not p.size}
    sets = [(p, matching_things(scene, p)) for p in sorted(phrases, key=str)]
    several = [(p, fit) for p, fit in sets if 2 <= len(fit) <= 3]
    pool = several if several and rng.random() < 0.75 else [(p, fit) for p, fit in sets if len(fit) <= 3]
    if not pool:
        return None
    phrase, fit = pool[rng.integers(len(pool))]
    return SceneQuery(
        "count", f"How many {phrase.plural} are there?", ("One", "Two", "Three")[len(fit) - 1], fit
    )


def _presence_query(scene: Scene, rng: np.random.Generator) -> SceneQuery | None:
    """ "Is there a red star?", of one thing that is there."""
    phrase, target = _any_unique_phrase(scene, rng)
    if phrase is None:
        return None
    return SceneQuery("presence", f"Is there a {phrase}?", "Yes", (target,))


def _absent_query(scene: Scene, rng: np.random.Generator) -> SceneQuery:
    """A phrase that fits nothing in the scene, though most of its words may."""
    while True:
        like = scene.things[rng.integers(len(scene.things))]
        words = {"size": like.size, "colour": like.colour, "shape": like.shape}
        for name, values in (("colour", list(COLOURS)), ("shape", SHAPES)):
            if rng.random() < 0.6:
                words[name] = str(rng.choice(values))
        if rng.random() < 0.5:
            words["size"] = ""
        phrase = Phrase(**words)
        if not matching_things(scene, phrase):
            break
    if rng.random() < 0.5:
        return SceneQuery("nothing", f"Is there a {phrase}?", "No", ())
    text = str(rng.choice(list(_reference_texts(phrase))))
    return SceneQuery("nothing", text, "There is none", ())


_QUERY_MAKERS = {
    "refer": _reference_query,
    "relation": relation_query,
    "attribute": attribute_query,
    "count": count_query,
    "presence": _presence_query,
    "nothing": _absent_query,
}


def _place_query(scene: Scene, rng: np.random.Generator, kind: str, phrase: str, target: int) -> SceneQuery:
    text = str(rng.choice(list(_reference_texts(phrase))))
    return SceneQuery(kind, text, _place(scene, scene.things[target]).capitalize(), (target,))


def _reference_texts(phrase: Phrase | str) -> Iterator[str]:
    yield f"the {phrase}"
    yield f"Where is the {phrase}?"
    yield f"Find the {phrase}"
    yield f"Show me the {phrase}"


def _phrases(thing: Thing) -> list[Phrase]:
    """Every phrase with a colour or a shape that fits `thing`."""
    options = product(("", thing.size), ("", thing.colour), ("", thing.shape))
    return [Phrase(*words) for words in options if words[1] or words[2]]


def _full_phrase(thing: Thing) -> Phrase:
    return Phrase(thing.size, thing.colour, thing.shape)


def matching_things(scene: Scene, phrase: Phrase) -> tuple[int, ...]:
    """The indices of everything that the phrase describes."""
    return tuple(index for index, thing in enumerate(scene.things) if phrase.fits(thing))


def _is_unique(scene: Scene, phrase: Phrase, target: int) -> bool:
    return matching_things(scene, phrase) == (target,)


def unique_phrases(scene: Scene, target: int) -> list[Phrase]:
    """The phrases that name this thing and no other."""
    return [phrase for phrase in _phrases(scene.things[target]) if _is_unique(scene, phrase, target)]


def _any_unique_phrase(scene: Scene, rng: np.random.Generator) -> tuple[Phrase | None, int]:
    """A name of some thing, and its index; no name if every thing has a twin."""
    for target in rng.permutation(len(scene.things)):
        phrase = _pick(rng, unique_phrases(scene, int(target)))
        if phrase is not None:
            return phrase, int(target)
    return None, 0


def _pick(rng: np.random.Generator, phrases: list[Phrase]) -> Phrase | None:
    return phrases[rng.integers(len(phrases))] if phrases else None


def _place(scene: Scene, thing: Thing) -> str:
    """ "at the top left", by thirds of the picture."""
    height, width = scene.pixels.shape[:2]
    row = ("top", "", "bottom")[min(2, int(3 * thing.y / height))]
    column = ("left", "", "right")[min(2, int(3 * thing.x / width))]
    words = " ".join(word for word in (row, column) if word)
    return f"at the {words}" if words else "in the middle"
